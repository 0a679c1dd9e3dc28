"""Operations on a fleet in memory: whatever fails and whoever crashes, they end, and nothing is done twice."""

import asyncio
from collections import Counter, defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limosa.errors import Fenced, PeerError
from limosa.fleet.bandwidth import Gate, capacity, gates
from limosa.fleet.inventory import Guest, GuestId, Host, Inventory, Limits
from limosa.fleet.operations.advance import BACK_OFF, Wish, deed_of
from limosa.fleet.operations.carry_out import carry_out
from limosa.fleet.operations.planning import DESTINATIONS, plan, replanned
from limosa.fleet.operations.simulated import SimulatedPort, World
from limosa.testing import fleets
from limosa.units import Bytes, BytesPerSecond, GuestName, HostName
from limosa.wire.fleet import Forecast, Item, ItemState, LimitsAsked, Operation, OperationAsked, OperationKind, Phase
from limosa.wire.moves import MoveState
from limosa.wire.reports import Hand, Outcome


def fleet(guests: int, limits: Limits = Limits()) -> Inventory:  # noqa: B008  (frozen)
    hosts = tuple(
        Host(name=HostName(name), cores=64, memory=Bytes(1 << 40), link=BytesPerSecond(1e9)) for name in "abc"
    )
    made = tuple(
        Guest(uuid=GuestId(f"u{n}"), name=GuestName(f"g{n}"), host=HostName("a"), vcpus=1, memory=Bytes(1 << 30))
        for n in range(guests)
    )
    return Inventory(hosts=hosts, guests=made, limits=limits)


def away_from_a(inventory: Inventory) -> Operation:
    items = tuple(
        Item(guest=guest.uuid, name=guest.name, source="a", destination="bc"[place % 2])
        for place, guest in enumerate(inventory.guests)
    )
    return Operation(
        id="move-1",
        kind=OperationKind.MOVE,
        hosts=(),
        who="test",
        why="",
        created=0.0,
        phase=Phase.RUNNING,
        items=items,
        left=(),
        forecast=Forecast(),
    )


class Crash(Exception):
    """The controller is killed."""


class Mortal(SimulatedPort):
    """A controller that dies before or after one of its calls."""

    def __init__(self, world: World, lives_for: int, *, before: bool) -> None:
        super().__init__(world)
        self._left, self._before = lives_for, before

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in {"claim", "load", "save", "start", "status", "abort"}:
            return found

        async def mortal(*arguments: Any) -> Any:
            self._left -= 1
            if self._left <= 0 and self._before:
                raise Crash
            answer = await found(*arguments)
            if self._left <= 0:
                raise Crash
            return answer

        return mortal


async def live_and_die(operation: str, world: World, lives: list[tuple[int, bool]]) -> Operation:
    """Carried on by one controller after the other: each dies at some call, before or after it; the last one lives."""
    for lives_for, before in lives:
        try:
            return await carry_out(operation, Mortal(world, lives_for, before=before))
        except Crash:
            world.pass_time(1.0)
    return await carry_out(operation, world.port())


@settings(deadline=None, max_examples=150)
@given(
    guests=st.integers(0, 6),
    at_once=st.integers(1, 4),
    lives=st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=20),
    failing=st.sets(st.tuples(st.integers(0, 5), st.integers(1, 4))),
)
def test_a_controller_killed_at_any_call_loses_nothing_and_repeats_nothing(
    guests: int, at_once: int, lives: list[tuple[int, bool]], failing: set[tuple[int, int]]
) -> None:
    inventory = fleet(guests, Limits(moves=at_once, moves_in=at_once, moves_out=at_once))
    world = World(
        inventory, seconds=lambda _: 3.0, fails=lambda item: (int(item.guest[1:]), item.attempts) in failing, retries=2
    )
    operation = world.add(away_from_a(inventory))

    ended = asyncio.run(live_and_die(operation, world, lives))
    assert ended.phase.over
    assert world.most_at_once <= at_once
    assert all(count == 1 for count in Counter(move.guest for move in world.moved).values())
    for item in world.operations[operation].items:
        hopeless = all((int(item.guest[1:]), attempt) in failing for attempt in (1, 2, 3))
        assert item.state is (ItemState.FAILED if hopeless else ItemState.DONE)
        assert world.inventory.by_uuid[GuestId(item.guest)].host == ("a" if hopeless else item.destination)
    assert ended.phase is (Phase.DONE if all(i.state is ItemState.DONE for i in ended.items) else Phase.PARTLY)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), racks=st.lists(st.sampled_from("pq"), min_size=3, max_size=3), guests=st.integers(1, 8))
def test_the_moves_of_two_operations_together_keep_to_links_racks_and_the_total(
    data: st.DataObject, racks: list[str], guests: int
) -> None:
    rates = st.floats(1e6, 1e9).map(BytesPerSecond)
    limits = Limits(
        moves_in=3,
        moves_out=4,
        bandwidth=data.draw(st.none() | rates),
        rack_bandwidth=data.draw(st.none() | rates),
        racks=data.draw(st.dictionaries(st.sampled_from("pq"), rates)),
    )
    there = fleet(guests, limits)
    links = data.draw(st.lists(st.none() | rates, min_size=3, max_size=3))
    hosts = tuple(
        msgspec.structs.replace(host, rack=rack, link=link)
        for host, rack, link in zip(there.hosts, racks, links, strict=True)
    )
    seconds = data.draw(st.lists(st.floats(1, 9), min_size=guests, max_size=guests))
    world = World(
        msgspec.structs.replace(there, hosts=hosts),
        seconds=lambda item: seconds[int(item.guest[1:])],
        fails=lambda item: item.attempts == 1 and item.guest == "u0",
    )
    whole = away_from_a(there)
    half = guests // 2
    tighter = LimitsAsked(bandwidth=data.draw(st.none() | st.floats(1e6, 1e9)))
    parts = [
        msgspec.structs.replace(whole, id="one", items=whole.items[:half], limits=tighter),
        msgspec.structs.replace(whole, id="two", items=whole.items[half:]),
    ]

    seen: list[list[str]] = []

    class Watched(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(0)
            seen.append(sorted(deed_of(item) for _, item, _ in world.running()))
            if seen[-4:] == [seen[-1]] * 4:  # both have looked since anything changed
                within(world, limits)
            await super().sleep(seconds / 4)

    async def both() -> list[Operation]:
        return await asyncio.gather(*(carry_out(world.add(part), Watched(world)) for part in parts))

    assert [each.phase for each in asyncio.run(both())] == [Phase.DONE, Phase.DONE]


def within(world: World, limits: Limits) -> None:
    """No gate carries more than it may, as far as every move was told."""
    sent, hosts = defaultdict[Gate, float](float), {str(host.name): host for host in world.inventory.hosts}
    for _, item, rate in world.running():
        for gate in gates(limits, hosts[item.source], hosts[item.destination]):
            if (most := capacity(limits, hosts, gate)) is not None:
                assert rate is not None
                sent[gate] += rate
                assert sent[gate] <= most * (1 + 1e-9)


async def test_a_rate_that_could_not_be_told_is_told_again() -> None:
    inventory = fleet(2, Limits(bandwidth=BytesPerSecond(1e6)))
    world = World(inventory, seconds=lambda item: 3.0 if item.guest == "u0" else 6.0, fails=lambda _: False)
    refusals = [PeerError("no route"), PeerError("no route")]

    class Deaf(SimulatedPort):
        async def speed(self, hand: Hand, item: Item) -> None:
            if refusals:
                raise refusals.pop()
            await super().speed(hand, item)

    ended = await carry_out(world.add(away_from_a(inventory)), Deaf(world))
    assert ended.phase is Phase.DONE
    assert world.rates == {("move-1", "u0#1"): 0.5e6, ("move-1", "u1#1"): 1e6}


async def test_a_host_with_limits_of_its_own_keeps_them() -> None:
    inventory = fleet(6, Limits(moves_out=6, moves_in=6))
    hosts = (msgspec.structs.replace(inventory.hosts[0], max_out=1), *inventory.hosts[1:])
    world = World(msgspec.structs.replace(inventory, hosts=hosts), seconds=lambda _: 2.0, fails=lambda _: False)
    assert (await carry_out(world.add(away_from_a(inventory)), world.port())).phase is Phase.DONE
    assert world.most_at_once == 1


async def test_a_stopped_controller_that_goes_on_later_is_fenced_off() -> None:
    inventory = fleet(3)
    world = World(inventory, seconds=lambda _: 30.0, fails=lambda _: False)
    operation = world.add(away_from_a(inventory))
    goes_on, gone_on = asyncio.Event(), asyncio.Event()

    class Stopped(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            await goes_on.wait()

    class Taking(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            if not goes_on.is_set():
                goes_on.set()
                await gone_on.wait()
            await super().sleep(seconds)

    old = asyncio.create_task(carry_out(operation, Stopped(world)))
    await asyncio.sleep(0)
    new = asyncio.create_task(carry_out(operation, Taking(world)))
    with pytest.raises(Fenced):
        await old
    gone_on.set()
    assert (await new).phase is Phase.DONE
    assert len(world.moved) == 3


async def test_a_pause_starts_nothing_and_a_cancellation_takes_back_what_can_be() -> None:
    inventory = fleet(4, Limits(moves=2))
    world = World(inventory, seconds=lambda _: 10.0, fails=lambda _: False)
    operation = world.add(away_from_a(inventory))
    seen: list[tuple[Phase, int]] = []

    class Steered(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            now = self._world.operations[operation]
            seen.append((now.phase, sum(item.state is ItemState.MOVING for item in now.items)))
            self._world.wishes[operation] = (
                Wish.RUN if self._world.clock < 5 else Wish.PAUSE if self._world.clock < 30 else Wish.CANCEL
            )
            if self._world.clock == 29:
                self._world.wishes[operation] = Wish.RUN

    ended = await carry_out(operation, Steered(world))
    assert [phase for phase, _ in dict.fromkeys(seen)][:3] == [Phase.RUNNING, Phase.PAUSED, Phase.PAUSED]
    assert (Phase.PAUSED, 0) in seen
    assert ended.phase is Phase.CANCELLED
    assert [item.state for item in ended.items] == [ItemState.DONE] * 2 + [ItemState.CANCELLED] * 2
    assert [move.guest for move in world.moved] == ["u0", "u1"]


def drain_of_h0(inventory: Inventory) -> Operation:
    asked = OperationAsked(kind=OperationKind.DRAIN, hosts=("h0",))
    planned = plan(asked, inventory, name="drain-1", who="test", now=0.0)
    return msgspec.structs.replace(planned, phase=Phase.RUNNING)


@settings(deadline=None, max_examples=100)
@given(
    guests=st.integers(1, 5),
    hosts=st.integers(2, 5),
    bad=st.sets(st.tuples(st.integers(0, 4), st.integers(1, 4))),
    lives=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=8),
)
def test_a_guest_whose_move_fails_goes_elsewhere_and_a_drain_ends_with_who_has_no_way_left(
    guests: int, hosts: int, bad: set[tuple[int, int]], lives: list[tuple[int, bool]]
) -> None:
    inventory = Inventory(
        hosts=tuple(fleets.host(number, 16) for number in range(hosts)),
        guests=tuple(fleets.guest(number, 0, 1) for number in range(guests)),
    )
    ways = {(f"g{guest}", f"h{host}") for guest, host in bad}
    world = World(inventory, seconds=lambda _: 2.0, fails=lambda item: (item.name, item.destination) in ways, retries=1)
    operation = world.add(drain_of_h0(inventory))

    ended = asyncio.run(live_and_die(operation, world, lives))
    assert all(count == 1 for count in Counter(move.guest for move in world.moved).values())
    stays = {guest.name for guest in world.inventory.on(HostName("h0"))}
    for guest in inventory.guests:
        items = [item for item in ended.items if item.guest == guest.uuid]
        others = [item.destination for item in items]
        assert len(set(others)) == len(others) <= DESTINATIONS
        assert all(item.state is ItemState.REROUTED for item in items[:-1])
        assert items[-1].state is (ItemState.FAILED if guest.name in stays else ItemState.DONE)
        assert items[-1].tried == tuple(others[:-1])
        open_to_it = {f"h{number}" for number in range(1, hosts)} - {host for name, host in ways if name == guest.name}
        if guest.name in stays:
            assert len(others) == min(DESTINATIONS, hosts - 1), "it gave up while there was another way"
        else:
            assert others[-1] in open_to_it
    assert ended.phase is (Phase.PARTLY if stays else Phase.DONE)


async def test_a_move_that_an_operator_aborted_is_not_tried_elsewhere() -> None:
    inventory = Inventory(hosts=tuple(fleets.host(number, 16) for number in range(3)), guests=(fleets.guest(0, 0, 1),))
    world = World(inventory, seconds=lambda _: 5.0, fails=lambda _: False)
    operation = world.add(drain_of_h0(inventory))

    class Aborting(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            for _, item, _ in world.running():
                world.take_back(Hand(operation, world.epochs[operation]), item)
            await super().sleep(seconds)

        async def status(self, hand: Hand, item: Item) -> Outcome:
            outcome = await super().status(hand, item)
            if outcome.status is None or outcome.status.state is not MoveState.ABORTED:
                return outcome
            error = {"code": "aborted", "what": "an operator took it back"}
            return msgspec.structs.replace(outcome, status=msgspec.structs.replace(outcome.status, error=error))

    ended = await carry_out(operation, Aborting(world))
    assert [(item.state, item.said) for item in ended.items] == [(ItemState.FAILED, "an operator took it back")]
    assert ended.phase is Phase.PARTLY


def test_who_came_to_a_host_after_its_drain_was_planned_leaves_it_too() -> None:
    hosts = tuple(fleets.host(number, 16) for number in range(3))
    before = Inventory(hosts=hosts, guests=(fleets.guest(0, 0, 1),))
    drained = drain_of_h0(before)
    done = tuple(msgspec.structs.replace(item, state=ItemState.DONE) for item in drained.items)
    # The latest report is from before the move: g0 counts where it is by now, and is not moved again.
    now = msgspec.structs.replace(before, guests=(*before.guests, fleets.guest(1, 0, 1)))
    items, left = replanned(msgspec.structs.replace(drained, items=done), now)
    assert [(item.name, item.source, item.state) for item in items] == [
        ("g0", "h0", ItemState.DONE),
        ("g1", "h0", ItemState.WAITING),
    ]
    assert left == ()


async def test_who_waits_for_one_that_stays_stays_too_and_says_so() -> None:
    inventory = fleet(2)
    world = World(inventory, seconds=lambda _: 1.0, fails=lambda item: item.guest == "u0", retries=0)
    asked = away_from_a(inventory)
    first, second = asked.items
    chained = msgspec.structs.replace(asked, items=(first, msgspec.structs.replace(second, after=(0,))))
    ended = await carry_out(world.add(chained), world.port())
    assert ended.phase is Phase.PARTLY
    assert [item.said for item in ended.items] == ["the link broke", "it waits for g0, which stays on a"]
    assert world.moved == []


async def test_attempts_back_off() -> None:
    inventory = fleet(1)
    world = World(inventory, seconds=lambda _: 1.0, fails=lambda item: item.attempts < 3)
    ended = await carry_out(world.add(away_from_a(inventory)), world.port())
    assert (ended.phase, ended.items[0].attempts) == (Phase.DONE, 3)
    assert world.clock > BACK_OFF * 3
