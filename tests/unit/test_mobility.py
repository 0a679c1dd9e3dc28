"""Which guests could leave, and when an operation will be over."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limosa.fleet.board import Board
from limosa.fleet.constraints import Constraint
from limosa.fleet.inventory import Guest, Host, HostState, Inventory
from limosa.fleet.mobility import ORDER, survey
from limosa.fleet.progress import ForecastHead, Head, ItemHead, predicted_end
from limosa.testing.fleets import guest, host
from limosa.wire.fleet import ItemState, OperationKind, Phase


def stuck(hosts: list[Host], guests: list[Guest]) -> dict[Constraint, int]:
    return {
        each: count
        for each, count in survey(Inventory(hosts=tuple(hosts), guests=tuple(guests))).stuck.items()
        if count
    }


def test_guests_that_cannot_leave_are_counted_by_what_takes_their_last_host_away() -> None:
    hosts = [host(0, 8), host(1, 8, kind=0), host(2, 8), host(3, 2, state=HostState.MAINTENANCE)]
    assert stuck(hosts, [guest(1, 0, 1)]) == {}
    assert stuck(hosts, [guest(1, 0, 1, blocked=("a GPU is passed through",))]) == {Constraint.GUEST: 1}
    assert stuck(hosts[:2], [guest(1, 0, 1, kind=2), guest(2, 0, 1, kind=0)]) == {Constraint.CPU: 1}
    assert stuck(hosts, [guest(1, 0, 1, storages=("ceph",))]) == {Constraint.STORAGE: 1}
    assert stuck(hosts, [guest(1, 0, 1, networks=("br7",))]) == {Constraint.NETWORK: 1}
    assert stuck(hosts, [guest(1, 0, 1, pin_labels=("gpu",))]) == {Constraint.PIN: 1}
    assert stuck([hosts[0], hosts[3]], [guest(1, 0, 1)]) == {Constraint.STATE: 1}
    assert stuck(hosts, [guest(1, 0, 6), guest(2, 1, 6), guest(3, 2, 6)]) == {Constraint.VCPUS: 3}
    assert stuck(hosts, [guest(n, n, 1, groups=("db",)) for n in range(3)]) == {Constraint.ANTI_AFFINITY: 3}


def test_compatible_hosts_do_not_ask_for_room_and_those_with_the_fewest_come_first() -> None:
    hosts = (host(0, 8), host(1, 1), host(2, 8, kind=0))
    guests = (guest(1, 0, 4), guest(2, 0, 4, kind=2), guest(3, 0, 1, blocked=("no",)))
    found = survey(Inventory(hosts=hosts, guests=guests))
    assert [(bound.name, bound.hosts) for bound in found.compatible] == [("g3", 0), ("g2", 1), ("g1", 2)]
    assert found.classes == {"0": 1, "1": 1, "2-4": 1, "5-19": 0, "20+": 0}


def test_an_empty_fleet_has_nobody_stuck() -> None:
    found = survey(Inventory(hosts=(), guests=()))
    assert set(found.stuck.values()) == set(found.classes.values()) == {0}
    assert found.compatible == ()


@given(
    cores=st.lists(st.integers(1, 8), min_size=1, max_size=5),
    sizes=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 2)), max_size=8),
)
def test_a_guest_is_stuck_exactly_where_no_planner_could_move_it(
    cores: list[int], sizes: list[tuple[int, int, int]]
) -> None:
    hosts = tuple(host(number, size, kind=number % 3) for number, size in enumerate(cores))
    guests = tuple(guest(n, where % len(hosts), vcpus, kind) for n, (where, vcpus, kind) in enumerate(sizes))
    fleet = Inventory(hosts=hosts, guests=guests)
    board = Board(fleet)
    assert sum(survey(fleet).stuck.values()) == sum(not board.hosts_for(n).any() for n in range(len(guests)))


def test_every_constraint_has_its_place_in_the_order() -> None:
    of_one_operation = {Constraint.TRIED}
    assert sorted(ORDER) == sorted(set(Constraint) - of_one_operation)


def head(*states: ItemState, seconds: float | None = 1000.0) -> Head:
    return Head(
        id="drain-1",
        kind=OperationKind.DRAIN,
        phase=Phase.RUNNING,
        created=0.0,
        began=100.0,
        items=tuple(ItemHead(state=state) for state in states),
        left=(),
        forecast=ForecastHead(seconds=seconds),
    )


WAITS, DONE = ItemState.WAITING, ItemState.DONE


def test_the_forecast_counts_until_a_move_is_over_and_then_what_was_seen() -> None:
    assert predicted_end(head(WAITS, WAITS), 100.0) == 1100.0
    assert predicted_end(head(WAITS, WAITS), 5000.0) == 5000.0, "never in the past"
    on_pace = head(*[DONE] * 50, *[WAITS] * 50)
    assert predicted_end(on_pace, 600.0) == pytest.approx(1100.0)
    slow = predicted_end(on_pace, 1100.0)
    assert slow is not None
    assert 1900.0 < slow < 2100.0, "half of it took twice as long as all of it should"
    assert predicted_end(head(DONE, ItemState.FAILED), 600.0) == 600.0


def test_what_does_not_run_or_has_no_forecast_has_no_end() -> None:
    assert predicted_end(head(WAITS, seconds=None), 100.0) is None
    assert predicted_end(msgspec.structs.replace(head(WAITS), phase=Phase.PAUSED), 100.0) is None
    assert predicted_end(msgspec.structs.replace(head(WAITS), began=None), 100.0) is None
