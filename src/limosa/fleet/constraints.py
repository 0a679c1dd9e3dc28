"""Who can go where, and what stands against it. Pure.

`refusals` is the rule, for one guest and one host: everything that keeps it from going there now. `explain` asks it of
every host, and puts hosts that say the same together. The planners ask the same questions of all hosts at once
(board.py); tests hold the two against each other.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from limosa.cpu.compat import Severity, compatible
from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.fleet.inventory import Guest, GuestId, Host, HostState, Inventory
from limosa.units import GuestName, HostName, format_count, format_size, format_time


class Constraint(StrEnum):
    """What can stand between a guest and a host."""

    GUEST = "guest"
    """The guest itself cannot be moved."""
    STATE = "state"
    CPU = "cpu"
    VCPUS = "vcpus"
    MEMORY = "memory"
    DISK = "disk"
    STORAGE = "storage"
    NETWORK = "network"
    LINK = "link"
    TRIED = "tried"
    ANTI_AFFINITY = "anti-affinity"
    PIN = "pin"


class Refusal(msgspec.Struct, frozen=True):
    """One thing that stands against a guest on these hosts."""

    constraint: Constraint
    why: str
    hosts: tuple[HostName, ...]


class Left(msgspec.Struct, frozen=True):
    """A guest that a plan leaves where it is, and why: for each host at least one refusal."""

    guest: GuestId
    name: GuestName
    host: HostName
    refusals: tuple[Refusal, ...]


def immovable(guest: Guest, host: Host) -> str:
    """Why no plan may touch this guest, which is on this host; empty where one may."""
    if host.state is HostState.LOST:
        return f"{host.name} is lost" if host.silent_since is None else silence(host.name, host.silent_since)
    if guest.blocked:
        return "; ".join(guest.blocked)
    if guest.arriving is not None:
        return f"a move to {guest.arriving} is under way"
    return "" if guest.cpu else "what it sees of its processor is not known"


def silence(host: str, since: float) -> str:
    """Why nothing is done with the guests of a host whose agent was last heard then, seconds since 1970."""
    return f"the agent of {host} has been silent since {format_time(since)}"


Said = Iterator[tuple[Constraint, str]]
Heard = dict[tuple[int, int], tuple[str, ...]]
"""What was said of two processors, by their ids in memory: `compatible` is dear, and a fleet has few of them."""


def refusals(inventory: Inventory, guest: Guest, host: Host, heard: Heard | None = None) -> tuple[Refusal, ...]:
    """All that keeps a guest from being moved to a host in this moment; empty where it may go.

    Args:
        inventory: where both are.
        guest: it is to go there.
        host: to this host.
        heard: kept by a caller that asks for many pairs of one inventory.
    """
    found = (
        *_of_guest(inventory, guest, host),
        *_of_state(host),
        *_of_cpu(guest, host, {} if heard is None else heard),
        *_of_room(inventory, guest, host),
        *_of_places(guest, host),
        *_of_company(inventory, guest, host),
    )
    return tuple(Refusal(constraint, why, (host.name,)) for constraint, why in found)


def _of_guest(inventory: Inventory, guest: Guest, host: Host) -> Said:
    if why := immovable(guest, inventory.by_name[guest.host]):
        yield Constraint.GUEST, why
    if guest.host == host.name:
        yield Constraint.GUEST, "it runs there"


def _of_state(host: Host) -> Said:
    if host.state is HostState.LOST and host.silent_since is not None:
        yield Constraint.STATE, f"has been silent since {format_time(host.silent_since)}"
    elif host.state is not HostState.ACTIVE:
        yield Constraint.STATE, f"is {host.state.said}"
    if host.max_in == 0:
        yield Constraint.STATE, "takes no moves in (max_in)"


def _of_cpu(guest: Guest, host: Host, heard: Heard) -> Said:
    if guest.cpu is None:
        return
    if host.cpu is None:
        yield Constraint.CPU, "what its processor can give is not known"
        return
    pair = id(guest.cpu), id(host.cpu)
    if pair not in heard:
        heard[pair] = tuple(_blocking(guest.cpu, host.cpu))
    for what in heard[pair]:
        yield Constraint.CPU, what


def _blocking(guest: GuestCpu, host: HostCpu) -> Iterator[str]:
    # Hosts with equal processors shall give equal answers, so that they can be put together.
    sees, there = msgspec.structs.replace(guest, guest="the guest"), msgspec.structs.replace(host, host="it")
    return (finding.what for finding in compatible(sees, there) if finding.severity is Severity.BLOCKS)


def _of_room(inventory: Inventory, guest: Guest, host: Host) -> Said:
    free = inventory.free(host.name)
    if guest.vcpus > free.vcpus:
        yield Constraint.VCPUS, f"has room for {format_count(max(0, free.vcpus), 'vCPU')}; it takes {guest.vcpus}"
    if guest.memory > free.memory:
        yield Constraint.MEMORY, f"has {_size(free.memory)} of memory free; it takes {_size(guest.memory)}"
    if guest.disk and guest.disk > free.disk:
        yield Constraint.DISK, f"has {_size(free.disk)} of disk free; it takes {_size(guest.disk)}"


def _size(size: int) -> str:
    return format_size(max(0, size))


def _of_places(guest: Guest, host: Host) -> Said:
    if lacking := _lacking(guest.storages, host.storages):
        yield Constraint.STORAGE, f"does not reach {lacking}"
    if lacking := _lacking(guest.networks, host.networks):
        yield Constraint.NETWORK, f"does not have the network {lacking}"
    if host.link == 0.0:
        yield Constraint.LINK, "has no migration link"
    if host.name in guest.shuns:
        yield Constraint.TRIED, "a move of it there has failed"
    if guest.pin_hosts and host.name not in guest.pin_hosts:
        yield Constraint.PIN, f"the guest is pinned to {', '.join(guest.pin_hosts)}"
    if lacking := _lacking(guest.pin_labels, host.labels):
        yield Constraint.PIN, f"lacks the label {lacking}"


def _lacking(wanted: Iterable[str], there: tuple[str, ...]) -> str:
    return ", ".join(name for name in wanted if name not in there)


def _of_company(inventory: Inventory, guest: Guest, host: Host) -> Said:
    if not guest.groups:
        return
    for other in (*inventory.on(host.name), *inventory.arriving_at(host.name)):
        shared = [group for group in guest.groups if group in other.groups]
        if shared and other.uuid != guest.uuid:
            yield Constraint.ANTI_AFFINITY, f"{other.name} of the group {shared[0]} is there"


def explain(inventory: Inventory, guest: Guest, heard: Heard | None = None) -> tuple[Refusal, ...]:
    """For every other host what stands against this guest there; hosts that say the same are put together.

    The constraint that most hosts name comes first. A guest that cannot be moved at all has one refusal, of all hosts.
    """
    others = tuple(host for host in inventory.hosts if host.name != guest.host)
    if why := immovable(guest, inventory.by_name[guest.host]):
        return (Refusal(Constraint.GUEST, why, tuple(host.name for host in others)),)
    heard = {} if heard is None else heard
    told: dict[tuple[Constraint, str], list[HostName]] = {}
    for host in others:
        for refusal in refusals(inventory, guest, host, heard):
            told.setdefault((refusal.constraint, refusal.why), []).append(host.name)
    found = (Refusal(constraint, why, tuple(hosts)) for (constraint, why), hosts in told.items())
    return tuple(sorted(found, key=lambda refusal: -len(refusal.hosts)))


def left(inventory: Inventory, guests: Iterable[Guest]) -> tuple[Left, ...]:
    """What is to be said of guests that a plan leaves, on the fleet as the plan leaves it."""
    heard: Heard = {}
    return tuple(Left(guest.uuid, guest.name, guest.host, explain(inventory, guest, heard)) for guest in guests)
