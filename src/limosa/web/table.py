"""Long tables: searched, sorted and cut into pages on the server, by what their address says. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Any, Generic, TypeVar

from limosa.web.links import Query, address

T = TypeVar("T")
U = TypeVar("U")

SIZES = (100, 500, 2000, 10_000)
"""Rows of a page that one may ask for."""
LONG = 500
"""Rows beyond which a browser need not lay out all of them to show some."""
GROUP = 100
"""Rows of a long table that are laid out together."""
LONGEST_SEARCH = 200


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column, and how rows are ordered by it; None as a key stands behind everything else."""

    name: str
    title: str
    key: Callable[[T], Any]
    number: bool = False
    """Whether its cells are numbers: the largest comes first."""
    right: bool = True
    """Whether numbers stand right; beside bars they do not."""


@dataclass(frozen=True, slots=True)
class Head:
    """A column's head: where a click leads, and how the table is sorted by it now."""

    name: str
    title: str
    href: str
    sorted: str
    """`ascending`, `descending` or `none`, as `aria-sort` says it."""
    number: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several addresses: a size of page, a value of a filter."""

    title: str
    href: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Table(Generic[T]):
    """One page of a table."""

    rows: tuple[T, ...]
    heads: tuple[Head, ...]
    q: str
    found: int
    total: int
    first: int
    last: int
    """Places of the first and last row shown, from 1; 0 for an empty table."""
    previous: str
    next: str
    """Addresses; empty where there is none."""
    sizes: tuple[Choice, ...]
    where: str
    kept: Mapping[str, str]
    """What a search form has to send along."""

    @property
    def long(self) -> bool:
        """Whether only groups in sight are laid out; its columns then have fixed shares of the width."""
        return len(self.rows) > LONG

    @property
    def groups(self) -> tuple[tuple[T, ...], ...]:
        """Its rows as they are laid out together."""
        size = GROUP if self.long else max(1, len(self.rows))
        return tuple(self.rows[first : first + size] for first in range(0, len(self.rows), size))

    def with_rows(self, rows: Iterable[U]) -> "Table[U]":
        """The same page, its rows ready to be shown."""
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return Table(**{**values, "rows": tuple(rows)})


def table(
    rows: Sequence[T],
    columns: Sequence[Column[T]],
    words: Callable[[T], Iterable[str]],
    where: str,
    query: Query,
) -> Table[T]:
    """One page of rows, as the query asks for it; what it asks for and makes no sense is left out.

    Args:
        rows: all of them.
        columns: the first one is what they are sorted by where nothing is asked.
        words: what a search looks at.
        where: the page's path.
        query: `q`, `sort` (a column, `-` before it for the other way around), `page` from 1, `size`.
    """
    q = query.get("q", "").strip()[:LONGEST_SEARCH]
    found = [row for row in rows if _matches(q, words(row))] if q else list(rows)
    by, descending = _order(columns, query.get("sort", ""))
    found = _sorted(found, by, descending=descending)
    size = _number(query.get("size", ""), SIZES[0], SIZES[-1])
    pages = max(1, ceil(len(found) / size))
    page = _number(query.get("page", ""), 1, pages)
    shown = tuple(found[(page - 1) * size : page * size])
    return Table(
        rows=shown,
        heads=tuple(_head(column, by, where, query, descending=descending) for column in columns),
        q=q,
        found=len(found),
        total=len(rows),
        first=(page - 1) * size + 1 if shown else 0,
        last=(page - 1) * size + len(shown),
        previous=address(where, query, page=page - 1 if page > 2 else "") if page > 1 else "",
        next=address(where, query, page=page + 1) if page < pages else "",
        sizes=tuple(
            Choice(f"{each:,}", address(where, query, size=each if each != SIZES[0] else "", page=""), each == size)
            for each in SIZES
        ),
        where=where,
        kept={name: value for name, value in query.items() if name not in {"q", "page"} and value},
    )


def _matches(q: str, words: Iterable[str]) -> bool:
    """Every word that was typed is found in one of the row's."""
    told = "\n".join(words).casefold()
    return all(word in told for word in q.casefold().split())


def _order(columns: Sequence[Column[T]], asked: str) -> tuple[Column[T], bool]:
    turned, name = asked.startswith("-"), asked.removeprefix("-")
    chosen = next((column for column in columns if column.name == name), columns[0])
    return chosen, chosen.number != turned


def _sorted(rows: list[T], by: Column[T], *, descending: bool) -> list[T]:
    known = [row for row in rows if by.key(row) is not None]
    known.sort(key=by.key, reverse=descending)
    return known + [row for row in rows if by.key(row) is None]


def _head(column: Column[T], by: Column[T], where: str, query: Query, *, descending: bool) -> Head:
    turned = column is by and descending == column.number
    asked = f"-{column.name}" if turned else column.name
    order = ("descending" if descending else "ascending") if column is by else "none"
    return Head(
        column.name, column.title, address(where, query, sort=asked, page=""), order, column.number and column.right
    )


def _number(text: str, least: int, most: int) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else least
    return max(least, min(value, most))


def choices(
    name: str, options: Iterable[tuple[str, str]], where: str, query: Query, default: str = ""
) -> tuple[Choice, ...]:
    """A filter as a row of links.

    Args:
        name: its name in the query.
        options: values and titles.
        where: the page's path.
        query: the rest of which is kept.
        default: the value that is meant where the query has none.
    """
    now = query.get(name) or default
    return tuple(
        Choice(title, address(where, query, **{name: "" if value == default else value, "page": ""}), value == now)
        for value, title in options
    )
