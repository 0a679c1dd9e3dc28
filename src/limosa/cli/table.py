"""Plain tables: columns as wide as they must be. Pure; rich is for the live view only, it costs 80 ms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from limosa.cli import printable as screen
from limosa.cli.printable import printable


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = (), indent: str = "") -> str:
    """Lines of aligned columns under their heads; what would steer a terminal is written out.

    Args:
        heads: titles; an empty sequence of rows gives the titles alone.
        rows: cells, as many as titles.
        right: titles of the columns that are aligned to the right (numbers).
        indent: put before each line.
    """
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(screen.width(row[column]) for row in cells) for column in range(len(heads))]
    to_the_right = set(right)
    lines = []
    for row in cells:
        padded = (
            screen.right(cell, width) if head in to_the_right else screen.left(cell, width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        )
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def pairs(rows: Iterable[tuple[str, str]], *, indent: str = "  ") -> str:
    """Names and values in two columns, without heads; a value of several lines stays in its column."""
    known = [(printable(name), [printable(line) for line in value.splitlines()] or [""]) for name, value in rows]
    width = max((screen.width(name) for name, _ in known), default=0)
    lines = []
    for name, (first, *others) in known:
        lines.append(f"{indent}{screen.left(name, width)}  {first}".rstrip())
        lines.extend(f"{indent}{' ' * width}  {other}".rstrip() for other in others)
    return "\n".join(lines)
