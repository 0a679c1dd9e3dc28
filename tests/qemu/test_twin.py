"""Real guests of the styles people use: read, built again, compared, and moved into their twin."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from limosa.destination.argv import TwinShape, argv
from limosa.destination.finish import finish
from limosa.destination.launch import Twin, launch, stop
from limosa.errors import LaunchError, MonitorMissing, QmpError
from limosa.guest.compare import compare
from limosa.guest.introspect import introspect
from limosa.guest.probe import Board, Probe
from limosa.guest.profile import Chardev, Netdev, Profile
from limosa.lab import assets
from limosa.qmp.monitor import Monitor

pytestmark = pytest.mark.qemu

HotPlug = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Shape:
    """One way to start a guest; `{tap}`, `{ovmf}` and `{kernel}` are filled in, and the images are there."""

    words: str
    hotplug: Sequence[HotPlug] = field(default_factory=tuple)
    executes: bool = True
    """Whether the guest runs its firmware before it is read."""
    migrates: bool = True


MODERN = """
    -machine q35,accel=tcg -nodefaults -display none -m 128,slots=4,maxmem=1G -smp 2,maxcpus=4 -cpu qemu64,+ssse3
    -device pcie-root-port,id=rp1,chassis=1 -device pcie-root-port,id=rp2,chassis=2
    -object iothread,id=io1
    -blockdev {"driver":"file","filename":"c.qcow2","node-name":"c0","discard":"unmap","aio":"threads"}
    -blockdev qcow2,file=c0,node-name=c1 -device virtio-blk-pci,drive=c1,id=vd0,iothread=io1,bootindex=1,serial=abc
    -netdev tap,id=n0,ifname={tap},script=no,downscript=no
    -device virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01,romfile=
    -device virtio-serial-pci -chardev socket,id=ga,path=ga.sock,server=on,wait=off
    -device virtserialport,chardev=ga,name=org.qemu.guest_agent.0 -serial file:serial.log
"""

PLUGGED: tuple[HotPlug, ...] = (
    ("blockdev-add", {"driver": "file", "filename": "b.raw", "node-name": "hp-file"}),
    ("blockdev-add", {"driver": "raw", "file": "hp-file", "node-name": "hp"}),
    ("device_add", {"driver": "virtio-blk-pci", "drive": "hp", "id": "hpd", "bus": "rp1"}),
    ("device_add", {"driver": "virtio-net-pci", "id": "hpn", "bus": "rp2", "mac": "52:54:00:00:00:02"}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "hpm", "size": 64 << 20}),
    ("device_add", {"driver": "pc-dimm", "id": "hpdimm", "memdev": "hpm"}),
    ("device_add", {"driver": "qemu64-x86_64-cpu", "id": "hpc", "socket-id": 0, "core-id": 2, "thread-id": 0}),
    ("chardev-add", {"id": "hpch", "backend": {"type": "null", "data": {}}}),
)

SHAPES = {
    "modern": Shape(MODERN),
    "modern, hot-plugged": Shape(MODERN, PLUGGED),
    "pc with defaults, -hda, -net": Shape(
        "-accel tcg -display none -hda a.raw -net nic -net tap,ifname={tap},script=no,downscript=no"
    ),
    "pc, hot-plugged": Shape(
        "-machine pc,accel=tcg -display none -m 128,slots=2,maxmem=512M -smp 1,maxcpus=2 -nic none -hda a.raw",
        (
            ("device_add", {"driver": "e1000", "id": "hpn", "mac": "52:54:00:00:00:02"}),
            ("object-add", {"qom-type": "memory-backend-ram", "id": "hpm", "size": 64 << 20}),
            ("device_add", {"driver": "pc-dimm", "id": "hpdimm", "memdev": "hpm"}),
        ),
    ),
    "-drive if=virtio, -nographic": Shape(
        """-M pc,accel=tcg -nographic -drive file=a.raw,if=virtio,format=raw,cache=writethrough
        -drive file=b.raw,if=ide,format=raw,werror=stop,rerror=report,discard=unmap,aio=threads -cdrom c.qcow2
        -nic tap,ifname={tap},script=no,downscript=no,model=virtio-net-pci -usb -usbdevice tablet
        -drive if=none,id=stick,file=d.raw,format=raw -device usb-storage,drive=stick
        -smbios type=1,serial=ds=x -fw_cfg name=opt/foo,string=bar -rtc base=localtime -boot menu=on
        -global PIIX4_PM.disable_s3=1 -no-shutdown -serial mon:stdio -m 1G"""
    ),
    "virtio-scsi with several LUNs": Shape(
        """-machine q35,accel=tcg -nodefaults -display none -m 64 -device virtio-scsi-pci,id=s,num_queues=2
        -drive if=none,id=a,file=a.raw,format=raw,throttling.iops-total=500 -device scsi-hd,drive=a,bus=s.0,lun=1
        -drive if=none,id=b,file=b.raw,format=raw -device scsi-hd,drive=b,bus=s.0,lun=2,wwn=0x5000c500a1b2c3d4
        -drive if=none,id=c,file=c.qcow2 -device scsi-hd,drive=c,bus=s.0,scsi-id=3,serial=xyz,rotation_rate=1
        -device scsi-cd,bus=s.0,lun=7"""
    ),
    "nvme": Shape(
        "-machine q35,accel=tcg -nodefaults -display none -drive if=none,id=a,file=a.raw,format=raw"
        " -device nvme,drive=a,serial=n1",
        migrates=False,
    ),
    "UEFI by -drive": Shape(
        """-machine q35,accel=tcg,smm=off,hpet=off,usb=on -nodefaults -display none -vnc unix:vnc.sock -m 256
        -drive if=pflash,format=raw,readonly=on,file={ovmf} -drive if=pflash,format=raw,file=vars.fd
        -device VGA -device vmgenid,guid=auto -device vmcoreinfo -hda a.raw"""
    ),
    "UEFI by -blockdev": Shape(
        """-nodefaults -display none -m 256
        -blockdev {"driver":"file","filename":"{ovmf}","node-name":"code-file","auto-read-only":true}
        -blockdev {"node-name":"code","read-only":true,"driver":"raw","file":"code-file"}
        -blockdev {"driver":"raw","node-name":"vars","file":{"driver":"file","filename":"vars.fd"}}
        -machine q35,accel=tcg,pflash0=code,pflash1=vars"""
    ),
    "many devices": Shape(
        """-machine q35,accel=tcg,memory-backend=mem -nodefaults -display none -m 128,slots=3,maxmem=1G -smp 2,maxcpus=4
        -object memory-backend-memfd,id=mem,size=128M,share=on -object memory-backend-ram,id=dm,size=128M
        -device pc-dimm,id=dimm0,memdev=dm -device qemu64-x86_64-cpu,id=cpu3,socket-id=0,core-id=3,thread-id=0
        -device pcie-pci-bridge,id=br1 -device pci-bridge,bus=br1,id=br2,chassis_nr=3,addr=2
        -device e1000,bus=br2,addr=3
        -device ioh3420,id=x1,chassis=9 -device virtio-serial -chardev pty,id=c1 -device virtconsole,chardev=c1
        -chardev file,id=c3,path=c3.log,append=on -device isa-serial,chardev=c3 -chardev ringbuf,id=c4,size=4096
        -device pci-serial,chardev=c4 -audiodev none,id=snd -device intel-hda -device hda-duplex,audiodev=snd
        -device usb-ehci,id=e1 -device usb-kbd,bus=e1.0 -device qemu-xhci -device usb-tablet -device virtio-gpu-pci
        -device virtio-keyboard-pci -object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r
        -device virtio-balloon-pci,free-page-reporting=on -device i6300esb -watchdog-action poweroff -device pvpanic
        -object throttle-group,id=tg,x-iops-total=100
        -blockdev throttle,node-name=t,throttle-group=tg,file.driver=raw,file.file.driver=file,file.file.filename=a.raw
        -device virtio-blk-pci,drive=t"""
    ),
    "microvm": Shape(
        """-M microvm,accel=tcg,rtc=on -nodefaults -display none -m 128 -kernel {kernel} -append console=ttyS0
        -drive id=r,file=a.raw,format=raw,if=none,throttling.bps-total=1000000 -device virtio-blk-device,drive=r
        -device virtio-serial-device -chardev null,id=log -device virtconsole,chardev=log
        -netdev tap,id=n,ifname={tap},script=no,downscript=no -device virtio-net-device,netdev=n -no-reboot"""
    ),
    "as virtme-ng starts one": Shape(
        """-name virtme-ng -m 128M -object memory-backend-memfd,id=mem,size=128M,share=on -numa node,memdev=mem
        -machine q35 -accel tcg -parallel none -net none -echr 1 -chardev file,path=log,id=dmesg
        -device virtio-serial-pci -device virtconsole,chardev=dmesg -chardev stdio,id=console,signal=off,mux=on
        -serial chardev:console -mon chardev=console -vga none -display none -smp 2
        -kernel {kernel} -append console=ttyS0"""
    ),
    "other controllers": Shape(
        """-M pc,accel=tcg -m 64 -display none -vga cirrus -nic none -fda d.raw -cdrom c.qcow2 -device AC97
        -device ahci,id=ahci0 -drive if=none,id=a,file=a.raw,format=raw -device ide-hd,drive=a,bus=ahci0.1
        -device megasas,id=m0 -drive if=none,id=b,file=b.raw,format=raw -device scsi-hd,drive=b,bus=m0.0
        -device virtio-vga -usb -device usb-hub,port=1 -device usb-mouse"""
    ),
    "nested bridges": Shape(
        """-M q35,accel=tcg -nodefaults -display none -m 64 -device virtio-rng-pci
        -device pcie-root-port,id=p1,chassis=1,addr=2.0,multifunction=on -device pcie-root-port,id=p2,chassis=2,addr=2.1
        -device x3130-upstream,bus=p1,id=up -device xio3130-downstream,bus=up,id=down,chassis=5
        -device virtio-net-pci,bus=down -device pxb-pcie,id=pxb,bus_nr=0x80,bus=pcie.0
        -device pcie-root-port,bus=pxb,id=p3,chassis=8 -device virtio-rng-pci,bus=p3"""
    ),
    "a CPU that QEMU cannot give in full": Shape(
        "-M q35,accel=tcg -nodefaults -display none -m 64 -smp 2,sockets=2 -cpu Skylake-Server,-avx512f,model-id=foo"
        " -rtc base=2006-06-17T16:01:21 -boot order=dc,menu=on"
    ),
    "two NUMA nodes": Shape(
        """-M pc,accel=tcg -nodefaults -display none -m 128,slots=2,maxmem=1G -smp 2
        -object memory-backend-ram,id=r0,size=64M -object memory-backend-ram,id=r1,size=64M
        -numa node,memdev=r0,nodeid=0,cpus=0 -numa node,memdev=r1,nodeid=1,cpus=1
        -object memory-backend-ram,id=x,size=64M -device pc-dimm,memdev=x,node=1"""
    ),
    "pc, a bridge and controllers hot-plugged": Shape(
        "-M pc,accel=tcg -nodefaults -display none -m 64",
        (
            ("device_add", {"driver": "virtio-scsi-pci"}),
            ("device_add", {"driver": "pci-bridge", "id": "br", "chassis_nr": 2}),
            ("device_add", {"driver": "e1000"}),
        ),
    ),
    "-kernel": Shape(
        "-M pc,accel=tcg -nodefaults -display none -kernel {kernel} -append console=ttyS0,a,b -m 128 -serial null",
        executes=False,
    ),
}


class Source:
    """A guest under test and how it is reached."""

    def __init__(self, process: subprocess.Popen[bytes], monitor: Monitor) -> None:
        self.process = process
        self.monitor = monitor


@pytest.fixture
def taps() -> Iterator[tuple[str, str]]:
    """Two taps that nothing is plugged into: the guest's and its twin's."""
    names = (f"lmt{os.getpid() % 100000}a", f"lmt{os.getpid() % 100000}b")
    for name in names:
        subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    yield names
    for name in names:
        subprocess.run(["ip", "link", "del", name], check=True)


@pytest.fixture
def images(short_dir: Path) -> Path:
    image = str(assets.qemu_img())
    overlay = ["-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "c.qcow2"]
    for name, size in (("a.raw", "16M"), ("b.raw", "8M"), ("d.raw", "8M")):
        subprocess.run([image, "create", "-q", "-f", "raw", short_dir / name, size], check=True)
    subprocess.run([image, "create", "-q", "-f", "qcow2", short_dir / "base.qcow2", "16M"], check=True)
    subprocess.run([image, "create", "-q", *overlay], check=True, cwd=short_dir)
    (short_dir / "vars.fd").write_bytes(assets.ovmf()[1].read_bytes())
    return short_dir


@pytest.fixture
async def start(images: Path, taps: tuple[str, str]) -> AsyncIterator[Callable[..., Any]]:
    """Starts a guest of a shape."""
    async with AsyncExitStack() as stack:

        async def begin(shape: Shape, binary: Path) -> Source:
            filled = shape.words.replace("{tap}", taps[0]).replace("{ovmf}", str(assets.ovmf()[0]))
            words = filled.replace("{kernel}", str(assets.kernel())).split()
            process = _popen([str(binary), *words, *([] if shape.executes else ["-S"])], images)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            monitor = await _connect(process, images)
            stack.push_async_callback(monitor.close)
            for command, arguments in shape.hotplug:
                await monitor.execute(command, arguments)
            return Source(process, monitor)

        yield begin


def _popen(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "source.stderr").open("wb") as stderr:
        return subprocess.Popen(
            [*command, "-qmp", "unix:qmp,server=on,wait=off"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


async def _connect(process: subprocess.Popen[bytes], directory: Path) -> Monitor:
    while True:  # QEMU tells nobody when its socket listens, and the file is there before that
        try:
            return await Monitor.connect(str(directory / "qmp"), pid=process.pid, greeting_timeout=20)
        except MonitorMissing:
            if process.poll() is not None:
                pytest.fail((directory / "source.stderr").read_text())
        await asyncio.sleep(0.02)


def rehosted(profile: Profile, directory: Path, tap: str) -> Profile:
    """What kinds of cargo do: other host-side names."""

    def moved(chardev: Chardev) -> Chardev:
        if chardev.backend == "stdio":
            return replace(chardev, backend="null", options={k: v for k, v in chardev.options.items() if k == "mux"})
        if path := chardev.options.get("path"):
            return replace(chardev, options=chardev.options | {"path": f"{directory}/{Path(path).name}"})
        return chardev

    def plugged(netdev: Netdev) -> Netdev:
        return replace(netdev, options=netdev.options | {"ifname": tap}) if netdev.ifname else netdev

    display = tuple((n, v.replace("unix:", f"unix:{directory}/")) for n, v in profile.display.options)
    return replace(
        profile,
        chardevs=tuple(moved(c) for c in profile.chardevs),
        netdevs=tuple(plugged(n) for n in profile.netdevs),
        display=replace(profile.display, options=display),
    )


async def build(profile: Profile, binary: Path, directory: Path, tap: str) -> Twin:
    twin = directory / "twin"
    twin.mkdir(exist_ok=True)
    monitor = str(twin / "limosa")
    line = await argv(rehosted(profile, twin, tap), TwinShape(monitor=monitor), str(binary))
    started = await launch(binary, line, directory=twin, monitor=monitor)
    await finish(started.monitor, profile)
    return started


async def move(source: Monitor, twin: Twin, directory: Path) -> str:
    """Migrate over a Unix socket; the twin's run state afterwards."""
    await source.execute("migrate-set-capabilities", {"capabilities": [_on("events"), _on("return-path")]})
    await twin.monitor.execute("migrate-set-capabilities", {"capabilities": [_on("events"), _on("validate-uuid")]})
    await twin.monitor.execute("migrate-incoming", {"uri": f"unix:{directory}/ram"})
    await source.execute("migrate", {"uri": f"unix:{directory}/ram"})
    for monitor in (source, twin.monitor):
        event = await monitor.events.wait(
            lambda e: e.name == "MIGRATION" and e.data["status"] in {"completed", "failed"}, since=0
        )
        assert event.data["status"] == "completed", twin.stderr()
    await twin.monitor.execute("cont")
    return str((await twin.monitor.execute("query-status"))["status"])


def _on(capability: str) -> dict[str, Any]:
    return {"capability": capability, "state": True}


@pytest.mark.parametrize("name", SHAPES)
async def test_a_twin_is_the_same_machine_and_runs_the_guest(
    name: str, start: Callable[..., Any], images: Path, taps: tuple[str, str]
) -> None:
    shape = SHAPES[name]
    source = await start(shape, assets.qemu_10())
    await through(shape, source, assets.qemu_10(), images, taps[1])


@pytest.mark.parametrize("new", ["7.2", "10.0"])
@pytest.mark.parametrize("name", ["modern, hot-plugged", "pc with defaults, -hda, -net", "many devices"])
async def test_a_guest_of_qemu_7_2_goes_to_either_version_with_its_machine_type(
    name: str, new: str, start: Callable[..., Any], images: Path, taps: tuple[str, str]
) -> None:
    old = assets.qemu_7()
    if old is None:
        pytest.skip("this machine's own QEMU is newer than 7")
    source = await start(SHAPES[name], old)
    profile = await introspect(source.monitor, pid=source.process.pid)
    assert profile.machine.type.endswith("-7.2")
    await through(SHAPES[name], source, assets.qemu_10() if new == "10.0" else old, images, taps[1])


async def through(shape: Shape, source: Source, binary: Path, directory: Path, tap: str) -> None:
    if shape.executes:
        await asyncio.sleep(1.0)  # firmware programs registers meanwhile; that must not look like a difference
    profile = await introspect(source.monitor, pid=source.process.pid)
    twin = await build(profile, binary, directory, tap)
    try:
        comparison = compare(profile, await introspect(twin.monitor, pid=twin.pid))
        assert [str(difference) for difference in comparison.guest_visible] == []
        assert comparison.compared > 500
        assert [str(d) for d in comparison.host_side if d.where.startswith("drives/")] == []
        if shape.migrates:
            assert await move(source.monitor, twin, directory) == "running"
        else:
            with pytest.raises(QmpError, match="non-migratable"):
                await move(source.monitor, twin, directory)
    finally:
        await stop(twin)


async def test_a_twin_of_a_twin_has_one_monitor_of_limosas_and_the_owners(
    start: Callable[..., Any], images: Path, taps: tuple[str, str]
) -> None:
    source = await start(SHAPES["virtio-scsi with several LUNs"], assets.qemu_10())
    profile = await introspect(source.monitor, pid=source.process.pid)
    first = await build(profile, assets.qemu_10(), images, taps[1])
    try:
        again = await introspect(first.monitor, pid=first.pid)
        line = await argv(again, TwinShape(monitor="/run/x"), str(assets.qemu_10()))
        assert [word for word in line if word.startswith("chardev=")] == [
            "chardev=limosa-mon,mode=control",
            "chardev=compat_monitor0,mode=control",
        ]
        assert "socket,id=limosa-mon,path=/run/x,server=on,wait=off" in line
    finally:
        await stop(first)


async def test_a_twin_that_cannot_start_says_why_in_qemus_words(
    start: Callable[..., Any], images: Path, taps: tuple[str, str]
) -> None:
    source = await start(SHAPES["virtio-scsi with several LUNs"], assets.qemu_10())
    profile = await introspect(source.monitor, pid=source.process.pid)
    broken = replace(profile, block_nodes=profile.block_nodes[1:])
    with pytest.raises(LaunchError) as failure:
        await build(broken, assets.qemu_10(), images, taps[1])
    assert "qemu-system-x86_64: -blockdev" in failure.value.detail


async def test_a_missing_and_an_extra_device_are_both_seen(
    start: Callable[..., Any], images: Path, taps: tuple[str, str]
) -> None:
    source = await start(SHAPES["virtio-scsi with several LUNs"], assets.qemu_10())
    profile = await introspect(source.monitor, pid=source.process.pid)
    *others, last = profile.devices
    twin = await build(replace(profile, devices=tuple(others)), assets.qemu_10(), images, taps[1])
    try:
        there = await introspect(twin.monitor, pid=twin.pid)
        (missing,) = compare(profile, there).guest_visible
        (extra,) = compare(there, profile).guest_visible
        assert (missing.where, missing.source, missing.twin) == (last.position, last.driver, "(missing)")
        assert (extra.where, extra.source, extra.twin) == (last.position, "(missing)", last.driver)
    finally:
        await stop(twin)


async def test_knowledge_of_a_program_is_kept(tmp_path: Path) -> None:
    board = Board(machine="q35", cpu="qemu64", accel="tcg")
    first = await Probe(assets.qemu_10(), tmp_path).bare(board)
    second = Probe(assets.qemu_10(), tmp_path)
    assert await asyncio.wait_for(second.bare(board), timeout=0.05) == first  # no QEMU starts that fast
