"""The pools of a fleet and the order between them as a picture. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from xml.sax.saxutils import escape

from limosa.cpu.layers import Item, arrange
from limosa.cpu.pools import Pool, Up
from limosa.cpu.svg import LETTER, MARGIN, page
from limosa.svg import rect, text
from limosa.units import format_count

WIDE, HIGH, GAP, RISE, THREAD = 190.0, 46.0, 16.0, 60.0, 12.0
"""Pixels: a box, what lies between two, what lies between two layers, and the room of a line that passes a layer."""

Place = tuple[float, float]


def pools_picture(pools: Sequence[Pool], lines: Sequence[Up]) -> str:
    """Each vendor's pools from the fewest flags at the bottom to the most at the top; a line leads where guests may go.

    Args:
        pools: as `pools` gave them.
        lines: as `order` gave them.
    """
    parts: list[str] = []
    right, bottom, start = float(MARGIN), 0.0, 0
    for vendor, same in groupby(pools, key=lambda pool: pool.hard.vendor):
        count = len(list(same))
        own = [(line.lower - start, line.upper - start) for line in lines if 0 <= line.lower - start < count]
        drawn, width, height = _vendor(vendor, pools[start : start + count], own, start, right)
        parts += drawn
        right, bottom, start = right + width + 2 * GAP, max(bottom, height), start + count
    hosts = sum(len(pool.hosts) for pool in pools)
    described = (
        f"{format_count(hosts, 'host')} in {format_count(len(pools), 'pool')}. "
        f"{format_count(len(lines), 'line leads', 'lines lead')} from a pool to those next above it, "
        "to which its guests may go; lines that follow from others are left out."
    )
    return page(max(right, 420), bottom + MARGIN, "Pools of interchangeable hosts", described, (_arrow(), *parts))


def _vendor(
    vendor: str, pools: Sequence[Pool], lines: Sequence[tuple[int, int]], start: int, left: float
) -> tuple[list[str], float, float]:
    """One vendor's part of the picture, its width, and the height down to which it reaches."""
    layers = arrange(len(pools), lines)
    widths = [sum(_room(item) for item in row) for row in layers.layers]
    width, top = max(widths), MARGIN + 54.0
    places: dict[Item, Place] = {}
    for level, (row, taken) in enumerate(zip(reversed(layers.layers), reversed(widths), strict=True)):
        x = left + (width - taken) / 2
        for item in row:
            places[item] = (x + _room(item) / 2, top + level * (HIGH + RISE))
            x += _room(item)
    parts = [text(left, MARGIN + 36, vendor or "vendor unknown", kind="dim")]
    parts += (_line([places[item] for item in way], _gain(pools, way)) for way in layers.ways)
    parts += _boxes(pools, places, start)
    return parts, width, top + len(widths) * (HIGH + RISE) - RISE


def _room(item: Item) -> float:
    return WIDE + GAP if isinstance(item, int) else THREAD


def _gain(pools: Sequence[Pool], way: Sequence[Item]) -> str:
    lower, upper = way[0], way[-1]
    assert isinstance(lower, int)
    assert isinstance(upper, int)
    more = pools[upper].flags - pools[lower].flags
    return f"{pools[lower].hosts[0]} to {pools[upper].hosts[0]}: more flags there: {more or 'none'}"


def _boxes(pools: Sequence[Pool], places: Mapping[Item, Place], start: int) -> Iterator[str]:
    for number, pool in enumerate(pools):
        x, y = places[number]
        left = x - WIDE / 2
        yield rect(left, y, WIDE, HIGH, "box", ", ".join(pool.hosts), ' rx="5"')
        yield text(left + 8, y + 19, fitted(pool.hosts[0], len(pool.hosts)), more=' pointer-events="none"')
        counts = (
            f"pool {start + number + 1} · {counted(len(pool.hosts))} · {format_count(pool.flags.bit_count(), 'flag')}"
        )
        yield text(left + 8, y + 36, counts, kind="dim", more=' pointer-events="none"')


def counted(hosts: int) -> str:
    """`1 host`, `2 hosts`."""
    return format_count(hosts, "host")


def fitted(name: str, hosts: int) -> str:
    """A pool's first host, as much of its name as a box holds, and how many more there are."""
    more = f" +{hosts - 1}" if hosts > 1 else ""
    room = int((WIDE - 16) / LETTER) - len(more)
    return (name if len(name) <= room else name[: room - 1] + "…") + more


def _line(places: Sequence[Place], told: str) -> str:
    """From the top of a box, through its knots, to the bottom of another."""
    points = [(places[0][0], places[0][1])]
    for x, y in places[1:-1]:
        points += [(x, y + HIGH), (x, y)]
    points.append((places[-1][0], places[-1][1] + HIGH + 5))
    drawn = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        bend = (y - to_y) / 2
        drawn.append(f"C{x:.1f} {y - bend:.1f} {to_x:.1f} {to_y + bend:.1f} {to_x:.1f} {to_y:.1f}")
    return f'<path class="up" marker-end="url(#tip)" d="{"".join(drawn)}"><title>{escape(told)}</title></path>'


def _arrow() -> str:
    return (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
    )
