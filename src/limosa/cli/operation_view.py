"""An operation under way as lines of styled words, for a terminal and for a log. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from limosa.cli.operation_page import counts, standing, time_of_day, title
from limosa.cli.view import BAR_CELLS, Line, Span, clock, silence
from limosa.units import format_size
from limosa.wire.fleet import Item, ItemState, Operation, Phase

IN_FLIGHT = 12
"""Moves that are drawn; of more the rest is counted."""
SILENT_SECONDS = 15.0
"""Silence that is worth telling; a controller says at least every ten seconds that it lives."""
PACE_FROM = 0.1
"""Share of the bytes after which the pace so far says more of the end than the prediction does."""

_STYLES = {
    ItemState.DONE: "good",
    ItemState.MOVING: "now",
    ItemState.WAITING: "dim",
    ItemState.FAILED: "bad",
    ItemState.CANCELLED: "dim",
}


def expected_end(operation: Operation, now: float) -> float | None:
    """When it will be over, in seconds since 1970: as predicted, and once a part is done, at the pace so far."""
    if operation.began is None or operation.phase in {Phase.PAUSED, Phase.CANCELLING} or operation.phase.over:
        return None
    items = standing(operation)
    total = sum(item.expected_bytes for item in items)
    done = sum(item.expected_bytes for item in items if item.over)
    share = done / total if total else 0.0
    if share >= PACE_FROM:
        return operation.began + (now - operation.began) / share
    predicted = operation.forecast.seconds
    return None if predicted is None else max(operation.began + predicted, now)


class OperationView:
    """An operation, drawn over itself.

    Args:
        now: seconds since 1970.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._operation: Operation | None = None

    def add(self, told: Operation) -> None:
        """Take the latest state."""
        self._operation = told

    def lines(self, silent_for: float) -> tuple[Line, ...]:
        """The whole view."""
        if self._operation is None:
            return ()
        return lines(self._operation, self._now(), silent_for)


def lines(operation: Operation, now: float, silent_for: float = 0.0) -> tuple[Line, ...]:
    """The whole view of an operation as it is.

    Args:
        operation: its latest state.
        now: seconds since 1970.
        silent_for: seconds since the controller last said anything.
    """
    return (
        _head(operation, now),
        _bar(operation),
        *_flying(operation, now),
        *_troubles(operation, now),
        *silence("the controller", silent_for, SILENT_SECONDS),
    )


def _head(operation: Operation, now: float) -> Line:
    end = expected_end(operation, now)
    usual = operation.phase is Phase.RUNNING
    return (
        Span(title(operation), "name"),
        Span(f"  {operation.id}  ", "dim"),
        Span(f"{clock(now - (operation.began or now))}  "),
        Span("" if usual else f"{operation.phase}  ", "bad"),
        Span("" if end is None else f"ends about {time_of_day(end, now)}", "now"),
    )


def _bar(operation: Operation) -> Line:
    states = Counter(item.state for item in standing(operation))
    total = states.total()
    filled = round(BAR_CELLS * (total - states[ItemState.WAITING] - states[ItemState.MOVING]) / total) if total else 0
    told = [Span(f"  {states[state]} {state}", style if states[state] else "dim") for state, style in _STYLES.items()]
    return (
        Span("  "),
        Span("━" * filled, "good"),
        Span("─" * (BAR_CELLS - filled), "dim"),
        *(span for span, state in zip(told, _STYLES, strict=True) if states[state] or state in _ALWAYS),
        Span(f"  {len(operation.left)} cannot move" if operation.left else "", "bad"),
    )


_ALWAYS = frozenset({ItemState.DONE, ItemState.MOVING, ItemState.WAITING, ItemState.FAILED})


def _flying(operation: Operation, now: float) -> Iterator[Line]:
    moving = [item for item in operation.items if item.state is ItemState.MOVING]
    for item in moving[:IN_FLIGHT]:
        yield (
            Span("  ▶ ", "now"),
            Span(item.name, "name"),
            Span(f"  {item.source} → {item.destination}  {clock(now - (item.began or now))}  "),
            Span(f"{format_size(item.expected_bytes)}  " if item.expected_bytes else "", "dim"),
            Span(str(item.move_state or "ordered"), "now"),
            Span(f"  attempt {item.attempts}" if item.attempts > 1 else "", "bad"),
            Span(f"  {item.said}" if item.said else "", "bad"),
        )
    if len(moving) > IN_FLIGHT:
        yield (Span(f"    and {len(moving) - IN_FLIGHT} more", "dim"),)


def _troubles(operation: Operation, now: float) -> Iterator[Line]:
    said = [item for item in standing(operation) if item.said and item.state in {ItemState.WAITING, ItemState.FAILED}]
    for item in said[-IN_FLIGHT:]:
        again = f", tried again at {time_of_day(item.not_before, now)}" if item.state is ItemState.WAITING else ""
        yield (
            Span("  ✗ " if item.state is ItemState.FAILED else "  ↻ ", "bad"),
            Span(item.name, "name"),
            Span(f"  {item.said}{again}", "bad"),
        )


class PlainOperationView:
    """The same operation for a log or a pipe: a line for each thing that happens."""

    def __init__(self) -> None:
        self._phase: Phase | None = None
        self._told: dict[int, tuple[ItemState, int, str]] = {}

    def next(self, told: Operation) -> tuple[str, ...]:
        """What to print for this state; often nothing."""
        return tuple(self._news(told))

    def _news(self, told: Operation) -> Iterator[str]:
        if told.phase is not self._phase:
            self._phase = told.phase
            yield f"{told.id}: {told.phase}, {counts(told)}"
        for place, item in enumerate(told.items):
            now = item.state, item.attempts, item.said
            if now != self._told.get(place, (ItemState.WAITING, 0, "")):
                yield from _happened(item)
            self._told[place] = now


def _happened(item: Item) -> Iterable[str]:
    way = f"{item.name} {item.source} → {item.destination}"
    match item.state:
        case ItemState.DONE:
            pause = "" if item.blackout_ms is None else f", paused for {item.blackout_ms:.0f} ms"
            return (f"  {way}: done{pause}",)
        case ItemState.MOVING:
            attempt = f", attempt {item.attempts}" if item.attempts > 1 else ""
            return (f"  {way}: moving{attempt}" + (f"; {item.said}" if item.said else ""),)
        case ItemState.WAITING:
            return (f"  {way}: waits for another attempt; {item.said}",) if item.said else ()
        case _:
            return (f"  {way}: {item.state}" + (f"; {item.said}" if item.said else ""),)
