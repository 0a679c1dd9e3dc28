"""Pictures of a fleet's CPUs as SVG that stands alone: no script, no font, no other file. Pure.

They follow the reader's light or dark scheme, tell by form what they tell by colour, and carry a title and a
description for those who cannot see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from limosa.svg import rect, text, words_of

FONT = 11
"""Size of labels, in pixels."""
LETTER = 0.62 * FONT
"""Width that a letter of a label is given; the widest sans-serif faces need a little less."""
MARGIN = 16

_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #1b1f24 } text.head { font-size: 15px; font-weight: 600 }
text.dim { fill: #5f6871 } text.cell { font-size: 9px } text.on { fill: #ffffff } .paper { fill: #ffffff }
.yes { fill: #0b63b6 } .no { fill: #e4e8ec } .never { fill: none; stroke: #d5dae0 }
.box { fill: #f3f6f9; stroke: #aab4be } .up { fill: none; stroke: #8a949e } .tip { fill: #8a949e }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ec } text.dim { fill: #9aa4ae } text.on { fill: #10141a } .paper { fill: #14171a }
  .yes { fill: #58a6ff } .no { fill: #30373e } .never { stroke: #30373e }
  .box { fill: #20262c; stroke: #5b6670 } .up { stroke: #77828d } .tip { fill: #77828d }
}
"""
# No variables in it: viewers other than browsers (librsvg, Inkscape) do not know them.

YES, NO, NEVER = "yes", "no", "never"
"""A guest may go there; flags or address bits are missing; another vendor."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer of the matrix: its kind, what stands in it, and the sentence that a pointer finds."""

    kind: str
    label: str
    told: str


def page(width: float, height: float, title: str, described: str, parts: Iterable[str]) -> str:
    """The whole picture.

    Args:
        width: pixels.
        height: pixels.
        title: what it shows; stands above it too.
        described: what is to be seen, for those who do not see it.
        parts: elements, in the order in which they are painted.
    """
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">'
    described = f'<title id="title">{words_of(title)}</title>\n<desc id="description">{words_of(described)}</desc>'
    paper = rect(0, 0, width, height, "paper")
    headline = text(MARGIN, MARGIN + 12, title, kind="head")
    return "\n".join((head, described, f"<style>{_STYLE}</style>", paper, headline, *parts, "</svg>\n"))


def matrix(names: Sequence[str], vendors: Sequence[str], cell: Callable[[int, int], Cell], described: str) -> str:
    """Who can take whose guests: a row for each kind of host that guests come from, a column for each they may go to.

    Args:
        names: labels of the kinds.
        vendors: of the kinds; equal ones side by side.
        cell: row and column -> what is to be seen there.
        described: the picture in words.
    """
    count = len(names)
    size = max(3.0, min(26.0, 1040 / max(1, count)))
    labelled = size >= FONT
    longest = max(map(len, names), default=0) * LETTER if labelled else 0.0
    left, top = MARGIN + longest + 8, MARGIN + 70 + longest * 0.75
    parts = [_legend(MARGIN, MARGIN + 32)]
    parts += _labels(names, size, left, top) if labelled else _vendors(vendors, size, left, top)
    for row in range(count):
        cells = [cell(row, column) for column in range(count)]
        parts += _row(cells, left, top + row * size, size) if labelled else _bands(cells, left, top + row * size, size)
    width = max(left + count * size + max(longest * 0.7, 48), 600) + MARGIN
    return page(width, top + count * size + MARGIN, "Which host can take whose guests", described, parts)


def _legend(x: float, y: float) -> str:
    items = ((YES, "takes its guests"), (NO, "lacks so many flags"), (NEVER, "another vendor"))
    parts = []
    for kind, words in items:
        parts.append(rect(x, y - 9, 11, 11, kind))
        parts.append(text(x + 16, y, words, kind="dim"))
        x += 34 + len(words) * LETTER
    told = "rows: the host that guests come from, all of whose flags they see; columns: the host that they go to"
    parts.append(text(MARGIN, y + 17, told, kind="dim"))
    return "\n".join(parts)


def _labels(names: Sequence[str], size: float, left: float, top: float) -> Iterable[str]:
    for place, name in enumerate(names):
        middle = (place + 0.5) * size
        yield text(left - 6, top + middle + 4, name, more=' text-anchor="end"')
        x, y = left + middle + 3, top - 6
        yield text(x, y, name, more=f' transform="rotate(-45 {x:.1f} {y:.1f})"')


def _vendors(vendors: Sequence[str], size: float, left: float, top: float) -> Iterable[str]:
    """Where there is no room for names: vendors over their columns, those with the most first, if they do not touch."""
    spans, place = [], 0
    for vendor, same in groupby(vendors):
        count = len(list(same))
        spans.append((count, left + (place + count / 2) * size, vendor or "vendor unknown"))
        place += count
    taken: list[tuple[float, float]] = []
    for _, middle, vendor in sorted(spans, reverse=True):
        half = (len(vendor) + 2) * LETTER / 2
        if all(abs(middle - other) >= half + its for other, its in taken):
            taken.append((middle, half))
            yield text(middle, top - 6, vendor, kind="dim", more=' text-anchor="middle"')


def _row(cells: Sequence[Cell], left: float, y: float, size: float) -> Iterable[str]:
    for place, one in enumerate(cells):
        x = left + place * size
        yield rect(x + 1, y + 1, size - 2, size - 2, one.kind, one.told)
        if one.label and size >= 18:
            on = " on" if one.kind == YES else ""
            more = ' text-anchor="middle" pointer-events="none"'
            yield text(x + size / 2, y + size / 2 + 3, one.label, kind=f"cell{on}", more=more)


def _bands(cells: Sequence[Cell], left: float, y: float, size: float) -> Iterable[str]:
    """A row too small for labels: neighbours of one kind are one rectangle, so that 900 hosts stay a small file."""
    place = 0
    for kind, same in groupby(cells, key=lambda one: one.kind):
        length = sum(1 for _ in same)
        if kind != NEVER:
            yield rect(left + place * size, y, length * size, size, kind)
        place += length
