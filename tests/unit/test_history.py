"""Finished moves chosen, sampled, and added up by week."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limosa.errors import UsageError
from limosa.fleet.freed import freed
from limosa.history.select import Wanted, page
from limosa.history.weeks import (
    HOUR,
    MILLISECONDS,
    WEEK,
    Freed,
    distribution,
    week_begins,
    week_name,
    weeks,
    weeks_back,
)
from limosa.migration.archive import past_move
from limosa.migration.report import pause_of, stage_spans
from limosa.migration.samples import MOST_POINTS, Samples
from limosa.testing.moves import record
from limosa.wire.fleet import Change, Forecast, HostSettings, Operation, OperationKind, Phase
from limosa.wire.history import PastMove
from limosa.wire.moves import MoveState, Progress

MONDAY = week_begins("2026-W48")


def reading(done: int) -> Progress:
    return Progress(item="ram", done=done, total=10**6, sent=done, rate=1.0, dirty_rate=2.0)


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=2000))
def test_readings_stay_few_in_order_and_end_with_the_latest(times: list[float]) -> None:
    samples = Samples()
    for number, at in enumerate(sorted(times)):
        samples.add(at, reading(number))
    (ram,) = samples.series()
    assert 1 <= len(ram.at) <= MOST_POINTS
    assert list(ram.at) == sorted(ram.at)
    assert ram.done[-1] == len(times) - 1
    assert ram.done[0] == 0
    assert {len(ram.at)} == {len(c) for c in (ram.done, ram.sent, ram.rate, ram.dirty_rate)}


def test_a_long_move_keeps_its_whole_time_axis_evenly() -> None:
    samples = Samples()
    for tenth in range(100_000):
        samples.add(tenth / 10, reading(tenth))
    (ram,) = samples.series()
    gaps = [after - before for before, after in zip(ram.at, ram.at[1:-1], strict=False)]
    assert (ram.at[0], ram.at[-1]) == (0.0, 9999.9)
    assert max(gaps) < 1.5 * min(gaps)
    assert len(ram.at) > MOST_POINTS / 3


def test_a_disk_sends_what_is_alike_at_both_ends() -> None:
    samples = Samples()
    samples.add(1.0, Progress(item="data", done=5, total=10))
    (disk,) = samples.series()
    assert (disk.sent, disk.dirty_rate) == ((5,), (0.0,))


def test_stages_follow_each_other_from_the_checks_to_the_end() -> None:
    spans = record().stages
    assert [span.stage for span in spans][:3] == ["check", "reserve", "prepare"]
    assert spans[0].started == 0
    assert spans[-1].ended == 8.5
    assert all(one.ended == after.started for one, after in pairwise(spans))


def test_a_move_that_ended_in_its_checks_has_only_that_stage() -> None:
    status = msgspec.structs.replace(record(state=MoveState.BLOCKED).status, steps=(), elapsed=0.5)
    assert [(s.stage, s.started, s.ended) for s in stage_spans(status)] == [("check", 0.0, 0.5)]
    assert pause_of(status) is None


def test_the_parts_of_the_pause_fill_it_and_name_the_end_of_the_pre_copy_too() -> None:
    pause = record(blackout_ms=60.0).pause
    assert pause is not None
    assert [part.name for part in pause.parts] == ["precopy", "hand over", "commit", "resume there"]
    assert pause.parts[0].started_ms == 0
    assert sum(part.ended_ms - part.started_ms for part in pause.parts) == pytest.approx(pause.blackout_ms)


def test_a_move_in_a_line_says_why_it_ended() -> None:
    blocked = past_move(record(state=MoveState.BLOCKED, cause="blocked", what="there is no room"))
    assert (blocked.cause, blocked.what, blocked.blackout_ms) == ("blocked", "there is no room", None)
    assert past_move(record()).cause == ""


@given(st.integers(0, 60), st.integers(1, 9))
def test_pages_of_any_size_together_are_all_moves_latest_first(count: int, limit: int) -> None:
    moves = [past_move(record(f"m{n}", began=1000.0 + n // 3)) for n in range(count)]
    found: list[PastMove] = []
    after: str | None = ""
    while after is not None:
        told = page(moves, Wanted(after=after, limit=limit))
        found += told.items
        after = told.next
    assert found == sorted(moves, key=lambda move: (-move.ended, move.id))


@given(st.floats(0, 4e9))
def test_a_moment_lies_in_the_week_of_its_name(at: float) -> None:
    begins = week_begins(week_name(at))
    assert begins <= at < begins + WEEK


@pytest.mark.parametrize("name", ["2026-W54", "2026-W00", "2026-48", "W48", "", "2026-W5"])
def test_what_is_no_week_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no week"):
        week_begins(name)


def test_weeks_back_are_all_different_also_over_new_year() -> None:
    names = weeks_back(week_begins("2027-W02") + 5, 4)
    assert names == ("2027-W02", "2027-W01", "2026-W53", "2026-W52")


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=100))
def test_a_distribution_counts_each_value_once_and_its_percentiles_occur(values: list[float]) -> None:
    spread = distribution(values, MILLISECONDS)
    assert spread is not None
    assert sum(spread.counts) == spread.count == len(values)
    assert {spread.p50, spread.p90, spread.p99, spread.largest} <= set(values)
    assert spread.p50 <= spread.p90 <= spread.p99 <= spread.largest == max(values)
    assert sum(value <= spread.p90 for value in values) >= 0.9 * len(values)
    assert spread.counts[0] == sum(value <= MILLISECONDS[0] for value in values)


def test_no_values_have_no_distribution() -> None:
    assert distribution([], MILLISECONDS) is None


def test_a_week_counts_what_ended_in_it_and_nothing_else() -> None:
    ends = [MONDAY - 0.1, MONDAY, MONDAY + WEEK - 0.1, MONDAY + WEEK]
    moves = [msgspec.structs.replace(past_move(record(f"m{n}")), ended=at, seconds=HOUR) for n, at in enumerate(ends)]
    failed = msgspec.structs.replace(past_move(record("m9", state=MoveState.FAILED)), ended=MONDAY + 1, seconds=HOUR)
    (week, before) = weeks([*moves, failed], (), ["2026-W48", "2026-W01"], MONDAY + WEEK)
    assert (week.moves, week.completed, week.guest_hours) == (3, 2, 3.0)
    assert [(c.state, c.cause, c.count) for c in week.causes] == [("completed", "", 2), ("failed", "move-failed", 1)]
    assert week.blackout_ms is not None
    assert week.blackout_ms.count == 2
    assert week.ram_bytes == moves[1].ram_bytes + moves[2].ram_bytes
    assert (before.moves, before.causes, before.blackout_ms, before.watt_hours, before.money) == (0, (), None, 0.0, 0.0)


def idle(since: float, until: float | None = None, watts: float = 100.0, price: float = 0.2) -> Freed:
    return Freed(host="c", operation="consolidate-1", since=since, until=until, watts=watts, price_per_hour=price)


@pytest.mark.parametrize(
    ("since", "until", "now", "hours"),
    [
        (MONDAY + HOUR, MONDAY + 3 * HOUR, MONDAY + WEEK, 2),
        (MONDAY - 50 * HOUR, MONDAY + 3 * HOUR, MONDAY + WEEK, 3),
        (MONDAY + HOUR, None, MONDAY + 5 * HOUR, 4),
        (MONDAY - HOUR, None, MONDAY + 2 * WEEK, 168),
        (MONDAY - 3 * HOUR, MONDAY - HOUR, MONDAY + WEEK, 0),
        (MONDAY + WEEK, None, MONDAY + 2 * WEEK, 0),
    ],
)
def test_a_freed_host_counts_as_long_as_it_was_empty_in_the_week(
    since: float, until: float | None, now: float, hours: float
) -> None:
    (week,) = weeks((), [idle(since, until)], ["2026-W48"], now)
    assert week.hosts_freed_hours == pytest.approx(hours)
    assert week.watt_hours == pytest.approx(100 * hours)
    assert week.money == pytest.approx(0.2 * hours)


def test_what_has_no_price_saves_nothing_and_says_so() -> None:
    (week,) = weeks((), [idle(MONDAY, watts=0, price=0)], ["2026-W48"], MONDAY + HOUR)
    assert (week.watt_hours, week.money, week.hosts_freed_hours) == (0, 0, 1)
    assert (week.freed[0].metered, week.freed[0].priced) == (False, False)


def operation(**more: object) -> Operation:
    told: dict[str, object] = {
        "id": "consolidate-1",
        "kind": OperationKind.CONSOLIDATE,
        "hosts": ("c",),
        "who": "ada",
        "why": "",
        "created": 10.0,
        "phase": Phase.DONE,
        "items": (),
        "left": (),
        "forecast": Forecast(),
        "began": 20.0,
        "ended": 30.0,
    }
    return Operation(**(told | more))  # type: ignore[arg-type]


def test_a_host_is_free_until_somebody_uses_it_again() -> None:
    settings = {"c": HostSettings(watts=100, price_per_hour=0.2)}
    change = Change(number=1, at=90.0, who="ada", what="set state active", subject="c", why="")
    arrival = msgspec.structs.replace(past_move(record(destination="c")), ended=70.0)
    restore = operation(id="restore-1", kind=OperationKind.RESTORE, created=40.0, began=50.0, ended=60.0)
    base = operation()
    assert [f.until for f in freed([base], [], [], settings)] == [None]
    assert [f.until for f in freed([base], [change], [], settings)] == [90.0]
    assert [f.until for f in freed([base], [change], [arrival], settings)] == [70.0]
    assert [f.until for f in freed([base, restore], [change], [arrival], settings)] == [50.0]
    assert [(f.watts, f.price_per_hour) for f in freed([base], [], [], {})] == [(0.0, 0.0)]


def test_only_a_consolidation_that_ended_and_was_not_cancelled_frees_hosts() -> None:
    unfinished, cancelled = operation(ended=None, phase=Phase.RUNNING), operation(phase=Phase.CANCELLED)
    drained = operation(id="drain-1", kind=OperationKind.DRAIN)
    assert freed([unfinished, cancelled, drained], [], [], {}) == ()
