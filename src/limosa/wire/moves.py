"""What is said about moves: the request, its plan, its progress and its report."""

from enum import StrEnum
from typing import Any

import msgspec

from limosa.units import Side
from limosa.wire.findings import Finding


class Stage(StrEnum):
    """Stages of one move, in their order (design section 5)."""

    CHECK = "check"
    RESERVE = "reserve"
    PREPARE = "prepare"
    COPY = "copy"
    SWITCH_OVER = "switch over"
    COMMIT = "commit"
    RESUME = "resume"
    RETIRE = "retire"


class Mode(StrEnum):
    """How a guest travels."""

    LIVE = "live"


class MoveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator asked for.

    `maps` are host-side names to rewrite, old -> new, as given with `--map OLD=NEW`; rates in bytes per
    second, times in milliseconds; zero or None means "limosa decides".
    """

    guest: str
    to: str
    mode: Mode = Mode.LIVE
    maps: dict[str, str] = {}
    allow: tuple[str, ...] = ()
    bandwidth: float | None = None
    downtime_limit: float | None = None
    timeout: float | None = None
    """Seconds after which a move that has not committed is aborted."""
    keep_source_disks: bool = True
    insecure_plaintext: bool = False
    channels: int | None = None
    """multifd channels; None lets limosa choose, 0 turns multifd off."""
    operation: str = ""
    """The controller's operation that it is part of; empty for a move that was asked for at an agent."""


class MoveState(StrEnum):
    """Where a move stands as a whole."""

    PLANNING = "planning"
    RUNNING = "running"
    ABORTING = "aborting"
    SETTLING = "settling"
    """An agent was restarted, or lost its peer, and brings the move to rest."""
    IN_DOUBT = "in doubt"
    """The grant was sent and nobody knows whether it arrived: the guest is paused until the other end answers."""
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    BLOCKED = "blocked"

    @property
    def over(self) -> bool:
        """True when nothing more will happen."""
        return self in {MoveState.COMPLETED, MoveState.FAILED, MoveState.ABORTED, MoveState.BLOCKED}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Latest reading of one thing that is being copied; bytes, bytes per second, seconds."""

    item: str
    """`ram`, or a disk's name."""
    done: int
    total: int
    sent: int | None = None
    """Bytes that went over the link, those sent again included; None where it is the same as `done`."""
    rate: float = 0.0
    passes: int = 0
    """RAM: iterations over dirty pages so far (`dirty-sync-count`)."""
    dirty_rate: float = 0.0
    eta: float | None = None
    state: str = ""
    """`copying`, `in sync`, `converging`, `not converging`, `stalled`, `done`."""


class StepShown(msgspec.Struct, frozen=True, kw_only=True):
    """One step as plan, live view and report show it; times in seconds since the move's start."""

    stage: Stage
    name: str
    summary: str
    side: Side
    started: float | None = None
    ended: float | None = None
    outcome: str = "planned"
    """planned, running, made, failed, undone."""
    facts: dict[str, Any] = {}


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What the move is expected to cost; seconds, bytes, milliseconds."""

    seconds: float | None
    """None where it would never end."""
    bytes: int
    blackout_ms: float
    converges: bool
    why: str


class PlanShown(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of `plan`: nothing was changed."""

    guest: str
    uuid: str
    source: str
    destination: str
    possible: bool
    findings: tuple[Finding, ...]
    steps: tuple[StepShown, ...]
    prediction: Prediction | None
    compared: int
    differences: tuple[str, ...]
    rewrites: tuple[tuple[str, str], ...]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished move measured. Milliseconds for pauses, seconds for durations, bytes."""

    total_seconds: float
    stage_seconds: dict[str, float]
    blackout_ms: float | None
    """STOP at the source to RESUME at the destination, on the source's clock."""
    qemu_downtime_ms: float | None
    ram_bytes: int
    disk_bytes: int
    throughput: float
    passes: int
    compared: int
    """Guest-visible properties that were compared with the twin's."""
    disks: dict[str, dict[str, Any]] = {}


class MoveStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a move now; also its final report when `state.over`."""

    id: str
    guest: str
    uuid: str
    source: str
    destination: str
    state: MoveState
    stage: Stage
    guest_runs: Side
    elapsed: float
    findings: tuple[Finding, ...] = ()
    steps: tuple[StepShown, ...] = ()
    progress: tuple[Progress, ...] = ()
    prediction: Prediction | None = None
    measured: Measured | None = None
    error: dict[str, Any] | None = None
    """An error as `LimosaError.to_wire` gives it."""
    undone: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    began: float = 0.0
    """Seconds since 1970."""
    operation: str = ""
    """The controller's operation that it is part of."""
