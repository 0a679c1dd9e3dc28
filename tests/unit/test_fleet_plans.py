"""Planners on fleets small enough to check by hand."""

import msgspec

from limosa.fleet.consolidate import consolidate, upper_bound
from limosa.fleet.constraints import Constraint, explain
from limosa.fleet.drain import drain, rolling
from limosa.fleet.home import move_set, return_home
from limosa.fleet.inventory import HostState, Inventory, Limits
from limosa.fleet.plan import Plan, Price, Role
from limosa.fleet.rebalance import lower_bound, rebalance
from limosa.fleet.schedule import simulate
from limosa.migration.predict import SETUP_SECONDS
from limosa.testing.fleets import guest, host
from limosa.units import GIB, Bytes, BytesPerSecond, HostName, Seconds

H0, H1, H2, H3 = (HostName(f"h{number}") for number in range(4))


def told(plan: Plan) -> list[tuple[str, str, str, tuple[int, ...]]]:
    return [(p.move.name, p.move.source, p.move.destination, p.after) for p in plan.moves]


def test_another_guest_leaves_first_where_none_fits() -> None:
    fleet = Inventory(
        hosts=(host(0, 8), host(1, 8), host(2, 8)), guests=(guest(0, 0, 6), guest(1, 1, 4), guest(2, 2, 4))
    )
    plan = drain(fleet, [H0])
    assert told(plan) == [("g1", "h1", "h2", ()), ("g0", "h0", "h1", (0,))]
    assert [planned.role for planned in plan.moves] == [Role.MAKE_ROOM, Role.LEAVE]
    assert plan.freed == (H0,)
    assert plan.price == Price(hosts=1, watts=100.0, money_per_hour=0.5, unpriced=0, unmetered=0)
    assert plan.prediction.moves[0].end <= plan.prediction.moves[1].start


def test_a_rival_of_its_group_leaves_first() -> None:
    fleet = Inventory(
        hosts=(host(0, 8), host(1, 8), host(2, 4, kind=0)),
        guests=(guest(0, 0, 2, kind=2, groups=("db",)), guest(1, 1, 2, groups=("db",))),
    )
    assert told(drain(fleet, [H0])) == [("g1", "h1", "h2", ()), ("g0", "h0", "h1", (0,))]


def test_each_host_says_why_a_guest_stays() -> None:
    fleet = Inventory(
        hosts=(host(0, 8), host(1, 8, kind=0), host(2, 2), host(3, 8, state=HostState.MAINTENANCE)),
        guests=(guest(0, 0, 6, kind=2),),
    )
    plan = drain(fleet, [H0])
    assert plan.moves == ()
    assert plan.freed == ()
    (left,) = plan.left
    assert {(refusal.constraint, refusal.hosts) for refusal in left.refusals} == {
        (Constraint.CPU, (H1,)),
        (Constraint.VCPUS, (H2,)),
        (Constraint.MEMORY, (H2,)),
        (Constraint.STATE, (H3,)),
    }
    assert {refusal.why for refusal in left.refusals} == {
        "it lacks avx, avx2 of the flags that the guest sees",
        "has room for 2 vCPUs; it takes 6",
        "has 8.0 GiB of memory free; it takes 12.0 GiB",
        "is in maintenance",
    }


def test_hosts_that_say_the_same_are_put_together() -> None:
    fleet = Inventory(hosts=tuple(host(number, 2) for number in range(4)), guests=(guest(0, 0, 2, pin_hosts=(H0,)),))
    (refusal,) = explain(fleet, fleet.guests[0])
    assert (refusal.constraint, refusal.hosts) == (Constraint.PIN, (H1, H2, H3))


def test_a_guest_with_a_device_of_its_host_has_one_reason() -> None:
    fleet = Inventory(hosts=(host(0, 8), host(1, 8)), guests=(guest(0, 0, 2, blocked=("vfio-pci",)),))
    (left,) = drain(fleet, [H0]).left
    assert [(refusal.constraint, refusal.why) for refusal in left.refusals] == [(Constraint.GUEST, "vfio-pci")]


def test_a_host_of_an_earlier_group_takes_guests_of_the_next() -> None:
    # Three full hosts and an empty one: one host's guests fit at a time.
    fleet = Inventory(
        hosts=tuple(host(number, 8) for number in range(4)),
        guests=(guest(0, 0, 8), guest(1, 1, 8), guest(2, 2, 8)),
    )
    answer = rolling(fleet, [H0, H1, H2])
    assert answer.groups == ((H0,), (H1,), (H2,))
    assert [told(plan)[0][2] for plan in answer.plans] == ["h3", "h0", "h1"]


def test_the_busiest_host_gives_one_large_guest_away() -> None:
    fleet = Inventory(
        hosts=(host(0, 8), host(1, 8)),
        guests=(guest(0, 0, 1, load=1.0), guest(1, 0, 4, load=4.0), guest(2, 0, 1, load=1.0), guest(3, 1, 1, load=0.0)),
    )
    plan = rebalance(fleet, now=Seconds(0.0), tolerance=0.2)
    assert told(plan) == [("g1", "h0", "h1", ())]
    assert lower_bound(fleet, now=Seconds(0.0), tolerance=0.2) == 1
    assert plan.notes[0] == "mean load 38% of cores; farthest host off by 37.5% before and 12.5% after"


def test_a_guest_that_moved_lately_stays() -> None:
    fleet = Inventory(
        hosts=(host(0, 8), host(1, 8)),
        guests=(guest(0, 0, 4, load=4.0, moved_at=Seconds(5000.0)), guest(1, 0, 4, load=4.0, moved_at=Seconds(100.0))),
    )
    assert [planned.move.name for planned in rebalance(fleet, now=Seconds(6000.0)).moves] == ["g1"]


def test_hosts_are_freed_until_a_lost_one_could_not_be_taken_over() -> None:
    hosts = tuple(host(number, 8) for number in range(4))
    fleet = Inventory(hosts=hosts, guests=tuple(guest(number, number, 2) for number in range(4)))
    assert consolidate(msgspec.structs.replace(fleet, limits=Limits(reserve=0))).price.hosts == 3
    plan = consolidate(fleet)
    assert plan.price.hosts == 2
    assert upper_bound(fleet) == 3
    assert plan.notes[1] == "1 more could be emptied, and stay on as the reserve for a lost host"


def test_guests_swap_hosts_where_there_is_room_for_one_of_them() -> None:
    fleet = Inventory(
        hosts=(host(0, 8), host(1, 8)),
        guests=(guest(0, 0, 4, home=H1), guest(1, 1, 6, home=H0), guest(2, 0, 1)),
    )
    (left, other) = return_home(fleet).left
    assert (left.name, other.name) == ("g0", "g1")
    roomier = msgspec.structs.replace(fleet, hosts=(host(0, 8), host(1, 12)))
    assert told(return_home(roomier)) == [("g0", "h0", "h1", ()), ("g1", "h1", "h0", (0,))]


def test_a_drained_host_takes_its_guests_back() -> None:
    fleet = Inventory(hosts=(host(0, 8, state=HostState.DRAINED), host(1, 8)), guests=(guest(0, 1, 4, home=H0),))
    assert told(return_home(fleet, [H0])) == [("g0", "h1", "h0", ())]
    assert return_home(fleet).left[0].refusals[0].why == "is drained"


def test_a_guest_already_there_is_not_moved() -> None:
    fleet = Inventory(hosts=(host(0, 8), host(1, 8)), guests=(guest(0, 0, 4),))
    assert move_set(fleet, {fleet.guests[0].uuid: H0}).moves == ()


def fast(number: int, rate: float = 1e9, rack: str = "") -> object:
    return msgspec.structs.replace(host(number, 64), link=BytesPerSecond(rate), rack=rack)


def two_moves(**limits: object) -> tuple[float, ...]:
    """Ends of two moves of 4 GiB from one host to two others, less their setup."""
    fleet = Inventory(
        hosts=(fast(0), fast(1), fast(2)),  # type: ignore[arg-type]
        guests=(guest(0, 0, 2, dirty_rate=0.0), guest(1, 0, 2, dirty_rate=0.0)),
        limits=Limits(link_share=0.5, **limits),  # type: ignore[arg-type]
    )
    plan = move_set(fleet, {fleet.guests[0].uuid: H1, fleet.guests[1].uuid: H2})
    return tuple(round((timed.end - SETUP_SECONDS) * 1e9 / (4 * GIB), 6) for timed in simulate(fleet, plan.moves))


def test_moves_share_the_link_of_their_source() -> None:
    assert two_moves() == (4.0, 4.0)


def test_one_after_the_other_is_as_fast_where_a_link_is_the_limit() -> None:
    first, second = two_moves(moves_out=1)
    assert first == 2.0
    assert second == round(4.0 + SETUP_SECONDS * 1e9 / (4 * GIB), 6)


def test_the_whole_fleet_can_be_held_to_a_bandwidth() -> None:
    assert two_moves(bandwidth=BytesPerSecond(0.2e9)) == (10.0, 10.0)


def test_a_rack_can_be_held_to_a_bandwidth_and_moves_within_it_are_free() -> None:
    def ends(rack: str) -> float:
        fleet = Inventory(
            hosts=(fast(0, rack="r0"), fast(1, rack=rack)),  # type: ignore[arg-type]
            guests=(guest(0, 0, 2, dirty_rate=0.0),),
            limits=Limits(link_share=1.0, rack_bandwidth=BytesPerSecond(0.1e9)),
        )
        return drain(fleet, [H0]).prediction.seconds - SETUP_SECONDS

    assert round(ends("r1") / ends("r0"), 6) == 10.0


def test_a_guest_that_dirties_half_the_link_takes_twice_as_long_and_as_many_bytes() -> None:
    def predicted(dirty: float) -> tuple[float, int]:
        fleet = Inventory(
            hosts=(fast(0), fast(1)),  # type: ignore[arg-type]
            guests=(guest(0, 0, 2, dirty_rate=BytesPerSecond(dirty)),),
            limits=Limits(link_share=1.0),
        )
        found = drain(fleet, [H0]).prediction
        return found.seconds - SETUP_SECONDS, found.bytes

    (idle, sent), (busy, sent_busy) = predicted(0.0), predicted(0.5e9)
    assert round(busy / idle, 6) == 2.0
    assert sent == 4 * GIB
    assert round(sent_busy / sent, 6) == 2.0


def test_what_is_not_known_is_said() -> None:
    there = msgspec.structs.replace(host(1, 8), link=None)
    fleet = Inventory(hosts=(host(0, 8), there), guests=(guest(0, 0, 2), guest(1, 0, 2, dirty_rate=2e9)))
    prediction = drain(fleet, [H0]).prediction
    assert prediction.assumed == (
        "nobody knows the link of 1 host: 110.0 MiB/s each",
        "nobody measured the dirty rate of 1 guest: taken for idle",
    )
    assert prediction.doubtful == ("g1",)


def test_local_disks_need_room_and_are_copied() -> None:
    disk = Bytes(30 * GIB)
    fleet = Inventory(hosts=(host(0, 8), host(1, 2), host(2, 8)), guests=(guest(0, 0, 2, disk=disk, dirty_rate=0.0),))
    plan = drain(fleet, [H0])
    assert told(plan) == [("g0", "h0", "h2", ())]
    assert plan.prediction.bytes == 34 * GIB
