"""Search from anywhere: hosts, guests, operations and moves, by name or by the beginning of an id. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import path
from limosa.web.look import Look
from limosa.web.views.operations import about
from limosa.web.views.states import Sign, of_guest, of_host, of_item, of_phase
from limosa.wire.fleet import Operation

MOST = 20
"""Hits of a kind that are shown."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Something that was found; hits with a lower rank come first."""

    rank: int
    title: str
    href: str
    sign: Sign
    more: str


@dataclass(frozen=True, slots=True)
class Kind:
    """Hits of one kind."""

    title: str
    hits: tuple[Hit, ...]
    found: int
    all: str
    """Where all of them are; empty where these are all."""


@dataclass(frozen=True, slots=True)
class Search:
    """The page."""

    q: str
    kinds: tuple[Kind, ...]


def search(look: Look, operations: Sequence[Operation], q: str) -> Search:
    """What fits these words.

    Args:
        look: the fleet.
        operations: those in which is searched.
        q: what was typed.
    """
    wanted = q.strip().casefold()
    if not wanted:
        return Search("", ())
    kinds = (
        _kind("Hosts", _hosts(look, wanted), f"/hosts?q={wanted}"),
        _kind("Guests", _guests(look, wanted), f"/guests?q={wanted}"),
        _kind("Operations", _operations(operations, wanted), ""),
        _kind("Moves", _moves(operations, wanted), ""),
    )
    return Search(q.strip(), tuple(kind for kind in kinds if kind.hits))


def the_one(found: Search) -> str:
    """Where the only exact hit leads; empty where there is none, or several."""
    exact = [hit.href for kind in found.kinds for hit in kind.hits if hit.rank == 0]
    return exact[0] if len(exact) == 1 else ""


def _kind(title: str, hits: Iterable[Hit], everything: str) -> Kind:
    found = sorted(hits, key=lambda hit: (hit.rank, hit.title))
    return Kind(title, tuple(found[:MOST]), len(found), everything if len(found) > MOST else "")


def _rank(wanted: str, *names: str) -> int | None:
    """0 for the name itself, 1 for its beginning, 2 for a part of the first one."""
    folded = [name.casefold() for name in names if name]
    if wanted in folded:
        return 0
    if any(name.startswith(wanted) for name in folded):
        return 1
    return 2 if folded and wanted in folded[0] else None


def _hosts(look: Look, wanted: str) -> Iterator[Hit]:
    for host in look.hosts:
        if (rank := _rank(wanted, host.name)) is not None:
            yield Hit(rank, host.name, path("hosts", host.name), of_host(host), words.count(host.guests, "guest"))


def _guests(look: Look, wanted: str) -> Iterator[Hit]:
    for guest in look.guests:
        if (rank := _rank(wanted, guest.name, guest.id)) is not None:
            yield Hit(rank, guest.name, path("guests", guest.id), of_guest(guest), f"on {guest.host}")


def _operations(operations: Sequence[Operation], wanted: str) -> Iterator[Hit]:
    for each in operations:
        if (rank := _rank(wanted, each.id)) is not None:
            yield Hit(rank, each.id, path("operations", each.id), of_phase(each), about(each))


def _moves(operations: Sequence[Operation], wanted: str) -> Iterator[Hit]:
    for operation in operations:
        for item in operation.items:
            if item.move and (rank := _rank(wanted, item.move)) is not None and rank < 2:
                more = f"{item.name}, {item.source} to {item.destination}"
                yield Hit(rank, item.move, path("moves", item.move), of_item(item), more)
