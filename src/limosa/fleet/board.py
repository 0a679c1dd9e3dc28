"""The fleet as columns of numbers, on which planners try moves and take them back. Pure: it is a copy; numpy.

    board = Board(inventory, closed=["host-7"])
    board.hosts_for(guest)              for each host: may the guest go there now?
    board.move(guest, host)             it went there; never a guest twice
    mark = board.mark(); …; board.back_to(mark)

Guests and hosts are their places in the inventory here. A board is exact: it counts in whole vCPUs and bytes.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from limosa.cpu.fleet import Truth
from limosa.fleet.inventory import HostState, Inventory, Move
from limosa.fleet.kinds import Kinds
from limosa.units import HostName

VCPUS, MEMORY, DISK = range(3)
"""Rows of `need` and `free`."""

Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]


class Board:
    """A fleet in the middle of planning.

    Attributes:
        active: for each host: was it active before planning began?
        takes: for each host: is it open to arrivals?
        at: for each guest the place of its host.
        need: vCPUs, bytes of memory and of local disk that each guest takes; shape (3, guests).
        free: the same of what each host has left; shape (3, hosts).
        size: the same of what each host may hold at all; at least 1, so that one can divide by it.
        moved: guests that have moved: they stay where they are from then on.
    """

    def __init__(self, inventory: Inventory, closed: Iterable[HostName] = (), kinds: Kinds | None = None) -> None:
        self.inventory = inventory
        self.kinds = kinds or Kinds(inventory)
        self.index = {host.name: place for place, host in enumerate(inventory.hosts)}
        hosts, guests = inventory.hosts, inventory.guests
        self.active: Truth = np.array([host.state is HostState.ACTIVE for host in hosts], np.bool_)
        self.takes: Truth = self.active.copy()
        self.close(closed)
        self.at = np.array([self.index[guest.host] for guest in guests], np.intp)
        self.need: Numbers = _columns([(guest.vcpus, guest.memory, guest.disk) for guest in guests])
        self.size: Numbers = np.maximum(
            _columns([(inventory.limits.vcpus_of(host), host.memory, host.disk) for host in hosts]), 1
        )
        self.free: Numbers = _columns([inventory.free(host.name) for host in hosts])
        self.moved: set[int] = set()
        self.log: list[tuple[int, int, int]] = []
        """Guest, source, destination, in the order of the moves."""
        self._residents = _residents(self.at, len(hosts))
        self._company: dict[str, Numbers] = {}
        self._groups = [guest.groups for guest in guests]
        for guest in range(len(guests)):
            self._join(guest, int(self.at[guest]), 1)
        for guest, seen in enumerate(guests):
            if seen.arriving is not None and seen.arriving != seen.host:
                self._join(guest, self.index[seen.arriving], 1)  # its room is taken off by `free` already

    def _join(self, guest: int, host: int, count: int) -> None:
        for group in self._groups[guest]:
            if group not in self._company:
                self._company[group] = np.zeros(len(self.inventory.hosts), np.int64)
            self._company[group][host] += count

    def close(self, hosts: Iterable[HostName]) -> None:
        """Let nobody in there from now on."""
        for name in hosts:
            self.takes[self.index[name]] = False

    def on(self, host: int) -> tuple[int, ...]:
        """Guests that are there, in the order of the inventory."""
        return tuple(sorted(self._residents[host]))

    def movable(self, guest: int) -> bool:
        """Whether this guest may still be moved, somewhere."""
        return guest not in self.moved and bool(self.kinds.takers(guest).any())

    def hosts_for(self, guest: int) -> Truth:
        """For each host: may this guest go there now?"""
        fits = self.kinds.takers(guest) & self.takes
        for free, need in zip(self.free, self.need[:, guest].tolist(), strict=True):
            if need:
                fits &= free >= need
        for group in self._groups[guest]:
            fits &= self._company[group] == 0
        fits[self.at[guest]] = False
        return fits

    def lonely(self, guest: int) -> Truth:
        """For each host: does nobody of this guest's groups run there?"""
        alone = np.ones(len(self.takes), np.bool_)
        for group in self._groups[guest]:
            alone &= self._company[group] == 0
        return alone

    def rivals(self, guest: int, host: int) -> tuple[int, ...]:
        """Guests on a host that share a group with this one."""
        groups = set(self._groups[guest])
        return tuple(other for other in self.on(host) if other != guest and groups.intersection(self._groups[other]))

    def guests_for(self, host: int) -> Truth:
        """For each guest: may it go to this host now?"""
        if not self.takes[host]:
            return np.zeros(len(self.at), np.bool_)
        fits: Truth = self.kinds.hosts[:, host][self.kinds.of_guest] & (self.at != host)
        fits &= ((self.need <= self.free[:, host, None]) | (self.need == 0)).all(axis=0)
        crowded = {group for group, company in self._company.items() if company[host]}
        if crowded:
            for guest in np.flatnonzero(fits).tolist():
                fits[guest] = crowded.isdisjoint(self._groups[guest])
        return fits

    def move(self, guest: int, host: int) -> None:
        """The guest goes there; the caller has asked whether it may."""
        assert guest not in self.moved, "never a guest twice in one operation"
        source = int(self.at[guest])
        self.shift(guest, source, host)
        self.moved.add(guest)
        self.log.append((guest, source, host))

    def shift(self, guest: int, source: int, host: int) -> None:
        """The numbers of a move alone: no log, and whoever calls it shifts back."""
        self.free[:, source] += self.need[:, guest]
        self.free[:, host] -= self.need[:, guest]
        self._join(guest, source, -1)
        self._join(guest, host, 1)
        self._residents[source].discard(guest)
        self._residents[host].add(guest)
        self.at[guest] = host

    def promise(self, guest: int, host: int, count: int = 1) -> None:
        """Room there for a guest that is on its way; -1 takes the promise back."""
        self.free[:, host] -= count * self.need[:, guest]
        self._join(guest, host, count)

    def arrive(self, guest: int, host: int) -> None:
        """A guest on its way is there."""
        self.promise(guest, host, -1)
        self.shift(guest, int(self.at[guest]), host)

    def mark(self) -> int:
        """Where we are; for `back_to`."""
        return len(self.log)

    def back_to(self, mark: int) -> None:
        """Take back all moves since then, the last one first."""
        while len(self.log) > mark:
            guest, source, host = self.log.pop()
            self.shift(guest, host, source)
            self.moved.discard(guest)

    def take_back_from(self, source: int) -> None:
        """Take back all moves out of a host to which nobody moved: the others stay valid without them."""
        kept = []
        for guest, left, host in self.log:
            if left == source:
                self.shift(guest, host, left)
                self.moved.discard(guest)
            else:
                kept.append((guest, left, host))
        self.log = kept

    def moves(self, since: int = 0) -> tuple[Move, ...]:
        """The moves, with names."""
        hosts, guests = self.inventory.hosts, self.inventory.guests
        return tuple(
            Move(guests[guest].uuid, guests[guest].name, hosts[source].name, hosts[host].name)
            for guest, source, host in self.log[since:]
        )


def _columns(rows: Sequence[Sequence[int]]) -> Numbers:
    return np.ascontiguousarray(np.array(rows, np.int64).reshape(len(rows), 3).T)


def _residents(at: NDArray[np.intp], hosts: int) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(hosts)]
    for guest, host in enumerate(at.tolist()):
        found[host].add(guest)
    return found
