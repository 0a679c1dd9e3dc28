"""One move: its stages, what is copied, its pause, what was predicted and measured, both hosts' logs. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from markupsafe import Markup

from limosa.history.curves import RAM, progress_plot, rates_plot
from limosa.history.timeline import pause_plot, stages_plot
from limosa.history.words import place_of
from limosa.units import MIB
from limosa.web import words
from limosa.web.frame import Failure
from limosa.web.links import path
from limosa.web.views.states import Sign, of_move
from limosa.wire.history import MoveLog, MoveRecord
from limosa.wire.moves import MoveState, MoveStatus, Progress, Stage

BAD = frozenset({"not converging", "stalled", "failed"})


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage: past, now, to come, or failed."""

    name: str
    phase: str
    sign: str
    took: str


@dataclass(frozen=True, slots=True)
class CopyRow:
    """Something that is copied; `share` of 1."""

    item: str
    share: float
    tone: str
    said: str
    done: str
    rate: str
    passes: str
    dirty: str
    left: str
    state: str


@dataclass(frozen=True, slots=True)
class Compared:
    """What was predicted beside what was measured."""

    what: str
    predicted: str
    measured: str


@dataclass(frozen=True, slots=True)
class PauseRow:
    """A part of the pause."""

    name: str
    summary: str
    side: str
    from_ms: str
    took: str


@dataclass(frozen=True, slots=True)
class LogRow:
    """A line of a host's log."""

    at: str
    host: str
    level: str
    event: str
    facts: str


@dataclass(frozen=True, slots=True)
class MovePage:
    """The page."""

    id: str
    guest: str
    guest_href: str
    source: str
    source_href: str
    destination: str
    destination_href: str
    operation: str
    operation_href: str
    sign: Sign
    runs: str
    """Where the guest runs now, in a sentence."""
    began: words.Moment
    ended: words.Moment | None
    elapsed: str
    moving: bool
    stages: tuple[StageRow, ...]
    copies: tuple[CopyRow, ...]
    compared: tuple[Compared, ...]
    blackout: str
    pause: tuple[PauseRow, ...]
    stages_plot: Markup
    pause_plot: Markup
    progress_plot: Markup
    rates_plot: Markup
    rates: str
    """The same figures, for a plot that a pointer can read: JSON; empty without RAM."""
    failure: Failure | None
    undone: tuple[str, ...]
    notes: tuple[tuple[str, str, str], ...]
    """Weight, what, and what to do, of findings and warnings."""
    log: tuple[LogRow, ...]
    log_more: str
    silent: tuple[tuple[str, str], ...]
    steered: bool = False
    """Whether it can be aborted or slowed down from its page."""


def move_page(record: MoveRecord, log: MoveLog, now: float) -> MovePage:
    """Everything about one move.

    Args:
        record: as GET /v1/moves/{move} says it.
        log: as GET /v1/moves/{move}/log says it.
        now: seconds since 1970.
    """
    told = record.status
    return MovePage(
        id=told.id,
        guest=told.guest,
        guest_href=path("guests", told.uuid or told.guest),
        source=told.source,
        source_href=path("hosts", told.source),
        destination=told.destination,
        destination_href=path("hosts", told.destination),
        operation=told.operation,
        operation_href=path("operations", told.operation) if told.operation else "",
        sign=of_move(told.state),
        runs=place_of(told),
        began=words.moment(record.began, now),
        ended=words.maybe(record.ended, now),
        elapsed=words.lasting(told.elapsed),
        moving=not told.state.over,
        stages=tuple(_stages(record)),
        copies=tuple(_copy(progress, over=told.state.over) for progress in told.progress),
        compared=tuple(_compared(told)),
        blackout=words.milliseconds(record.pause.blackout_ms if record.pause else None),
        pause=tuple(_pause(record)),
        # Plots escape what they are given by themselves.
        stages_plot=Markup(stages_plot(record) if record.stages else ""),  # noqa: S704
        pause_plot=Markup(pause_plot(record.pause) if record.pause else ""),  # noqa: S704
        progress_plot=Markup(progress_plot(record)),  # noqa: S704
        rates_plot=Markup(rates_plot(record)),  # noqa: S704
        rates=_rates(record),
        failure=_failure(told),
        undone=told.undone,
        notes=tuple(_notes(told)),
        log=tuple(_log(log)),
        log_more=f"{words.count(log.dropped, 'line')} in between were too many to keep" if log.dropped else "",
        silent=tuple(sorted(log.silent.items())),
    )


_SIGNS: Mapping[str, str] = {"past": "✓", "now": "▶", "to come": "·", "failed": "✗"}


def _stages(record: MoveRecord) -> Iterator[StageRow]:
    told, order = record.status, list(Stage)
    at = order.index(told.stage)
    took = {span.stage: (span.started, span.ended) for span in record.stages}
    for place, stage in enumerate(order):
        if told.state is MoveState.COMPLETED or place < at:
            phase = "past"
        elif place > at:
            phase = "to come"
        else:
            phase = "failed" if told.state.over or told.state is MoveState.ABORTING else "now"
        started, ended = took.get(stage, (None, None))
        seconds = None if started is None else (told.elapsed if ended is None else ended) - started
        yield StageRow(str(stage), phase, _SIGNS[phase], words.lasting(seconds) if seconds is not None else "")


def _copy(progress: Progress, *, over: bool) -> CopyRow:
    """One that is over copies nothing, whatever its last reading said."""
    share = min(1.0, progress.done / progress.total) if progress.total else 1.0
    return CopyRow(
        item="RAM" if progress.item == RAM else progress.item,
        share=share,
        tone="bad" if progress.state in BAD or (over and share < 1.0) else "good" if share >= 1.0 else "",
        said=words.percent(share),
        done=f"{words.size(progress.done)} of {words.size(progress.total)}",
        rate=words.NONE if over else words.rate(progress.rate),
        passes=str(progress.passes) if progress.passes else words.NONE,
        dirty=words.NONE if over else words.rate(progress.dirty_rate),
        left=words.NONE if over or progress.eta is None else words.lasting(progress.eta),
        state="stopped" if over and share < 1.0 else progress.state,
    )


def _compared(told: MoveStatus) -> Iterator[Compared]:
    predicted, measured = told.prediction, told.measured
    if predicted is None and measured is None:
        return
    # A line that was only predicted, or only measured, has a dash on the other side.
    sent = None if measured is None else measured.ram_bytes + measured.disk_bytes
    yield Compared(
        "time in all",
        words.lasting(predicted.seconds if predicted else None),
        words.lasting(measured.total_seconds if measured else None),
    )
    yield Compared("sent", words.size(predicted.bytes if predicted else None), words.size(sent))
    yield Compared(
        "pause, from STOP at the source to RESUME at the destination",
        words.milliseconds(predicted.blackout_ms if predicted else None),
        words.milliseconds(measured.blackout_ms if measured else None),
    )
    if measured is not None:
        yield Compared("pause as QEMU counts it", words.NONE, words.milliseconds(measured.qemu_downtime_ms))
        yield Compared("throughput", words.NONE, words.rate(measured.throughput))
        yield Compared("passes over RAM", words.NONE, str(measured.passes))
        yield Compared("properties compared with the twin's", words.NONE, f"{measured.compared:,}")


def _pause(record: MoveRecord) -> Iterator[PauseRow]:
    for part in record.pause.parts if record.pause else ():
        took = words.milliseconds(part.ended_ms - part.started_ms)
        yield PauseRow(part.name, part.summary, str(part.side), words.milliseconds(part.started_ms), took)


def _rates(record: MoveRecord) -> str:
    ram = next((series for series in record.series if series.item == RAM), None)
    if ram is None:
        return ""
    told = {
        "x": "seconds since the move's start",
        "y": "MiB/s",
        "series": ["sent", "dirtied by the guest"],
        "data": [
            [round(at, 2) for at in ram.at],
            [round(rate / MIB, 1) for rate in ram.rate],
            [round(rate / MIB, 1) for rate in ram.dirty_rate],
        ],
    }
    return msgspec.json.encode(told).decode()


def _failure(told: MoveStatus) -> Failure | None:
    if told.error is None:
        return None
    return Failure(
        what=str(told.error.get("what", "")),
        where=place_of(told),
        remedy=str(told.error.get("remedy") or "see what both hosts logged, below"),
        detail=str(told.error.get("detail", "")),
        status=0,
    )


def _notes(told: MoveStatus) -> Iterator[tuple[str, str, str]]:
    yield from (("warning", warning, "") for warning in told.warnings)
    yield from ((str(finding.severity), finding.what, finding.remedy) for finding in told.findings)


def _log(log: MoveLog) -> Iterator[LogRow]:
    for line in log.lines:
        facts = "  ".join(f"{name}={value}" for name, value in line.facts.items())
        at = datetime.fromtimestamp(line.at, UTC)
        yield LogRow(f"{at:%H:%M:%S}.{at.microsecond // 1000:03}", line.host, line.level, line.event, facts)
