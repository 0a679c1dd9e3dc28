"""What a twin needs after its start, because no command line says it in the words its original has."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from limosa.guest.profile import Profile, Throttle
from limosa.guest.tree import NAMED, UNNAMED
from limosa.qmp.monitor import Monitor

Command = tuple[str, dict[str, Any]]


def finishing(profile: Profile) -> tuple[Command, ...]:
    """Commands that make a started twin equal to its profile; pure.

    I/O limits of a `-drive` belong to its BlockBackend, which `-blockdev` cannot reach, and a tray is open or shut.
    """
    return tuple(_finishing(profile))


async def finish(monitor: Monitor, profile: Profile) -> None:
    """Run them.

    Raises:
        QmpError: the twin refused one.
    """
    for command, arguments in finishing(profile):
        await monitor.execute(command, arguments)


def twin_paths(profile: Profile) -> dict[str, str]:
    """QOM path of each of the profile's devices -> its path in the twin, where every one is made by `-device`."""
    anonymous = count(sum(1 for cpu in profile.plugged_cpus if cpu.id is None))
    return {
        device.path: f"{NAMED}{device.id}" if device.id else f"{UNNAMED}device[{next(anonymous)}]"
        for device in profile.devices
    }


def _finishing(profile: Profile) -> Iterator[Command]:
    paths = twin_paths(profile)
    for drive in profile.drives:
        device = profile.device_at(drive.device)
        if device is None:
            continue
        # QEMU knows a disk by the device that holds the backend, which virtio-blk keeps inside.
        where = paths[device.path] + ("/virtio-backend" if device.driver.startswith("virtio-blk-pci") else "")
        if drive.throttle is not None and drive.throttle.limits:
            yield "block_set_io_throttle", _throttle(where, drive.throttle)
        if drive.tray_open and drive.node is None:
            yield "blockdev-open-tray", {"id": where, "force": True}


def _throttle(where: str, throttle: Throttle) -> dict[str, Any]:
    """The command wants all six plain limits, 0 for none (QEMU qapi/block-core.json, BlockIOThrottle)."""
    plain = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    return {"id": where, "group": throttle.group} | plain | throttle.limits
