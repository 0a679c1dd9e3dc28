"""What is wrong, the worst first: in a fleet, or on one host and its peers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import path
from limosa.wire.doctor import FleetDiagnosis, Trouble, Weight


@dataclass(frozen=True, slots=True)
class TroubleRow:
    """One thing that is wrong: what, where the guest runs, and what to do."""

    sign: str
    tone: str
    weight: str
    host: str
    href: str
    what: str
    runs: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Doctor:
    """The page."""

    rows: tuple[TroubleRow, ...]
    clean: bool
    hosts: int
    """How many there are to ask."""
    asked: str
    """Whom limosa asked."""
    at: words.Moment


_SIGNS: Mapping[Weight, tuple[str, str]] = {
    Weight.ERROR: ("✕", "bad"),
    Weight.WARNING: ("!", "warn"),
    Weight.NOTE: ("·", "off"),
}


def doctor(found: FleetDiagnosis, now: float) -> Doctor:
    """What GET /v1/doctor says."""
    return Doctor(
        rows=tuple(map(_row, found.troubles)),
        clean=found.clean,
        hosts=found.hosts,
        asked="this host"
        if found.hosts == found.asked == 1
        else f"{found.asked:,} of {words.count(found.hosts, 'host')}",
        at=words.moment(found.at, now),
    )


def _row(trouble: Trouble) -> TroubleRow:
    sign, tone = _SIGNS[trouble.weight]
    return TroubleRow(
        sign=sign,
        tone=tone,
        weight=str(trouble.weight),
        host=trouble.host,
        href=path("hosts", trouble.host),
        what=trouble.what,
        runs=trouble.guest_runs,
        remedy=trouble.remedy,
    )
