"""Which kind of guest fits which kind of host, whatever else runs there: one table for a whole fleet. Pure; numpy.

A fleet has few kinds of processors, so `compatible` is asked once for each pair of kinds, and flags are compared as
rows of words. What cannot be moved has a row of its own that is false everywhere.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from limosa.cpu.compat import Severity, compatible
from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.cpu.fleet import Truth, pack, rows_within
from limosa.fleet.constraints import immovable
from limosa.fleet.inventory import Guest, Host, Inventory

C = TypeVar("C", GuestCpu, HostCpu)
T = TypeVar("T")
Places = NDArray[np.intp]
Wants = tuple[tuple[str, ...], ...]


class Kinds:
    """For each guest the hosts that could take it if they were empty.

    Attributes:
        of_guest: for each guest the row of its kind in `hosts`.
        hosts: kinds of guests against hosts, shape (kinds, hosts): processors, storages, networks, links and pins. Host
            states, room and company are left out: they change.
    """

    def __init__(self, inventory: Inventory) -> None:
        guest_cpus, guest_kind = _folded([guest.cpu for guest in inventory.guests])
        host_cpus, host_kind = _folded([host.cpu for host in inventory.hosts])
        table = processors(guest_cpus, host_cpus)[:, host_kind]
        rows: dict[tuple[object, ...], int] = {}
        places: dict[Wants, Truth] = {}
        found: list[Truth] = []
        self.of_guest = np.empty(len(inventory.guests), np.intp)
        for place, (guest, kind) in enumerate(zip(inventory.guests, guest_kind.tolist(), strict=True)):
            wants = _wants(guest)
            stays = immovable(guest, inventory.by_name[guest.host])
            key = (0 if stays else kind, wants)
            if (row := rows.get(key)) is None:
                row = rows[key] = len(found)
                if (there := places.get(wants)) is None:
                    there = places[wants] = _places(inventory.hosts, guest)
                found.append(there & table[key[0]])
            self.of_guest[place] = row
        self.hosts: Truth = np.array(found, np.bool_).reshape(len(found), len(inventory.hosts))

    def takers(self, guest: int) -> Truth:
        """For each host: could it take this guest, if it were empty?"""
        row: Truth = self.hosts[self.of_guest[guest]]
        return row


def _folded(cpus: Sequence[C | None]) -> tuple[list[C | None], Places]:
    """Distinct processors, the unknown one first, and for each the place of its own; equal ones are one value."""
    kinds: list[C | None] = [None]
    seen = {id(None): 0}
    found = np.empty(len(cpus), np.intp)
    for place, cpu in enumerate(cpus):
        if (kind := seen.get(id(cpu))) is None:
            kind = seen[id(cpu)] = len(kinds)
            kinds.append(cpu)
        found[place] = kind
    return kinds, found


def processors(guests: Sequence[GuestCpu | None], hosts: Sequence[HostCpu | None]) -> Truth:
    """Row i, column j: can a guest with processor i run on host processor j? Shape (guests, hosts); None never can."""
    table = np.zeros((len(guests), len(hosts)), np.bool_)
    if len(guests) > 1 and len(hosts) > 1:
        table[1:, 1:] = _flags_within([g for g in guests if g], [h for h in hosts if h])
        table[1:, 1:] &= _facts_within([g for g in guests if g], [h for h in hosts if h])
    return table


def _flags_within(guests: Sequence[GuestCpu], hosts: Sequence[HostCpu]) -> Truth:
    seen, there = [cpu.mask for cpu in guests], [cpu.mask | cpu.unsure for cpu in hosts]
    words = max(len(pack(seen)), len(pack(there)))
    found = np.empty((len(guests), len(hosts)), np.bool_)
    for part, rows in rows_within(pack(seen, words), np.invert(pack(there, words))):
        found[part] = rows
    return found


def _facts_within(guests: Sequence[GuestCpu], hosts: Sequence[HostCpu]) -> Truth:
    """What blocks besides flags. Few combinations of such facts are distinct: each pair of them is asked once."""
    seen, which_guest = _distinct(map(_facts_of_guest, guests))
    there, which_host = _distinct(map(_facts_of_host, hosts))
    table = np.array([[_passes(guest, host) for host in there] for guest in seen], np.bool_)
    found: Truth = table.reshape(len(seen), len(there))[np.ix_(which_guest, which_host)]
    return found


def _passes(guest: GuestCpu, host: HostCpu) -> bool:
    return all(finding.severity is not Severity.BLOCKS for finding in compatible(guest, host))


def _facts_of_guest(cpu: GuestCpu) -> GuestCpu:
    """Only what `compatible` can find to block, besides missing flags."""
    return GuestCpu(
        guest="",
        model="",
        flags=tuple(name for name in cpu.flags if name == "invtsc"),
        accel=cpu.accel,
        machine=cpu.machine,
        qemu=(0, 0, 0),
        vendor=cpu.vendor,
        phys_bits=cpu.phys_bits,
        tsc_khz=cpu.tsc_khz,
        hyperv=cpu.hyperv,
    )


def _facts_of_host(cpu: HostCpu) -> HostCpu:
    return HostCpu(
        host="",
        source=Source.QEMU,
        flags=("invtsc",),
        vendor=cpu.vendor,
        phys_bits=cpu.phys_bits,
        # No frequency matters where the processor can give a guest its own.
        tsc_khz=None if cpu.tsc_scaling else cpu.tsc_khz,
        tsc_scaling=cpu.tsc_scaling,
        accel=cpu.accel,
        machines=cpu.machines,
    )


def _distinct(values: Iterable[T]) -> tuple[list[T], Places]:
    known: dict[T, int] = {}
    places = [known.setdefault(value, len(known)) for value in values]
    return list(known), np.array(places, np.intp)


def _wants(guest: Guest) -> Wants:
    return guest.storages, guest.networks, guest.pin_hosts, guest.pin_labels, guest.shuns


def _places(hosts: Sequence[Host], guest: Guest) -> Truth:
    """Hosts that have the links, storages, networks and labels that a guest needs, and that it is not kept from."""
    storages, networks, labels = set(guest.storages), set(guest.networks), set(guest.pin_labels)
    answers = (
        host.link != 0.0
        and host.max_in != 0
        and storages.issubset(host.storages)
        and networks.issubset(host.networks)
        and labels.issubset(host.labels)
        and (not guest.pin_hosts or host.name in guest.pin_hosts)
        and host.name not in guest.shuns
        for host in hosts
    )
    return np.fromiter(answers, np.bool_, len(hosts))
