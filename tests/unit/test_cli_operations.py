"""Operations as they are shown: plans, views, ends; and the exit status of each end."""

import time
from typing import Any

import msgspec
import pytest

from limosa.cli.operation_page import (
    SHOWN,
    failure_of,
    few,
    final_page,
    operation_page,
    operations_table,
    place_of,
    plan_page,
    stuck,
    time_of_day,
    title,
)
from limosa.cli.operation_view import PlainOperationView, expected_end, lines
from limosa.cli.view import plain
from limosa.errors import Blocked
from limosa.units import GIB
from limosa.wire.fleet import Forecast, Item, ItemState, LeftGuest, LimitsAsked, Operation, OperationKind, Phase
from limosa.wire.moves import MoveState

NOW = 1_800_000_000.0
WEB1 = Item(guest="u1", name="web1", source="a", destination="b", role="leave", expected_bytes=GIB, expected_end=12.0)
WEB2 = Item(
    guest="u2",
    name="web2",
    source="a",
    destination="c",
    role="leave",
    after=(0,),
    expected_bytes=3 * GIB,
    expected_end=340.0,
)
OLD1 = LeftGuest(
    guest="u3",
    name="old1",
    host="a",
    why="it lacks avx",
    hosts={"b": "it lacks avx", "c": "has no room", "d": "it lacks avx"},
)


def drain(**more: Any) -> Operation:
    values: dict[str, Any] = {
        "id": "drain-1f0c9a2b",
        "kind": OperationKind.DRAIN,
        "hosts": ("a",),
        "who": "night-shift",
        "why": "fans",
        "created": NOW,
        "phase": Phase.PLANNED,
        "items": (WEB1, WEB2),
        "left": (OLD1,),
        "forecast": Forecast(bytes=4 * GIB, seconds=345.0, hosts_freed=("a",), watts=320, per_hour=0.21),
    }
    return Operation(**(values | more))


def item(of: Item, state: ItemState, **more: Any) -> Item:
    return msgspec.structs.replace(of, state=state, **more)


def ended(phase: Phase, *items: Item, **more: Any) -> Operation:
    return drain(phase=phase, items=items, began=NOW, ended=NOW + 400, **more)


DONE = item(WEB1, ItemState.DONE, attempts=1, move_state=MoveState.COMPLETED, blackout_ms=41.2, bytes=GIB)
FAILED = item(WEB2, ItemState.FAILED, attempts=4, move_state=MoveState.FAILED, said="no room", remedy="make some")


def test_a_plan_tells_each_move_the_end_the_saving_and_who_cannot_move() -> None:
    end = time.strftime("%H:%M", time.localtime(NOW + 345))
    assert plan_page(drain(), NOW).splitlines() == [
        "drain of a: 2 guests to move, 1 cannot",
        "",
        "  GUEST  FROM  TO     SIZE         DONE  WHY",
        "  web1   a     b   1.0 GiB        +12 s  leave",
        "  web2   a     c   3.0 GiB  +5 min 40 s  leave, after web1",
        "",
        f"  predicted  4.0 GiB in 5 min 45 s: done at {end} if it begins now",
        "  in order   1 of the moves waits for others",
        "  frees      a (320 W, 0.21 an hour)",
        "",
        "cannot move: 1 guest",
        "",
        "  LEFT  ON  WHY           HOSTS",
        "  old1  a   it lacks avx  b, d",
        "            has no room   c",
    ]


def test_limits_that_were_asked_for_are_part_of_the_plan() -> None:
    shown = plan_page(drain(limits=LimitsAsked(moves_out=4, retries=0, bandwidth=float(GIB))), NOW)
    assert "limits     4 out of a host at once, 0 more attempts at a guest, 1.0 GiB/s" in shown


def test_of_a_long_plan_the_rest_is_counted() -> None:
    many = tuple(msgspec.structs.replace(WEB1, name=f"web{number}") for number in range(SHOWN + 5))
    assert "and 5 more moves (--json lists all)" in plan_page(drain(items=many), NOW)
    assert few(["a", "b", "c", "d", "e"]) == "a, b, c, d, e"
    assert few("abcdef") == "a, b, c, d and 2 more"


@pytest.mark.parametrize(
    ("kind", "hosts", "words"),
    [
        (OperationKind.DRAIN, ("a", "b"), "drain of a, b"),
        (OperationKind.REBALANCE, (), "rebalancing of the fleet"),
        (OperationKind.CONSOLIDATE, ("a",), "consolidation that frees a"),
        (OperationKind.CONSOLIDATE, (), "consolidation of the fleet"),
        (OperationKind.MOVE, (), "move of web1, web2, old1"),
    ],
)
def test_an_operation_is_called_by_what_it_is_about(kind: OperationKind, hosts: tuple[str, ...], words: str) -> None:
    assert title(drain(kind=kind, hosts=hosts)) == words


def test_a_plan_in_which_nobody_can_move_is_blocked_and_an_empty_one_is_not() -> None:
    assert isinstance(stuck(drain(items=())), Blocked)
    assert stuck(drain(items=(), left=())) is None
    assert stuck(drain()) is None
    assert stuck(drain(items=(), hosts=("a", "b"))) is None  # b is empty: it is drained, whatever becomes of a
    assert plan_page(drain(items=(), left=(), forecast=Forecast()), NOW) == "drain of a: there is no guest to move"


@pytest.mark.parametrize(
    ("operation", "exit_status"),
    [
        (ended(Phase.DONE, DONE, left=()), 0),
        (ended(Phase.PARTLY, DONE), 40),
        (ended(Phase.CANCELLED, DONE, item(WEB2, ItemState.CANCELLED)), 30),
        (ended(Phase.PARTLY, FAILED, kind=OperationKind.MOVE), 20),
        (
            ended(Phase.PARTLY, item(FAILED, ItemState.FAILED, move_state=MoveState.BLOCKED), kind=OperationKind.MOVE),
            10,
        ),
    ],
)
def test_each_end_has_its_exit_status(operation: Operation, exit_status: int) -> None:
    failure = failure_of(operation)
    assert (failure.exit_status if failure else 0) == exit_status


def test_the_end_lists_what_is_left_and_why_beside_what_was_predicted() -> None:
    assert final_page(ended(Phase.PARTLY, DONE, FAILED)).splitlines() == [
        "drain of a: partly done, 1 of 2 guests moved, 1 failed, 1 could not move",
        "",
        "  took      6 min 40 s (predicted 5 min 45 s)",
        "  sent      1.0 GiB",
        "  blackout  41 ms at the longest",
        "",
        "  NOT MOVED  ON  TO  WHY                   TO DO",
        "  web2       a   c   no room (4 attempts)  make some",
        "",
        "  LEFT  ON  WHY           HOSTS",
        "  old1  a   it lacks avx  b, d",
        "            has no room   c",
    ]


def test_a_guest_that_was_planned_again_is_counted_once() -> None:
    elsewhere = item(WEB2, ItemState.DONE, destination="d", attempts=5, move_state=MoveState.COMPLETED)
    twice = ended(Phase.PARTLY, DONE, FAILED, elsewhere)
    assert final_page(twice).splitlines()[0] == "drain of a: partly done, 2 of 2 guests moved, 1 could not move"
    assert "NOT MOVED" not in final_page(twice)
    assert operations_table([twice], NOW).splitlines()[1].split()[6:8] == ["2/2", "1"]


def test_a_guest_of_which_no_agent_gave_account_is_not_said_to_be_anywhere() -> None:
    assert place_of(ended(Phase.PARTLY, DONE, FAILED)) == "1 guest at the destination, the others where they were"
    assert place_of(ended(Phase.PARTLY, FAILED)) == "every guest where it was"
    silent = item(FAILED, ItemState.FAILED, move_state=MoveState.RUNNING)
    assert "of web2 no agent said so" in place_of(ended(Phase.PARTLY, DONE, silent))


def test_the_end_is_expected_as_predicted_until_the_pace_says_more() -> None:
    running = drain(phase=Phase.RUNNING, began=NOW)
    assert expected_end(running, NOW + 10) == NOW + 345
    assert expected_end(running, NOW + 500) == NOW + 500  # it is late, and nothing is known of how much
    a_quarter = msgspec.structs.replace(running, items=(DONE, WEB2))
    assert expected_end(a_quarter, NOW + 100) == NOW + 400
    assert expected_end(msgspec.structs.replace(running, phase=Phase.PAUSED), NOW) is None
    assert expected_end(drain(), NOW) is None


def test_the_view_shows_what_flies_what_is_tried_again_and_silence() -> None:
    flying = item(WEB1, ItemState.MOVING, attempts=2, began=NOW + 20, move_state=MoveState.RUNNING)
    again = item(WEB2, ItemState.WAITING, attempts=1, said="the link broke", not_before=NOW + 600)
    shown = [plain(line) for line in lines(drain(phase=Phase.RUNNING, began=NOW, items=(flying, again)), NOW + 65, 20)]
    end, later = time_of_day(NOW + 345, NOW), time_of_day(NOW + 600, NOW)
    assert shown == [
        f"drain of a  drain-1f0c9a2b  1:05  ends about {end}",
        "  ────────────────────────  0 done  1 moving  1 waiting  0 failed  1 cannot move",
        "  ▶ web1  a → b  0:45  1.0 GiB  running  attempt 2",
        f"  ↻ web2  the link broke, tried again at {later}",
        "no word from the controller for 20 s",
    ]


def test_a_log_gets_a_line_for_each_thing_that_happens_and_none_for_a_heartbeat() -> None:
    view = PlainOperationView()
    first = drain(phase=Phase.RUNNING, began=NOW, items=(item(WEB1, ItemState.MOVING, attempts=1), WEB2))
    assert view.next(first) == (
        "drain-1f0c9a2b: running, 0 of 2 guests moved, 1 moving, 1 waiting, 1 could not move",
        "  web1 a → b: moving",
    )
    assert view.next(first) == ()
    assert view.next(msgspec.structs.replace(first, items=(DONE, WEB2))) == ("  web1 a → b: done, paused for 41 ms",)
    assert view.next(ended(Phase.PARTLY, DONE, FAILED))[1:] == ("  web2 a → c: failed; no room",)


def test_operations_are_listed_and_shown() -> None:
    listed = operations_table([ended(Phase.PARTLY, DONE, FAILED)], NOW).splitlines()[1]
    assert listed.split()[:8] == ["drain-1f0c9a2b", "partly", "done", "drain", "of", "a", "1/2", "2"]
    assert "limosa operations approve drain-1f0c9a2b" in operation_page(drain(), NOW)
    assert "night-shift at" in operation_page(ended(Phase.DONE, DONE, left=()), NOW)


def test_another_day_is_told_with_its_date() -> None:
    assert time_of_day(NOW, NOW) == time.strftime("%H:%M", time.localtime(NOW))
    assert time_of_day(NOW + 86400 * 2, NOW) == time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW + 86400 * 2))
