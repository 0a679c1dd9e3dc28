"""Real guests for demo, tests and benchmarks: a QEMU on a lab host that boots the lab's image."""

from dataclasses import dataclass, field
from pathlib import Path

from limosa.lab import assets
from limosa.lab.guestctl import VIRTIO_PORT, GuestControl, GuestOptions
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.qmp.monitor import Monitor

BOOT_LIMIT = 90.0
"""Seconds that a guest may take to boot on a loaded machine under TCG."""


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest in the words of somebody who starts QEMU by hand.

    `devices` are further command-line arguments; sizes in MiB. `serial` gives the guest a virtio-serial port on
    which its agent answers without a network.
    """

    name: str
    options: GuestOptions
    memory: int = 256
    machine: str = "q35"
    cpu: str = "max"
    smp: str = "1"
    taps: tuple[str, ...] = ("tap0",)
    devices: tuple[str, ...] = ()
    memory_options: str = ""
    qemu: Path | None = None
    kernel: Path | None = None
    uuid: str = ""
    macs: tuple[str, ...] = field(default=())

    def argv(self) -> tuple[str, ...]:
        """The whole command line."""
        qemu = self.qemu or assets.qemu_10()
        return (
            str(qemu),
            *("-name", self.name, "-machine", f"{self.machine},accel=tcg", "-cpu", self.cpu, "-smp", self.smp),
            *("-m", f"{self.memory}{self.memory_options}", "-nodefaults", "-display", "none"),
            *(("-uuid", self.uuid) if self.uuid else ()),
            *("-kernel", str(self.kernel or assets.kernel()), "-initrd", str(assets.initrd())),
            *("-append", self.options.append()),
            *("-qmp", f"unix:{self.monitor_path},server=on,wait=off"),
            *("-chardev", f"file,id=serial0,path={self.directory}/serial.log", "-serial", "chardev:serial0"),
            *("-chardev", f"socket,id=agent,path={self.control_path},server=on,wait=off"),
            *("-device", "virtio-serial", "-device", f"virtserialport,chardev=agent,name={VIRTIO_PORT}"),
            *self._nics(),
            *self.devices,
        )

    @property
    def directory(self) -> str:
        """Where the guest's sockets and log are, on its host."""
        return f"/run/limosa/{self.name}"

    @property
    def monitor_path(self) -> str:
        """The owner's QMP socket."""
        return f"{self.directory}/qmp"

    @property
    def control_path(self) -> str:
        """Socket of the virtio-serial port."""
        return f"{self.directory}/agent"

    def _nics(self) -> tuple[str, ...]:
        words: list[str] = []
        for number, tap in enumerate(self.taps):
            mac = self.macs[number] if self.macs else mac_of(self.name, number)
            words += ["-netdev", f"tap,id=net{number},ifname={tap},script=no,downscript=no"]
            words += ["-device", f"virtio-net-pci,netdev=net{number},mac={mac},id=nic{number}"]
        return tuple(words)


def mac_of(name: str, number: int) -> str:
    """A locally administered address, the same for the same guest and NIC."""
    digest = sum(ord(letter) * 31**place for place, letter in enumerate(name)) & 0xFFFF
    return f"52:54:00:{digest >> 8:02x}:{digest & 0xFF:02x}:{number:02x}"


async def start(host: Host, spec: GuestSpec, *, taps: bool = True) -> Process:
    """Start a guest on a lab host, as its owner would by hand; it lives until it ends or the host dies."""
    host.path(spec.directory).mkdir(parents=True, exist_ok=True)
    if taps:
        for tap in spec.taps:
            await host.add_tap(tap)
    return await host.spawn(spec.argv(), name=f"qemu-{spec.name}")


async def control(host: Host, spec: GuestSpec, *, timeout: float = BOOT_LIMIT) -> GuestControl:
    """The guest's own agent, over its virtio-serial port; waits until the guest is up.

    Raises:
        GuestSilent: it does not answer in time.
    """
    return await GuestControl.over_unix(host.path(spec.control_path), timeout=timeout)


async def owners_monitor(host: Host, spec: GuestSpec) -> Monitor:
    """The monitor that the guest's owner uses; limosa has its own, or borrows this one while it is free."""
    return await Monitor.connect(str(host.path(spec.monitor_path)))


def blockdev(node: str, path: str, fmt: str, *, device: str = "virtio-blk-pci", serial: str = "") -> tuple[str, ...]:
    """A disk in the modern way: `-blockdev` in JSON and `-device`; id of the device is `disk-NODE`."""
    named = f",serial={serial}" if serial else ""
    return (
        *("-blockdev", f"driver={fmt},node-name={node},file.driver=file,file.filename={path},discard=unmap"),
        *("-device", f"{device},drive={node},id=disk-{node}{named}"),
    )
