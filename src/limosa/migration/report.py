"""What a move measured, and when its stages and the parts of its pause were. Pure."""

from collections.abc import Iterable

from limosa.migration.departure import Departure
from limosa.migration.journal import Entry, Journal, Outcome
from limosa.migration.steps import ResumeThere, stage_of
from limosa.wire.history import Pause, PausePart, StageSpan
from limosa.wire.moves import Measured, MoveStatus, Stage, StepShown


def measure(journal: Journal, source: Departure, *, checks: float) -> Measured:
    """Put together what steps and QEMU measured; seconds, bytes, milliseconds.

    Args:
        journal: of a move that completed.
        source: its source end.
        checks: seconds that were spent before the first step.
    """
    made = [e for e in journal.entries if e.outcome is Outcome.MADE and e.ended is not None]
    final = source.precopier.final if source.precopier else {}
    ram = final.get("ram", {})
    total = checks + max((e.ended or 0.0) for e in made) - journal.began
    sent = int(ram.get("transferred", 0))
    copying = final.get("total-time", 0) / 1000
    return Measured(
        total_seconds=total,
        stage_seconds={str(Stage.CHECK): checks, **stage_seconds(made)},
        blackout_ms=_blackout(made),
        qemu_downtime_ms=final.get("downtime"),
        ram_bytes=sent,
        disk_bytes=sum(int(e.facts.get("disk_bytes", 0)) for e in made),
        throughput=sent / copying if copying else 0.0,
        passes=int(ram.get("dirty-sync-count", 0)),
        compared=source.comparison.compared if source.comparison else 0,
        disks={name: dict(told) for e in made for name, told in e.facts.get("disks", {}).items()},
    )


def stage_seconds(entries: Iterable[Entry]) -> dict[str, float]:
    """Seconds spent in each stage, in their order; a stage without steps took none."""
    seconds = dict.fromkeys((str(stage) for stage in Stage), 0.0)
    for entry in entries:
        if entry.started is not None and entry.ended is not None:
            seconds[stage_of(entry.step)] += entry.ended - entry.started
    return {stage: took for stage, took in seconds.items() if took}


def _blackout(entries: Iterable[Entry]) -> float | None:
    for entry in entries:
        if isinstance(entry.step, ResumeThere):
            told = entry.facts.get("blackout_ms")
            return None if told is None else float(told)
    return None


def stage_spans(status: MoveStatus) -> tuple[StageSpan, ...]:
    """When each stage was under way, in their order; only stages that were reached.

    The checks decide what the steps are: they are what comes before the first of them.
    """
    begun = [step for step in status.steps if step.started is not None]
    if not begun:
        return (StageSpan(stage=Stage.CHECK, started=0.0, ended=status.elapsed if status.state.over else None),)
    first = min(step.started for step in begun if step.started is not None)
    spans = [StageSpan(stage=Stage.CHECK, started=0.0, ended=first)] if first > 0 else []
    for stage in Stage:
        if own := [step for step in begun if step.stage is stage]:
            ends = [step.ended for step in own]
            spans.append(
                StageSpan(
                    stage=stage,
                    started=min(step.started for step in own if step.started is not None),
                    ended=None if None in ends else max(end for end in ends if end is not None),
                )
            )
    return tuple(spans)


def pause_of(status: MoveStatus) -> Pause | None:
    """What the pause went to: each step, as far as it lies in it; None where the guest was not paused for the move."""
    last = next((step for step in status.steps if "blackout_ms" in step.facts), None)
    if last is None or last.ended is None:
        return None
    blackout = float(last.facts["blackout_ms"])
    began = last.ended - blackout / 1000
    parts = [part for step in status.steps if (part := _within(step, began, last.ended)) is not None]
    return Pause(started=began, blackout_ms=blackout, parts=tuple(parts))


def _within(step: StepShown, began: float, ended: float) -> PausePart | None:
    if step.started is None or step.ended is None:
        return None
    start, end = max(step.started, began), min(step.ended, ended)
    if end <= start:
        return None
    return PausePart(
        name=step.name,
        summary=step.summary,
        side=step.side,
        started_ms=1000 * (start - began),
        ended_ms=1000 * (end - began),
    )
