"""From what the database keeps to what planners read and people are shown. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from limosa.fleet.audit import ON_THE_WAY, claims
from limosa.fleet.census import NEVER, Census, KeptGuest, KeptHost
from limosa.fleet.constraints import silence
from limosa.fleet.inventory import Guest, GuestId, Host, HostState, Inventory, Limits
from limosa.units import GIB, Bytes, BytesPerSecond, GuestName, HostName, Seconds
from limosa.wire.fleet import FleetGuest, FleetHost

SILENT_AFTER = 30.0
"""Seconds without a word from an agent after which its host is shown as silent."""
OWN_SHARE = 0.05
OWN_LEAST = 1 * GIB
"""Memory that a host keeps for itself: this share of it, at least so much, but never more than half."""


def silent_for(seen: float, now: float) -> float:
    """Seconds since an agent spoke, where that is too long ago; 0 while it talks."""
    silence = now - seen
    return silence if silence > SILENT_AFTER else 0.0


class Drawn:
    """Guests as planners read them; one that has not changed since is not drawn again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[KeptGuest, Guest]] = {}

    def all(self, guests: Iterable[KeptGuest]) -> list[Guest]:
        """These guests, where they are and free to move; others are forgotten."""
        before, self._known = self._known, {}
        for kept in guests:
            known = before.get(kept.place)
            self._known[kept.place] = known if known is not None and known[0] is kept else (kept, _guest(kept))
        return [guest for _, guest in self._known.values()]


def hosts(census: Census, now: float) -> dict[str, Host]:
    """The hosts that planners read, by name; a silent one takes nobody."""
    return {host.name: _host(host, now) for host in census.hosts() if host.machine is not None}


def inventory(census: Census, limits: Limits, now: float, drawn: Drawn) -> Inventory:
    """What planners read.

    A silent host takes nobody, and its guests stay, as does a guest that two hosts claim; one on its way is there once.
    """
    known = hosts(census, now)
    where = _residents(census.guests())
    silent_since = {host.name: host.seen for host in census.hosts() if silent_for(host.seen, now)}
    return Inventory(
        hosts=tuple(known.values()),
        guests=tuple(
            _as_of_now(guest, where, silent_since.get(guest.host))
            for guest in drawn.all(guest for guest in where.resident if guest.host in known)
        ),
        limits=limits,
    )


def host_of(census: Census, key: str) -> str:
    """Where a guest was last seen; empty where it is not known."""
    resident = _residents(census.reports_of(key)).resident
    return resident[0].host if resident else ""


def _as_of_now(guest: Guest, where: "_Where", silent_since: float | None) -> Guest:
    """A guest with what does not follow from its own report."""
    if silent_since is not None:
        guest = msgspec.structs.replace(guest, blocked=(silence(guest.host, silent_since), *guest.blocked))
    if guest.uuid in where.claimants:
        why = f"{' and '.join(where.claimants[guest.uuid])} each say that they own it"
        guest = msgspec.structs.replace(guest, blocked=(why, *guest.blocked))
    arriving = where.arriving.get(guest.uuid)
    if arriving and arriving != guest.host:
        guest = msgspec.structs.replace(guest, arriving=HostName(arriving))
    return guest


class _Where(NamedTuple):
    """Guests where they are, the hosts at which twins of theirs wait, and the owners of those that have several."""

    resident: list[KeptGuest]
    arriving: Mapping[str, str]
    claimants: Mapping[str, tuple[str, ...]]


def _residents(guests: Iterable[KeptGuest]) -> _Where:
    best: dict[str, KeptGuest] = {}
    arriving: dict[str, str] = {}
    claimants: dict[str, tuple[str, ...]] = {}
    for guest in guests:
        # Without a UUID, a guest of the same name on another host is another guest.
        key = guest.report.key if guest.report.shown.uuid else f"{guest.report.key} on {guest.host}"
        if guest.report.shown.state in ON_THE_WAY:
            arriving[guest.report.key] = guest.host
        elif claims(guest.report):
            other = best.get(key)
            if other is None or other.report.epoch < guest.report.epoch:
                # A source that gave the guest up may tell so later than the destination tells that it took it.
                best[key] = guest
                claimants.pop(key, None)
            elif other.report.epoch == guest.report.epoch:
                best[key] = guest
                claimants[key] = tuple(sorted({*claimants.get(key, ()), other.host, guest.host}))
    return _Where(list(best.values()), arriving, claimants)


def _host(kept: KeptHost, now: float) -> Host:
    machine, settings = kept.machine, kept.settings
    assert machine is not None
    own = min(max(int(machine.memory * OWN_SHARE), OWN_LEAST), machine.memory // 2)
    link = settings.link or machine.link
    silent = silent_for(kept.seen, now) > 0 and kept.state is HostState.ACTIVE
    return Host(
        name=HostName(kept.name),
        state=HostState.LOST if silent else kept.state,
        cores=machine.cores,
        memory=Bytes(machine.memory - own),
        disk=Bytes(machine.disk),
        disk_free=Bytes(machine.disk_free),
        cpu=machine.cpu,
        link=BytesPerSecond(link) if link else None,
        rack=settings.rack,
        labels=settings.labels,
        storages=settings.storages,
        networks=machine.networks,
        watts=settings.watts,
        price_per_hour=settings.price_per_hour,
        max_in=settings.max_in,
        max_out=settings.max_out,
        silent_since=Seconds(kept.seen) if silent else None,
    )


def _guest(kept: KeptGuest) -> Guest:
    report, shown = kept.report, kept.report.shown
    return Guest(
        uuid=GuestId(report.key),
        name=GuestName(shown.name),
        host=HostName(kept.host),
        vcpus=shown.vcpus or 1,
        memory=Bytes(shown.memory or 0),
        disk=Bytes(report.disk),
        networks=report.networks,
        cpu=report.cpu,
        load=report.load,
        groups=kept.rules.groups,
        pin_hosts=tuple(map(HostName, kept.rules.pin_hosts)),
        pin_labels=kept.rules.pin_labels,
        priority=kept.rules.priority,
        blocked=report.blocked,
        epoch=report.epoch,
        home=HostName(kept.home) if kept.home else None,
        moved_at=Seconds(kept.moved_at) if kept.moved_at is not None else None,
    )


def shown_hosts(census: Census, now: float) -> tuple[FleetHost, ...]:
    """Hosts for people."""
    return tuple(shown_host(host, census.claimed_by(host.name), now) for host in census.hosts())


def shown_host(kept: KeptHost, guests: int, now: float) -> FleetHost:
    """One host, with so many guests, for people."""
    machine = kept.machine
    told = FleetHost(
        name=kept.name,
        state=kept.state,
        reason=kept.reason,
        settings=kept.settings,
        silent_for=silent_for(kept.seen, now) if kept.seen != NEVER else SILENT_AFTER,
        trouble=kept.trouble or ("" if kept.seen != NEVER else "its agent was never reached"),
        guests=guests,
    )
    if machine is None:
        return told
    return msgspec.structs.replace(
        told,
        cores=machine.cores,
        memory=machine.memory,
        memory_free=machine.memory_free,
        disk=machine.disk,
        disk_free=machine.disk_free,
        link=kept.settings.link or machine.link,
        version=machine.version,
        qemu_versions=machine.qemu_versions,
        processor=machine.cpu.processor if machine.cpu else "",
    )


def shown_guests(census: Census, now: float) -> tuple[FleetGuest, ...]:
    """Guests for people, each where it is; twins that wait are left out."""
    return _shown_all(census, _residents(census.guests()), now)


def shown_from(census: Census, after: str, limit: int, now: float) -> tuple[FleetGuest, ...]:
    """The first `limit` guests for people behind a cursor, in the cursors' order (`cursor_of`)."""
    key, _, _ = after.partition(" ")
    found: list[FleetGuest] = []
    for each in census.ids_from(key):
        if len(found) >= limit:
            break
        shown = _shown_all(census, _residents(census.reports_of(each)), now)
        found += sorted((guest for guest in shown if cursor_of(guest) > after), key=cursor_of)
    return tuple(found[:limit])


def cursor_of(guest: FleetGuest) -> str:
    """Where a guest stands in lists: by id, and by host where several hosts have guests without a UUID."""
    return f"{guest.id} {guest.host}"


def shown_on(census: Census, host: str, now: float) -> tuple[FleetGuest, ...]:
    """Guests of one host for people."""
    found = (_residents(census.reports_of(guest.report.key)) for guest in census.on(host))
    return tuple(shown for where in found for shown in _shown_all(census, where, now) if shown.host == host)


def shown_one(census: Census, key: str, now: float) -> FleetGuest | None:
    """One guest for people; None where it is on its way, or given up."""
    shown = _shown_all(census, _residents(census.reports_of(key)), now)
    return shown[0] if shown else None


def _shown_all(census: Census, where: _Where, now: float) -> tuple[FleetGuest, ...]:
    def silent(name: str) -> float:
        host = census.host(name)
        return silent_for(host.seen if host else NEVER, now)

    return tuple(
        shown_guest(guest, silent(guest.host), where.claimants.get(guest.report.key, ())) for guest in where.resident
    )


def shown_guest(kept: KeptGuest, silent: float, owners: tuple[str, ...] = ()) -> FleetGuest:
    """One guest for people; `owners`: the hosts that claim it, where several do."""
    report, shown = kept.report, kept.report.shown
    return FleetGuest(
        id=report.key,
        name=shown.name,
        host=kept.host,
        state=shown.state,
        memory=shown.memory,
        vcpus=shown.vcpus,
        disk=report.disk,
        load=report.load,
        epoch=report.epoch,
        blocked=report.blocked,
        rules=kept.rules,
        home=kept.home,
        silent_for=silent,
        owners=owners,
    )
