import pytest

from limosa.migration.convergence import (
    CALM_DOWNTIME_LIMIT,
    CALM_RATE,
    Change,
    Course,
    Keep,
    Limits,
    Phase,
    RamProgress,
    advise,
    channels_for,
    first_course,
    needed_downtime,
)
from limosa.units import GIB, MIB, Milliseconds

FREE = Limits(bandwidth=None, downtime=Milliseconds(300))


def reading(passes: int, remaining: int, *, throughput: float = 500 * MIB, dirty_rate: float = 10 * MIB) -> RamProgress:
    return RamProgress(passes, remaining, 0, throughput, dirty_rate)


def course_after(readings: list[RamProgress], limits: Limits = FREE) -> list[Course]:
    courses = [first_course(limits)]
    for now in readings:
        advice = advise(now, courses[-1], limits)
        courses.append(advice.course if isinstance(advice, Change) else courses[-1])
    return courses


def test_the_first_pass_is_left_alone() -> None:
    assert advise(reading(1, GIB), first_course(FREE), FREE) == Keep()


def test_the_second_pass_calms_down() -> None:
    last = course_after([reading(2, 20 * MIB)])[-1]
    assert (last.phase, last.max_bandwidth, last.downtime_limit) == (Phase.CALM, CALM_RATE, CALM_DOWNTIME_LIMIT)


def test_the_calm_rate_stays_above_the_dirty_rate() -> None:
    last = course_after([reading(2, 20 * MIB, dirty_rate=300 * MIB)])[-1]
    assert last.max_bandwidth == 600 * MIB


def test_the_operators_bandwidth_is_never_exceeded() -> None:
    limits = Limits(bandwidth=50 * MIB, downtime=Milliseconds(300))
    readings = [reading(n, 20 * MIB, dirty_rate=300 * MIB) for n in range(1, 30)]
    assert {c.max_bandwidth for c in course_after(readings, limits)} == {50 * MIB}


def test_a_guest_that_does_not_converge_gets_a_longer_pause_up_to_the_limit_and_then_is_called_stuck() -> None:
    readings = [reading(n, 80 * MIB, dirty_rate=400 * MIB) for n in range(2, 40)]
    courses = course_after(readings)
    limits = [c.downtime_limit for c in courses]
    assert limits == sorted(limits)
    assert limits[-1] == pytest.approx(300)
    assert courses[-1].phase is Phase.STUCK


def test_a_throttle_is_used_only_where_it_is_allowed() -> None:
    readings = [reading(n, 80 * MIB, dirty_rate=400 * MIB) for n in range(2, 40)]
    allowed = Limits(bandwidth=None, downtime=Milliseconds(300), may_throttle=True)
    assert course_after(readings, allowed)[-1].phase is Phase.THROTTLED


def test_a_guest_that_converges_is_not_disturbed() -> None:
    readings = [reading(n, 80 * MIB >> n) for n in range(2, 12)]
    assert {c.phase for c in course_after(readings)[1:]} == {Phase.CALM}


def test_a_downtime_limit_below_ours_is_kept() -> None:
    strict = Limits(bandwidth=None, downtime=Milliseconds(4))
    readings = [reading(n, 80 * MIB) for n in range(2, 20)]
    assert max(c.downtime_limit for c in course_after(readings, strict)) == pytest.approx(4)


def test_needed_downtime_is_remainder_over_throughput() -> None:
    assert needed_downtime(reading(5, 50 * MIB, throughput=100 * MIB)) == pytest.approx(500)


@pytest.mark.parametrize(
    ("memory", "cpus", "wanted", "channels"),
    [(GIB, 32, None, 0), (64 * GIB, 32, None, 8), (64 * GIB, 2, None, 0), (GIB, 2, 4, 4), (64 * GIB, 32, 0, 0)],
)
def test_channels_pay_for_large_guests_on_large_hosts_and_whoever_asks_gets_them(
    memory: int, cpus: int, wanted: int | None, channels: int
) -> None:
    assert channels_for(memory, cpus, wanted) == channels
