"""A move in flight as lines of styled words: what the live view and the plain one both draw. Pure.

A `Line` is a tuple of `Span`s; a style is one of STYLES, which the live view turns into colours and the plain
one drops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from limosa.cli.eta import eta, eta_words, latest
from limosa.cli.printable import printable
from limosa.units import format_rate, format_size
from limosa.wire.moves import MoveState, MoveStatus, Progress, Stage

STYLES = frozenset({"", "dim", "good", "bad", "now", "name"})
BAR_CELLS = 24
KEPT_READINGS = 64
SILENT_SECONDS = 5.0
"""Silence that is worth telling; agents say something every second."""


class Span(NamedTuple):
    """Some words in one style."""

    text: str
    style: str = ""


Line = tuple[Span, ...]

_MARKS = {"past": ("✓", "good"), "now": ("▶", "now"), "to come": ("·", "dim"), "failed": ("✗", "bad")}
_COMING_TO_REST = frozenset({MoveState.SETTLING, MoveState.IN_DOUBT})
_UNUSUAL = _COMING_TO_REST | {MoveState.ABORTING}
_BAD_STATES = frozenset({"not converging", "stalled", "failed"})


class History:
    """The readings of one move, per copied thing; what a single status cannot tell."""

    def __init__(self) -> None:
        self._readings: dict[str, list[Progress]] = {}
        self._furthest: dict[tuple[str, int], float] = {}

    def add(self, status: MoveStatus) -> None:
        """Remember a status's progress."""
        for progress in status.progress:
            kept = self._readings.setdefault(progress.item, [])
            if not kept or kept[-1] != progress:
                kept.append(progress)
                del kept[:-KEPT_READINGS]
            key = (progress.item, progress.passes)
            self._furthest[key] = max(self._furthest.get(key, 0.0), share(progress))

    def readings(self, progress: Progress) -> list[Progress]:
        """The readings of this thing, oldest first, this one last."""
        return self._readings.get(progress.item) or [progress]

    def furthest(self, progress: Progress) -> float:
        """The furthest this pass has come, 0 to 1: a bar never runs backwards within its pass."""
        return self._furthest.get((progress.item, progress.passes), share(progress))


def share(progress: Progress) -> float:
    """How much is done, 0 to 1."""
    return min(1.0, progress.done / progress.total) if progress.total > 0 else 1.0


def lines(status: MoveStatus, history: History, silent_for: float = 0.0) -> tuple[Line, ...]:
    """The whole view of one status.

    Args:
        status: the latest one.
        history: the readings up to now.
        silent_for: seconds since the agent last said anything.
    """
    return (
        _title(status, history),
        stage_line(status),
        *(progress_line(progress, history, copying=status.stage is Stage.COPY) for progress in status.progress),
        *_step_now(status),
        *((Span(line, "bad"),) for line in doubt_lines(status)),
        *((Span(f"warning: {warning}", "bad"),) for warning in status.warnings),
        *silence("the agent", silent_for, SILENT_SECONDS),
    )


class MoveView:
    """A move, drawn over itself."""

    def __init__(self) -> None:
        self._status: MoveStatus | None = None
        self._history = History()

    def add(self, told: MoveStatus) -> None:
        """Take the latest status."""
        self._status = told
        self._history.add(told)

    def lines(self, silent_for: float) -> tuple[Line, ...]:
        """The whole view."""
        return () if self._status is None else lines(self._status, self._history, silent_for)


def doubt_lines(status: MoveStatus) -> tuple[str, ...]:
    """What is in doubt, where the guest is, and what to do; nothing for a move that is not."""
    if status.state is not MoveState.IN_DOUBT or status.error is None:
        return ()
    where = f"{status.guest} is paused on {status.source}, and on {status.destination} unless it was taken over there"
    return (
        f"in doubt: {status.error.get('what', '')}",
        f"  where: {where}: start it nowhere by hand",
        f"  to do: {status.error.get('remedy', '')}",
    )


def _title(status: MoveStatus, history: History) -> Line:
    left = ""
    if status.stage is Stage.COPY and status.progress:
        left = eta_words(latest([eta(history.readings(progress)) for progress in status.progress]))
    return (
        Span(status.guest, "name"),
        Span(f"  {status.source} → {status.destination}  "),
        Span(f"move {status.id}  ", "dim"),
        Span(f"{clock(status.elapsed)}  "),
        Span(f"{status.state}  " if status.state in _UNUSUAL else "", "bad"),
        Span(left, "now"),
    )


def stage_line(status: MoveStatus) -> Line:
    """All stages with their marks: past, now, to come, failed."""
    spans: list[Span] = []
    for stage, phase in stage_phases(status).items():
        mark, style = _MARKS[phase]
        spans += [Span(f"{mark} {stage}", style), Span("  ")]
    return tuple(spans[:-1])


def stage_phases(status: MoveStatus) -> Mapping[Stage, str]:
    """For each stage whether it is past, now, to come, or failed."""
    order = list(Stage)
    at = order.index(status.stage)
    failed = status.state in {MoveState.FAILED, MoveState.ABORTED, MoveState.BLOCKED, MoveState.ABORTING}
    phases = {}
    for index, stage in enumerate(order):
        if status.state is MoveState.COMPLETED or index < at:
            phases[stage] = "past"
        elif index == at:
            phases[stage] = "failed" if failed else "now"
        else:
            phases[stage] = "to come"
    return phases


def progress_line(progress: Progress, history: History, *, copying: bool) -> Line:
    """One copied thing: bar and amounts; while it is copied also rate and state, and for RAM passes and dirty rate."""
    filled = round(BAR_CELLS * history.furthest(progress))
    bar = (
        Span(f"  {progress.item:<12.24} "),
        Span("━" * filled, "good"),
        Span("─" * (BAR_CELLS - filled), "dim"),
        Span(f" {format_size(progress.done):>9} of {format_size(progress.total):<9}"),
    )
    if not copying:
        return bar
    return (
        *bar,
        Span(f" {format_rate(progress.rate):>11}" if progress.rate else " " * 12),
        *_passes(progress),
        Span(f"  {progress.state}", "bad" if progress.state in _BAD_STATES else "now"),
        Span(_prefixed("  ", eta_words(eta(history.readings(progress)))), "dim"),
    )


def _passes(progress: Progress) -> Iterable[Span]:
    if progress.passes:
        yield Span(f"  pass {progress.passes}")
    if progress.dirty_rate:
        yield Span(f"  dirtied at {format_rate(progress.dirty_rate)}", "dim")


def _step_now(status: MoveStatus) -> Iterable[Line]:
    for step in status.steps:
        # After an agent's restart every step may be under way, as far as anybody knows.
        if step.outcome == "running" and status.state not in _COMING_TO_REST:
            yield (Span(f"  {step.summary or step.name}", "dim"),)


def silence(who: str, seconds: float, usual: float) -> Iterable[Line]:
    """A line where somebody has said nothing for longer than is usual."""
    if seconds >= usual:
        yield (Span(f"no word from {who} for {seconds:.0f} s", "bad"),)


def clock(seconds: float) -> str:
    """`65` -> `1:05`."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def plain(line: Line) -> str:
    """A line without its styles; what would steer a terminal is written out."""
    return printable("".join(span.text for span in line)).rstrip()


def _prefixed(prefix: str, text: str) -> str:
    return prefix + text if text else ""


class PlainView:
    """The same move for a log or a pipe: a line when something changes, and one every ten seconds.

    Time is the move's own (`elapsed`), so the same statuses give the same lines.
    """

    EVERY = 10.0

    def __init__(self) -> None:
        self._history = History()
        self._said: tuple[object, ...] = ()
        self._said_at = 0.0

    def next(self, status: MoveStatus) -> tuple[str, ...]:
        """What to print for this status; often nothing."""
        self._history.add(status)
        copies = tuple((p.item, p.state, p.passes) for p in status.progress)
        now = (status.stage, status.state, copies, status.warnings)
        if now == self._said and status.elapsed - self._said_at < self.EVERY:
            return ()
        head = f"{clock(status.elapsed)} {status.state} {status.stage}"
        self._said, self._said_at = now, status.elapsed
        if status.state is MoveState.IN_DOUBT:
            return (head, *(f"      {line}" for line in doubt_lines(status)))
        if status.stage is not Stage.COPY or not status.progress:
            return (head,)
        return (head, *(plain(_plain_progress(progress, self._history)) for progress in status.progress))


def _plain_progress(progress: Progress, history: History) -> Line:
    return (
        Span(f"      {progress.item}: {format_size(progress.done)} of {format_size(progress.total)}"),
        Span(f", {format_rate(progress.rate)}" if progress.rate else ""),
        Span(f", pass {progress.passes}" if progress.passes else ""),
        Span(f", dirtied at {format_rate(progress.dirty_rate)}" if progress.dirty_rate else ""),
        Span(_prefixed(", ", progress.state)),
        Span(_prefixed(", ", eta_words(eta(history.readings(progress))))),
    )
