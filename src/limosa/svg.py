"""Elements of SVG pictures as text, with whatever they are given escaped. Pure."""

import re
from xml.sax.saxutils import escape, quoteattr

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def words_of(text: str) -> str:
    """Text for an element; what no XML document may contain (XML 1.0, 2.2) is replaced by U+FFFD."""
    return escape(_FORBIDDEN.sub("\ufffd", text))


def text(x: float, y: float, words: str, *, kind: str = "", more: str = "") -> str:
    """A line of text at its baseline."""
    named = f" class={quoteattr(kind)}" if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}{more}>{words_of(words)}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str, told: str = "", more: str = "") -> str:
    """A rectangle; `told` is what a pointer and a screen reader find."""
    start = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class={quoteattr(kind)}{more}'
    return f"{start}><title>{words_of(told)}</title></rect>" if told else f"{start}/>"
