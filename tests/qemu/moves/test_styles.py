"""Guests that limosa did not start, in the styles people use: found, planned, moved there and back, equal."""

import asyncio
import hashlib
import itertools
import os
import random
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio

from limosa.lab import assets, iscsi, records
from limosa.lab.commands import limosa, migrate
from limosa.lab.guestctl import GuestControl, GuestOptions, Status
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.lab import Lab
from limosa.lab.network import OBSERVER_ADDRESS
from limosa.lab.provision import SOCKET, start_agent
from limosa.qmp.monitor import Monitor
from limosa.units import MIB, Side
from limosa.wire.moves import MoveState, MoveStatus

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module")]

BOOT_LIMIT = 120.0
PATIENCE = 300.0
"""Seconds for one command line; the machine may be busy with other things."""

NUMBERS = itertools.count(101)
"""Each guest has an address of its own: the observer remembers for a while which NIC had one."""


@dataclass(frozen=True)
class Image:
    """A disk that takes records; its label is its file's stem. Size in MiB."""

    file: str
    format: str
    size: int = 16
    backed: bool = False

    @property
    def label(self) -> str:
        return Path(self.file).stem


@dataclass(frozen=True)
class Style:
    """One way to start a guest.

    `words` may name $qemu, $ovmf, $dir (the guest's directory), $kernel, $bzimage, $initrd and $append. `agent` is
    the socket on which the guest's own agent answers.
    """

    words: str
    images: tuple[Image, ...] = ()
    cwd: str = "/"
    agent: str = "$dir/agent"
    flags: tuple[str, ...] = ()
    name: str = "guest"
    other_addresses: tuple[str, ...] = ()
    """Of NICs behind the one on the tap; boards make those of `-nic` before those of `-device`."""

    @property
    def directory(self) -> str:
        return f"/srv/{self.name.partition(' ')[0]}"


BOOT = " -kernel $kernel -initrd $initrd -append $append "
AGENT = """ -device virtio-serial -chardev socket,id=agent,path=$dir/agent,server=on,wait=off
    -device virtserialport,chardev=agent,name=limosa.0 """

MODERN = Style(
    """$qemu -name guest=modern,debug-threads=on -uuid 5d9f62f4-2f9b-4f8c-9d5e-1b5a5b7a0001
    -machine q35,accel=tcg -cpu max -smp 2,sockets=2,cores=1,threads=1 -nodefaults -display none
    -object '{"qom-type":"memory-backend-ram","id":"ram0","size":268435456}' -machine memory-backend=ram0 -m 256
    -qmp unix:$dir/qmp,server=on,wait=off
    -chardev file,id=serial0,path=$dir/serial.log -device '{"driver":"isa-serial","chardev":"serial0","id":"com1"}'
    -device '{"driver":"pcie-root-port","id":"rp0","chassis":1}'
    -device '{"driver":"pcie-root-port","id":"rp1","chassis":2}'
    -object '{"qom-type":"iothread","id":"io0"}'
    -blockdev '{"driver":"file","filename":"$dir/system.qcow2","node-name":"f0","discard":"unmap","aio":"threads"}'
    -blockdev '{"driver":"qcow2","file":"f0","node-name":"system"}'
    -device '{"driver":"virtio-blk-pci","drive":"system","id":"vd0","bus":"rp0","iothread":"io0","bootindex":1}'
    -blockdev '{"driver":"raw","node-name":"data","file":{"driver":"file","filename":"$dir/data.raw"}}'
    -device '{"driver":"virtio-blk-pci","drive":"data","id":"vd1","serial":"data"}'
    -netdev '{"type":"tap","id":"n0","ifname":"tap0","script":"no","downscript":"no"}'
    -device '{"driver":"virtio-net-pci","netdev":"n0","id":"nic0","bus":"rp1","mac":"52:54:00:00:01:01"}'
    -device '{"driver":"virtio-rng-pci"}' -device '{"driver":"virtio-balloon-pci"}'"""
    + AGENT
    + BOOT,
    (Image("system.qcow2", "qcow2"), Image("data.raw", "raw")),
    name="modern",
)

STYLES = {
    "blockdev and JSON": MODERN,
    "-hda, -net nic, -net tap on pc": Style(
        """$qemu -name oldstyle -M pc -accel tcg -m 256 -hda system.qcow2
        -net nic -net tap,ifname=tap0,script=no,downscript=no
        -display none -serial unix:$dir/agent,server=on,wait=off -monitor unix:$dir/hmp,server=on,wait=off
        -qmp unix:$dir/qmp,server=on,wait=off"""
        + BOOT,
        (Image("system.qcow2", "qcow2"),),
        cwd="$dir",
        name="oldstyle",
    ),
    "-drive if=virtio": Style(
        """$qemu -name drives -machine q35,accel=tcg -m 256 -smp 1 -vga std -display none -serial file:$dir/serial.log
        -drive file=$dir/system.qcow2,if=virtio,discard=unmap -drive file=$dir/data.raw,if=virtio,format=raw,cache=none
        -nic tap,ifname=tap0,script=no,downscript=no,model=virtio-net-pci,mac=52:54:00:00:01:03 -usb -device usb-tablet
        -vnc unix:$dir/vnc -qmp unix:$dir/qmp,server=on,wait=off"""
        + AGENT
        + BOOT,
        (Image("system.qcow2", "qcow2"), Image("data.raw", "raw")),
        name="drives",
    ),
    "virtio-scsi with several LUNs": Style(
        """$qemu -name luns -machine q35,accel=tcg -m 256 -nodefaults -display none -device virtio-scsi-pci,id=scsi0
        -drive if=none,id=a,file=$dir/raw.raw,format=raw -device scsi-hd,drive=a,bus=scsi0.0,lun=1,serial=raw
        -drive if=none,id=b,file=$dir/thin.qcow2 -device scsi-hd,drive=b,bus=scsi0.0,lun=2
        -drive if=none,id=c,file=$dir/chain.qcow2
        -device scsi-hd,drive=c,bus=scsi0.0,scsi-id=1,lun=0,wwn=0x5000c500a1b2c3d4
        -device scsi-cd,bus=scsi0.0,lun=3 -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device e1000e,netdev=n0
        -serial file:$dir/serial.log -qmp unix:$dir/qmp,server=on,wait=off"""
        + AGENT
        + BOOT,
        (Image("raw.raw", "raw"), Image("thin.qcow2", "qcow2"), Image("chain.qcow2", "qcow2", backed=True)),
        name="luns",
    ),
    "UEFI": Style(
        """$qemu -name uefi -machine q35,accel=tcg,smm=off -m 256 -nodefaults -display none
        -drive if=pflash,format=raw,unit=0,readonly=on,file=$ovmf -drive if=pflash,format=raw,unit=1,file=$dir/vars.fd
        -drive if=virtio,format=raw,file=$dir/data.raw -netdev tap,id=n0,ifname=tap0,script=no,downscript=no
        -device virtio-net-pci,netdev=n0 -serial file:$dir/serial.log -qmp unix:$dir/qmp,server=on,wait=off
        -kernel $bzimage -initrd $initrd -append $append"""
        + AGENT,
        (Image("data.raw", "raw"),),
        name="uefi",
    ),
    "-daemonize, relative names, TCP monitors": Style(
        """$qemu -name daemon -machine pc,accel=tcg -m 256 -display none -daemonize -pidfile vm.pid
        -hda system.qcow2 -drive file=data.raw,format=raw,if=virtio
        -nic tap,ifname=tap0,script=no,downscript=no,model=virtio-net-pci
        -serial file:serial.log -monitor telnet:127.0.0.1:4445,server=on,wait=off
        -qmp tcp:127.0.0.1:4444,server=on,wait=off"""
        + AGENT.replace("$dir/", "")
        + BOOT,
        (Image("system.qcow2", "qcow2"), Image("data.raw", "raw")),
        cwd="$dir",
        name="daemon",
    ),
    "-nographic": Style(
        """$qemu -name console -accel tcg -m 256 -nographic -drive file=disk.raw,format=raw
        -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device rtl8139,netdev=n0
        -chardev socket,id=mon1,path=qmp.sock,server=on,wait=off -mon chardev=mon1,mode=control"""
        + AGENT
        + BOOT,
        (Image("disk.raw", "raw"),),
        cwd="$dir",
        name="console",
    ),
}


@dataclass(frozen=True)
class Home:
    """A guest's directory on its hosts, and what its disks must hold for ever."""

    lab: Lab
    style: Style
    contents: dict[str, records.Content]
    address: str = field(default_factory=lambda: f"10.66.0.{next(NUMBERS)}")

    @property
    def name(self) -> str:
        return self.style.name

    @property
    def options(self) -> GuestOptions:
        addresses = (f"{self.address}/24", *self.style.other_addresses)
        return GuestOptions(addresses=addresses, pages=32, records="magic", records_hz=20)

    @property
    def directory(self) -> str:
        return self.style.directory

    def path(self, host: Host, image: Image) -> Path:
        return host.path(f"{self.directory}/{image.file}")

    def fill(self, text: str, **more: object) -> str:
        code, _ = assets.ovmf()
        return Template(text).substitute(
            {
                "qemu": assets.qemu_10(),
                "dir": self.directory,
                "ovmf": code,
                "kernel": assets.kernel(),
                "bzimage": assets.kernel_efi(),
                "initrd": assets.initrd(),
                "append": self.options.append(),
                **more,
            }
        )

    def argv(self, **more: object) -> list[str]:
        return [self.fill(word, **more) for word in shlex.split(self.style.words)]

    @asynccontextmanager
    async def agent(self, host: Host) -> AsyncIterator[GuestControl]:
        """The guest's own agent, over the socket that its owner gave it."""
        path = host.path(self.fill(self.style.agent))
        async with await GuestControl.over_unix(path, timeout=BOOT_LIMIT) as agent:
            yield agent


Settle = Callable[[Style], Awaitable[Home]]


@pytest.fixture
def settle(lab: Lab, clean: None) -> Settle:
    """Make a guest's directory on both hosts, with its disks on host a, and a tap there."""

    async def make(style: Style) -> Home:
        contents: dict[str, records.Content] = {}
        for host in lab.hosts.values():
            host.path(style.directory).mkdir(parents=True)
        home = Home(lab, style, contents)
        for number, image in enumerate(style.images):
            contents[image.label] = make_disk(home.path(lab.host("a"), image), image, number)
        home.lab.host("a").path(f"{home.directory}/vars.fd").write_bytes(assets.ovmf()[1].read_bytes())
        await lab.host("a").add_tap("tap0")
        return home

    return make


def make_disk(path: Path, image: Image, seed: int) -> records.Content:
    base = path.with_name(f"base-{path.name}") if image.backed else path
    layout = records.Layout(image.label, slots=1024)
    content = records.create(base, image.format, image.size * MIB, layout, content=2 * MIB, seed=seed)
    if image.backed:
        records._qemu_img(None, "create", "-q", "-f", image.format, "-b", base.name, "-F", image.format, str(path))
    return content


async def start(home: Home, host: Host, **more: object) -> Process:
    """Start the guest as its owner would, from its own directory or from elsewhere."""
    return await host.spawn(home.argv(**more), name=f"qemu-{home.name}", cwd=home.fill(home.style.cwd))


async def is_listed(host: Host, name: str) -> bool:
    answer = await limosa(host, "ls", "--json", timeout=PATIENCE)
    assert answer.status == 0, answer.err
    return any(guest["name"] == name and guest["state"] == "running" for guest in answer.json())


async def can_move(home: Home, source: Host, destination: Host) -> None:
    """`ls` finds the guest, `show` tells what it is, `plan` says that it can move and changes nothing."""
    assert await is_listed(source, home.name)
    shown = await limosa(source, "show", home.name, "--json", timeout=PATIENCE)
    assert shown.status == 0, shown.err
    assert shown.json()["name"] == home.name
    planned = await limosa(
        source, "plan", home.name, "--to", destination.name, "--json", *home.style.flags, timeout=PATIENCE
    )
    assert planned.status == 0, planned.err + planned.out
    assert planned.plan().possible, planned.plan().findings


async def move(home: Home, source: Host, destination: Host) -> MoveStatus:
    """`limosa migrate`, and nothing of the guest left at the source but its old disks."""
    answer = await migrate(source, home.name, destination, *home.style.flags, timeout=PATIENCE)
    assert answer.status == 0, answer.err + answer.out
    report = answer.move()
    assert (report.state, report.guest_runs) == (MoveState.COMPLETED, Side.DESTINATION)
    assert report.warnings == ()
    assert report.measured is not None
    assert report.measured.compared > 100
    assert await is_listed(destination, home.name)
    assert not await is_listed(source, home.name)
    assert not await qemus(source)
    assert "UP" not in (await source.run(["ip", "-br", "link", "show", "tap0"], check=False)).stdout
    for host in (source, destination):
        assert list(host.path("/run/limosa/moves").glob("*")) == []
    return report


async def same_guest(home: Home, host: Host, before: Status) -> Status:
    """The guest that was booted then still runs, and all that it held is there."""
    async with home.agent(host) as agent:
        assert (await agent.check_pages()).intact
        now = await agent.status()
        for label, content in home.contents.items():
            disk = now.disk(label)
            assert disk.errors == 0
            assert disk.acknowledged > before.disk(label).acknowledged
            assert await agent.sha256(disk.name, content.offset, content.length) == content.sha256
    assert now.boot_id == before.boot_id
    assert now.uptime_ns > before.uptime_ns
    assert not now.oopsed
    assert now.deaths == before.deaths
    assert (now.cpus, now.memory_kib) == (before.cpus, before.memory_kib)
    assert [(d.serial, d.size) for d in now.disks] == [(d.serial, d.size) for d in before.disks]
    assert [(n.mac, n.addresses) for n in now.nics] == [(n.mac, n.addresses) for n in before.nics]
    await home.lab.observer.run(["ping", "-c", "1", "-w", "10", home.address])
    return now


async def boot(home: Home, host: Host) -> Status:
    """The guest's first status, once each of its disks takes records."""
    async with home.agent(host) as agent:
        async with asyncio.timeout(BOOT_LIMIT):
            while True:
                now = await agent.status()
                if all(now.disk(label).acknowledged for label in home.contents):
                    return now
                await asyncio.sleep(0.1)  # the guest has no way to call us


def verify(path: Path, image: Image, status: Status) -> None:
    verdict = records.verify_image(path, image.format, status.disk(image.label).acknowledged)
    assert verdict.intact, verdict
    assert verdict.checked > 0


async def qemus(host: Host) -> str:
    """Pids of the QEMUs on a host."""
    return (await host.run(["pgrep", "-x", "qemu-system-x86"], check=False)).stdout


async def ended(host: Host) -> None:
    """Return when no QEMU is left (polled: none of them is a child of ours)."""
    async with asyncio.timeout(BOOT_LIMIT):
        while True:
            if not await qemus(host):
                return
            await asyncio.sleep(0.1)


async def there_and_back(home: Home) -> None:
    """Move a guest from a to b and back, with everything that has to be true on the way."""
    a, b = home.lab.host("a"), home.lab.host("b")
    before = await boot(home, a)
    await can_move(home, a, b)
    await move(home, a, b)
    there = await same_guest(home, b, before)
    back = await move(home, b, a)
    for image in home.style.images:
        verify(home.path(b, image).with_name(f"{image.file}.limosa-{back.id}"), image, there)
    await same_guest(home, a, there)
    async with home.agent(a) as agent:
        last = await agent.status()
        await agent.power_off()
    await ended(a)
    for image in home.style.images:
        verify(home.path(a, image), image, last)


@pytest.mark.parametrize("name", STYLES)
async def test_a_guest_of_this_style_moves_there_and_back(name: str, settle: Settle) -> None:
    home = await settle(STYLES[name])
    await start(home, home.lab.host("a"))
    await there_and_back(home)


UNMOVABLE = Style(
    """$qemu -name unmovable -machine q35,accel=tcg -m 256 -nodefaults -display none
    -drive if=none,id=d0,file=$dir/disk.raw,format=raw -device nvme,id=fast,drive=d0,serial=n0
    -fsdev local,id=fs0,path=/usr/share,security_model=none,readonly=on
    -device virtio-9p-pci,fsdev=fs0,mount_tag=/dev/root,id=root
    -nic tap,ifname=tap0,script=no,downscript=no,model=virtio-net-pci
    -qmp unix:$dir/qmp,server=on,wait=off"""
    + AGENT
    + BOOT,
    (Image("disk.raw", "raw"),),
    name="unmovable",
)


async def test_what_no_qemu_and_no_kind_of_cargo_moves_is_named_before_anything_is_made(settle: Settle) -> None:
    """NVMe, which QEMU marks as not migratable, and a directory of the host, as virtme-ng gives to every guest."""
    home = await settle(UNMOVABLE)
    a, b = home.lab.host("a"), home.lab.host("b")
    await start(home, a)
    before = await boot(home, a)
    planned = await limosa(a, "plan", home.name, "--to", "b", "--json", timeout=PATIENCE)
    assert planned.status == 10
    answer = await migrate(a, home.name, b, timeout=PATIENCE)
    assert answer.status == 10
    assert "QEMU cannot migrate nvme (fast)" in answer.err
    assert "virtio-blk" in answer.err
    assert "virtio-9p-pci root" in answer.err
    assert list(b.path(home.directory).iterdir()) == []
    assert not await qemus(b)
    assert await is_listed(a, home.name)
    await same_guest(home, a, before)


OLD = Style(
    """$qemu -name old -machine pc-q35-7.2,accel=tcg -m 256 -nodefaults -display none
    -drive if=virtio,format=raw,file=$dir/disk.raw -netdev tap,id=n0,ifname=tap0,script=no,downscript=no
    -device virtio-net-pci,netdev=n0 -serial file:$dir/serial.log -qmp unix:$dir/qmp,server=on,wait=off"""
    + AGENT
    + BOOT,
    (Image("disk.raw", "raw"),),
    name="old",
)


@pytest_asyncio.fixture(loop_scope="module")
async def only_qemu_10(lab: Lab) -> AsyncIterator[None]:
    """Host b has no other QEMU than 10.0 meanwhile."""
    host = lab.host("b")
    setting = host.path("/etc/limosa/conf.d/qemu.toml")
    setting.parent.mkdir(exist_ok=True)
    setting.write_text(f'qemu = ["{assets.qemu_10()}"]\n')
    await restart_agent(host)
    yield
    setting.unlink()
    await restart_agent(host)


async def restart_agent(host: Host) -> None:
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(BOOT_LIMIT)
    host.path(SOCKET).unlink()
    await start_agent(host)


@pytest.mark.usefixtures("only_qemu_10")
async def test_a_guest_of_qemu_7_2_goes_to_10_0_with_its_machine_type(settle: Settle) -> None:
    qemu = assets.qemu_7()
    if qemu is None:
        pytest.skip("this machine's own QEMU is newer than 7")
    home = await settle(OLD)
    a, b = home.lab.host("a"), home.lab.host("b")
    await start(home, a, qemu=qemu)
    before = await boot(home, a)
    async with home.agent(a) as agent:
        # Under TCG, 7.2 itself sometimes spoils RAM in a migration while a disk is written (docs/qemu-notes.md).
        await agent.set_records_rate(0)
        await agent.set_dirty_rate(1)
    await can_move(home, a, b)
    await move(home, a, b)
    shown = (await limosa(b, "show", "old", "--json", timeout=PATIENCE)).json()
    assert shown["machine"]["type"] == "pc-q35-7.2"
    assert shown["qemu"]["version"][:2] == [10, 0]
    async with home.agent(b) as agent:
        now = await agent.status()
    assert (now.boot_id, now.deaths) == (before.boot_id, before.deaths)
    assert now.uptime_ns > before.uptime_ns
    await home.lab.observer.run(["ping", "-c", "1", "-w", "10", home.address])
    verify(home.path(b, OLD.images[0]), OLD.images[0], before)


PLUGGED = Style(
    """$qemu -name plugged -machine q35,accel=tcg -cpu max -smp 1,maxcpus=2,sockets=2,cores=1,threads=1 -nodefaults
    -m 256,slots=2,maxmem=1G -display none -device pcie-root-port,id=rp0,chassis=1
    -device pcie-root-port,id=rp1,chassis=2 -drive if=virtio,format=raw,file=$dir/disk.raw
    -netdev tap,id=n0,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=n0
    -serial file:$dir/serial.log -qmp unix:$dir/qmp,server=on,wait=off"""
    + AGENT
    + BOOT,
    (Image("disk.raw", "raw"),),
    name="plugged",
)


async def plug(host: Host, home: Home) -> None:
    """A disk, a NIC, a DIMM and a vCPU, over the owner's monitor, which is free again afterwards."""
    monitor = await Monitor.connect(str(host.path(f"{home.directory}/qmp")))
    for command, arguments in (
        ("blockdev-add", {"driver": "file", "node-name": "extra-file", "filename": f"{home.directory}/extra.qcow2"}),
        ("blockdev-add", {"driver": "qcow2", "node-name": "extra", "file": "extra-file"}),
        ("device_add", {"driver": "virtio-blk-pci", "id": "vd1", "drive": "extra", "bus": "rp0", "serial": "extra"}),
        ("netdev_add", {"type": "tap", "id": "n1", "ifname": "tap1", "script": "no", "downscript": "no"}),
        ("device_add", {"driver": "virtio-net-pci", "id": "nic1", "netdev": "n1", "bus": "rp1"}),
        ("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": 128 * MIB}),
        ("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"}),
        ("device_add", {"driver": "max-x86_64-cpu", "id": "c1", "socket-id": 1, "core-id": 0, "thread-id": 0}),
    ):
        await monitor.execute(command, arguments)
    await monitor.close()


async def test_what_was_plugged_in_since_is_there_after_the_move(settle: Settle) -> None:
    home = await settle(PLUGGED)
    a = home.lab.host("a")
    extra = Image("extra.qcow2", "qcow2")
    content = make_disk(home.path(a, extra), extra, 7)
    await a.add_tap("tap1")
    await start(home, a)
    cold = await boot(home, a)
    await plug(a, home)
    home.contents[extra.label] = content
    async with home.agent(a) as agent, asyncio.timeout(BOOT_LIMIT):
        while True:
            now = await agent.status()
            # Some of a DIMM goes to the kernel's own tables.
            if (now.cpus, len(now.nics)) == (2, 2) and now.memory_kib - cold.memory_kib > 100 * 1024:
                break
            await asyncio.sleep(0.1)  # the guest has no way to call us
    assert now.disk("extra").serial == "extra"
    await there_and_back(replace(home, style=replace(PLUGGED, images=(*PLUGGED.images, extra))))


VOLUMES = Style(
    """$qemu -name volumes -machine q35,accel=tcg -m 256 -nodefaults -display none
    -drive if=virtio,format=raw,file=$dir/local.raw -drive if=virtio,file=$shared/shared.qcow2
    -blockdev '{"driver":"raw","node-name":"nbd0","file":{"driver":"nbd","export":"nbdvol",
    "server":{"type":"inet","host":"$observer","port":"10809"}}}' -device virtio-blk-pci,drive=nbd0,serial=nbdvol
    -drive if=none,id=iscsi0,format=raw,file=$iscsi -device virtio-blk-pci,drive=iscsi0,serial=iscsivol
    -drive if=none,id=cd0,media=cdrom,readonly=on,file=$dir/here.iso -device ide-cd,drive=cd0,bus=ide.0
    -drive if=none,id=cd1,media=cdrom,readonly=on,file=$shared/both.iso -device ide-cd,drive=cd1,bus=ide.1
    -device ide-cd,bus=ide.2 -netdev tap,id=n0,ifname=tap0,script=no,downscript=no
    -device virtio-net-pci,netdev=n0 -serial file:$dir/serial.log -qmp unix:$dir/qmp,server=on,wait=off"""
    + AGENT
    + BOOT,
    (Image("local.raw", "raw"),),
    name="volumes",
)

ISO_SIZE = 2 * MIB


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that both hosts see, which makes it shared storage."""
    with TemporaryDirectory(prefix="limosa-shared-", dir="/var/tmp") as path:
        yield Path(path)


@asynccontextmanager
async def served(lab: Lab, shared: Path) -> AsyncIterator[str]:
    """Serve two volumes from beyond both hosts, over NBD and over iSCSI; the URL of the second one."""
    nbd = str(assets.qemu_10().with_name("qemu-nbd"))
    words = ("--fork", "--persistent", "--shared=8", "-f", "raw", "-x", "nbdvol", "-b", OBSERVER_ADDRESS)
    await lab.observer.run([nbd, *words, str(shared / "nbdvol.raw")])
    volume, server = await iscsi.serve(lab.observer, "iscsivol", str(shared / "iscsivol.raw"), OBSERVER_ADDRESS)
    yield volume.url
    server.kill()
    await server.wait(BOOT_LIMIT)
    await lab.observer.run(["pkill", "-x", "qemu-nbd"])


async def test_volumes_stay_where_they_are_and_discs_are_found_or_copied(settle: Settle, shared: Path) -> None:
    home = await settle(VOLUMES)
    a, b = home.lab.host("a"), home.lab.host("b")
    kept = (Image("shared.qcow2", "qcow2"), Image("nbdvol.raw", "raw"), Image("iscsivol.raw", "raw"))
    for number, image in enumerate(kept, start=1):
        home.contents[image.label] = make_disk(shared / image.file, image, number)
    discs = {name: random.Random(name).randbytes(ISO_SIZE) for name in ("here", "both")}
    a.path(f"{home.directory}/here.iso").write_bytes(discs["here"])
    (shared / "both.iso").write_bytes(discs["both"])
    async with served(home.lab, shared) as url:
        await start(home, a, shared=shared, observer=OBSERVER_ADDRESS, iscsi=url)
        before = await boot(home, a)
        await can_move(home, a, b)
        report = await move(home, a, b)
        assert report.measured is not None
        assert report.measured.disk_bytes < 8 * MIB  # the local disk alone
        after = await same_guest(home, b, before)
        async with home.agent(b) as agent:
            for drive, name in (("sr0", "here"), ("sr1", "both")):
                assert await agent.sha256(drive, 0, ISO_SIZE) == hashlib.sha256(discs[name]).hexdigest()
            assert (await agent.shell("cat /sys/block/sr2/size")).exit == 0
            await agent.power_off()
        await ended(b)
    for image in kept:
        verify(shared / image.file, image, after)
    verify(home.path(b, VOLUMES.images[0]), VOLUMES.images[0], after)


DEBVM = Style(
    """debvm-run -i rootfs.ext4 -- -machine accel=tcg -cpu max -m 256 -smp 1 -append $append
    -drive if=virtio,format=raw,file=data.raw -nic tap,ifname=tap0,script=no,downscript=no,model=virtio-net-pci
    -qmp unix:$dir/qmp,server=on,wait=off"""
    + AGENT,
    (Image("data.raw", "raw"),),
    cwd="$dir",
    name="debvm-run rootfs.ext4",
    other_addresses=("10.0.2.15/24",),
)


def make_root(path: Path) -> None:
    """What debvm-run asks of an image: a label, links in its root to a kernel and an initrd, and a program."""
    with TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "bin").mkdir()
        shutil.copy("/usr/bin/busybox", root / "bin" / "true")
        shutil.copy(assets.kernel(), root / "vmlinux-lab")
        shutil.copy(assets.initrd(), root / "initrd-lab")
        (root / "vmlinux").symlink_to("vmlinux-lab")
        (root / "initrd.img").symlink_to("initrd-lab")
        words = ["/sbin/mke2fs", "-q", "-t", "ext4", "-L", "debvm", "-d", directory, str(path), "128M"]
        subprocess.run(words, check=True, capture_output=True)


async def test_a_guest_started_by_debvm_run_moves_there_and_back(settle: Settle, shared: Path) -> None:
    if not shutil.which("debvm-run"):
        pytest.skip("debvm is not installed; scripts/setup installs it")
    home = await settle(DEBVM)
    a = home.lab.host("a")
    make_root(a.path(f"{home.directory}/rootfs.ext4"))
    path = f"{assets.qemu_10().parent}:{os.environ['PATH']}"
    await a.spawn(home.argv(), name="debvm", cwd=home.directory, env={"PATH": path})
    before = await boot(home, a)
    shown = (await limosa(a, "show", home.name, "--json", timeout=PATIENCE)).json()
    # debvm-run takes kernel and initrd out of the image into files that it deletes when the guest has ended here.
    maps = {shown["machine"]["properties"][part]: str(shared / part) for part in ("kernel", "initrd")}
    for there, kept in maps.items():
        shutil.copy(a.path(there), kept)
    refused = await migrate(a, home.name, home.lab.host("b"), timeout=PATIENCE)
    assert refused.status == 10
    assert "break-user-net" in refused.err
    flags = ("--allow", "break-user-net", *(word for old, new in maps.items() for word in ("--map", f"{old}={new}")))
    await there_and_back(replace(home, style=replace(DEBVM, flags=flags)))
    assert before.disks
