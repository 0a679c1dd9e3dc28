"""Plain tables: columns as wide as they must be. Pure; rich is for the live view only, it costs 80 ms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = (), indent: str = "") -> str:
    """Lines of aligned columns under their heads.

    Args:
        heads: titles; an empty sequence of rows gives the titles alone.
        rows: cells, as many as titles.
        right: titles of the columns that are aligned to the right (numbers).
        indent: put before each line.
    """
    cells = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    to_the_right = set(right)
    lines = []
    for row in cells:
        padded = (
            cell.rjust(width) if head in to_the_right else cell.ljust(width)
            for head, cell, width in zip(heads, row, widths, strict=True)
        )
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def pairs(rows: Iterable[tuple[str, str]], *, indent: str = "  ") -> str:
    """Names and values in two columns, without heads; a value of several lines stays in its column."""
    known = list(rows)
    width = max((len(name) for name, _ in known), default=0)
    lines = []
    for name, value in known:
        first, *others = value.splitlines() or [""]
        lines.append(f"{indent}{name.ljust(width)}  {first}".rstrip())
        lines.extend(f"{indent}{' ' * width}  {other}".rstrip() for other in others)
    return "\n".join(lines)
