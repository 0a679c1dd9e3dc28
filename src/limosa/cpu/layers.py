"""Places for the elements of an order in a drawing, layer upon layer. Pure.

Source:
    K. Sugiyama, S. Tagawa, M. Toda: Methods for Visual Understanding of Hierarchical System Structures (1981). Layers
    by longest path, long lines split where they cross a layer, each layer sorted by the middle of its neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 6
"""Up and down again: more changes little."""

Knot = tuple[int, int, int]
"""Where a line crosses a layer: the line's two ends, and the layer."""
Item = int | Knot


@dataclass(frozen=True, slots=True)
class Layers:
    """Elements and knots, from the bottom up, each layer from left to right; and the way of each line through them."""

    layers: tuple[tuple[Item, ...], ...]
    ways: tuple[tuple[Item, ...], ...]


def arrange(count: int, lines: Sequence[tuple[int, int]]) -> Layers:
    """Give each of `count` elements a layer above all that is below it, and a place in it.

    Args:
        count: elements, 0 to count - 1.
        lines: pairs (lower, upper); `lower` comes before `upper`.
    """
    ranks = [0] * count
    for lower, upper in sorted(lines):
        ranks[upper] = max(ranks[upper], ranks[lower] + 1)
    ways = [_way(lower, upper, ranks) for lower, upper in lines]
    rows: list[list[Item]] = [[] for _ in range(max(ranks, default=-1) + 1)]
    for element, rank in enumerate(ranks):
        rows[rank].append(element)
    for way in ways:
        for knot in way[1:-1]:
            assert isinstance(knot, tuple)
            rows[knot[2]].append(knot)
    _sort(rows, ways)
    return Layers(tuple(map(tuple, rows)), tuple(ways))


def _way(lower: int, upper: int, ranks: Sequence[int]) -> tuple[Item, ...]:
    knots = ((lower, upper, layer) for layer in range(ranks[lower] + 1, ranks[upper]))
    return (lower, *knots, upper)


def _sort(rows: list[list[Item]], ways: Sequence[Sequence[Item]]) -> None:
    """Sort each layer by its neighbours in the layer before, going up and down by turns."""
    below: dict[Item, list[Item]] = {item: [] for row in rows for item in row}
    above: dict[Item, list[Item]] = {item: [] for row in rows for item in row}
    for way in ways:
        for low, high in pairwise(way):
            above[low].append(high)
            below[high].append(low)
    for sweep in range(SWEEPS):
        neighbours = above if sweep % 2 else below
        order = rows[-2::-1] if sweep % 2 else rows[1:]
        places = {item: _share(place, row) for row in rows for place, item in enumerate(row)}
        for row in order:
            middles = {item: _middle(neighbours[item], places, places[item]) for item in row}
            row.sort(key=middles.__getitem__)
            places |= {item: _share(place, row) for place, item in enumerate(row)}


def _share(place: int, row: Sequence[Item]) -> float:
    return (place + 0.5) / len(row)


def _middle(neighbours: Sequence[Item], places: Mapping[Item, float], here: float) -> float:
    return sum(places[item] for item in neighbours) / len(neighbours) if neighbours else here
