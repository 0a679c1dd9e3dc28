"""Addresses of pages: every state of one has an address, and what is not asked for is not in it. Pure."""

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, urlencode

Query = Mapping[str, str]


@lru_cache(32_768)
def path(*parts: str) -> str:
    """`("hosts", "a/b")` -> `/hosts/a%2Fb`."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def address(where: str, query: Query | None = None, **changes: str | int | None) -> str:
    """An address with a query, some of it changed; empty values are left out."""
    asked = {**(query or {}), **{name: "" if value is None else str(value) for name, value in changes.items()}}
    told = {name: value for name, value in asked.items() if value}
    return f"{where}?{urlencode(told)}" if told else where


def within(named: str) -> str:
    """An address of this site that a form or a query named; `/` in place of any other.

    A browser takes two slashes, either way, for another site, and drops tabs and newlines before it looks.
    """
    inside = named.startswith("/") and not named.startswith(("//", "/\\"))
    return named if inside and all(" " < each != "\x7f" for each in named) else "/"
