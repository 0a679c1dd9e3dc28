"""What was meant, what was done: one move's steps with their outcomes.

The record is written before each deed, so that whoever reads it after a crash knows what may have happened.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from limosa.cargo.kind import CargoStep, When
from limosa.migration.steps import (
    Close,
    Commit,
    Precopy,
    ResumeThere,
    RetireSource,
    Step,
    name_of,
    side_of,
    stage_of,
    summary_of,
)
from limosa.units import Side
from limosa.wire.moves import StepShown


class Outcome(StrEnum):
    """What became of a step."""

    PLANNED = "planned"
    RUNNING = "running"
    MADE = "made"
    FAILED = "failed"
    UNDONE = "undone"
    MISSED = "missed"
    """It can never be made: the guest's QEMU died at the destination before."""


@dataclass(slots=True)
class Entry:
    """One step and what became of it; times in seconds on the journal's clock."""

    step: Step
    outcome: Outcome = Outcome.PLANNED
    started: float | None = None
    ended: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


Record = Callable[[dict[int, str]], None]
"""Makes outcomes durable: number of a step -> outcome."""


def _nothing(outcomes: dict[int, str]) -> None:
    """Where outcomes need not be kept: rehearsals and tests."""


class Journal:
    """The steps of one move, in order, each with its outcome.

    The plan itself is on disk before the first step, and undoing what never happened is harmless; so outcomes
    are for people, and for a shorter way after a restart. None is written while the guest is paused: what
    the pause may hold is recorded as intended before it begins.

    Args:
        plan: all steps, in order.
        clock: seconds; passed in, so that tests need not wait.
        changed: called after each record.
        record: makes outcomes durable.
        since: when the move began, on the clock; checks come before its steps. Default: now.
    """

    def __init__(
        self,
        plan: Iterable[Step],
        clock: Callable[[], float],
        changed: Callable[[], None],
        record: Record = _nothing,
        since: float | None = None,
    ) -> None:
        self.entries = [Entry(step) for step in plan]
        self._clock = clock
        self._changed = changed
        self._record = record
        self._unwritten: dict[int, str] = {}
        self.began = clock()
        self._since = self.began if since is None else since

    def take_up(self, *, gave_up: bool) -> None:
        """Assume the worst of a move that another agent process began: everything may have happened.

        Args:
            gave_up: whether the source recorded that it gave the guest up; then the way is forward.
        """
        for entry in self.entries:
            if isinstance(entry.step, Commit):
                entry.outcome = Outcome.RUNNING if gave_up else Outcome.PLANNED
                return
            entry.outcome = Outcome.MADE if gave_up else Outcome.RUNNING

    def take_back(self) -> None:
        """The destination has promised never to take the guest: the way is back again."""
        for entry in self.entries:
            if entry.outcome is not Outcome.UNDONE and _from_commit_on(entry.step):
                entry.outcome = Outcome.UNDONE
        self._note(*self.entries)

    def lost_there(self) -> None:
        """The destination took the guest over, and its QEMU died: what is left is to retire the source."""
        for entry in self.entries:
            if isinstance(entry.step, ResumeThere) and entry.outcome is not Outcome.MADE:
                entry.outcome = Outcome.MISSED
                self._note(entry)

    @property
    def intended(self) -> tuple[Entry, ...]:
        """Entries whose step may have happened, in order, without those that were undone."""
        return tuple(e for e in self.entries if e.outcome in {Outcome.RUNNING, Outcome.MADE, Outcome.FAILED})

    @property
    def left_at_source(self) -> bool:
        """Whether anything at the source may still have to be undone."""
        return not self.committed and any(side_of(e.step) is Side.SOURCE for e in self.intended)

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
        """Record that a step is about to be made; before pre-copy, also all that follows up to the end of the pause."""
        entry.outcome, entry.started = Outcome.RUNNING, self._clock()
        if isinstance(entry.step, Precopy):
            begun = self.entries.index(entry)
            self._unwritten |= {n: Outcome.RUNNING for n in range(begun, len(self.entries)) if n < self._end_of_pause()}
        self._note(entry)

    def made(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        """Record that a step was made, with what it measured."""
        entry.outcome, entry.ended, entry.facts = Outcome.MADE, self._clock(), facts
        self._note(entry)

    def failed(self, entry: Entry) -> None:
        """Record that a step failed or was cancelled half-way."""
        entry.outcome, entry.ended = Outcome.FAILED, self._clock()
        self._note(entry)

    def undone(self, entry: Entry) -> None:
        """Record that a step was undone."""
        entry.outcome = Outcome.UNDONE
        self._note(entry)

    @property
    def resumed(self) -> bool:
        """Whether the guest is known to run at the destination."""
        return any(isinstance(e.step, ResumeThere) and e.outcome is Outcome.MADE for e in self.entries)

    def _note(self, *entries: Entry) -> None:
        self._unwritten |= {self.entries.index(entry): entry.outcome for entry in entries}
        if not self._paused:
            self._record(self._unwritten)
            self._unwritten = {}
        self._changed()

    @property
    def _paused(self) -> bool:
        """Whether the guest may be paused by this move now."""
        precopy = next((e for e in self.entries if isinstance(e.step, Precopy)), None)
        return precopy is not None and precopy.outcome is Outcome.MADE and not self.resumed

    def _end_of_pause(self) -> int:
        return next((n for n, e in enumerate(self.entries) if isinstance(e.step, ResumeThere)), -1) + 1

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
            started=None if entry.started is None else entry.started - self._since,
            ended=None if entry.ended is None else entry.ended - self._since,
            outcome=entry.outcome,
            facts=dict(entry.facts),
        )


def _from_commit_on(step: Step) -> bool:
    if isinstance(step, CargoStep):
        return step.when in {When.BEFORE_CONT, When.ANNOUNCE, When.RETIRE}
    return isinstance(step, Commit | ResumeThere | RetireSource | Close)
