"""The table of guests: of the fleet, or of one host. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import Query, path
from limosa.web.look import Look
from limosa.web.table import Choice, Column, Table, choices, table
from limosa.web.views.states import Sign, of_guest
from limosa.wire.fleet import FleetGuest


@dataclass(frozen=True, slots=True)
class GuestRow:
    """One guest."""

    id: str
    name: str
    href: str
    sign: Sign
    host: str
    host_href: str
    vcpus: str
    memory: str
    disk: str
    load: float | None
    load_said: str
    can: str
    """What stands against any move of it; empty where nothing does."""
    home: str
    """Where it belongs, where it is elsewhere."""


@dataclass(frozen=True, slots=True)
class Guests:
    """The page."""

    empty: bool
    table: Table[GuestRow]
    filters: tuple[tuple[str, tuple[Choice, ...]], ...]
    host: str
    """Of which only the guests are shown; empty for all."""
    all: str


def guests(look: Look, query: Query) -> Guests:
    """One page of guests, as its address asks for it: `host`, `can`, `state`, and what every table understands."""
    chosen = [guest for guest in look.guests if _wanted(guest, query)]
    can = (("", "all"), ("yes", "can be moved"), ("no", "cannot"))
    state = (("", "all"), ("running", "running"), ("moving", "in a move"), ("other", "other"))
    return Guests(
        empty=not look.guests,
        table=guest_table(chosen, "/guests", query),
        filters=(
            ("State", choices("state", state, "/guests", query)),
            ("Moves", choices("can", can, "/guests", query)),
        ),
        host=query.get("host", ""),
        all="/guests",
    )


def _wanted(guest: FleetGuest, query: Query) -> bool:
    host, can, state = query.get("host"), query.get("can"), query.get("state")
    tone = of_guest(guest).tone
    kind = "running" if guest.state == "running" else "moving" if tone == "busy" else "other"
    return (
        (not host or guest.host == host)
        and (can not in {"yes", "no"} or bool(guest.blocked) == (can == "no"))
        and (not state or kind == state)
    )


def guest_table(chosen: Sequence[FleetGuest], where: str, query: Query) -> Table[GuestRow]:
    """One page of these guests."""
    columns: tuple[Column[FleetGuest], ...] = (
        Column("name", "Guest", lambda guest: guest.name),
        Column("state", "State", lambda guest: guest.state),
        Column("host", "Host", lambda guest: guest.host),
        Column("vcpus", "vCPUs", lambda guest: guest.vcpus, number=True),
        Column("memory", "Memory", lambda guest: guest.memory, number=True),
        Column("disk", "Local disk", lambda guest: guest.disk, number=True),
        Column("load", "Load", _load, number=True, right=False),
        Column("can", "Can be moved", lambda guest: "; ".join(guest.blocked)),
    )
    found = table(chosen, columns, _words, where, query)
    return found.with_rows(map(guest_row, found.rows))


def _words(guest: FleetGuest) -> Iterator[str]:
    yield from (guest.name, guest.id, guest.host, guest.state, *guest.rules.groups, *guest.blocked)


def _load(guest: FleetGuest) -> float | None:
    return guest.load / guest.vcpus if guest.load is not None and guest.vcpus else None


def guest_row(guest: FleetGuest) -> GuestRow:
    """One guest as tables show it."""
    load = _load(guest)
    return GuestRow(
        id=guest.id,
        name=guest.name,
        href=path("guests", guest.id),
        sign=of_guest(guest),
        host=guest.host,
        host_href=path("hosts", guest.host),
        vcpus=words.NONE if guest.vcpus is None else str(guest.vcpus),
        memory=words.size(guest.memory),
        disk=words.size(guest.disk) if guest.disk else words.NONE,
        load=words.drawn(load),
        load_said=words.percent(load),
        can="; ".join(guest.blocked),
        home=guest.home if guest.home and guest.home != guest.host else "",
    )
