"""What was meant, what was done: one move's steps with their outcomes.

The record is written before each deed, so that whoever reads it after a crash knows what may have happened.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from limosa.migration.steps import Commit, Step, name_of, side_of, stage_of, summary_of
from limosa.wire.moves import StepShown


class Outcome(StrEnum):
    """What became of a step."""

    PLANNED = "planned"
    RUNNING = "running"
    MADE = "made"
    FAILED = "failed"
    UNDONE = "undone"


@dataclass(slots=True)
class Entry:
    """One step and what became of it; times in seconds on the journal's clock."""

    step: Step
    outcome: Outcome = Outcome.PLANNED
    started: float | None = None
    ended: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """The steps of one move, in order, each with its outcome.

    Args:
        plan: all steps, in order.
        clock: seconds; passed in, so that tests need not wait.
        changed: called after each record.
    """

    def __init__(self, plan: Iterable[Step], clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self.entries = [Entry(step) for step in plan]
        self._clock = clock
        self._changed = changed
        self.began = clock()

    @property
    def intended(self) -> tuple[Entry, ...]:
        """Entries whose step may have happened, in order, without those that were undone."""
        return tuple(e for e in self.entries if e.outcome in {Outcome.RUNNING, Outcome.MADE, Outcome.FAILED})

    @property
    def committed(self) -> bool:
        """Whether the commit may have happened: from there on a move only goes forward."""
        return any(isinstance(e.step, Commit) for e in self.intended)

    @property
    def latest(self) -> Entry | None:
        """The entry that started last."""
        started = [e for e in self.entries if e.started is not None]
        return started[-1] if started else None

    def intend(self, entry: Entry) -> None:
        """Record that a step is about to be made."""
        entry.outcome, entry.started = Outcome.RUNNING, self._clock()
        self._changed()

    def made(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        """Record that a step was made, with what it measured."""
        entry.outcome, entry.ended, entry.facts = Outcome.MADE, self._clock(), facts
        self._changed()

    def failed(self, entry: Entry) -> None:
        """Record that a step failed or was cancelled half-way."""
        entry.outcome, entry.ended = Outcome.FAILED, self._clock()
        self._changed()

    def undone(self, entry: Entry) -> None:
        """Record that a step was undone."""
        entry.outcome = Outcome.UNDONE
        self._changed()

    def shown(self) -> tuple[StepShown, ...]:
        """All steps for plan, live view and report; times since the move began."""
        return tuple(self._show(entry) for entry in self.entries)

    def _show(self, entry: Entry) -> StepShown:
        step = entry.step
        return StepShown(
            stage=stage_of(step),
            name=name_of(step),
            summary=summary_of(step),
            side=side_of(step),
            started=None if entry.started is None else entry.started - self.began,
            ended=None if entry.ended is None else entry.ended - self.began,
            outcome=entry.outcome,
            facts=dict(entry.facts),
        )
