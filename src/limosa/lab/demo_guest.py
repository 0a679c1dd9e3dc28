"""The demo's guest: two local disks to begin with; a volume, a NIC, a DIMM and a vCPU are plugged in while it runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from limosa.lab import assets, records
from limosa.lab.guestctl import GuestControl, GuestOptions, GuestSilent, Status
from limosa.lab.guests import GuestSpec, blockdev, mac_of, owners_monitor
from limosa.lab.hosts import Host, Role
from limosa.lab.lab import Lab
from limosa.lab.network import OBSERVER_ADDRESS, in_network
from limosa.lab.state import LabError
from limosa.qmp.monitor import Monitor
from limosa.units import MIB

NAME = "demo"
UUID = "11b05a11-ba6d-4b17-9000-000000000001"
ADDRESSES = ("10.66.0.101", "10.66.0.102")
MEMORY, DIMM, PAGES = 512, 128, 128
"""MiB: of base RAM, of the DIMM that is plugged in, and with a counter in every page."""
BOOT_LIMIT = 90.0
PLUG_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class DemoDisk:
    """A disk that takes numbered records and holds known bytes behind them. Sizes in MiB."""

    label: str
    path: str
    """As the guest's QEMU names it: a path on the host, or of the NBD server."""
    format: str
    size: int
    content: int

    @property
    def layout(self) -> records.Layout:
        """Where the records go."""
        return records.Layout(self.label)


SYSTEM = DemoDisk("system", "/srv/demo/system.qcow2", "qcow2", 256, 32)
DATA = DemoDisk("data", "/srv/demo/data.img", "raw", 128, 32)
VOLUME = DemoDisk("volume", "volume.img", "raw", 64, 8)
DISKS = (SYSTEM, DATA, VOLUME)


def spec() -> GuestSpec:
    """The command line with which its owner starts it: nothing on it was put there for limosa."""
    ports = (f"pcie-root-port,id=port{n},chassis={n},slot={n}" for n in (1, 2))
    return GuestSpec(
        name=NAME,
        options=GuestOptions(
            addresses=tuple(f"{address}/24" for address in ADDRESSES),
            pages=PAGES,
            pages_rate=32,
            records="magic",
            records_hz=20,
        ),
        memory=MEMORY,
        memory_options=",slots=2,maxmem=1G",
        smp="2,maxcpus=4,sockets=4,cores=1,threads=1",
        uuid=UUID,
        devices=(
            *blockdev(SYSTEM.label, SYSTEM.path, SYSTEM.format),
            *blockdev(DATA.label, DATA.path, DATA.format),
            *(word for port in ports for word in ("-device", port)),
        ),
    )


def make_disks(host: Host, volume: Path) -> dict[str, records.Content]:
    """The three disks, and what each must hold for ever."""
    places = {SYSTEM.label: host.path(SYSTEM.path), DATA.label: host.path(DATA.path), VOLUME.label: volume}
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    return {
        disk.label: records.create(
            places[disk.label], disk.format, disk.size * MIB, disk.layout, content=disk.content * MIB, seed=number
        )
        for number, disk in enumerate(DISKS)
    }


async def serve_volume(role: Role, volume: Path) -> None:
    """Serve a file over NBD from the observer's namespace: shared storage that is on neither host."""
    nbd = assets.qemu_10().with_name("qemu-nbd")
    where = ("-x", VOLUME.label, "-b", OBSERVER_ADDRESS)
    # It returns when the server listens, and leaves it running.
    await role.run([str(nbd), "--fork", "--persistent", "--shared=8", "-f", "raw", *where, str(volume)])


async def plug_in(host: Host, guest: GuestControl) -> None:
    """Plug in a volume, a NIC, a vCPU and a DIMM, over the owner's monitor, as the owner would.

    The DIMM comes when the guest uses all the rest: a program that a new disk starts would have its memory there, and
    QEMU's TCG misses what is written to a DIMM while it is copied (docs/qemu-notes.md, RAM under TCG).

    Raises:
        LabError: the guest does not come to use all of it.
    """
    await host.add_tap("tap1")
    monitor = await owners_monitor(host, spec())
    try:
        await _plug_volume(monitor)
        await _plug_nic(monitor)
        await _plug_vcpu(monitor)
        await _until_seen(guest, MEMORY)
        await _plug_memory(monitor)
        await _until_seen(guest, MEMORY + DIMM)
    finally:
        await monitor.close()


async def fill_plugged_memory(guest: GuestControl) -> str:
    """Write a file into memory that takes up the whole DIMM, and return its checksum.

    The guest keeps plugged memory for programs, and takes it for them first. Once it is full nothing writes there any
    more, which matters where guests are emulated: QEMU's TCG misses writes to a DIMM while it is copied
    (docs/qemu-notes.md, RAM under TCG).
    """
    pieces = DIMM // 4 + 1
    await _shell(
        guest, "$b mount -t tmpfs -o size=200m none /tmp && $b dd if=/dev/urandom of=/tmp/seed bs=65536 count=64"
    )
    await _shell(guest, f"for n in $($b seq {pieces}); do $b cat /tmp/seed; done > /tmp/filling")
    return await plugged_memory_sum(guest)


async def plugged_memory_sum(guest: GuestControl) -> str:
    """Checksum of what fills the DIMM, read by the guest."""
    return (await _shell(guest, "$b md5sum /tmp/filling")).partition(" ")[0]


async def _shell(guest: GuestControl, command: str) -> str:
    """Run a line of busybox's shell in the guest, `$b` being busybox. Raises LabError where it fails."""
    done = await guest.shell(f"b=/bin/busybox; {command} 2>&1")
    if done.exit:
        raise LabError(f"a command in the guest ended with status {done.exit}", detail=done.output)
    return done.output


async def _plug_volume(monitor: Monitor) -> None:
    server = {"type": "inet", "host": OBSERVER_ADDRESS, "port": "10809"}
    protocol = {"driver": "nbd", "server": server, "export": VOLUME.label}
    await monitor.execute("blockdev-add", {"driver": "raw", "node-name": VOLUME.label, "file": protocol})
    await monitor.execute(
        "device_add", {"driver": "virtio-blk-pci", "id": "disk-volume", "drive": VOLUME.label, "bus": "port1"}
    )


async def _plug_nic(monitor: Monitor) -> None:
    backend = {"type": "tap", "id": "net1", "ifname": "tap1", "script": "no", "downscript": "no"}
    await monitor.execute("netdev_add", backend)
    device = {"driver": "virtio-net-pci", "id": "nic1", "netdev": "net1", "bus": "port2", "mac": mac_of(NAME, 1)}
    await monitor.execute("device_add", device)


async def _plug_memory(monitor: Monitor) -> None:
    await monitor.execute("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": DIMM * MIB})
    await monitor.execute("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"})


async def _plug_vcpu(monitor: Monitor) -> None:
    slots = await monitor.execute("query-hotpluggable-cpus")
    free = next(slot for slot in reversed(slots) if "qom-path" not in slot)
    await monitor.execute("device_add", {"driver": free["type"], "id": "cpu2", **free["props"]})


def missing_parts(status: Status, memory: int = MEMORY + DIMM) -> list[str]:
    """What of the plugged-in parts, and of `memory` in MiB, the guest does not see; empty when all of them work."""
    wrong = []
    if status.cpus != 3:
        wrong.append(f"{status.cpus} vCPUs, not 3")
    if status.memory_kib < memory * 1024 * 0.75:  # kernel and initramfs keep some, less than the DIMM
        wrong.append(f"{status.memory_kib} KiB of memory")
    named = {address.partition("/")[0] for nic in status.nics for address in nic.addresses}
    wrong += [f"no NIC has {address}" for address in ADDRESSES if address not in named]
    recording = {disk.label for disk in status.disks if disk.recording}
    wrong += [f"disk {disk.label} takes no records" for disk in DISKS if disk.label not in recording]
    wrong += [] if status.dirtiers[0].passes else ["no counter in every page yet"]
    return wrong


async def _until_seen(guest: GuestControl, memory: int) -> None:
    """Wait until the guest uses what was plugged in, and so much memory. Raises LabError after PLUG_LIMIT seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PLUG_LIMIT
    while wrong := missing_parts(await guest.status(), memory):
        if loop.time() > deadline:
            raise LabError(f"the guest does not see what was plugged in: {', '.join(wrong)}")
        await asyncio.sleep(0.2)  # the guest's own hot-plug handling has no way to call us


@asynccontextmanager
async def connected(lab: Lab) -> AsyncIterator[GuestControl]:
    """A TCP connection to the guest from the observer's namespace: one that every move has to carry along.

    Raises:
        GuestSilent: the guest does not answer within BOOT_LIMIT seconds.
    """
    target = f"TCP:{ADDRESSES[0]}:7,retry={int(BOOT_LIMIT * 4)},interval=0.25,connect-timeout=2"
    process = await asyncio.create_subprocess_exec(
        *in_network(lab.observer.pid, ["socat", "STDIO", target]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield GuestControl(process.stdout, process.stdin)
    except GuestSilent as silent:
        if process.returncode is None:
            process.terminate()
        said = (await process.stderr.read()).decode(errors="replace").strip()
        raise GuestSilent(
            silent.what, remedy="limosa demo --keep", detail=f"{silent.detail} {said}".strip()
        ) from silent
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
