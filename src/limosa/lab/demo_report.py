"""What the demo found, as tables, a plot for the terminal, and one HTML page with pictures. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from limosa.cli.table import pairs, table
from limosa.lab.traces import Probe
from limosa.migration.report import stage_spans as spans_of
from limosa.units import format_rate, format_size
from limosa.wire.moves import Measured, MoveStatus, Stage

PLOT_COLUMNS = 100
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Silence:
    """A stretch without a reply, ended by one or by the end of the watch. Seconds since the watch began; ms."""

    end: float
    ms: float


@dataclass(frozen=True, slots=True)
class Watched:
    """What the observer saw at one of the guest's addresses around one move."""

    address: str
    seconds: float
    sent: int
    lost: int
    silences: tuple[Silence, ...]

    @property
    def worst(self) -> Silence:
        """The largest gap."""
        return max(self.silences, key=lambda silence: silence.ms, default=Silence(self.seconds, math.inf))


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what was to be seen, what was seen, and whether that is it."""

    what: str
    seen: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """One move of the demo.

    Attributes:
        status: the command's own report.
        began: seconds from the beginning of the observer's watch to the beginning of the move.
        watched: for each of the guest's addresses.
        late_ms: how late the observer itself was at worst; a busy machine adds this to a gap.
        checks: every promise.
    """

    status: MoveStatus
    began: float
    watched: tuple[Watched, ...]
    late_ms: float
    checks: tuple[Check, ...]

    @property
    def title(self) -> str:
        """`a → b`."""
        return f"{self.status.source} → {self.status.destination}"

    @property
    def holds(self) -> bool:
        """Every promise was kept."""
        return all(check.holds for check in self.checks)

    @property
    def worst(self) -> Watched:
        """The address with the largest gap."""
        return max(self.watched, key=lambda watched: watched.worst.ms)


def watched(address: str, probes: Iterable[Probe]) -> Watched:
    """Make of pings what the picture needs.

    Args:
        address: whom they went to.
        probes: the pings, as the observer recorded them.
    """
    known = sorted(probes, key=lambda probe: probe.sent)
    if not known:
        return Watched(address, 0.0, 0, 0, ())
    start, end = known[0].sent, known[-1].sent
    arrivals = sorted(probe.replied for probe in known if probe.replied is not None)
    silences, before = [], start
    for arrival in [*arrivals, end]:
        silences.append(Silence((arrival - start) / 1e9, max(0.0, (arrival - before) / 1e6)))
        before = arrival
    return Watched(address, (end - start) / 1e9, len(known), len(known) - len(arrivals), tuple(silences))


def stage_spans(status: MoveStatus) -> dict[Stage, tuple[float, float]]:
    """When each stage began and ended, in seconds since the move began; only stages that were ended."""
    return {span.stage: (span.started, span.ended) for span in spans_of(status) if span.ended is not None}


def move_page(moved: Moved) -> str:
    """One move as a table, its promises, and a plot."""
    measured = moved.status.measured
    parts = [f"{moved.status.guest} {moved.title}"]
    if measured is not None:
        parts.append(pairs(_numbers(moved, measured)))
    rows = [("ok" if check.holds else "WRONG", check.what, check.seen) for check in moved.checks]
    parts.append(table(("", "PROMISE", "SEEN"), rows, indent="  "))
    parts.append(plot(moved))
    return "\n\n".join(parts)


def _numbers(moved: Moved, measured: Measured) -> Iterator[tuple[str, str]]:
    stages = (f"{stage} {seconds:.3f}" for stage, seconds in measured.stage_seconds.items())
    yield "seconds", f"{measured.total_seconds:.2f}: " + ", ".join(stages)
    yield "bytes", f"RAM {format_size(measured.ram_bytes)}, disks {format_size(measured.disk_bytes)}"
    yield "throughput", format_rate(measured.throughput)
    if measured.qemu_downtime_ms is not None:
        yield "downtime", f"{measured.qemu_downtime_ms:.0f} ms, as QEMU counts it"
    if measured.blackout_ms is not None:
        yield "blackout", f"{measured.blackout_ms:.1f} ms, stop there to start here"
    for seen in moved.watched:
        yield (
            f"gap {seen.address}",
            f"{seen.worst.ms:.1f} ms without a reply, {seen.lost} of {seen.sent} pings lost",
        )
    yield "observer", f"itself late by {moved.late_ms:.1f} ms at worst"


def plot(moved: Moved, columns: int = PLOT_COLUMNS) -> str:
    """The ping gap over time in one row of blocks, stages below; height is the gap's logarithm, 5 ms to 1 s."""
    seen = moved.worst
    if seen.seconds <= 0:
        return "  no ping was sent"
    worst = [0.0] * columns
    for silence in seen.silences:
        column = min(columns - 1, int(silence.end / seen.seconds * columns))
        worst[column] = max(worst[column], silence.ms)
    row = "".join(_block(ms) for ms in worst)
    peak = min(columns - 1, int(seen.worst.end / seen.seconds * columns))
    label = f"{seen.worst.ms:.0f} ms"
    place = max(0, min(peak - len(label) // 2, columns - len(label)))
    lines = [
        " " * place + label,
        row,
        _ruler(moved, columns, seen.seconds),
        f"0 s{f'{seen.seconds:.1f} s':>{columns - 3}}",
    ]
    return "\n".join("  " + line.rstrip() for line in lines)


def _block(ms: float) -> str:
    if ms <= 0:
        return _BLOCKS[0]
    height = math.log10(max(ms, 5.0) / 5.0) / math.log10(200.0)
    return _BLOCKS[min(8, 1 + int(height * 7.99))]


_LETTERS = dict(zip(Stage, "krpcSCRt", strict=True))


def _ruler(moved: Moved, columns: int, seconds: float) -> str:
    marks = [" "] * columns
    # The longest first: a stage of a few milliseconds is seen on top of its neighbours.
    spans = sorted(stage_spans(moved.status).items(), key=lambda item: item[1][0] - item[1][1])
    for stage, (began, ended) in spans:
        first = int((moved.began + began) / seconds * columns)
        last = int((moved.began + ended) / seconds * columns)
        for column in range(max(0, first), min(columns - 1, last) + 1):
            marks[column] = _LETTERS[stage]
    return "".join(marks)


RULER = "k check  r reserve  p prepare  c copy  S switch over  C commit  R resume  t retire"


# -- one page --------------------------------------------------------------------------------------------

_COLOURS = {
    Stage.CHECK: "#eceff4",
    Stage.RESERVE: "#e3e8f0",
    Stage.PREPARE: "#d8e4f0",
    Stage.COPY: "#dceedd",
    Stage.SWITCH_OVER: "#f6d5d0",
    Stage.COMMIT: "#f2b8b0",
    Stage.RESUME: "#f6e3c4",
    Stage.RETIRE: "#ece4f0",
}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top}
.wrong{color:#b00020;font-weight:bold}.ok{color:#1a7f37}svg{width:100%;height:auto}
text{font:11px system-ui,sans-serif;fill:#555}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}text{fill:#aaa}}
"""


def html_page(moves: Sequence[Moved], heading: str) -> str:
    """The demo as one page without anything from elsewhere."""
    sections = "\n".join(_section(moved) for moved in moves)
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>limosa demo</title><style>{_STYLE}</style>\n<h1>limosa demo</h1>\n<p>{escape(heading)}</p>\n"
        f"{sections}\n</html>\n"
    )


def _section(moved: Moved) -> str:
    measured = moved.status.measured
    numbers = "".join(_row(cells) for cells in _numbers(moved, measured)) if measured else ""
    checks = "".join(
        f"<tr><td class={'ok' if check.holds else 'wrong'}>{'✓' if check.holds else '✗'}"
        f"<td>{escape(check.what)}<td>{escape(check.seen)}</tr>"
        for check in moved.checks
    )
    return (
        f"<h2>{escape(moved.status.guest)}: {escape(moved.title)}</h2>\n{svg(moved)}\n"
        f"<table>{numbers}</table>\n<table>{checks}</table>"
    )


def _row(cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>"


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 960, 260, 46, 40, 16


def svg(moved: Moved) -> str:
    """Ping gap over time, logarithmic, over bands for the stages."""
    seen = moved.worst
    top_ms = max(100.0, seen.worst.ms if math.isfinite(seen.worst.ms) else 0.0) * 1.4
    seconds = seen.seconds or 1.0
    points = " ".join(f"{_x(s.end, seconds):.1f},{_y(s.ms, top_ms):.1f}" for s in thinned(seen.silences, seconds))
    return "".join(
        (
            f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='ping gap over time'>",
            *_bands(moved, seconds),
            *_grid(top_ms, seconds),
            f"<polyline points='{points}' fill=none stroke='#1f5fa8' stroke-width=1.2 />",
            _label(seen.worst, seconds, top_ms),
            "</svg>",
        )
    )


def _label(silence: Silence, seconds: float, top_ms: float) -> str:
    x, y = _x(silence.end, seconds), _y(silence.ms, top_ms) - 5
    return f"<text x={x:.1f} y={y:.1f} text-anchor=middle>{silence.ms:.1f} ms</text>"


def thinned(silences: Sequence[Silence], seconds: float, columns: int = WIDTH) -> list[Silence]:
    """The largest silence of each column of pixels: a long watch does not make a large page."""
    worst: dict[int, Silence] = {}
    for silence in silences:
        column = int(silence.end / seconds * columns)
        if column not in worst or worst[column].ms < silence.ms:
            worst[column] = silence
    return [worst[column] for column in sorted(worst)]


def _bands(moved: Moved, seconds: float) -> Iterator[str]:
    for stage, (began, ended) in stage_spans(moved.status).items():
        left, right = (_x(moved.began + at, seconds) for at in (began, ended))
        yield (
            f"<rect x={left:.1f} y={TOP} width={max(1.0, right - left):.1f} height={HEIGHT - BOTTOM - TOP} "
            f"fill='{_COLOURS[stage]}'><title>{stage}: {ended - began:.3f} s</title></rect>"
        )
        if right - left > 40:
            yield f"<text x={(left + right) / 2:.1f} y={TOP + 12} text-anchor=middle>{stage}</text>"


def _grid(top_ms: float, seconds: float) -> Iterator[str]:
    for ms in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        if ms <= top_ms:
            y = _y(ms, top_ms)
            yield f"<line x1={LEFT} x2={WIDTH} y1={y:.1f} y2={y:.1f} stroke='#8884' />"
            yield f"<text x={LEFT - 6} y={y + 4:.1f} text-anchor=end>{ms} ms</text>"
    step = next(step for step in (1, 2, 5, 10, 30, 60, 600) if seconds / step <= 12 or step == 600)
    for second in range(0, int(seconds) + 1, step):
        yield f"<text x={_x(second, seconds):.1f} y={HEIGHT - BOTTOM + 16} text-anchor=middle>{second} s</text>"


def _x(second: float, seconds: float) -> float:
    return LEFT + (WIDTH - LEFT) * min(1.0, max(0.0, second / seconds))


def _y(ms: float, top_ms: float) -> float:
    floor = 2.0
    share = math.log(max(min(ms, top_ms), floor) / floor) / math.log(top_ms / floor)
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
