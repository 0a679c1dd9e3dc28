"""What a profile says of real QEMUs, of both versions."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from limosa.guest.introspect import introspect
from limosa.guest.parts import chain, parts
from limosa.guest.probe import Probe
from limosa.guest.profile import Profile
from limosa.lab import assets
from limosa.qmp.monitor import Monitor

pytestmark = pytest.mark.qemu

TINY = ("-accel", "tcg", "-nodefaults", "-display", "none", "-S")
MONITOR = ("-qmp", "unix:qmp,server=on,wait=off")

Read = Callable[..., Any]


@pytest.fixture
def read(start_qemu: Any, qemu_binary: Path, short_dir: Path) -> Read:
    """Starts a QEMU, does what it is told over QMP, and reads the profile."""
    image = str(assets.qemu_img())
    subprocess.run([image, "create", "-q", "-f", "raw", short_dir / "a.raw", "16M"], check=True)
    subprocess.run([image, "create", "-q", "-f", "qcow2", short_dir / "base.qcow2", "8M"], check=True)
    chained = [image, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]
    subprocess.run(chained, check=True, cwd=short_dir)

    async def reader(*words: str, then: tuple[tuple[str, dict[str, Any]], ...] = ()) -> Profile:
        started = await asyncio.to_thread(start_qemu, qemu_binary, *words, *MONITOR, board=TINY)
        monitor = await started.monitor()
        try:
            for command, arguments in then:
                await monitor.execute(command, arguments)
            return await introspect(monitor, pid=started.pid)
        finally:
            await monitor.close()
            started.kill()

    return reader


def device(profile: Profile, driver: str) -> Any:
    (found,) = [d for d in profile.devices if d.driver == driver]
    return found


def untold(profile: Profile) -> list[str]:
    return [unknown.what for unknown in profile.unknown]


async def test_an_alias_is_read_as_the_pinned_machine_type(read: Read, qemu_binary: Path) -> None:
    major, minor = assets.qemu_version(qemu_binary)
    assert (await read("-M", "q35")).machine.type == f"pc-q35-{major}.{minor}"
    assert (await read("-M", "pc,hpet=off")).machine.properties == {"hpet": False}


async def test_a_board_of_nothing_has_no_devices_of_the_users(read: Read) -> None:
    for machine in ("q35", "pc", "pc,usb=on", "q35,i8042=off,smbus=off"):
        profile = await read("-M", machine)
        assert (profile.devices, profile.unknown) == ((), ())
        assert "isa.0/isa-pit@40" in profile.guest_visible


async def test_legacy_words_become_devices_with_their_backends(read: Read) -> None:
    profile = await read(
        "-M", "pc", "-vga", "std", "-serial", "null", "-hda", "a.raw", "-nic", "user,mac=52:54:00:aa:bb:cc"
    )
    assert device(profile, "VGA").properties["addr"] == "02.0"
    assert device(profile, "isa-serial").chardev == "serial0"
    assert device(profile, "ide-hd").drive == "ide0-hd0"
    nic = device(profile, "e1000")
    assert (nic.netdev, nic.properties["mac"]) == ("hostnet-0", "52:54:00:aa:bb:cc")
    (netdev,) = profile.netdevs
    assert (netdev.id, netdev.type, netdev.live_name.startswith("#net")) == ("hostnet-0", "user", True)


async def test_nodes_have_names_that_can_be_used_again_and_paths_that_lead_to_files(
    read: Read, short_dir: Path
) -> None:
    profile = await read("-drive", "file=top.qcow2,if=virtio,aio=threads,discard=unmap,cache=none")
    (drive,) = profile.drives
    nodes = chain(profile, drive.node or "")
    assert {(n.node_name, n.driver, n.filename) for n in nodes} == {
        ("virtio0", "qcow2", None),
        ("virtio0-file", "file", str(short_dir / "top.qcow2")),
        ("virtio0-backing", "qcow2", None),
        ("virtio0-backing-file", "file", str(short_dir / "base.qcow2")),
    }
    assert profile.node("virtio0").options["discard"] == "unmap"
    assert profile.node("virtio0-file").options["aio"] == "threads"
    assert profile.node("virtio0-file").options["cache"] == {"direct": True, "no-flush": False}
    assert [n.read_only for n in nodes if n.node_name.startswith("virtio0-backing")] == [True, True]
    assert all(n.live_name.startswith("#block") and not n.unknown for n in nodes)


async def test_what_was_plugged_later_is_there_and_what_nobody_can_tell_is_listed(read: Read) -> None:
    profile = await read(
        *("-M", "q35", "-m", "64,slots=2,maxmem=512M", "-smp", "1,maxcpus=2", "-device", "pcie-root-port,id=rp"),
        then=(
            ("blockdev-add", {"driver": "file", "filename": "a.raw", "node-name": "f"}),
            ("device_add", {"driver": "virtio-blk-pci", "drive": "f", "id": "disk", "bus": "rp"}),
            ("object-add", {"qom-type": "memory-backend-ram", "id": "m", "size": 64 << 20}),
            ("device_add", {"driver": "pc-dimm", "id": "dimm", "memdev": "m"}),
            ("device_add", {"driver": "qemu64-x86_64-cpu", "id": "cpu1", "socket-id": 0, "core-id": 1, "thread-id": 0}),
        ),
    )
    disk, dimm = device(profile, "virtio-blk-pci"), device(profile, "pc-dimm")
    assert (disk.hotplugged, disk.bus, disk.drive, disk.position) == (True, "rp", "f", "rp/00.0")
    assert (dimm.hotplugged, dimm.memdev, dimm.properties["slot"]) == (True, "m", 0)
    (cpu,) = profile.plugged_cpus
    assert (cpu.id, cpu.hotplugged, cpu.properties["core-id"]) == ("cpu1", True, 1)
    assert (profile.smp.cpus, profile.smp.maxcpus) == (1, 2)
    assert untold(profile) == ["block:f:discard", "block:f:aio", "block:f:locking"]
    assert {"block:f", "cpu:cpu1", "object:m", f"device:{disk.path}"} <= parts(profile)


async def test_io_limits_and_error_policies_of_a_drive_are_read(read: Read) -> None:
    profile = await read(
        "-drive",
        "file=a.raw,format=raw,if=virtio,throttling.iops-total=50,throttling.group=g,werror=stop,cache=writethrough",
    )
    (drive,) = profile.drives
    assert drive.throttle is not None
    assert (drive.throttle.group, drive.throttle.limits) == ("g", {"iops": 50})
    assert (drive.werror, drive.writeback) == ("stop", False)


async def test_chardevs_and_monitors_are_read_with_who_uses_them(read: Read, short_dir: Path) -> None:
    profile = await read(
        *("-chardev", "socket,id=ga,path=ga,server=on,wait=off,logfile=ga.log", "-device", "virtio-serial"),
        *(
            "-device",
            "virtserialport,chardev=ga,id=port",
            "-serial",
            "file:console.log",
            "-monitor",
            "unix:hmp,server,nowait",
        ),
        then=(("chardev-add", {"id": "late", "backend": {"type": "file", "data": {"out": "/dev/null"}}}),),
    )
    found = {c.id: (c.backend, c.options, c.used_by) for c in profile.chardevs}
    agent = {"path": str(short_dir / "ga"), "server": True, "wait": False, "logfile": str(short_dir / "ga.log")}
    assert found["ga"] == ("socket", agent, "port")
    assert found["serial0"] == ("file", {"path": str(short_dir / "console.log")}, "serial0")
    assert found["late"][0] == "file"
    assert [(m.mode, m.path) for m in profile.monitors] == [
        ("readline", str(short_dir / "hmp")),
        ("control", str(short_dir / "qmp")),
    ]
    assert untold(profile) == ["chardev:late"]


async def test_options_that_qmp_does_not_show_are_carried_in_their_order(read: Read) -> None:
    words = (
        "-smbios",
        "type=1,serial=a",
        "-rtc",
        "base=utc,driftfix=slew",
        "-fw_cfg",
        "name=opt/a,string=b,,c",
        "-smbios",
    )
    profile = await read(*words, "type=2,asset=x", "-global", "ICH9-LPC.disable_s3=1", "-no-reboot")
    assert [(option.name, option.value) for option in profile.options] == [
        ("smbios", "type=1,serial=a"),
        ("rtc", "base=utc,driftfix=slew"),
        ("fw_cfg", "name=opt/a,string=b,,c"),
        ("smbios", "type=2,asset=x"),
        ("global", "ICH9-LPC.disable_s3=1"),
        ("no-reboot", None),
    ]


async def test_the_cpu_is_read_as_the_guest_sees_it(read: Read) -> None:
    profile = await read("-cpu", "qemu64,+ssse3,-svm")
    assert (profile.cpu.model, profile.cpu.properties) == ("qemu64", {"ssse3": True, "svm": False})
    assert "ssse3" in profile.cpu.flags
    assert "svm" not in profile.cpu.flags


async def test_what_qemu_filtered_out_silently_is_said_to_be_off(read: Read) -> None:
    profile = await read("-cpu", "Skylake-Client")
    assert profile.cpu.properties["hle"] is False
    assert "hle" not in profile.cpu.flags


async def test_hot_plug_numbers_and_ram_blocks_are_what_a_migration_depends_on(read: Read) -> None:
    profile = await read("-M", "pc", "-m", "64", "-device", "pci-bridge,chassis_nr=1,id=br", "-device", "VGA")
    assert profile.guest_visible["ACPI hot-plug numbers"].keys() == {"pci.0", "br"}
    blocks = profile.guest_visible["RAM blocks"]
    assert blocks["pc.ram"] == 64 << 20
    assert blocks["0000:00:03.0/vga.vram"] == 16 << 20


async def test_a_profile_survives_being_written_and_read(read: Read) -> None:
    profile = await read("-drive", "file=top.qcow2,if=virtio", "-device", "virtio-balloon")
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


async def test_forty_devices_are_read_with_few_questions(start_qemu: Any, qemu_binary: Path, tmp_path: Path) -> None:
    # Time would measure who else uses this machine: bench/introspect.py prints it. Calls are what it follows from.
    ports = [word for n in range(20) for word in ("-device", f"pcie-root-port,id=rp{n},chassis={n}")]
    nics = [word for n in range(20) for word in ("-device", f"virtio-net-pci,bus=rp{n}")]
    started = await asyncio.to_thread(start_qemu, qemu_binary, "-M", "q35", *ports, *nics, *MONITOR, board=TINY)
    probe, asked = Probe(qemu_binary, tmp_path / "probe"), []
    for n in range(2):
        transcript = tmp_path / f"qmp{n}"
        monitor = await Monitor.connect(str(started.directory / "qmp"), pid=started.pid, transcript=transcript)
        profile = await introspect(monitor, pid=started.pid, probe=probe)
        await monitor.close()
        asked.append(sum("-> " in line for line in _lines(transcript)))
    assert len(profile.devices) == 40
    assert asked[1] < 350 < asked[0]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
