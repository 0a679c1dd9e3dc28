"""One host: what it has, who runs there, and what it could take in. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limosa.fleet.constraints import Constraint, Heard, refusals
from limosa.fleet.inventory import Inventory
from limosa.units import HostName
from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.look import Look
from limosa.web.table import Table
from limosa.web.views.guests import GuestRow, guest_table
from limosa.web.views.operations import title_of
from limosa.web.views.states import Sign, of_host, of_phase
from limosa.wire.fleet import FleetHost, Operation


@dataclass(frozen=True, slots=True)
class TakesIn:
    """How many guests of other hosts could come now, and what keeps the others away."""

    could: int
    others: int
    at: float
    refused: tuple[tuple[str, int], ...]
    """By what stands against it, the most frequent first; a guest counts with each."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """Something that a host has, and how much of it is given."""

    title: str
    share: float | None
    said: str
    more: str


@dataclass(frozen=True, slots=True)
class Link:
    """Words that lead somewhere."""

    title: str
    href: str
    sign: Sign


@dataclass(frozen=True, slots=True)
class HostPage:
    """The page."""

    name: str
    sign: Sign
    reason: str
    silence: str
    gauges: tuple[Gauge, ...]
    facts: tuple[tuple[str, str], ...]
    pool: int
    takes_in: TakesIn
    takes_in_at: words.Moment
    guests: Table[GuestRow]
    operations: tuple[Link, ...]
    drain: str
    """Where draining it is planned; empty where it drains already."""
    bring_home: str
    """Where bringing its guests home is planned; empty where it takes guests anyway."""
    states: tuple[tuple[str, str], ...]
    """States that an admin may set, with what each means."""


SETTABLE = (
    ("active", "takes guests again"),
    ("maintenance", "set aside: takes no guests"),
    ("lost", "given up: what ran there is as it was last seen"),
)


def takes_in(inventory: Inventory, name: str, at: float) -> TakesIn:
    """Ask the rule of planners for every guest of another host. Takes tens of microseconds for each."""
    host = inventory.by_name.get(HostName(name))
    if host is None:
        return TakesIn(0, 0, at, ())
    heard: Heard = {}
    others = [guest for guest in inventory.guests if guest.host != name]
    told: Counter[Constraint] = Counter()
    could = 0
    for guest in others:
        found = refusals(inventory, guest, host, heard)
        could += not found
        told.update({refusal.constraint for refusal in found})
    return TakesIn(could, len(others), at, tuple((_AGAINST[what], number) for what, number in told.most_common()))


_AGAINST: Mapping[Constraint, str] = {
    Constraint.GUEST: "they cannot be moved at all",
    Constraint.STATE: "this host takes nobody",
    Constraint.CPU: "its processor lacks what they see",
    Constraint.VCPUS: "not enough vCPUs left",
    Constraint.MEMORY: "not enough memory left",
    Constraint.DISK: "not enough local disk left",
    Constraint.STORAGE: "it does not reach their storage",
    Constraint.NETWORK: "it lacks a network of theirs",
    Constraint.LINK: "it has no migration link",
    Constraint.ANTI_AFFINITY: "one of their group is here",
    Constraint.PIN: "they are pinned elsewhere",
}


def host_page(look: Look, host: FleetHost, could: TakesIn, operations: Sequence[Operation], query: Query) -> HostPage:
    """Everything about one host.

    Args:
        look: the fleet.
        host: one of it.
        could: what `takes_in` said of it.
        operations: those that are not over.
        query: of its table of guests.
    """
    here = path("hosts", host.name)
    about = [each for each in operations if host.name in each.hosts or _touches(each, host.name)]
    return HostPage(
        name=host.name,
        sign=of_host(host),
        reason=host.reason.rstrip(": "),
        silence=f"{host.trouble or 'its agent says nothing'}, for {words.lasting(host.silent_for)}"
        if host.silent_for
        else "",
        gauges=_gauges(look, host),
        facts=_facts(host),
        pool=look.pool_of.get(host.name, 0),
        takes_in=could,
        takes_in_at=words.moment(could.at, look.at),
        guests=guest_table(look.guests_on.get(host.name, ()), here, query),
        operations=tuple(Link(title_of(each), path("operations", each.id), of_phase(each)) for each in about),
        drain="" if host.state == "draining" else address("/plan", {}, kind="drain", hosts=host.name),
        bring_home="" if host.state == "active" else address("/plan", {}, kind="restore", hosts=host.name),
        states=tuple(each for each in SETTABLE if each[0] != host.state),
    )


def _touches(operation: Operation, host: str) -> bool:
    return any(host in {item.source, item.destination} for item in operation.items if not item.over)


def _gauges(look: Look, host: FleetHost) -> tuple[Gauge, ...]:
    use = look.use[host.name]
    held = (host.disk or 0) - (host.disk_free or 0)
    disk = held / host.disk if host.disk else None
    planned = look.inventory.by_name.get(HostName(host.name))
    allowed = look.inventory.limits.vcpus_of(planned) if planned else 0
    given = use.vcpus / allowed if allowed else None
    return (
        Gauge("Cores busy", use.load, words.percent(use.load), f"{use.busy:.1f} of {host.cores or words.NONE}"),
        Gauge(
            "vCPUs given",
            given,
            words.percent(given),
            f"{use.vcpus} of {allowed or words.NONE} that {words.count(host.cores or 0, 'core')} may hold",
        ),
        Gauge(
            "Memory given", use.full, words.percent(use.full), f"{words.size(use.memory)} of {words.size(host.memory)}"
        ),
        Gauge("Local disk used", disk, words.percent(disk), f"{words.size(host.disk_free)} free"),
    )


def _facts(host: FleetHost) -> tuple[tuple[str, str], ...]:
    settings = host.settings
    facts: Mapping[str, str] = {
        "processor": host.processor,
        "cores": "" if host.cores is None else str(host.cores),
        "memory": words.size(host.memory),
        "memory free, as the host says": words.size(host.memory_free),
        "migration link": words.rate(host.link),
        "moves in at once": "" if settings.max_in is None else str(settings.max_in),
        "moves out at once": "" if settings.max_out is None else str(settings.max_out),
        "rack": settings.rack,
        "labels": ", ".join(settings.labels),
        "shared storages": ", ".join(settings.storages),
        "draws": f"{settings.watts:,.0f} W" if settings.watts else "",
        "costs": f"{settings.price_per_hour:,.3g} an hour" if settings.price_per_hour else "",
        "QEMU": ", ".join(host.qemu_versions),
        "agent": host.version,
    }
    return tuple((name, value) for name, value in facts.items() if value)
