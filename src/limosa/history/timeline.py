"""Stages on a time axis: of one move, of its pause, of all the moves of an operation. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from limosa.history.canvas import (
    BOTTOM,
    LETTER,
    RIGHT,
    ROW,
    WIDTH,
    Scale,
    figure,
    isolated,
    label,
    legend,
    line,
    milliseconds_text,
    seconds_text,
    ticks,
)
from limosa.svg import rect, text
from limosa.units import format_count
from limosa.wire.history import MoveRecord, Pause
from limosa.wire.moves import MoveState, Stage

LABELS = 200.0
"""Room for the labels of rows, if one of them needs it."""

BEFORE = frozenset({Stage.CHECK, Stage.RESERVE, Stage.PREPARE})
NAMED_BEFORE, NAMED_COPY, NAMED_AFTER = "before the copy", "copy", "switch over and after"


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of one row; `told` is what a pointer and a screen reader find."""

    start: float
    end: float
    kind: str
    told: str
    height: float = 1.0
    """Share of the row's height: what is told by colour is told by form, too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing on the axis."""

    label: str
    bars: tuple[Bar, ...]
    mark: float | None = None
    """A moment that is marked, such as that of the pause."""


def stages_plot(record: MoveRecord, key: str = "stages") -> str:
    """The stages of one move: a row for each, the pause marked."""
    end = max((span.ended or record.status.elapsed for span in record.stages), default=0.0)
    rows = [
        Row(
            str(span.stage),
            (Bar(span.started, span.ended or end, _kind(span.stage), _told(span.stage, span.started, span.ended)),),
        )
        for span in record.stages
    ]
    pause = record.pause.started if record.pause else None
    listed = "; ".join(row.bars[0].told for row in rows)
    described = f"{len(rows)} stages in {seconds_text(end)}. {listed}."
    return plot(key, "Stages of the move", described, rows, seconds_text, end, mark=pause, mark_words="pause")


def _told(stage: Stage, started: float, ended: float | None) -> str:
    if ended is None:
        return f"{stage}: since {seconds_text(started)}"
    return f"{stage}: {seconds_text(ended - started)}, from {seconds_text(started)} to {seconds_text(ended)}"


def _kind(stage: Stage) -> str:
    if stage is Stage.COPY:
        return "main"
    return "quiet" if stage in BEFORE else "soft"


def pause_plot(pause: Pause, key: str = "pause") -> str:
    """What the pause went to: a row for each step in it."""
    rows = []
    for part in pause.parts:
        took = milliseconds_text(part.ended_ms - part.started_ms)
        rows.append(Row(part.name, (Bar(part.started_ms, part.ended_ms, "main", f"{part.name}: {took}"),)))
    described = f"{format_count(len(rows), 'step')} in {milliseconds_text(pause.blackout_ms)}. " + "; ".join(
        row.bars[0].told for row in rows
    )
    return plot(key, "The pause in detail", f"{described}.", rows, milliseconds_text, pause.blackout_ms)


def moves_plot(records: Sequence[MoveRecord], key: str = "moves") -> str:
    """All moves of an operation on one axis, in the order of their beginning; each pause is marked."""
    ordered = sorted(records, key=lambda record: (record.began, record.status.id))
    if not ordered:
        return ""
    first = ordered[0].began
    rows = [_row(record, record.began - first) for record in ordered]
    end = max(bar.end for row in rows for bar in row.bars)
    lost = [r.status for r in ordered if r.status.state.over and r.status.state is not MoveState.COMPLETED]
    described = f"{format_count(len(rows), 'move')} within {seconds_text(end)}"
    if lost:
        described += f"; not completed: {', '.join(isolated(status.guest) for status in lost)}"
    items = (("quiet", NAMED_BEFORE), ("main", NAMED_COPY), ("soft", NAMED_AFTER), ("bad", "not completed"))
    return plot(key, "All moves over time", f"{described}.", rows, seconds_text, end, items=items)


def _row(record: MoveRecord, offset: float) -> Row:
    status = record.status
    name = f"{isolated(status.guest)} → {status.destination}"
    if status.state.over and status.state is not MoveState.COMPLETED:
        return Row(name, (Bar(offset, offset + status.elapsed, "bad", f"{name}: {status.state}", 0.5),))
    bars = []
    for stages, kind, words, height in (
        (BEFORE, "quiet", NAMED_BEFORE, 0.45),
        ({Stage.COPY}, "main", NAMED_COPY, 1.0),
        (set(Stage) - BEFORE - {Stage.COPY}, "soft", NAMED_AFTER, 0.7),
    ):
        own = [span for span in record.stages if span.stage in stages]
        if own:
            start, end = own[0].started, max(span.ended or status.elapsed for span in own)
            bars.append(
                Bar(offset + start, offset + end, kind, f"{name}: {words}, {seconds_text(end - start)}", height)
            )
    return Row(name, tuple(bars), offset + record.pause.started if record.pause else None)


def plot(
    key: str,
    title: str,
    described: str,
    rows: Sequence[Row],
    words: Callable[[float], str],
    end: float,
    *,
    mark: float | None = None,
    mark_words: str = "",
    items: Sequence[tuple[str, str]] = (),
) -> str:
    """Rows of bars on one axis that begins at 0.

    Args:
        key: names the plot within its page.
        title: what it shows.
        described: the same in words.
        rows: from top to bottom.
        words: how a value of the axis is written.
        end: the last value.
        mark: a moment that concerns all rows.
        mark_words: what it is.
        items: legend: (kind, words).
    """
    top = 30.0 if items or mark is not None else 8.0
    bottom = top + ROW * max(1, len(rows))
    left = min(LABELS, max((len(row.label) for row in rows), default=0) * LETTER + 16)
    scale = Scale(0.0, end or 1.0, left, WIDTH - RIGHT - 20)
    parts = [legend(left, 16, items)] if items else []
    parts += _grid(scale, top, bottom, words)
    for place, row in enumerate(rows):
        parts += _painted(row, top + place * ROW, scale)
    if mark is not None:
        x = scale(mark)
        side = "end" if x > WIDTH - 120 else ""
        parts += [_triangle(x, top - 4), text(x + (-9 if side else 9), top - 8, mark_words, kind=f"dim {side}".strip())]
    return figure(key, bottom + BOTTOM - 16, title, described, parts)


def _grid(scale: Scale, top: float, bottom: float, words: Callable[[float], str]) -> Iterator[str]:
    for value in ticks(scale.high):
        x = scale(value)
        yield line(x, top, x, bottom, "grid")
        yield text(x, bottom + 18, words(value), kind="dim middle")
    yield line(scale.start, bottom, scale.end, bottom, "axis")


def _painted(row: Row, y: float, scale: Scale) -> Iterator[str]:
    yield label(scale.start - 10, y + ROW * 0.68, row.label, scale.start - 14, "end")
    full = ROW - 8
    for bar in row.bars:
        height = full * bar.height
        width = max(1.5, scale(bar.end) - scale(bar.start))
        yield rect(scale(bar.start), y + 4 + (full - height) / 2, width, height, bar.kind, bar.told)
    if row.mark is not None:
        yield _triangle(scale(row.mark), y + 4)


def _triangle(x: float, y: float) -> str:
    """Points down at a moment."""
    return f'<path d="M{x - 5:.1f} {y - 5:.1f}h10l-5 8z" class="mark"/>'
