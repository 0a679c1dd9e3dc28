"""Planners on any fleet: what they promise holds at every moment, in every order that a plan allows."""

import random

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limosa.fleet.board import Board
from limosa.fleet.consolidate import consolidate, homeless, upper_bound
from limosa.fleet.constraints import refusals
from limosa.fleet.drain import drain, rolling
from limosa.fleet.home import move_set, return_home
from limosa.fleet.inventory import Guest, Host, HostState, Inventory, Limits
from limosa.fleet.plan import Operation, Plan, Role
from limosa.fleet.rebalance import lower_bound, rebalance
from limosa.fleet.scenario import Ask, Trouble, plan_for
from limosa.fleet.simulate import carry_out, carry_out_rolling
from limosa.testing.fleets import guest, host
from limosa.units import GIB, Bytes, HostName, Seconds

unhurried = settings(deadline=None)


@st.composite
def hosts(draw: st.DrawFn, number: int) -> Host:
    """Any host of this number."""
    state = draw(st.sampled_from([HostState.ACTIVE] * 6 + [HostState.MAINTENANCE, HostState.LOST]))
    return host(number, draw(st.sampled_from((4, 8, 8, 16))), draw(st.integers(0, 2)), state)


@st.composite
def guests(draw: st.DrawFn, number: int, where: int, count: int) -> Guest:
    """Any guest of this number, on this host of so many."""
    return guest(
        number,
        where,
        draw(st.integers(1, 6)),
        draw(st.integers(0, 2)),
        disk=Bytes(draw(st.sampled_from((0, 0, 8))) * GIB),
        load=draw(st.one_of(st.none(), st.floats(0, 6))),
        dirty_rate=draw(st.one_of(st.none(), st.floats(0, 2e9))),
        groups=draw(st.sampled_from(((), (), (), ("g",), ("k",)))),
        pin_labels=draw(st.sampled_from(((), (), (), (), ("ssd",)))),
        pin_hosts=draw(st.sampled_from(((), (), (), (), (HostName("h0"), HostName("h1"))))),
        priority=draw(st.integers(0, 2)),
        blocked=draw(st.sampled_from(((), (), (), (), (), ("vfio",)))),
        home=draw(st.one_of(st.none(), st.integers(0, count - 1).map(lambda n: HostName(f"h{n}")))),
        moved_at=draw(st.sampled_from((None, None, Seconds(0.0), Seconds(9000.0)))),
        arriving=draw(st.sampled_from((None, None, None, None, None, None, HostName("h0")))),
    )


@st.composite
def fleets(draw: st.DrawFn, most: int = 6, least: int = 2) -> Inventory:
    """A few hosts and guests; some hosts may hold more than they should from the start."""
    count = draw(st.integers(least, most))
    places = draw(st.lists(st.integers(0, count - 1), max_size=14))
    return Inventory(
        hosts=tuple(draw(hosts(number)) for number in range(count)),
        guests=tuple(draw(guests(number, where, count)) for number, where in enumerate(places)),
        limits=Limits(
            moves_in=draw(st.integers(1, 3)), moves_out=draw(st.integers(1, 3)), moves=draw(st.integers(1, 5))
        ),
    )


def names(inventory: Inventory, count: int) -> tuple[HostName, ...]:
    return tuple(host.name for host in inventory.hosts[:count])


def play(fleet: Inventory, plan: Plan, dice: random.Random, chance: float = 0.0) -> Inventory:
    """Carry a plan out in any order that it allows, side by side; each start is checked by the rule itself.

    Moves fail with this chance, and what waits for them never starts.
    """
    waiting = {place: set(planned.after) for place, planned in enumerate(plan.moves)}
    running: list[int] = []
    while True:
        ready = [place for place, before in waiting.items() if not before]
        if not (ready or running):
            return fleet
        if ready and (not running or dice.random() < 0.6):
            place = dice.choice(ready)
            del waiting[place]
            move = plan.moves[place].move
            assert refusals(fleet, fleet.by_uuid[move.guest], fleet.by_name[move.destination]) == ()
            assert fleet.by_uuid[move.guest].host == move.source
            fleet = changed(fleet, move.guest, arriving=move.destination)
            running.append(place)
            continue
        place = running.pop(dice.randrange(len(running)))
        move = plan.moves[place].move
        fleet = changed(fleet, move.guest, arriving=None)
        if dice.random() >= chance:
            fleet = fleet.replayed([move])
            for before in waiting.values():
                before.discard(place)


def changed(fleet: Inventory, uuid: str, **changes: object) -> Inventory:
    guests = tuple(msgspec.structs.replace(g, **changes) if g.uuid == uuid else g for g in fleet.guests)
    return msgspec.structs.replace(fleet, guests=guests)


def check(fleet: Inventory, plan: Plan, dice: random.Random) -> None:
    """What every plan promises."""
    moves = [planned.move for planned in plan.moves]
    assert len({move.guest for move in moves}) == len(moves), "a guest twice"
    where = {guest.uuid: guest.host for guest in fleet.guests}
    ends = where | {move.guest: move.destination for move in moves}
    done = play(fleet, plan, dice)
    assert {guest.uuid: guest.host for guest in done.guests} == ends
    play(fleet, plan, dice, chance=0.4)
    assert all(before < place for place, planned in enumerate(plan.moves) for before in planned.after)
    times = plan.prediction.moves
    for planned, timed in zip(plan.moves, times, strict=True):
        assert timed.start < timed.end <= plan.prediction.seconds
        assert all(times[before].end <= timed.start for before in planned.after)


def check_left(fleet: Inventory, plan: Plan) -> None:
    """Whoever is left has a reason for every other host."""
    for left in plan.left:
        told = {name for refusal in left.refusals for name in refusal.hosts}
        assert told == {host.name for host in fleet.hosts} - {left.host}


@unhurried
@given(fleets())
def test_the_board_says_of_all_hosts_what_the_rule_says_of_each(fleet: Inventory) -> None:
    board = Board(fleet)
    for place, resident in enumerate(fleet.guests):
        fits = [not refusals(fleet, resident, there) for there in fleet.hosts]
        assert board.hosts_for(place).tolist() == fits
        assert [bool(board.guests_for(host)[place]) for host in range(len(fleet.hosts))] == fits


@unhurried
@given(fleets(), st.data())
def test_moves_that_are_taken_back_leave_the_board_as_it_was(fleet: Inventory, data: st.DataObject) -> None:
    board, before = Board(fleet), Board(fleet)
    for place in range(len(fleet.guests)):
        if data.draw(st.booleans()):
            board.move(place, data.draw(st.integers(0, len(fleet.hosts) - 1)))
    board.back_to(0)
    assert (board.free == before.free).all()
    assert [board.hosts_for(g).tolist() for g in range(len(fleet.guests))] == [
        before.hosts_for(g).tolist() for g in range(len(fleet.guests))
    ]


@unhurried
@given(fleets(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_a_drain_breaks_no_constraint_along_the_way(fleet: Inventory, count: int, dice: random.Random) -> None:
    hosts = names(fleet, count)
    plan = drain(fleet, hosts)
    draining = closed(fleet, hosts)
    check(draining, plan, dice)
    check_left(fleet, plan)
    done = draining.replayed(planned.move for planned in plan.moves)
    assert not {planned.move.destination for planned in plan.moves} & set(hosts)
    assert {left.guest for left in plan.left} == {guest.uuid for name in hosts for guest in done.on(name)}
    assert set(plan.freed) == {name for name in hosts if not done.on(name) and not done.arriving_at(name)}
    assert all((planned.role is Role.LEAVE) == (planned.move.source in hosts) for planned in plan.moves)


def closed(fleet: Inventory, hosts: tuple[HostName, ...]) -> Inventory:
    """Active hosts among them drain; others stay as they are, which is as closed."""
    return fleet.in_state(HostState.DRAINING, [n for n in hosts if fleet.by_name[n].state is HostState.ACTIVE])


@settings(deadline=None, max_examples=300)
@given(fleets(), st.integers(1, 3), hosts(99))
def test_an_empty_host_that_joins_never_makes_a_drain_worse(fleet: Inventory, count: int, new: Host) -> None:
    wider = msgspec.structs.replace(fleet, hosts=(*fleet.hosts, new))
    before, after = drain(fleet, names(fleet, count)), drain(wider, names(fleet, count))
    assert cost(after) <= cost(before)


@unhurried
@given(fleets(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_plans_do_not_depend_on_the_order_in_which_hosts_and_guests_were_told(
    fleet: Inventory, count: int, dice: random.Random
) -> None:
    mixed = Inventory(
        hosts=tuple(dice.sample(fleet.hosts, len(fleet.hosts))),
        guests=tuple(dice.sample(fleet.guests, len(fleet.guests))),
        limits=fleet.limits,
    )
    assert drain(mixed, names(fleet, count)) == drain(fleet, names(fleet, count))
    assert rebalance(mixed, now=Seconds(0.0)) == rebalance(fleet, now=Seconds(0.0))
    assert consolidate(mixed) == consolidate(fleet)


def cost(plan: Plan) -> tuple[int, int]:
    return len(plan.left), sum(planned.role is Role.MAKE_ROOM for planned in plan.moves)


@unhurried
@given(fleets(), st.integers(1, 6), st.integers(1, 3), st.randoms(use_true_random=False))
def test_rolling_groups_move_no_guest_twice(fleet: Inventory, count: int, largest: int, dice: random.Random) -> None:
    wanted = names(fleet, count)
    answer = rolling(fleet, wanted, largest=largest)
    assert sorted(name for group in answer.groups for name in group) == sorted(wanted)
    now, later, seen = fleet, list(wanted), set[str]()
    for group, plan in zip(answer.groups, answer.plans, strict=True):
        check(closed(now, tuple(later)), plan, dice)
        guests = {planned.move.guest for planned in plan.moves}
        assert not guests & seen
        assert not {planned.move.destination for planned in plan.moves} & set(later)
        seen |= guests
        later = [name for name in later if name not in group]
        now = now.replayed(planned.move for planned in plan.moves)
        now = now.in_state(HostState.DRAINING, group).in_state(HostState.ACTIVE, plan.freed)


@unhurried
@given(fleets(), st.floats(0, 0.5), st.randoms(use_true_random=False))
def test_a_rebalance_brings_hosts_nearer_and_moves_nobody_who_moved_lately(
    fleet: Inventory, tolerance: float, dice: random.Random
) -> None:
    now = Seconds(10_000.0)
    plan = rebalance(fleet, now=now, tolerance=tolerance)
    check(fleet, plan, dice)
    done = fleet.replayed(planned.move for planned in plan.moves)
    assert excess(done, fleet, tolerance) <= excess(fleet, fleet, tolerance) + 1e-9
    for planned in plan.moves:
        moved_at = fleet.by_uuid[planned.move.guest].moved_at
        assert moved_at is None or now - moved_at >= fleet.limits.cooldown
    if excess(done, fleet, tolerance) == 0:
        assert len(plan.moves) >= lower_bound(fleet, now=now, tolerance=tolerance)


def excess(fleet: Inventory, before: Inventory, tolerance: float) -> float:
    """What of the active hosts' loads is farther than this from the mean of the beginning."""
    active = [host for host in fleet.hosts if host.state is HostState.ACTIVE]
    busy = [sum(guest.busy for guest in before.on(host.name)) for host in active]
    mean = sum(busy) / max(1, sum(host.cores for host in active))
    loads = (sum(guest.busy for guest in fleet.on(host.name)) / host.cores for host in active)
    return sum(max(0.0, abs(load - mean) - tolerance) for load in loads)


@unhurried
@given(fleets(), st.integers(0, 2), st.randoms(use_true_random=False))
def test_hosts_that_are_switched_off_leave_room_for_one_that_is_lost(
    fleet: Inventory, reserve: int, dice: random.Random
) -> None:
    limits = msgspec.structs.replace(fleet.limits, reserve=reserve)
    fleet = msgspec.structs.replace(fleet, limits=limits)
    plan = consolidate(fleet)
    check(fleet, plan, dice)
    done = fleet.replayed(planned.move for planned in plan.moves)
    assert len(plan.freed) == plan.price.hosts <= upper_bound(fleet)
    assert not {planned.move.destination for planned in plan.moves} & set(plan.freed)
    assert {planned.move.source for planned in plan.moves} <= set(plan.freed)
    before, after = Board(fleet), Board(done, plan.freed)
    if reserve:
        for place in range(len(fleet.hosts)):
            if after.takes[place] and homeless(before, (place,)) is None and reserve == 1:
                assert homeless(after, (place,)) is None


@unhurried
@given(fleets(), st.randoms(use_true_random=False))
def test_guests_go_home_or_it_is_said_why_not(fleet: Inventory, dice: random.Random) -> None:
    plan = return_home(fleet)
    check(fleet, plan, dice)
    done = fleet.replayed(planned.move for planned in plan.moves)
    away = {guest.uuid for guest in done.guests if guest.home not in (None, guest.host)}
    assert {left.guest for left in plan.left} == away
    assert all(left.refusals for left in plan.left)


@unhurried
@given(fleets(), st.booleans(), st.data(), st.randoms(use_true_random=False))
def test_guests_go_where_they_are_sent(
    fleet: Inventory, chains: bool, data: st.DataObject, dice: random.Random
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(fleet.guests), unique_by=lambda g: g.uuid)) if fleet.guests else []
    wanted = {guest.uuid: data.draw(st.sampled_from(fleet.hosts)).name for guest in chosen}
    plan = move_set(fleet, wanted, chains=chains)
    check(fleet, plan, dice)
    left = {left.guest for left in plan.left}
    done = fleet.replayed(planned.move for planned in plan.moves)
    assert all((done.by_uuid[uuid].host == host) != (uuid in left) for uuid, host in wanted.items())
    assert chains or all(planned.role is Role.AS_ASKED for planned in plan.moves)


@unhurried
@given(fleets(), st.sampled_from(list(Operation)), st.integers(1, 4), st.integers(0, 9))
def test_a_plan_of_which_moves_fail_breaks_nothing_when_it_is_played_through(
    fleet: Inventory, kind: Operation, count: int, seed: int
) -> None:
    assume(kind is not Operation.MOVE_SET)
    asked = Ask(kind=kind, hosts=names(fleet, min(count, len(fleet.hosts))))
    trouble = Trouble(chance=0.3, tries=2, seed=seed)
    outcome = carry_out(fleet, plan_for(asked, fleet, Seconds(0.0)), trouble)
    assert outcome.broken == ()
    _, rolled = carry_out_rolling(fleet, asked.hosts, 2, trouble)
    assert rolled.broken == ()
    assert rolled.moved == sum(g.host != was.host for g, was in zip(rolled.ends.guests, fleet.guests, strict=True))
