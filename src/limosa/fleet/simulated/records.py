"""A simulated move over its time, and what both of its hosts would have logged. Pure."""

from collections.abc import Iterator

from limosa.fleet.simulated.moves import AFTER_COPY, BEFORE_COPY, SETUP_BEFORE, SimulatedMove, state_of, status
from limosa.units import Side
from limosa.wire.history import LogLine, MoveLog, MoveRecord, Pause, PausePart, Series, StageSpan
from limosa.wire.moves import MoveState, MoveStatus, Stage

READINGS = 120
"""Of each thing that is copied, at most."""
EVERY = 0.25
"""Seconds between two readings, at least."""
PAUSE = (
    ("hand-over", "send the last RAM and the devices", Side.SOURCE, 0.0, 0.62),
    ("commit", "give the guest up, and take it", Side.SOURCE, 0.62, 0.78),
    ("resume-there", "let the guest run", Side.DESTINATION, 0.78, 1.0),
)
"""Steps of a pause, as shares of it."""


def record(move: SimulatedMove, now: float) -> MoveRecord:
    """All that its agent would tell of it."""
    told = status(move, now)
    return MoveRecord(
        began=move.began,
        ended=move.ends if told.state.over else None,
        status=told,
        stages=tuple(_stages(told)),
        pause=_pause(told),
        series=tuple(_series(move, told)),
        number=int(told.elapsed * 4) + (1_000_000 if told.state.over else 0),
    )


def _stages(told: MoveStatus) -> Iterator[StageSpan]:
    for step in told.steps:
        if step.started is not None:
            yield StageSpan(stage=step.stage, started=step.started, ended=step.ended)


def _pause(told: MoveStatus) -> Pause | None:
    if told.measured is None or told.measured.blackout_ms is None:
        return None
    blackout = told.measured.blackout_ms
    parts = (
        PausePart(name=name, summary=summary, side=side, started_ms=start * blackout, ended_ms=end * blackout)
        for name, summary, side, start, end in PAUSE
    )
    begins = next(step.started for step in told.steps if step.stage is Stage.SWITCH_OVER)
    return Pause(started=begins or 0.0, blackout_ms=blackout, parts=tuple(parts))


def _series(move: SimulatedMove, told: MoveStatus) -> Iterator[Series]:
    copied = min(told.elapsed - SETUP_BEFORE, move.copying)
    if copied <= 0:
        return
    count = max(2, min(READINGS, int(copied / EVERY)))
    at = [copied * place / (count - 1) for place in range(count)]
    dirty = move.guest.dirty_rate or 0.0
    for item, total in (("ram", move.guest.memory), ("disk0", move.guest.disk)):
        if not total:
            continue
        ram = item == "ram"
        done = tuple(int(total * min(1.0, seconds / move.copying)) for seconds in at)
        yield Series(
            item=item,
            total=total,
            at=tuple(SETUP_BEFORE + seconds for seconds in at),
            done=done,
            sent=tuple(int(each * 1.15) for each in done) if ram else done,
            rate=tuple(_wavering(move.rate * total / max(1, move.bytes), place) for place in range(count)),
            dirty_rate=tuple(_wavering(dirty, place * 3 + 1) if ram else 0.0 for place in range(count)),
        )


def _wavering(value: float, place: int) -> float:
    """A rate as it is measured: within a tenth of its mean, the same for the same place."""
    return value * (0.9 + 0.2 * ((place * 2654435761) % 1000) / 1000)


def log(move: SimulatedMove, host: str, now: float) -> MoveLog:
    """The lines of one of its hosts."""
    return MoveLog(lines=tuple(line for line in _lines(move, now) if line.host == host))


def _lines(move: SimulatedMove, now: float) -> Iterator[LogLine]:
    source, at = move.guest.host, move.began
    yield LogLine(at=at, host=source, level="info", event="move begins", facts={"to": move.destination})
    for stage, seconds in (*BEFORE_COPY, (Stage.COPY, move.copying), *AFTER_COPY):
        host = move.destination if stage in {Stage.PREPARE, Stage.RESUME} else source
        if at > min(now, move.ends):
            break
        yield LogLine(at=at, host=host, level="info", event=f"stage {stage}", facts={"move": move.id})
        at += seconds
    state = state_of(move, now)
    if state is MoveState.COMPLETED:
        yield LogLine(at=move.ends, host=source, level="info", event="move completed", facts={})
    elif state.over:
        yield LogLine(at=move.ends, host=source, level="warning", event=f"move {state}", facts={"undone": 2})
