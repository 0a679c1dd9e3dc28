"""Elements of SVG pictures as text, with whatever they are given escaped. Pure."""

from xml.sax.saxutils import escape, quoteattr


def text(x: float, y: float, words: str, *, kind: str = "", more: str = "") -> str:
    """A line of text at its baseline."""
    named = f" class={quoteattr(kind)}" if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}{more}>{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str, told: str = "", more: str = "") -> str:
    """A rectangle; `told` is what a pointer and a screen reader find."""
    start = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class={quoteattr(kind)}{more}'
    return f"{start}><title>{escape(told)}</title></rect>" if told else f"{start}/>"
