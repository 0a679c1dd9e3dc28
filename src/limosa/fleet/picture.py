"""From what the database keeps to what planners read and people are shown. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from limosa.fleet.audit import ON_THE_WAY, claims
from limosa.fleet.inventory import Guest, GuestId, Host, HostState, Inventory, Limits
from limosa.fleet.registry import NEVER, KeptGuest, KeptHost
from limosa.units import GIB, Bytes, BytesPerSecond, GuestName, HostName, Seconds
from limosa.wire.fleet import FleetGuest, FleetHost

SILENT_AFTER = 30.0
"""Seconds without a word from an agent after which its host is shown as silent."""
OWN_SHARE = 0.05
OWN_LEAST = 1 * GIB
"""Memory that a host keeps for itself: this share of it, at least so much, but never more than half."""
UNKNOWN_LINK = 125e6
"""Bytes per second of a migration link of which neither driver nor operator says anything: a gigabit."""


def silent_for(seen: float, now: float) -> float:
    """Seconds since an agent spoke, where that is too long ago; 0 while it talks."""
    silence = now - seen
    return silence if silence > SILENT_AFTER else 0.0


def inventory(hosts: Iterable[KeptHost], guests: Iterable[KeptGuest], limits: Limits, now: float) -> Inventory:
    """What planners read. A silent host takes nobody, and its guests stay; a guest on its way is there once."""
    known = {host.name: host for host in hosts if host.machine is not None}
    resident, arriving = _residents(guests)
    return Inventory(
        hosts=tuple(_host(host, now) for host in known.values()),
        guests=tuple(
            _guest(guest, arriving.get(guest.report.key), silent_for(known[guest.host].seen, now))
            for guest in resident
            if guest.host in known
        ),
        limits=limits,
    )


def _residents(guests: Iterable[KeptGuest]) -> tuple[list[KeptGuest], dict[str, str]]:
    """Guests where they are, and the hosts at which twins of theirs wait."""
    best: dict[str, KeptGuest] = {}
    arriving: dict[str, str] = {}
    for guest in guests:
        # Without a UUID, a guest of the same name on another host is another guest.
        key = guest.report.key if guest.report.shown.uuid else f"{guest.report.key} on {guest.host}"
        if guest.report.shown.state in ON_THE_WAY:
            arriving[guest.report.key] = guest.host
        elif claims(guest.report) and (key not in best or best[key].report.epoch <= guest.report.epoch):
            best[key] = guest
    return list(best.values()), arriving


def _host(kept: KeptHost, now: float) -> Host:
    machine, settings = kept.machine, kept.settings
    assert machine is not None
    own = min(max(int(machine.memory * OWN_SHARE), OWN_LEAST), machine.memory // 2)
    silent = silent_for(kept.seen, now) > 0 and kept.state is HostState.ACTIVE
    return Host(
        name=HostName(kept.name),
        state=HostState.LOST if silent else kept.state,
        cores=machine.cores,
        memory=Bytes(machine.memory - own),
        disk=Bytes(machine.disk),
        disk_free=Bytes(machine.disk_free),
        cpu=machine.cpu,
        link=BytesPerSecond(settings.link or machine.link or UNKNOWN_LINK),
        rack=settings.rack,
        labels=settings.labels,
        storages=settings.storages,
        networks=machine.networks,
        watts=settings.watts,
        price_per_hour=settings.price_per_hour,
        max_in=settings.max_in,
        max_out=settings.max_out,
    )


def _guest(kept: KeptGuest, arriving: str | None, silent: float) -> Guest:
    report, shown = kept.report, kept.report.shown
    unreachable = (f"the agent of {kept.host} has been silent for {silent:.0f} s",) if silent else ()
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
        blocked=(*unreachable, *report.blocked),
        epoch=report.epoch,
        home=HostName(kept.home) if kept.home else None,
        moved_at=Seconds(kept.moved_at) if kept.moved_at is not None else None,
        arriving=HostName(arriving) if arriving and arriving != kept.host else None,
    )


def shown_hosts(hosts: Sequence[KeptHost], guests: Iterable[KeptGuest], now: float) -> tuple[FleetHost, ...]:
    """Hosts for people."""
    counts = Counter(guest.host for guest in guests if claims(guest.report))
    return tuple(shown_host(host, counts, now) for host in hosts)


def shown_host(kept: KeptHost, counts: Mapping[str, int], now: float) -> FleetHost:
    """One host for people."""
    machine = kept.machine
    told = FleetHost(
        name=kept.name,
        state=kept.state,
        reason=kept.reason,
        settings=kept.settings,
        silent_for=silent_for(kept.seen, now) if kept.seen != NEVER else SILENT_AFTER,
        trouble=kept.trouble or ("" if kept.seen != NEVER else "its agent was never reached"),
        guests=counts.get(kept.name, 0),
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


def shown_guests(guests: Iterable[KeptGuest], hosts: Iterable[KeptHost], now: float) -> tuple[FleetGuest, ...]:
    """Guests for people, each where it is; twins that wait are left out."""
    seen = {host.name: host.seen for host in hosts}
    resident, _ = _residents(guests)
    return tuple(shown_guest(guest, silent_for(seen.get(guest.host, NEVER), now)) for guest in resident)


def shown_guest(kept: KeptGuest, silent: float) -> FleetGuest:
    """One guest for people."""
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
    )
