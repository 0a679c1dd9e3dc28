"""What all plots of moves share: sizes, scales, the frame around them, and how they look. Pure.

A plot is one `<svg>` for the inside of a page. It takes its colours from classes that `STYLE` gives to the page,
follows the reader's light or dark scheme, tells by form what it tells by colour, and carries a title and a description.
The numbers it shows stand in a table beside it, which is the page's business.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from limosa.svg import rect, text, words_of
from limosa.units import KIB, format_duration, format_size

WIDTH = 860.0
"""Of every plot, in its own units; a page scales it."""
RIGHT, TOP, BOTTOM = 24.0, 12.0, 44.0
"""Room beside the plotted area, below it for the labels of an axis and its name."""
LETTER = 7.0
"""Width that a letter is given; the widest sans-serif faces need a little less."""
ROW = 26.0
"""Height of a row that has a label."""

STYLE = """
.plot { width: 100%; height: auto; display: block }
.plot text { font: 12px system-ui, sans-serif; fill: #1b1f24 }
.plot text.dim { fill: #57606a } .plot text.end { text-anchor: end } .plot text.middle { text-anchor: middle }
.plot .grid { stroke: #dde2e7; stroke-width: 1; fill: none }
.plot .axis { stroke: #8a949e; stroke-width: 1; fill: none }
.plot .main { fill: #0b63b6 } .plot .soft { fill: #9cc3e6 } .plot .quiet { fill: #b8c1ca } .plot .bad { fill: #b3261e }
.plot .mark { fill: #b3261e } .plot .line { fill: none; stroke-width: 2; stroke-linejoin: round }
.plot .one { stroke: #0b63b6 } .plot .two { stroke: #a04100; stroke-dasharray: 7 4 }
.plot .three { stroke: #1a7f37; stroke-dasharray: 2 4 } .plot .four { stroke: #6e40c9; stroke-dasharray: 9 3 2 3 }
@media (prefers-color-scheme: dark) { @media screen {
  .plot text { fill: #e6e9ec } .plot text.dim { fill: #a4aeb8 }
  .plot .grid { stroke: #30373e } .plot .axis { stroke: #77828d }
  .plot .main { fill: #58a6ff } .plot .soft { fill: #2f5d8f } .plot .quiet { fill: #56616c }
  .plot .bad { fill: #ff7b72 }
  .plot .mark { fill: #ff7b72 } .plot .one { stroke: #58a6ff } .plot .two { stroke: #f0883e }
  .plot .three { stroke: #56d364 } .plot .four { stroke: #bc8cff }
} }
"""
"""For the page that plots stand in; on paper they are light."""

KINDS = ("one", "two", "three", "four")
"""Lines that are told apart by colour and dashes; more than these come round again, and have their labels."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to places: `low` at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.0)


def ticks(high: float, count: int = 6, *, binary: bool = False) -> tuple[float, ...]:
    """Round values from 0 to `high` or a little less, about `count` of them.

    Args:
        high: the largest value that is shown.
        count: how many are wanted.
        binary: for bytes: steps are powers of two in each unit.
    """
    if high <= 0:
        return (0.0,)
    least = high / count
    if binary and high >= KIB:
        unit = float(KIB) ** int(math.log(least, KIB)) if least >= 1 else 1.0
        step = unit * 2.0 ** math.ceil(math.log2(least / unit))
    else:
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    return tuple(step * number for number in range(int(high / step + 1e-9) + 1))


def seconds_text(seconds: float) -> str:
    """A time for people: `0.25 s`, `12 s`, `3 min 20 s`, `2 h`."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    return format_duration(seconds).removesuffix(" 00 s").removesuffix(" 00 min")


def milliseconds_text(milliseconds: float) -> str:
    """`0.25 ms`, `60 ms`, `1.2 s`."""
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3g} s"


def rate_text(rate: float) -> str:
    """Bytes per second for an axis: `12 MiB/s`."""
    return f"{format_size(rate).replace('.0 ', ' ')}/s"


def percent_text(share: float) -> str:
    """A share of a hundred."""
    return f"{share:.0f} %"


def isolated(name: str) -> str:
    """A name within a line of text, so that letters written from right to left turn nothing but it."""
    return f"\u2068{name}\u2069"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def shortened(words: str, width: float) -> str:
    """As much of a label as fits a width; the whole of it is in the title that a pointer finds."""
    most = max(1, int(width / LETTER))
    return words if len(words) <= most else words[: most - 1] + "…"


def label(x: float, y: float, words: str, width: float, kind: str = "") -> str:
    """A label that is cut where it does not fit, with the whole of it for a pointer and a screen reader."""
    short = shortened(words, width)
    if short == words:
        return text(x, y, words, kind=kind)
    return f"<g><title>{words_of(words)}</title>{text(x, y, short, kind=kind)}</g>"


def figure(key: str, height: float, title: str, described: str, parts: Iterable[str]) -> str:
    """The whole plot.

    Args:
        key: names it within its page; letters, digits and hyphens.
        height: in the plot's own units.
        title: what it shows.
        described: what is to be seen, for those who do not see it.
        parts: elements, in the order in which they are painted.
    """
    named = quoteattr(f"{key}-title {key}-described")
    head = f'<svg class="plot" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-labelledby={named}>'
    return "\n".join(
        (
            head,
            f'<title id="{key}-title">{words_of(title)}</title>',
            f'<desc id="{key}-described">{words_of(described)}</desc>',
            *parts,
            "</svg>",
        )
    )


def legend(x: float, y: float, items: Iterable[tuple[str, str]]) -> str:
    """What the fillings stand for: (kind, words)."""
    parts = []
    for kind, words in items:
        parts.append(rect(x, y - 9, 11, 11, kind))
        parts.append(text(x + 16, y, words, kind="dim"))
        x += 34 + len(words) * LETTER
    return "\n".join(parts)
