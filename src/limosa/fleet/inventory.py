"""The fleet as one frozen value: what planners read, and what a plan is replayed on. Pure.

    inventory.on(host), inventory.free(host)        guests there; room left
    inventory.replayed(moves)                       the fleet after these moves

It holds what agents reported and what operators set, and no connection to either: the same planners run on a living
fleet, on a file and on a generated one. Hosts and guests stand in the order of their names and ids, however they were
given, so that equal fleets get equal plans; and equal processors are one shared value, for planners ask what fits what
once for each kind of processor.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, NewType, TypeVar

import msgspec

from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.units import Bytes, BytesPerSecond, GuestName, HostName, Seconds

GuestId = NewType("GuestId", str)
"""A guest's UUID: the only name that no two guests of a fleet share."""


class HostState(StrEnum):
    """What a host is used for. Only an active one takes guests in."""

    ACTIVE = "active"
    DRAINING = "draining"
    """Its guests are being moved away; closed to arrivals before they are counted."""
    DRAINED = "drained"
    MAINTENANCE = "maintenance"
    """Set aside by an operator; its agent may be stopped."""
    LOST = "lost"
    """Its agent is silent and the host is given up: what ran there is as it was last seen."""

    @property
    def said(self) -> str:
        """What a host of this state is: `drained`, `in maintenance`."""
        return f"in {self}" if self is HostState.MAINTENANCE else str(self)


C = TypeVar("C", HostCpu, GuestCpu)

KINDS_KEPT = 10_000
"""Kinds of processors after which the table of them begins anew."""


class _Shared:
    """Equal processors as one value; their own names are blanked, for no planner reads them."""

    def __init__(self) -> None:
        self._known: dict[HostCpu | GuestCpu, HostCpu | GuestCpu] = {}
        self._ids: set[int] = set()

    def one(self, cpu: C, blank: Callable[[C], C]) -> C:
        """The value that stands for all that are equal to this one."""
        if id(cpu) in self._ids:  # it is such a value itself; hashing hundreds of flags takes its time
            return cpu
        if len(self._known) >= KINDS_KEPT:
            self._known, self._ids = {}, set()
        plain = blank(cpu)
        found = self._known.setdefault(plain, plain)
        assert type(found) is type(cpu)
        self._ids.add(id(found))
        return found


_shared = _Shared()


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host, as its agent reported it and operators set it."""

    name: HostName
    state: HostState = HostState.ACTIVE
    cores: int
    """Logical processors."""
    memory: Bytes
    """What all guests together may have: the host's own share is taken off."""
    disk: Bytes = Bytes(0)
    """Size of the store of local disks."""
    disk_free: Bytes = Bytes(0)
    """Room left in it, as measured."""
    cpu: HostCpu | None = None
    """None where nobody has told: such a host takes nobody."""
    link: BytesPerSecond | None = None
    """Of its migration link, each way; None where nobody measured it, 0 where there is none."""
    rack: str = ""
    labels: tuple[str, ...] = ()
    storages: tuple[str, ...] = ()
    """Shared storages that it reaches."""
    networks: tuple[str, ...] = ()
    """Networks that it can plug a guest into."""
    watts: float = 0.0
    """What it draws more than switched off; 0 where not configured."""
    price_per_hour: float = 0.0
    """Of having it, in the operator's money; 0 where not configured."""
    max_in: int | None = None
    """Moves into it at once; None for the fleet's limit, 0 for a host that takes nobody."""
    max_out: int | None = None
    """Moves out of it at once; None for the fleet's limit."""
    silent_since: Seconds | None = None
    """Unix time of the last word of an agent that is missed: the host counts as lost, and nobody has given it up."""

    def __post_init__(self) -> None:
        """Share the processor with its equals."""
        if self.cpu is not None:
            cpu = _shared.one(self.cpu, lambda cpu: msgspec.structs.replace(cpu, host=""))
            msgspec.structs.force_setattr(self, "cpu", cpu)


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest, as it was last seen."""

    uuid: GuestId
    name: GuestName
    host: HostName
    vcpus: int
    memory: Bytes
    disk: Bytes = Bytes(0)
    """Allocated bytes of its disks on local storage, which a move copies; 0 where all of them are shared."""
    storages: tuple[str, ...] = ()
    """Shared storages that its other disks are on."""
    networks: tuple[str, ...] = ()
    cpu: GuestCpu | None = None
    """None where its process could not be asked: it stays."""
    load: float | None = None
    """Cores that it keeps busy; None where nobody measured."""
    dirty_rate: BytesPerSecond | None = None
    groups: tuple[str, ...] = ()
    """Anti-affinity: no two guests of a group share a host."""
    pin_hosts: tuple[HostName, ...] = ()
    """It may run on these hosts only; empty allows all."""
    pin_labels: tuple[str, ...] = ()
    """It needs a host with all of these labels."""
    shuns: tuple[HostName, ...] = ()
    """Hosts to which a move of it has failed: no plan sends it there again."""
    priority: int = 0
    """Higher ones leave first."""
    blocked: tuple[str, ...] = ()
    """What its agent says stands against any move, such as a pass-through device."""
    epoch: int = 0
    """Of its ownership (design section 6)."""
    home: HostName | None = None
    """Where it belongs: where it ran before an operation moved it away."""
    moved_at: Seconds | None = None
    """Unix time of its last move."""
    arriving: HostName | None = None
    """Destination of a move in flight: it takes room on both hosts, and no plan touches it."""

    def __post_init__(self) -> None:
        """Share the processor with its equals."""
        if self.cpu is not None:
            cpu = _shared.one(self.cpu, lambda cpu: msgspec.structs.replace(cpu, guest=""))
            msgspec.structs.force_setattr(self, "cpu", cpu)

    @property
    def busy(self) -> float:
        """Cores that it is taken to keep busy: as measured, else all it has."""
        return float(self.vcpus) if self.load is None else self.load


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation may use of the fleet, and what it has to leave."""

    moves_in: int = 2
    """Into one host at once."""
    moves_out: int = 2
    """Out of one host at once."""
    moves: int = 50
    """In the whole fleet at once."""
    link_share: float = 0.8
    """Of each host's link that moves may fill, 0 to 1."""
    rack_bandwidth: BytesPerSecond | None = None
    """Into or out of one rack; moves within a rack do not count. None for no limit."""
    racks: Mapping[str, BytesPerSecond] = {}
    """The same of racks that have a limit of their own, by name."""
    bandwidth: BytesPerSecond | None = None
    """All moves together."""
    overcommit: float = 1.0
    """vCPUs for each logical processor."""
    reserve: int = 1
    """Hosts whose loss the rest must be able to take over (N+1: 1) when hosts are switched off."""
    cooldown: Seconds = Seconds(3600.0)
    """A guest that moved less than this ago is not moved again to even out load."""

    def of_rack(self, rack: str) -> BytesPerSecond | None:
        """Bytes per second into, or out of, a rack; None for no limit."""
        return self.racks.get(rack, self.rack_bandwidth)

    def into(self, host: Host) -> int:
        """How many moves a host may take in at once."""
        return self.moves_in if host.max_in is None else host.max_in

    def out_of(self, host: Host) -> int:
        """How many moves may leave a host at once."""
        return self.moves_out if host.max_out is None else host.max_out

    def vcpus_of(self, host: Host) -> int:
        """How many vCPUs a host may hold. Whole ones, so that sums are exact; the small term is for 10 * 1.1."""
        return int(host.cores * self.overcommit + 1e-9)


class Move(msgspec.Struct, frozen=True):
    """One guest goes from one host to another."""

    guest: GuestId
    name: GuestName
    source: HostName
    destination: HostName


class Room(NamedTuple):
    """What is free on a host; negative where it is overfull."""

    vcpus: int
    memory: int
    """Bytes."""
    disk: int
    """Bytes."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All hosts and guests, and the limits that operations keep."""

    hosts: tuple[Host, ...]
    """By name."""
    guests: tuple[Guest, ...]
    """By id."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Put hosts and guests in order."""
        msgspec.structs.force_setattr(self, "hosts", tuple(sorted(self.hosts, key=lambda host: host.name)))
        msgspec.structs.force_setattr(self, "guests", tuple(sorted(self.guests, key=lambda guest: guest.uuid)))

    @cached_property
    def by_name(self) -> Mapping[HostName, Host]:
        """Hosts by name."""
        return {host.name: host for host in self.hosts}

    @cached_property
    def by_uuid(self) -> Mapping[GuestId, Guest]:
        """Guests by identity."""
        return {guest.uuid: guest for guest in self.guests}

    @cached_property
    def _residents(self) -> Mapping[HostName, tuple[Guest, ...]]:
        found: dict[HostName, list[Guest]] = defaultdict(list)
        for guest in self.guests:
            found[guest.host].append(guest)
        return {name: tuple(guests) for name, guests in found.items()}

    @cached_property
    def _arrivals(self) -> Mapping[HostName, tuple[Guest, ...]]:
        found: dict[HostName, list[Guest]] = defaultdict(list)
        for guest in self.guests:
            if guest.arriving is not None and guest.arriving != guest.host:
                found[guest.arriving].append(guest)
        return {name: tuple(guests) for name, guests in found.items()}

    def on(self, host: HostName) -> tuple[Guest, ...]:
        """Guests that run there."""
        return self._residents.get(host, ())

    def arriving_at(self, host: HostName) -> tuple[Guest, ...]:
        """Guests on their way there; they have their room already."""
        return self._arrivals.get(host, ())

    def free(self, name: HostName) -> Room:
        """What is left on a host.

        Raises:
            KeyError: there is no such host.
        """
        if (known := self._rooms.get(name)) is None:
            known = self._rooms[name] = self._room(name)
        return known

    @cached_property
    def _rooms(self) -> dict[HostName, Room]:
        return {}

    def _room(self, name: HostName) -> Room:
        host, there = self.by_name[name], (*self.on(name), *self.arriving_at(name))
        return Room(
            vcpus=self.limits.vcpus_of(host) - sum(guest.vcpus for guest in there),
            memory=host.memory - sum(guest.memory for guest in there),
            disk=host.disk_free - sum(guest.disk for guest in self.arriving_at(name)),
        )

    def replayed(self, moves: Iterable[Move]) -> "Inventory":
        """The fleet after these moves, in which nothing else has happened.

        Raises:
            ValueError: a guest is not where its move begins.
            KeyError: there is no such guest or host.
        """
        guests, disk_free = dict(self.by_uuid), {host.name: host.disk_free for host in self.hosts}
        for move in moves:
            guest = guests[move.guest]
            if guest.host != move.source:
                raise ValueError(f"{guest.name} runs on {guest.host}, not on {move.source}")
            disk_free[move.destination] = Bytes(disk_free[move.destination] - guest.disk)
            disk_free[move.source] = Bytes(disk_free[move.source] + guest.disk)
            guests[move.guest] = msgspec.structs.replace(guest, host=move.destination)
        return msgspec.structs.replace(self, guests=tuple(guests.values()), hosts=_with_room(self.hosts, disk_free))

    def in_state(self, state: HostState, names: Iterable[HostName]) -> "Inventory":
        """The same fleet with these hosts in another state."""
        chosen = frozenset(names)
        return msgspec.structs.replace(
            self,
            hosts=tuple(msgspec.structs.replace(h, state=state) if h.name in chosen else h for h in self.hosts),
        )


def _with_room(hosts: tuple[Host, ...], disk_free: Mapping[HostName, Bytes]) -> tuple[Host, ...]:
    return tuple(
        host
        if host.disk_free == disk_free[host.name]
        else msgspec.structs.replace(host, disk_free=disk_free[host.name])
        for host in hosts
    )
