"""What is kept of moves: one move over its time, its lines in the logs of both hosts, and weeks of moves added up."""

from typing import NamedTuple

import msgspec

from limosa.units import Side
from limosa.wire.moves import MoveState, MoveStatus, Stage

Fact = str | int | float | bool | None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Readings of one thing that is copied, as columns of equal length, 300 at most.

    Four in a second at first; over a longer move every other one is dropped again and again, so that the time axis
    stays whole. The last reading is always there.
    """

    item: str
    """`ram`, or a disk's name."""
    total: int
    """Bytes, as last known."""
    at: tuple[float, ...]
    """Seconds since the move's start."""
    done: tuple[int, ...]
    """Bytes that are alike at both ends; what remains is `total` less this."""
    sent: tuple[int, ...]
    """Bytes that went over the link, those sent again included; of disks the same as `done`."""
    rate: tuple[float, ...]
    """Bytes per second over the link."""
    dirty_rate: tuple[float, ...]
    """Bytes per second that the guest dirties; 0 for disks."""


class StageSpan(msgspec.Struct, frozen=True, kw_only=True):
    """When a stage was under way; seconds since the move's start."""

    stage: Stage
    started: float
    ended: float | None
    """None while it is under way."""


class PausePart(msgspec.Struct, frozen=True, kw_only=True):
    """What a part of the pause went to: a step, as far as it lies in the pause; milliseconds since the pause began."""

    name: str
    summary: str
    side: Side
    started_ms: float
    ended_ms: float


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """The pause in detail: STOP at the source to RESUME at the destination, on the source's clock."""

    started: float
    """Seconds since the move's start."""
    blackout_ms: float
    parts: tuple[PausePart, ...]


class MoveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A move over its time: as it stands while it is in flight, kept when it is over."""

    began: float
    """Seconds since 1970."""
    ended: float | None
    """None while it is in flight."""
    status: MoveStatus
    stages: tuple[StageSpan, ...]
    pause: Pause | None
    """None where the guest was not paused, or its agent was restarted meanwhile."""
    series: tuple[Series, ...]
    number: int = 0
    """Grows with each change while its agent runs."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a host's log that is about a move."""

    at: float
    """Seconds since 1970, on that host's clock."""
    host: str
    level: str
    event: str
    facts: dict[str, Fact] = {}


class MoveLog(msgspec.Struct, frozen=True, kw_only=True):
    """What hosts logged of a move, by time."""

    lines: tuple[LogLine, ...]
    dropped: int = 0
    """Lines in the middle that were too many to keep."""
    silent: dict[str, str] = {}
    """Hosts that could not be asked, or keep nothing of it, and why."""


class PastMove(msgspec.Struct, frozen=True, kw_only=True):
    """A move that is over, in a line; seconds since 1970, seconds, milliseconds, bytes."""

    id: str
    guest: str
    uuid: str
    source: str
    destination: str
    began: float
    ended: float
    state: MoveState
    cause: str = ""
    """Code of the error that ended it, such as `blocked` or `move-failed`; empty for one that completed."""
    what: str = ""
    """What that error says."""
    seconds: float = 0.0
    """From its start to its end."""
    blackout_ms: float | None = None
    qemu_downtime_ms: float | None = None
    ram_bytes: int = 0
    disk_bytes: int = 0
    operation: str = ""
    """The controller's operation that it is part of."""


class HistoryPage(msgspec.Struct, frozen=True):
    """Some finished moves, latest first."""

    items: tuple[PastMove, ...]
    next: str | None
    """What to ask with, as `after`, for more."""


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How values are spread. `counts[i]` values are at most `bounds[i]` and more than the bound before; the last
    count is of those beyond every bound. Percentiles are values that occurred (nearest rank).
    """

    count: int
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    p50: float
    p90: float
    p99: float
    largest: float


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """How many moves ended so, and why."""

    state: MoveState
    cause: str
    """The error's code; empty for completed ones."""
    count: int
    example: str = ""
    """What the latest of them said."""


class FreedHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host that a consolidation emptied, and how long of a week it stayed empty.

    Whether it was switched off is not known: watt-hours and money are what it would draw and cost if it ran,
    from the settings of the host as they are now.
    """

    host: str
    operation: str
    hours: float
    watt_hours: float
    """0 where no watts are set."""
    money: float
    """0 where no price is set; in whatever currency prices are set in."""
    metered: bool
    priced: bool


class Week(msgspec.Struct, frozen=True, kw_only=True):
    """The moves that ended in one ISO week, UTC."""

    week: str
    """Such as `2026-W48`."""
    begins: float
    """Monday, 00:00; seconds since 1970."""
    ends: float
    moves: int
    causes: tuple[Cause, ...]
    """Completed ones first, then the most frequent."""
    blackout_ms: Distribution | None
    """Of completed moves; None where none has it."""
    qemu_downtime_ms: Distribution | None
    total_seconds: Distribution | None
    """Of completed moves."""
    ram_bytes: int
    disk_bytes: int
    guest_hours: float
    """Hours that guests were in a move, all moves together."""
    freed: tuple[FreedHost, ...] = ()
    hosts_freed_hours: float = 0.0
    watt_hours: float = 0.0
    money: float = 0.0

    @property
    def completed(self) -> int:
        """Moves that completed."""
        return sum(cause.count for cause in self.causes if cause.state is MoveState.COMPLETED)


class RecordAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `fleet.move` (answer: MoveRecord) and of `fleet.log` (answer: MoveLog)."""

    move: str
    seen: int = -1
    """Number of the record that the caller has; one that is newer is waited for."""
    wait: float = 0.0
    """Seconds to wait for it."""


class Mark(NamedTuple):
    """How far somebody knows an agent's archive: its name, and the number of the latest move in it."""

    archive: str
    number: int


class HistoryAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `fleet.history`: finished moves that came after this mark."""

    after: Mark


class HistoryTold(msgspec.Struct, frozen=True, kw_only=True):
    """Some of them, oldest first, and the mark behind them; none: there are no more."""

    mark: Mark
    records: tuple[MoveRecord, ...]
