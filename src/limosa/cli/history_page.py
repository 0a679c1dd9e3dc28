"""What `limosa report` prints about moves, operations and weeks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from limosa.cli.operation_page import final_page
from limosa.cli.report import report
from limosa.cli.table import pairs, table
from limosa.history.bars import cause_words, class_words
from limosa.history.canvas import milliseconds_text, seconds_text
from limosa.history.documents import Document, MoveDocument, OperationDocument, WeekDocument
from limosa.units import format_count, format_rate, format_size
from limosa.wire.history import Cause, Distribution, LogLine, MoveLog, MoveRecord, Series, Week

MOST_MOVES = 50
"""Lines of moves of a week; --json has all of them."""
BAR = 40


def text(document: Document) -> str:
    """The report, as text."""
    match document:
        case MoveDocument(record=record, log=log):
            return "\n\n".join(_move(record, log))
        case OperationDocument(operation=operation, causes=causes, blackout_ms=pauses):
            parts = [final_page(operation)]
            parts += [_causes(causes)] if causes else []
            parts += [_spread("pauses", pauses, milliseconds_text)] if pauses else []
            return "\n\n".join(parts)
        case WeekDocument():
            return "\n\n".join(_week(document))


def clock(at: float) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _move(record: MoveRecord, log: MoveLog) -> Iterator[str]:
    status = record.status
    when = f"{clock(record.began)} UTC to " + ("now" if record.ended is None else clock(record.ended))
    part = f", part of {status.operation}" if status.operation else ""
    yield f"move {status.id} of {status.guest}, {status.source} to {status.destination}: {status.state}\n{when}{part}"
    if status.state.over:
        yield report(status)
    spans = [
        (span.stage, f"{span.started:.3f}", "" if span.ended is None else f"{span.ended:.3f}") for span in record.stages
    ]
    yield "stages, seconds since the start\n" + table(("STAGE", "FROM", "TO"), spans, right=("FROM", "TO"), indent="  ")
    if record.pause is not None:
        parts = [(p.name, p.side, f"{p.started_ms:.1f}", f"{p.ended_ms:.1f}") for p in record.pause.parts]
        told = table(("STEP", "SIDE", "FROM", "TO"), parts, right=("FROM", "TO"), indent="  ")
        yield f"the pause of {record.pause.blackout_ms:.1f} ms, milliseconds since its beginning\n{told}"
    if record.series:
        heads = ("COPIED", "SIZE", "SENT", "SECONDS", "PEAK RATE", "PEAK DIRTIED")
        yield table(heads, map(_series, record.series), right=heads[1:], indent="  ")
    yield from _log(log)


def _series(series: Series) -> tuple[str, ...]:
    return (
        series.item,
        format_size(series.total),
        format_size(series.sent[-1]),
        f"{series.at[-1] - series.at[0]:.1f}",
        format_rate(max(series.rate)),
        format_rate(max(series.dirty_rate)),
    )


def _log(log: MoveLog) -> Iterator[str]:
    if log.lines:
        rows = [(clock(line.at), line.host, line.level, _line(line)) for line in log.lines]
        dropped = f"\n  {format_count(log.dropped, 'line')} in the middle had no room" if log.dropped else ""
        yield "log\n" + table(("TIME (UTC)", "HOST", "LEVEL", "WHAT"), rows, indent="  ") + dropped
    if log.silent:
        yield "\n".join(f"nothing of {host}'s log: {why}" for host, why in log.silent.items())


def _line(line: LogLine) -> str:
    facts = (f"{name}={value}" for name, value in line.facts.items() if value is not None)
    return " ".join((line.event, *facts))


def _week(document: WeekDocument) -> Iterator[str]:
    week = document.week
    yield f"week {week.week}: {clock(week.begins)} to {clock(week.ends)} UTC"
    yield pairs(_sums(week))
    if week.causes:
        yield _causes(week.causes)
    if week.blackout_ms:
        yield _spread("pauses of completed moves", week.blackout_ms, milliseconds_text)
    if week.total_seconds:
        yield _spread("total times of completed moves", week.total_seconds, seconds_text)
    if week.freed:
        rows = [
            (
                host.host,
                host.operation,
                f"{host.hours:.2f}",
                f"{host.watt_hours:.0f}" if host.metered else "no watts set",
                f"{host.money:.2f}" if host.priced else "no price set",
            )
            for host in week.freed
        ]
        heads = ("FREED", "BY", "HOURS", "WATT-HOURS", "MONEY")
        yield table(heads, rows, right=("HOURS", "WATT-HOURS", "MONEY"), indent="  ")
    if document.moves:
        yield _moves(document)


def _sums(week: Week) -> Iterator[tuple[str, str]]:
    yield "moves", f"{week.moves}, {week.completed} completed"
    yield "sent", f"RAM {format_size(week.ram_bytes)}, disks {format_size(week.disk_bytes)}"
    yield "in moves", f"guests {week.guest_hours:.2f} h, all together"
    yield "freed", f"hosts {week.hosts_freed_hours:.2f} h, by consolidation"
    yield "saved", f"{week.watt_hours:.0f} Wh and {week.money:.2f} in money, if those hosts were switched off"


def _moves(document: WeekDocument) -> str:
    rows = [
        (
            clock(move.ended),
            move.guest,
            move.source,
            move.destination,
            str(move.state),
            f"{move.seconds:.1f} s",
            "-" if move.blackout_ms is None else f"{move.blackout_ms:.1f} ms",
            move.id,
        )
        for move in document.moves[:MOST_MOVES]
    ]
    heads = ("ENDED (UTC)", "GUEST", "FROM", "TO", "OUTCOME", "TOOK", "PAUSE", "MOVE")
    more = len(document.moves) - MOST_MOVES
    return table(heads, rows, right=("TOOK", "PAUSE"), indent="  ") + (f"\n  and {more} more" if more > 0 else "")


def _causes(causes: Sequence[Cause]) -> str:
    rows = [(cause_words(cause), str(cause.count), cause.example) for cause in causes]
    return table(("OUTCOME", "MOVES", "THE LATEST SAID"), rows, right=("MOVES",), indent="  ")


def _spread(title: str, spread: Distribution, words: Callable[[float], str]) -> str:
    head = (
        f"{title}: half at most {words(spread.p50)}, nine in ten {words(spread.p90)}, "
        f"99 in 100 {words(spread.p99)}, the largest {words(spread.largest)}"
    )
    most = max(spread.counts)
    rows = [
        (class_words(spread, place, words), str(count), "#" * max(1, round(BAR * count / most)))
        for place, count in enumerate(spread.counts)
        if count
    ]
    return head + "\n" + table(("CLASS", "MOVES", ""), rows, right=("CLASS", "MOVES"), indent="  ")
