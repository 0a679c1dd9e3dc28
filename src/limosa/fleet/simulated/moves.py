"""A simulated move at any moment of its life. Pure: time comes in, a status goes out."""

from collections.abc import Iterator

import msgspec

from limosa.fleet.inventory import Guest
from limosa.units import Side
from limosa.wire.moves import Measured, MoveState, MoveStatus, Prediction, Progress, Stage, StepShown

BEFORE_COPY = ((Stage.CHECK, 0.3), (Stage.RESERVE, 0.05), (Stage.PREPARE, 0.4))
AFTER_COPY = ((Stage.SWITCH_OVER, 0.08), (Stage.COMMIT, 0.02), (Stage.RESUME, 0.05), (Stage.RETIRE, 0.3))
"""Seconds of the stages that do not depend on the guest."""

SUMMARIES = {
    Stage.CHECK: "read the profile, and ask both agents what stands against the move",
    Stage.RESERVE: "promise room, and lease the guest's shape",
    Stage.PREPARE: "make disks, start the twin and compare it",
    Stage.COPY: "copy RAM and disks while the guest runs",
    Stage.SWITCH_OVER: "pause the guest, and send what is left",
    Stage.COMMIT: "give the guest up here, and take it there",
    Stage.RESUME: "let the guest run there",
    Stage.RETIRE: "end the source",
}
PASSES = 3
SETUP_BEFORE, SETUP_AFTER = sum(s for _, s in BEFORE_COPY), sum(s for _, s in AFTER_COPY)


class SimulatedMove(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a move; seconds since 1970, bytes, bytes per second."""

    id: str
    guest: Guest
    destination: str
    began: float
    operation: str
    rate: float
    """That RAM and disks are copied at."""
    fails: bool
    """Its link breaks in the middle of the copy."""
    aborted: float | None = None
    """When somebody took it back."""

    @property
    def copying(self) -> float:
        """Seconds of the copy."""
        return max(0.5, self.bytes / self.rate)

    @property
    def bytes(self) -> int:
        """What goes over the link."""
        return int(self.guest.memory * 1.15) + self.guest.disk

    @property
    def ends(self) -> float:
        """When it is over."""
        if self.aborted is not None:
            return self.aborted
        copying = self.copying / 2 if self.fails else self.copying + SETUP_AFTER
        return self.began + SETUP_BEFORE + copying

    @property
    def commits(self) -> float:
        """When the destination owns the guest, if nothing goes wrong."""
        return self.began + SETUP_BEFORE + self.copying + AFTER_COPY[0][1] + AFTER_COPY[1][1]


def state_of(move: SimulatedMove, now: float) -> MoveState:
    """Where it stands."""
    if now < move.ends:
        return MoveState.RUNNING
    if move.aborted is not None:
        return MoveState.ABORTED
    return MoveState.FAILED if move.fails else MoveState.COMPLETED


def status(move: SimulatedMove, now: float) -> MoveStatus:
    """All that its agent would say of it."""
    state, elapsed = state_of(move, now), min(now, move.ends) - move.began
    steps = tuple(_steps(move, state, elapsed))
    stage = next((step.stage for step in steps if step.outcome in {"running", "failed"}), Stage.RETIRE)
    runs = Side.DESTINATION if state is MoveState.COMPLETED or now >= move.commits else Side.SOURCE
    return MoveStatus(
        id=move.id,
        guest=move.guest.name,
        uuid=move.guest.uuid,
        source=move.guest.host,
        destination=move.destination,
        state=state,
        stage=stage,
        guest_runs=runs if not (move.fails or move.aborted) else Side.SOURCE,
        elapsed=elapsed,
        began=move.began,
        steps=steps,
        progress=tuple(_progress(move, elapsed)),
        prediction=Prediction(
            seconds=SETUP_BEFORE + move.copying + SETUP_AFTER,
            bytes=move.bytes,
            blackout_ms=90.0,
            converges=True,
            why="the link carries more than the guest dirties",
        ),
        measured=_measured(move, elapsed) if state is MoveState.COMPLETED else None,
        error=_error(move, state),
        operation=move.operation,
        undone=("twin ended", "room given back") if state in {MoveState.FAILED, MoveState.ABORTED} else (),
    )


def _steps(move: SimulatedMove, state: MoveState, elapsed: float) -> Iterator[StepShown]:
    begins = 0.0
    for stage, seconds in (*BEFORE_COPY, (Stage.COPY, move.copying), *AFTER_COPY):
        started = begins if elapsed >= begins else None
        ended = begins + seconds if elapsed >= begins + seconds - 1e-9 else None
        outcome = "planned" if started is None else "made" if ended is not None else "running"
        if outcome == "running" and state in {MoveState.FAILED, MoveState.ABORTED}:
            outcome, ended = "failed", elapsed
        yield StepShown(
            stage=stage,
            name=stage.replace(" ", "-"),
            summary=SUMMARIES[stage],
            side=Side.DESTINATION if stage in {Stage.PREPARE, Stage.RESUME} else Side.SOURCE,
            started=started,
            ended=ended,
            outcome=outcome,
        )
        begins += seconds


def _progress(move: SimulatedMove, elapsed: float) -> Iterator[Progress]:
    share = min(1.0, max(0.0, (elapsed - SETUP_BEFORE) / move.copying))
    copying = "copying" if share < 1.0 else "done"
    for number, (item, size) in enumerate((("ram", move.guest.memory), ("disk0", move.guest.disk))):
        if not size:
            continue
        moving = 0.0 < share < 1.0
        yield Progress(
            item=item,
            done=int(size * share),
            total=size,
            rate=move.rate * size / max(1, move.bytes) if moving else 0.0,
            passes=1 + int(share * (PASSES - 1)) if number == 0 and share else 0,
            dirty_rate=(move.guest.dirty_rate or 0.0) if number == 0 and moving else 0.0,
            eta=(1.0 - share) * move.copying if moving else None,
            state=copying if share else "",
        )


def _measured(move: SimulatedMove, elapsed: float) -> Measured:
    stages = {str(stage): seconds for stage, seconds in (*BEFORE_COPY, (Stage.COPY, move.copying), *AFTER_COPY)}
    blackout = 40.0 + sum(move.id.encode()) % 70
    return Measured(
        total_seconds=elapsed,
        stage_seconds=stages,
        blackout_ms=blackout,
        qemu_downtime_ms=blackout - 12.0,
        ram_bytes=move.bytes - move.guest.disk,
        disk_bytes=move.guest.disk,
        throughput=move.rate,
        passes=PASSES,
        compared=1210,
    )


def _error(move: SimulatedMove, state: MoveState) -> dict[str, object] | None:
    if state is MoveState.FAILED:
        what = f"the link to {move.destination} broke off in the middle of the copy"
        return {
            "code": "move-failed",
            "what": what,
            "guest_runs": "source",
            "remedy": f"see the link between {move.guest.host} and {move.destination}, and move it again",
            "detail": "",
        }
    if state is MoveState.ABORTED:
        return {
            "code": "aborted",
            "what": "the move was aborted",
            "guest_runs": "source",
            "remedy": "",
            "detail": "",
        }
    return None
