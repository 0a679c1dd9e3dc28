"""What a finished move measured. Pure."""

from collections.abc import Iterable

from limosa.migration.departure import Departure
from limosa.migration.journal import Entry, Journal, Outcome
from limosa.migration.steps import ResumeThere, stage_of
from limosa.wire.moves import Measured, Stage


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
