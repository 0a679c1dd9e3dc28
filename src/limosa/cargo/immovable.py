"""What limosa knows and cannot move: named here so that the refusal says why, and what would help.

A driver on no list at all blocks too, but then limosa can say no more than its name.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from limosa.cargo.kind import HostFacts, NoDeeds, Survey
from limosa.guest.profile import Device, Profile
from limosa.qmp.monitor import Monitor
from limosa.units import Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

DRIVERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "vfio-": ("is a device of the source host, given to the guest", "unplug it for the move (device_del)"),
        "usb-host": ("is a USB device plugged into the source host", "unplug it for the move (device_del)"),
        "ivshmem-": ("is memory shared with other processes of the source host", "unplug it for the move"),
        "virtio-9p-": (
            "is a directory of the source host; QEMU cannot migrate its open files",
            "unmount and unplug it",
        ),
        "vhost-user-": ("keeps its state in another process of the source host", "use a device that QEMU emulates"),
        "vhost-scsi": ("keeps its state in the source host's kernel", "use virtio-scsi"),
        "vhost-vsock-": ("is a socket to the source host; connections would break", "unplug it for the move"),
        "vhost-vdpa-": ("is a device of the source host, given to the guest", "unplug it for the move"),
        "nvdimm": ("is persistent memory: its file would have to be copied while it is RAM", "unplug it for the move"),
        "virtio-pmem-": ("is persistent memory: its file would have to be copied while it is RAM", "unplug it"),
        "virtio-mem-": ("is memory whose plugged blocks limosa does not read yet", "use DIMMs (pc-dimm)"),
        "tpm-": ("keeps its state in swtpm, which limosa does not start at the destination yet", "unplug it"),
        "usb-mtp": ("is a directory of the source host", "unplug it for the move"),
        "usb-redir": ("is a USB device of a SPICE client", "unplug it for the move"),
        "u2f-": ("is a security key of the source host", "unplug it for the move"),
        "virtio-input-host-": ("is an input device of the source host", "unplug it for the move"),
        "virtio-gpu-gl-": ("keeps its state in the source host's graphics card", "use virtio-gpu without gl"),
        "virtio-vga-gl": ("keeps its state in the source host's graphics card", "use virtio-vga without gl"),
        "x-remote": ("keeps its state in another process", "use a device that QEMU emulates"),
    }
)
"""Driver, or what it begins with -> (why it cannot be moved, what helps)."""

OPTIONS = frozenset({"fsdev", "virtfs", "tpmdev", "snapshot"})
"""Options that make such devices, or are such themselves."""


class Immovable(NoDeeds):
    """Claims what it refuses."""

    name = "immovable"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Devices on the list that no other kind carries, and the options behind them."""
        devices = {f"device:{device.path}" for device in _devices(profile)}
        return frozenset(devices | {f"option:{option.name}" for option in profile.options if option.name in OPTIONS})

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Refuse each by name."""
        return Survey(kind=self.name, findings=tuple(_refusals(profile)))


def reason(driver: str) -> tuple[str, str] | None:
    """Why a driver cannot be moved, and what helps; None for a driver that is not listed."""
    return next((told for listed, told in DRIVERS.items() if driver.startswith(listed)), None)


def _devices(profile: Profile) -> Iterable[Device]:
    return (d for d in profile.devices if reason(d.driver) and not (d.drive or d.netdev))


def _refusals(profile: Profile) -> Iterable[Finding]:
    for device in _devices(profile):
        told = reason(device.driver)
        assert told is not None
        yield _blocks(f"{device.driver} {device.id or device.position} {told[0]}", told[1])
    if any(option.name == "snapshot" for option in profile.options):
        yield _blocks(
            "-snapshot writes to a file that is deleted already and has no name",
            "start the guest without it, on an overlay of your own",
        )


def _blocks(what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.BLOCKS, kind=Immovable.name, what=what, remedy=remedy, side=Side.SOURCE)
