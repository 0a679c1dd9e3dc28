"""The fleet in one look: what the API says of hosts and guests, and what follows from it. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec

from limosa.cpu.facts import HostCpu
from limosa.cpu.fleet import fold
from limosa.cpu.pools import Pool, pools
from limosa.cpu.sides import side_by_side
from limosa.fleet.inventory import Inventory
from limosa.wire.fleet import FleetGuest, FleetHost


@dataclass(frozen=True)
class Look:
    """Hosts and guests as they were last reported.

    Attributes:
        hosts: as GET /v1/hosts says them.
        guests: as GET /v1/guests says them.
        inventory: the same fleet as planners read it; without hosts that have never reported.
        at: when, seconds since 1970.
    """

    hosts: tuple[FleetHost, ...]
    guests: tuple[FleetGuest, ...]
    inventory: Inventory
    at: float = field(compare=False)

    @cached_property
    def host(self) -> Mapping[str, FleetHost]:
        """Hosts by name."""
        return {host.name: host for host in self.hosts}

    @cached_property
    def guest(self) -> Mapping[str, FleetGuest]:
        """Guests by id."""
        return {guest.id: guest for guest in self.guests}

    @cached_property
    def guests_on(self) -> Mapping[str, Sequence[FleetGuest]]:
        """For each host its guests."""
        found: dict[str, list[FleetGuest]] = defaultdict(list)
        for guest in self.guests:
            found[guest.host].append(guest)
        return found

    @cached_property
    def use(self) -> Mapping[str, "Use"]:
        """For each host what its guests have of it."""
        return {host.name: used(host, self.guests_on.get(host.name, ())) for host in self.hosts}

    @cached_property
    def cpus(self) -> tuple[HostCpu, ...]:
        """Processors of the hosts that told of them, each with its host's name."""
        return tuple(
            msgspec.structs.replace(host.cpu, host=host.name) for host in self.inventory.hosts if host.cpu is not None
        )

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """Pools of interchangeable hosts."""
        return pools_of(self.cpus)

    @cached_property
    def pool_of(self) -> Mapping[str, int]:
        """For each host the number of its pool, from 1."""
        return {name: number for number, pool in enumerate(self.pools, 1) for name in pool.hosts}


def pools_of(cpus: Iterable[HostCpu]) -> tuple[Pool, ...]:
    """Pools of hosts, found among their kinds of processors: a fleet has few of them."""
    kinds: dict[HostCpu, list[str]] = {}
    for cpu in cpus:
        kinds.setdefault(msgspec.structs.replace(cpu, host=""), []).append(cpu.host)
    members = {names[0]: names for names in kinds.values()}
    found = pools(fold(side_by_side([msgspec.structs.replace(c, host=n[0]) for c, n in kinds.items()]).hosts))
    return tuple(replace(pool, hosts=tuple(sorted(n for kind in pool.hosts for n in members[kind]))) for pool in found)


@dataclass(frozen=True, slots=True)
class Use:
    """What guests have of a host; shares of 1, None where the host did not tell its size."""

    busy: float
    """Cores; a guest that nobody measured counts with all that it has."""
    vcpus: int
    memory: int
    """Bytes."""
    load: float | None
    """Of its cores."""
    full: float | None
    """Of its memory."""


def used(host: FleetHost, guests: Sequence[FleetGuest]) -> Use:
    """What these guests have of their host."""
    busy = sum(float(guest.vcpus or 0) if guest.load is None else guest.load for guest in guests)
    memory = sum(guest.memory or 0 for guest in guests)
    return Use(
        busy=busy,
        vcpus=sum(guest.vcpus or 0 for guest in guests),
        memory=memory,
        load=busy / host.cores if host.cores else None,
        full=memory / host.memory if host.memory else None,
    )
