"""Readings over the time of a move: rates, and how far each copy is. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from limosa.history.canvas import (
    BOTTOM,
    KINDS,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    figure,
    label,
    line,
    percent_text,
    rate_text,
    seconds_text,
    ticks,
)
from limosa.svg import text
from limosa.wire.history import MoveRecord, Series

HEIGHT = 280.0
LEFT = 96.0
LEGEND = 24.0
RAM = "ram"


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points; x in seconds."""

    label: str
    points: tuple[tuple[float, float], ...]


def rates_plot(record: MoveRecord, key: str = "rates") -> str:
    """Bytes per second that RAM is sent with, beside those that the guest dirties; empty without RAM."""
    ram = next((series for series in record.series if series.item == RAM), None)
    if ram is None:
        return ""
    curves = (
        Curve("sent", tuple(zip(ram.at, ram.rate, strict=True))),
        Curve("dirtied by the guest", tuple(zip(ram.at, ram.dirty_rate, strict=True))),
    )
    described = (
        f"RAM was sent with at most {rate_text(max(ram.rate))}; "
        f"the guest dirtied at most {rate_text(max(ram.dirty_rate))}."
    )
    return plot(key, "RAM: rates over time", described, curves, rate_text, binary=True)


def progress_plot(record: MoveRecord, key: str = "progress") -> str:
    """How much of each copy is alike at both ends, in percent; empty without readings."""
    if not record.series:
        return ""
    curves = tuple(Curve(series.item, _shares(series)) for series in record.series)
    described = "; ".join(f"{curve.label}: {percent_text(curve.points[-1][1])} at the end" for curve in curves)
    return plot(key, "RAM and disks: how much is alike at both ends", f"{described}.", curves, percent_text, high=100.0)


def _shares(series: Series) -> tuple[tuple[float, float], ...]:
    whole = series.total or 1
    return tuple((at, 100.0 * done / whole) for at, done in zip(series.at, series.done, strict=True))


def plot(
    key: str,
    title: str,
    described: str,
    curves: Sequence[Curve],
    words: Callable[[float], str],
    *,
    high: float | None = None,
    binary: bool = False,
) -> str:
    """Lines over time.

    Args:
        key: names the plot within its page.
        title: what it shows.
        described: the same in words.
        curves: each with a point at least.
        words: how a value of the upright axis is written.
        high: the largest value of that axis; None: as the points need it.
        binary: its values are bytes.
    """
    last = max(point[0] for curve in curves for point in curve.points)
    most = high or max(point[1] for curve in curves for point in curve.points) * 1.08 or 1.0
    across = Scale(0.0, last or 1.0, LEFT, WIDTH - RIGHT - 20)
    up = Scale(0.0, most, HEIGHT - BOTTOM, TOP + LEGEND)
    parts = [*_legend(curves), *_grid(across, up, words, binary=binary)]
    for place, curve in enumerate(curves):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve.points)
        kind = KINDS[place % len(KINDS)]
        parts.append(f'<polyline points="{path}" class="line {kind}"/>')
    return figure(key, HEIGHT, title, described, parts)


def _legend(curves: Sequence[Curve]) -> Iterator[str]:
    room = (WIDTH - LEFT - RIGHT) / max(1, min(len(curves), 6))
    for place, curve in enumerate(curves[:6]):
        x = LEFT + place * room
        yield line(x, 14, x + 26, 14, f"line {KINDS[place % len(KINDS)]}")
        yield label(x + 32, 18, curve.label, room - 40)


def _grid(across: Scale, up: Scale, words: Callable[[float], str], *, binary: bool) -> Iterator[str]:
    for value in ticks(up.high, 5, binary=binary):
        yield line(across.start, up(value), across.end, up(value), "grid")
        yield text(across.start - 8, up(value) + 4, words(value), kind="dim end")
    for value in ticks(across.high):
        yield line(across(value), up.start, across(value), up.start + 5, "axis")
        yield text(across(value), up.start + 20, seconds_text(value), kind="dim middle")
    yield line(across.start, up.start, across.end, up.start, "axis")
    yield text((across.start + across.end) / 2, HEIGHT - 4, "since the move's start", kind="dim middle")
