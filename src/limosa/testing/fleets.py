"""Hosts and guests of small fleets, for tests of planners.

There are three kinds of processors, each with all the flags of the one before it.
"""

from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.fleet.inventory import Guest, GuestId, Host, HostState
from limosa.units import GIB, Bytes, BytesPerSecond, GuestName, HostName

FLAGS = (("sse2",), ("sse2", "avx"), ("sse2", "avx", "avx2"))
HOST_CPUS = tuple(
    HostCpu(host="", source=Source.QEMU, flags=flags, vendor="GenuineIntel", accel="kvm") for flags in FLAGS
)
GUEST_CPUS = tuple(
    GuestCpu(guest="", model="host", flags=flags, accel="kvm", machine="q35", qemu=(7, 2, 0), vendor="GenuineIntel")
    for flags in FLAGS
)


def host(number: int, cores: int, kind: int = 2, state: HostState = HostState.ACTIVE) -> Host:
    """A host with 4 GiB and 10 GiB of disk for each core."""
    return Host(
        name=HostName(f"h{number}"),
        state=state,
        cores=cores,
        memory=Bytes(4 * GIB * cores),
        disk=Bytes(10 * GIB * cores),
        disk_free=Bytes(10 * GIB * cores),
        cpu=HOST_CPUS[kind],
        link=BytesPerSecond(1e9),
        rack=f"r{number % 2}",
        labels=("ssd",) if number % 2 else (),
        watts=100.0,
        price_per_hour=0.5,
    )


def guest(number: int, where: int, vcpus: int, kind: int = 0, **more: object) -> Guest:
    """A guest with 2 GiB for each vCPU."""
    known: dict[str, object] = {
        "uuid": GuestId(f"00000000-0000-4000-8000-{number:012}"),
        "name": GuestName(f"g{number}"),
        "host": HostName(f"h{where}"),
        "vcpus": vcpus,
        "memory": Bytes(2 * GIB * vcpus),
        "cpu": GUEST_CPUS[kind],
    }
    return Guest(**known | more)  # type: ignore[arg-type]
