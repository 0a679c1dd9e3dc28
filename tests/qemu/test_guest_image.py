"""The lab's guest by itself: it boots, sees what is plugged in later, and tells the truth about its disks and pages."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from limosa.lab import assets, records
from limosa.lab.guestctl import GuestControl, GuestOptions, GuestRefused, Status

pytestmark = pytest.mark.qemu

MIB = 1 << 20
OPTIONS = GuestOptions(("10.0.2.15/24", "10.0.3.15/24"), pages=16, pages_rate=64, records="auto")


def disk(node: str, file: str, device: str) -> tuple[str, ...]:
    return (
        "-drive",
        f"if=none,id={node},file={file},format={Path(file).suffix[1:]}",
        "-device",
        f"{device},drive={node}",
    )


def blank(path: Path) -> None:
    path.touch()
    os.truncate(path, 8 * MIB)


def board(machine: str) -> tuple[str, ...]:
    ports = (
        ("-device", "pcie-root-port,id=rp1", "-device", "pcie-root-port,id=rp2,chassis=2") if machine == "q35" else ()
    )
    return (
        *(
            "-accel",
            "tcg",
            "-machine",
            machine,
            "-m",
            "256,slots=2,maxmem=1G",
            "-smp",
            "1,maxcpus=2,sockets=2,cores=1,threads=1",
            "-nodefaults",
        ),
        *("-display", "none", "-kernel", str(assets.kernel()), "-initrd", str(assets.initrd())),
        *(
            "-append",
            OPTIONS.append(),
            "-serial",
            "unix:console,server=on,wait=off",
            "-qmp",
            "unix:qmp,server=on,wait=off",
        ),
        *("-device", "virtio-serial", "-chardev", "socket,id=agent,path=agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=limosa.0"),
        *("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0", "-device", "virtio-scsi-pci"),
        *disk("d0", "system.qcow2", "virtio-blk-pci"),
        *disk("d1", "blank.raw", "scsi-hd,serial=scsi"),
        *disk("d2", "nvme.raw", "nvme,serial=n1"),
        *disk("d3", "ide.raw", "ide-hd,serial=ide"),
        *ports,
    )


async def plug_everything(monitor: Any, machine: str, directory: Path) -> None:
    """A disk, a NIC, a DIMM and a vCPU."""
    first, second = ({"bus": "rp1"}, {"bus": "rp2"}) if machine == "q35" else ({}, {})
    file = {"driver": "file", "filename": str(directory / "late.raw")}
    await monitor.execute("blockdev-add", {"driver": "raw", "node-name": "late", "file": file})
    await monitor.execute(
        "device_add", {"driver": "virtio-blk-pci", "id": "late0", "drive": "late", "serial": "late", **first}
    )
    await monitor.execute("netdev_add", {"type": "user", "id": "n1", "net": "10.0.3.0/24"})
    await monitor.execute("device_add", {"driver": "virtio-net-pci", "id": "nic1", "netdev": "n1", **second})
    await monitor.execute("object-add", {"qom-type": "memory-backend-ram", "id": "m1", "size": 128 * MIB})
    await monitor.execute("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "m1"})
    slots = await monitor.execute("query-hotpluggable-cpus")
    [free] = [slot for slot in slots if "qom-path" not in slot]
    await monitor.execute("device_add", {"driver": free["type"], "id": "cpu1", **free["props"]})


async def until(guest: GuestControl, condition: Any) -> Status:
    async with asyncio.timeout(30):
        while True:
            status = await guest.status()
            if condition(status):
                return status
            await asyncio.sleep(0.2)  # what the guest has noticed is known by asking only


def recording(status: Status) -> set[str]:
    return {each.label for each in status.disks if each.recording and each.acknowledged >= 10}


@pytest.mark.parametrize("machine", ["q35", "pc"])
async def test_the_guest_sees_what_is_plugged_in_and_keeps_its_word(
    machine: str, start_qemu: Any, short_dir: Path
) -> None:
    content = records.create(
        short_dir / "system.qcow2", "qcow2", 32 * MIB, records.Layout("system", slots=16), content=4 * MIB
    )
    records.create(short_dir / "nvme.raw", "raw", 8 * MIB, records.Layout("nvme", slots=512, block_size=8192))
    for name in ("blank", "ide", "late"):
        blank(short_dir / f"{name}.raw")
    started = await asyncio.to_thread(
        start_qemu, assets.qemu_10(), board=board(machine), listens=("qmp", "agent", "console")
    )
    async with await GuestControl.over_unix(short_dir / "agent", timeout=90) as guest:
        before = await until(guest, lambda status: recording(status) == {"system", "nvme", "scsi", "ide"})
        monitor = await started.monitor()
        await plug_everything(monitor, machine, short_dir)
        await monitor.close()
        after = await until(
            guest,
            lambda status: (
                "late" in recording(status)
                and status.cpus == 2
                and status.memory_kib > before.memory_kib + 100 * 1024
                and len(status.nics) == 2
                and status.nics[1].addresses
            ),
        )
        assert [nic.addresses for nic in after.nics] == [("10.0.2.15",), ("10.0.3.15",)]
        assert (await guest.check_pages()).intact
        assert (after.deaths, after.oopsed) == (0, False)
        assert await guest.sha256(after.disk("system").name, content.offset, content.length) == content.sha256
        assert "lm" in (await guest.cpu()).flags
        with pytest.raises(GuestRefused, match="unknown command"):
            await guest.ask("nonsense", Status)
        async with await GuestControl.over_unix(short_dir / "console") as console:
            assert (await console.status()).boot_id == after.boot_id
        await guest.set_records_rate(0)
        final = await until(guest, lambda status: not status.records_hz)
        await guest.power_off()
    assert await asyncio.to_thread(started.process.wait, 30) == 0
    files = {"system": "system.qcow2", "nvme": "nvme.raw", "scsi": "blank.raw", "ide": "ide.raw", "late": "late.raw"}
    for label, file in files.items():
        verdict = records.verify_image(short_dir / file, Path(file).suffix[1:], final.disk(label).acknowledged)
        assert verdict.intact
        assert verdict.newest >= verdict.acknowledged > 0
