"""One guest: its shape, its owner, its past, and where it can go. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.table import Choice, Column, Table, choices, table
from limosa.web.views.states import Sign, of_guest
from limosa.wire.fleet import Event, Fit, FleetGuest


@dataclass(frozen=True, slots=True)
class FitRow:
    """One host, and whether the guest could go there."""

    host: str
    href: str
    fits: bool
    reasons: tuple[str, ...]
    move: str
    """Where moving it there is planned; empty where it does not fit."""


@dataclass(frozen=True, slots=True)
class Past:
    """Something that happened to it."""

    at: words.Moment
    what: str
    href: str


@dataclass(frozen=True, slots=True)
class GuestPage:
    """The page."""

    id: str
    name: str
    sign: Sign
    host: str
    host_href: str
    facts: tuple[tuple[str, str], ...]
    blocked: tuple[str, ...]
    owners: tuple[tuple[str, str], ...]
    """Where more than one host claims it: their names and addresses."""
    silence: str
    home: str
    fitting: int
    hosts: int
    reasons: tuple[tuple[str, int], ...]
    """What most hosts say, and how many say it."""
    fits: Table[FitRow]
    filter: tuple[Choice, ...]
    past: tuple[Past, ...]
    proviso: str = ""
    """What was not looked at of where it can go; empty where everything was."""


MOST_REASONS = 8


def guest_page(guest: FleetGuest, fits: Sequence[Fit], events: Sequence[Event], query: Query, now: float) -> GuestPage:
    """Everything about one guest.

    Args:
        guest: as GET /v1/guests/{guest} says it.
        fits: as GET /v1/guests/{guest}/fits says them; one for each host but its own.
        events: what happened to it, latest first.
        query: `fits` (yes, no), and what every table understands.
        now: seconds since 1970.
    """
    where = path("guests", guest.id)
    wanted = query.get("fits")
    chosen = [fit for fit in fits if wanted not in {"yes", "no"} or fit.fits == (wanted == "yes")]
    columns: tuple[Column[Fit], ...] = (
        Column("fits", "It fits", lambda fit: (not fit.fits, len(fit.reasons), fit.host)),
        Column("host", "Host", lambda fit: fit.host),
        Column("reasons", "Why not", lambda fit: fit.reasons),
    )
    found = table(chosen, columns, lambda fit: (fit.host, *fit.reasons), where, query)
    fitting = sum(fit.fits for fit in fits)
    options = (("", f"all {len(fits):,}"), ("yes", f"fits {fitting:,}"), ("no", f"not {len(fits) - fitting:,}"))
    return GuestPage(
        id=guest.id,
        name=guest.name,
        sign=of_guest(guest),
        host=guest.host,
        host_href=path("hosts", guest.host),
        facts=_facts(guest),
        blocked=guest.blocked,
        owners=tuple((host, path("hosts", host)) for host in guest.owners),
        silence=f"its host's agent has been silent for {words.lasting(guest.silent_for)}" if guest.silent_for else "",
        home=guest.home if guest.home and guest.home != guest.host else "",
        fitting=fitting,
        hosts=len(fits),
        reasons=tuple(Counter(why for fit in fits for why in fit.reasons).most_common(MOST_REASONS)),
        fits=found.with_rows(_fit(guest, fit) for fit in found.rows),
        filter=choices("fits", options, where, query),
        past=tuple(_past(events, now)),
    )


def _facts(guest: FleetGuest) -> tuple[tuple[str, str], ...]:
    facts: Mapping[str, str] = {
        "UUID": guest.id,
        "vCPUs": "" if guest.vcpus is None else str(guest.vcpus),
        "memory": words.size(guest.memory),
        "local disks": words.size(guest.disk) if guest.disk else "none: nothing of them is copied in a move",
        "load": words.cores(guest.load),
        "owner": "" if guest.owners else guest.host,
        "epoch": f"{guest.epoch}: rises whenever it changes hosts" if guest.epoch else "0: limosa never moved it",
        "belongs on": guest.home or "",
        "keeps away from": ", ".join(guest.rules.groups),
        "may run only on": ", ".join(guest.rules.pin_hosts),
        "needs the labels": ", ".join(guest.rules.pin_labels),
        "priority": str(guest.rules.priority) if guest.rules.priority else "",
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _fit(guest: FleetGuest, fit: Fit) -> FitRow:
    return FitRow(
        host=fit.host,
        href=path("hosts", fit.host),
        fits=fit.fits,
        reasons=fit.reasons,
        move=address("/plan", {}, kind="move", guest=guest.id, to=fit.host) if fit.fits else "",
    )


def _past(events: Sequence[Event], now: float) -> Iterator[Past]:
    for event in events:
        body = event.body
        if event.kind == "guest.moved":
            operation = str(body.get("operation") or "")
            what = f"moved from {body.get('from')} to {body.get('to')}"
            yield Past(words.moment(event.at, now), what, path("operations", operation) if operation else "")
        else:
            yield Past(words.moment(event.at, now), _said(event), "")


def _said(event: Event) -> str:
    match event:
        case Event(kind="audit", body={"two owners": hosts}):
            return f"{hosts} each said that they own it"
        case _:
            return f"{event.kind}: {', '.join(f'{name} {value}' for name, value in event.body.items())}"
