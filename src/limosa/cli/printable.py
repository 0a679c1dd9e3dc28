"""Text for a terminal: what others wrote, names and reasons, must not steer it. Pure."""

from __future__ import annotations

import unicodedata

_STEERING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control and format characters (escape sequences, right-to-left overrides), line separators, and what is none.

Source: Unicode Standard, 4.5 General Category; Unicode TR 36, 2.1 on bidirectional text.
"""
_WIDE = frozenset({"W", "F"})
_JOINED = frozenset({"Mn", "Me"})


def printable(text: str, keep: str = "") -> str:
    r"""The text with everything that steers a terminal written out, such as `\x1b` or `\u202e`.

    Args:
        text: anybody's.
        keep: characters that are left as they are, such as a newline in a page of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or unicodedata.category(c) not in _STEERING else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def width(text: str) -> int:
    """Columns that a printable text takes.

    Source: Unicode TR 11, East Asian Width.
    """
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in _JOINED:
        return 0
    return 2 if unicodedata.east_asian_width(character) in _WIDE else 1


def left(text: str, columns: int) -> str:
    """The text, filled up with spaces on its right."""
    return text + " " * (columns - width(text))


def right(text: str, columns: int) -> str:
    """The text, filled up with spaces on its left."""
    return " " * (columns - width(text)) + text
