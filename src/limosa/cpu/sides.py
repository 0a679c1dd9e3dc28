"""Hosts of any source side by side: what each could give a guest, and what all of them can tell. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_

from limosa.cpu.baseline import common
from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.cpu.flags import ALL, NONE, CpuFlags
from limosa.cpu.fleet import Hard, Host
from limosa.cpu.hardware import guest_share


def given(cpu: HostCpu) -> CpuFlags:
    """What a guest could be given there; of hosts that were not asked through QEMU, by the rules of KVM."""
    return cpu.mask if cpu.source is Source.QEMU else guest_share(cpu.mask)


TCG = "TCG"
"""Stands for the vendor where QEMU makes the processor up: it is the same on every host."""


def hard(cpu: HostCpu | GuestCpu) -> Hard:
    """The hard facts of a host, or those that a guest was told."""
    return Hard(TCG if cpu.accel == "tcg" else cpu.vendor, cpu.phys_bits or 0)


@dataclass(frozen=True, slots=True)
class Sides:
    """Hosts made comparable.

    Attributes:
        hosts: with the flags of which every source can tell.
        untold: the flags of which some source cannot; they are left out everywhere.
    """

    hosts: tuple[Host, ...]
    untold: CpuFlags


def side_by_side(cpus: Sequence[HostCpu]) -> Sides:
    """Make hosts comparable: a flag that one of them cannot tell of would make it look poorer than it is."""
    untold = reduce(or_, (cpu.unsure - given(cpu) for cpu in cpus), NONE)
    hosts = (Host(cpu.host, given(cpu) - untold, hard(cpu)) for cpu in cpus)
    return Sides(tuple(hosts), untold)


@dataclass(frozen=True, slots=True)
class Shared:
    """What a group has in common.

    Attributes:
        flags: those that every host has.
        known: those about which the group can tell: every host has them, or some host is known to lack them.
    """

    flags: CpuFlags
    known: CpuFlags


def shared(cpus: Sequence[HostCpu]) -> Shared:
    """What a group of hosts has in common.

    Raises:
        ValueError: the group is empty.
    """
    flags = common(map(given, cpus))
    perhaps = reduce(and_, (given(cpu) | cpu.unsure for cpu in cpus), ALL)
    return Shared(flags, ALL - (perhaps - flags))
