"""Moves that never were, as an agent would tell of them and keep them."""

from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from limosa.migration.report import pause_of, stage_spans
from limosa.units import MIB, Side
from limosa.wire.history import MoveRecord, Series
from limosa.wire.moves import Measured, MoveState, MoveStatus, Prediction, Stage, StepShown

_STEPS = (
    (Stage.RESERVE, "reserve", Side.DESTINATION, 0.2, 0.25),
    (Stage.PREPARE, "start twin", Side.DESTINATION, 0.25, 0.9),
    (Stage.COPY, "disks: mirror", Side.SOURCE, 0.9, 3.0),
    (Stage.COPY, "precopy", Side.SOURCE, 3.0, 8.0),
    (Stage.SWITCH_OVER, "hand over", Side.SOURCE, 8.0, 8.03),
    (Stage.COMMIT, "commit", Side.SOURCE, 8.03, 8.035),
    (Stage.RESUME, "resume there", Side.DESTINATION, 8.035, 8.05),
    (Stage.RETIRE, "retire source", Side.SOURCE, 8.05, 8.5),
)


def status(state: MoveState = MoveState.RUNNING, stage: Stage = Stage.COPY, **more: Any) -> MoveStatus:
    """A move of web1 from a to b; `more` are further fields of its status, or other values of these."""
    told: dict[str, Any] = {
        "id": "m1",
        "guest": "web1",
        "uuid": "u",
        "source": "a",
        "destination": "b",
        "guest_runs": Side.DESTINATION if state is MoveState.COMPLETED else Side.SOURCE,
        "elapsed": 1.0,
    }
    return MoveStatus(state=state, stage=stage, **(told | more))


def record(
    move: str = "m0000001",
    *,
    guest: str = "web1",
    source: str = "a",
    destination: str = "b",
    began: float = 1_764_000_000.0,
    state: MoveState = MoveState.COMPLETED,
    cause: str = "move-failed",
    what: str = "the link between the hosts is gone",
    blackout_ms: float = 60.0,
    operation: str = "",
) -> MoveRecord:
    """A move of 8.5 s: completed with two series, or ended by an error of this code."""
    completed = state is MoveState.COMPLETED
    steps = tuple(
        StepShown(
            stage=stage,
            name=name,
            summary=f"what {name} does",
            side=side,
            started=started,
            ended=ended,
            outcome="made",
            facts={"blackout_ms": blackout_ms} if name == "resume there" else {},
        )
        for stage, name, side, started, ended in _STEPS
        if completed or stage in {Stage.RESERVE, Stage.PREPARE}
    )
    error = {"code": cause, "what": what, "guest_runs": "source", "remedy": "mend it, and try again", "detail": ""}
    told = status(
        state,
        Stage.RETIRE if completed else Stage.PREPARE,
        id=move,
        guest=guest,
        uuid=str(uuid5(NAMESPACE_DNS, guest)),
        source=source,
        destination=destination,
        elapsed=8.5,
        steps=steps,
        prediction=Prediction(seconds=9.0, bytes=700 * MIB, blackout_ms=80.0, converges=True, why="as measured before"),
        measured=_measured(blackout_ms) if completed else None,
        error=None if completed else error,
        began=began,
        operation=operation,
    )
    return MoveRecord(
        began=began,
        ended=began + told.elapsed,
        status=told,
        stages=stage_spans(told),
        pause=pause_of(told),
        series=_series() if completed else (),
        number=9,
    )


def _measured(blackout_ms: float) -> Measured:
    return Measured(
        total_seconds=8.5,
        stage_seconds={"check": 0.2, "reserve": 0.05, "prepare": 0.65, "copy": 7.1, "retire": 0.45},
        blackout_ms=blackout_ms,
        qemu_downtime_ms=blackout_ms / 2,
        ram_bytes=640 * MIB,
        disk_bytes=64 * MIB,
        throughput=128.0 * MIB,
        passes=3,
        compared=250,
        disks={"data": {"disk_bytes": 64 * MIB}},
    )


def _series() -> tuple[Series, ...]:
    ram = Series(
        item="ram",
        total=512 * MIB,
        at=(3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
        done=(0, 120 * MIB, 250 * MIB, 400 * MIB, 490 * MIB, 511 * MIB),
        sent=(0, 128 * MIB, 256 * MIB, 384 * MIB, 512 * MIB, 640 * MIB),
        rate=(0.0, 128.0 * MIB, 128.0 * MIB, 128.0 * MIB, 128.0 * MIB, 128.0 * MIB),
        dirty_rate=(0.0, 10.0 * MIB, 20.0 * MIB, 12.0 * MIB, 9.0 * MIB, 8.0 * MIB),
    )
    disk = Series(
        item="data",
        total=64 * MIB,
        at=(0.9, 2.0, 3.0),
        done=(0, 40 * MIB, 64 * MIB),
        sent=(0, 40 * MIB, 64 * MIB),
        rate=(0.0, 36.0 * MIB, 24.0 * MIB),
        dirty_rate=(0.0, 0.0, 0.0),
    )
    return ram, disk
