"""Reports of agents that are not there: what a controller would have been told."""

from uuid import NAMESPACE_DNS, uuid5

from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.units import GIB
from limosa.wire.guests import GuestShown
from limosa.wire.reports import GuestReport, MachineReport, Report

FLAGS = ("sse", "sse2", "ssse3", "avx")
FRESH = 86400.0
"""Seconds by which a report may be dated ahead: no agent is there to speak again before its host counts as silent."""


def machine(host: str, *, flags: tuple[str, ...] = FLAGS) -> MachineReport:
    """A host with 16 cores and 64 GiB."""
    cpu = HostCpu(
        host=host,
        source=Source.QEMU,
        flags=flags,
        vendor="GenuineIntel",
        phys_bits=46,
        accel="tcg",
        qemu=(10, 0, 2),
        machines=("pc-q35-10.0",),
    )
    return MachineReport(
        host=host,
        version="0.1.0",
        cores=16,
        memory=64 * GIB,
        memory_free=60 * GIB,
        disk=0,
        disk_free=0,
        link=1.25e9,
        networks=("br0",),
        qemu_versions=("10.0.2",),
        cpu=cpu,
    )


def guest(
    name: str, host: str, *, flags: tuple[str, ...] = FLAGS, state: str = "running", epoch: int = 0, here: bool = True
) -> GuestReport:
    """A guest with one vCPU and 1 GiB; its UUID follows from its name."""
    key = str(uuid5(NAMESPACE_DNS, name))
    shown = GuestShown(
        name=name,
        uuid=key,
        pid=1,
        host=host,
        state=state,
        memory=1 * GIB,
        vcpus=1,
        owner="by hand",
        monitor=None,
        movable="yes",
    )
    cpu = GuestCpu(
        guest=name,
        model="qemu64",
        flags=flags,
        accel="tcg",
        machine="pc-q35-10.0",
        qemu=(10, 0, 2),
        vendor="GenuineIntel",
        phys_bits=40,
    )
    return GuestReport(
        key=key, shown=shown, epoch=epoch, here=here, cpu=cpu, disk=0, networks=("br0",), load=0.5, blocked=()
    )


def report(host: str, *guests: GuestReport, flags: tuple[str, ...] = FLAGS) -> Report:
    """Everything that a host's agent would tell."""
    return Report(incarnation="one", number=1, since=0, machine=machine(host, flags=flags), guests=guests, gone=())
