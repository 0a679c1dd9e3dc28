"""What to do about a pre-copy that is still running, and how many channels it gets. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from limosa.units import GIB, MIB, Milliseconds, Seconds

CALM_RATE = 64 * MIB
"""Bytes per second at the end, where nothing better is known: a destination that is not behind with its
backlog resumes at once (docs/qemu-notes.md, the endgame)."""

FIRST_DOWNTIME_LIMIT = Milliseconds(1)
"""So small that QEMU keeps iterating until we have slowed it down for the end."""

CALM_DOWNTIME_LIMIT = Milliseconds(10)

STALL = Seconds(15)
"""Seconds without a byte after which the link is taken for dead; QEMU gives no event (docs/qemu-notes.md)."""


@dataclass(frozen=True, slots=True)
class RamProgress:
    """One reading of a running pre-copy. Bytes, bytes per second, milliseconds."""

    passes: int
    remaining: int
    transferred: int
    throughput: float
    dirty_rate: float


class Phase(StrEnum):
    """How far the endgame has come."""

    BULK = "copying"
    CALM = "converging"
    WIDENED = "widening the downtime limit"
    THROTTLED = "throttling the guest"
    STUCK = "not converging"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator allows. Bytes per second (None: no cap) and milliseconds."""

    bandwidth: float | None
    downtime: Milliseconds
    may_throttle: bool = False


@dataclass(frozen=True, slots=True)
class Course:
    """What QEMU was last told. Bytes per second (0: unlimited) and milliseconds."""

    phase: Phase
    max_bandwidth: int
    downtime_limit: Milliseconds
    since_pass: int = 0
    best_remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to change."""


@dataclass(frozen=True, slots=True)
class Change:
    """Tell QEMU this course."""

    course: Course


Advice = Keep | Change


def first_course(limits: Limits) -> Course:
    """How a pre-copy starts: as fast as allowed, and not ending before we say so."""
    return Course(Phase.BULK, int(limits.bandwidth or 0), FIRST_DOWNTIME_LIMIT)


def advise(now: RamProgress, course: Course, limits: Limits) -> Advice:
    """Say what to do next about a pre-copy that is still running.

    The ladder: copy at full speed; from the second pass on calm down, so that the destination has no
    backlog when the guest pauses; where the remainder stops shrinking, allow a longer pause, step by step
    up to the operator's limit, at full speed again; then, if allowed, take CPU time from the guest.

    Args:
        now: latest reading.
        course: what QEMU was last told.
        limits: what the operator allows.

    Returns:
        Keep, or Change with the new course. The caller acts; this function touches nothing.

    Source:
        QEMU qapi/migration.json, MigrationStats; measured levers in docs/qemu-notes.md.
    """
    if now.passes < 2:
        return Keep()
    if course.phase is Phase.BULK:
        return Change(_calm(now, limits))
    if now.passes < course.since_pass + 2:
        return Keep()
    best = course.best_remaining
    if best is None or now.remaining < best * 0.7:
        return Change(_noted(course, now))
    return Change(_wider(now, course, limits))


def calm_rate(now: RamProgress, limits: Limits) -> int:
    """Rate for the end of the copy: well above the dirty rate, below what floods the destination."""
    wanted = max(CALM_RATE, 2 * now.dirty_rate)
    capped = min(wanted, limits.bandwidth) if limits.bandwidth else wanted
    return int(capped)


def needed_downtime(now: RamProgress) -> Milliseconds:
    """Pause that would be needed to send what a pass leaves over, at the present throughput."""
    return Milliseconds(1000 * now.remaining / max(now.throughput, 1.0))


def channels_for(memory: int, cpus: int, wanted: int | None) -> int:
    """How many multifd channels a guest of `memory` bytes gets on a host with `cpus` cores; 0 is one plain stream.

    Several channels pay where one core cannot fill the link, and cost a handshake each: under 4 GiB the
    handshakes outweigh the gain (docs/qemu-notes.md: 123 ms of set-up for a copy of 600 ms).
    """
    if wanted is not None:
        return wanted
    if memory < 4 * GIB or cpus < 4:
        return 0
    return min(8, cpus // 2)


def _calm(now: RamProgress, limits: Limits) -> Course:
    downtime = min(CALM_DOWNTIME_LIMIT, limits.downtime)
    return Course(Phase.CALM, calm_rate(now, limits), Milliseconds(downtime), now.passes, now.remaining)


def _noted(course: Course, now: RamProgress) -> Course:
    return Course(course.phase, course.max_bandwidth, course.downtime_limit, now.passes, now.remaining)


def _wider(now: RamProgress, course: Course, limits: Limits) -> Course:
    full = int(limits.bandwidth or 0)
    if course.downtime_limit < limits.downtime:
        longer = Milliseconds(min(course.downtime_limit * 2, limits.downtime))
        return Course(Phase.WIDENED, full, longer, now.passes, now.remaining)
    phase = Phase.THROTTLED if limits.may_throttle else Phase.STUCK
    return Course(phase, full, course.downtime_limit, now.passes, now.remaining)
