"""What to do about an error, for a page: a command whose answer is a page too is said as that page. Pure."""

import re
from collections.abc import Collection
from typing import NamedTuple

from limosa.web.links import path


class Piece(NamedTuple):
    """Some words of a remedy, and the page that they lead to; empty where they lead nowhere."""

    words: str
    href: str = ""


_COMMANDS = re.compile(
    r"""(?<!\w)(?:
        (?P<hosts>limosa\ hosts)(?=\ lists)
      | (?P<guests>limosa\ ls(?:\ --json)?)(?=\ lists|$)
      | (?P<operations>limosa\ operations)(?=\ lists)
      | limosa\ operations\ cancel\ (?P<cancel>[\w-]+)
      | `?(?P<hooks>limosa\ hooks\ ls)`?
      | GET\ /v1/(?P<history>history)(?=\ lists)
      | (?P<fleet>from\ the\ fleet)
      | (?<=or\ )(?P<search>search)$
      | (?P<token>sign\ in)(?=\ with)
    )""",
    re.VERBOSE,
)
_PAGES = {
    "hosts": ("the page of hosts", "/hosts"),
    "guests": ("the page of guests", "/guests"),
    "operations": ("the page of operations", "/operations"),
    "hooks": ("the page of hooks", "/hooks"),
    "history": ("the page of moves", "/history"),
    "fleet": ("from the fleet", "/"),
    "search": ("search", "/search"),
    "token": ("sign in", "/sign-in"),
}


def pieces(remedy: str, places: Collection[str]) -> tuple[Piece, ...]:
    """A remedy with links.

    Args:
        remedy: as every surface of limosa says it.
        places: addresses of the pages that there are; what is not among them is left as it was said.
    """
    found, end = [], 0
    for match in _COMMANDS.finditer(remedy):
        piece = _piece(match)
        if piece.href in places or match["cancel"] or match["search"] or match["token"]:
            found += [Piece(remedy[end : match.start()]), piece]
            end = match.end()
    return tuple(piece for piece in (*found, Piece(remedy[end:])) if piece.words)


def _piece(match: re.Match[str]) -> Piece:
    if operation := match["cancel"]:
        return Piece(f"cancel {operation}", path("operations", operation))
    assert match.lastgroup is not None
    return Piece(*_PAGES[match.lastgroup])
