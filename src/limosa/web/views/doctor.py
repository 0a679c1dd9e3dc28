"""What is wrong in the fleet: two owners, doubt, silence. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import path
from limosa.wire.fleet import FleetGuest, FleetHost, TwoOwners


@dataclass(frozen=True, slots=True)
class TroubleRow:
    """One thing that is wrong: what, where, and what to do."""

    sign: str
    tone: str
    weight: str
    subject: str
    href: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Doctor:
    """The page."""

    rows: tuple[TroubleRow, ...]
    looked: str
    """At what was looked."""


def doctor(hosts: Sequence[FleetHost], guests: Sequence[FleetGuest], owners: Sequence[TwoOwners]) -> Doctor:
    """What can be seen from what agents report, the worst first.

    Args:
        hosts: as GET /v1/hosts says them.
        guests: as GET /v1/guests says them.
        owners: as GET /v1/audit/owners says them.
    """
    rows = (*_owners(owners), *_doubts(guests), *_silent(hosts))
    return Doctor(rows, f"{words.count(len(hosts), 'host')} and {words.count(len(guests), 'guest')}")


def _owners(owners: Sequence[TwoOwners]) -> Iterator[TroubleRow]:
    for each in owners:
        yield TroubleRow(
            sign="✕",
            tone="bad",
            weight="two owners",
            subject=each.name,
            href=path("guests", each.id),
            what=f"{' and '.join(each.hosts)} both claim it",
            remedy=f"stop neither before limosa doctor, on {' and '.join(each.hosts)}, has said who owns it",
        )


def _doubts(guests: Sequence[FleetGuest]) -> Iterator[TroubleRow]:
    for guest in guests:
        if guest.state == "in doubt":
            yield TroubleRow(
                sign="?",
                tone="bad",
                weight="in doubt",
                subject=guest.name,
                href=path("guests", guest.id),
                what=f"whether it was taken over from {guest.host} is not known; it is paused",
                remedy=f"start it nowhere by hand; limosa doctor, on {guest.host}",
            )


def _silent(hosts: Sequence[FleetHost]) -> Iterator[TroubleRow]:
    for host in hosts:
        if host.silent_for and host.state != "lost":
            yield TroubleRow(
                sign="?",
                tone="warn",
                weight="silent agent",
                subject=host.name,
                href=path("hosts", host.name),
                what=f"{host.trouble or 'no word from its agent'}, for {words.lasting(host.silent_for)}",
                remedy=f"see whether limosa-agent runs on {host.name}; its guests run on without it",
            )
