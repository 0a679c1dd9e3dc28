"""Media, firmware code and shared volumes between two real QEMUs."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from limosa.cargo.disks import Disks
from limosa.cargo.kind import HostFacts, Survey, When
from limosa.cargo.media import Media
from limosa.cargo.nvram import Nvram
from limosa.cargo.volumes import Volumes
from limosa.guest.profile import BlockNode, Drive, Machine, Profile
from limosa.lab import assets
from limosa.qmp.monitor import Monitor
from limosa.testing.pair import block_arguments, pair
from limosa.testing.ports import free_port
from limosa.testing.profiles import bare_profile, disk_profile, file_node, format_node
from limosa.units import MIB
from limosa.wire.moves import MoveRequest

pytestmark = pytest.mark.qemu
MACHINE = ("-machine", "pc-q35-7.2")
NOBODY = "127.0.0.9"


class MediaElsewhere(Media):
    """As if the media were on another host's storage."""

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        survey = await super().check_source(profile, host, request, monitor)
        for told in survey.learned["images"]:
            told["identity"]["path"] = told["identity"]["path"].replace("/here/", "/elsewhere/")
        return survey


def qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True)


def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def media_profile(path: Path, form: str = "raw") -> Profile:
    nodes = (file_node("d0-file", path, **{"read-only": True}), format_node("d0", form, read_only=True))
    return disk_profile(*nodes, disks=["d0"])


@pytest.mark.parametrize("form", ["raw", "qcow2"])
async def test_a_medium_that_is_not_there_is_copied_before_ram(tmp_path: Path, form: str) -> None:
    here, there = folders(tmp_path)
    content = os.urandom(2 * MIB) + bytes(MIB)
    (here / "plain").write_bytes(content)
    medium = here / "cd.iso"
    qemu_img("convert", "-O", form, here / "plain", medium)
    profile = media_profile(medium, form)
    request = MoveRequest(guest="guest", to="destination", maps={str(tmp_path / "elsewhere"): str(there)})
    async with pair(tmp_path, profile, [MediaElsewhere()], request) as both:
        await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
        await both.move_all(assets.qemu_10(), *MACHINE)
        backend = "/machine/peripheral/vd3/virtio-backend"
        assert "0 bytes" not in await both.destination.monitor.hmp(f'qemu-io -d {backend} "read 0 1M"')
        await both.destination.monitor.execute("quit")
        await both.destination.wait()
        assert medium.exists()
        qemu_img("compare", "-F", "raw", there / "cd.iso", here / "plain")
        assert [path.name for path in there.iterdir()] == ["cd.iso"]


@pytest.mark.parametrize("until", [When.BEFORE_TWIN, When.COPY])
async def test_a_copied_medium_is_undone_twice(tmp_path: Path, until: When) -> None:
    here, there = folders(tmp_path)
    (here / "cd.iso").write_bytes(os.urandom(MIB))
    profile = media_profile(here / "cd.iso")
    request = MoveRequest(guest="guest", to="destination", maps={str(tmp_path / "elsewhere"): str(there)})
    async with pair(tmp_path, profile, [MediaElsewhere()], request) as both:
        await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
        assert not await both.agree()
        await both.make(When.BEFORE_TWIN)
        if until is When.COPY:
            await both.start_twin(assets.qemu_10(), *MACHINE)
            await both.make(When.COPY)
        await both.unmake_all()
        await both.unmake_all()
        assert [*there.iterdir()] == []
        assert await both.source.monitor.execute("query-jobs") == []


async def test_the_same_content_elsewhere_is_used_and_not_copied(tmp_path: Path) -> None:
    here, there = folders(tmp_path)
    content = os.urandom(MIB)
    (here / "cd.iso").write_bytes(content)
    (there / "cd.iso").write_bytes(content)
    profile = media_profile(here / "cd.iso")
    request = MoveRequest(guest="guest", to="destination", maps={str(tmp_path / "elsewhere"): str(there)})
    async with pair(tmp_path, profile, [MediaElsewhere()], request) as both:
        await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
        assert not await both.agree()
        assert [step for when in When for step in both.steps(when)] == []
        assert both.twin is not None
        assert both.twin.node("d0-file").filename == str(there / "cd.iso")
        (there / "cd.iso").write_bytes(content[:-1] + b"?")
        (blocked,) = await both.agree()
        assert "is another file here" in blocked.what


async def test_flash_is_split_between_code_and_variables(tmp_path: Path) -> None:
    here, there = folders(tmp_path)
    code, template = assets.ovmf()
    (here / "vars.fd").write_bytes(template.read_bytes())
    nodes = (
        file_node("code-file", code, **{"read-only": True}),
        format_node("code", "raw", read_only=True),
        file_node("vars-file", here / "vars.fd"),
        format_node("vars", "raw"),
    )
    drives = tuple(
        Drive(device=f"/machine/system.flash{n}", backend="", node=name, removable=False, tray_open=None, throttle=None)
        for n, name in enumerate(("code", "vars"))
    )
    machine = Machine(type="pc-q35-7.2", accel="tcg", properties={"pflash0": "code", "pflash1": "vars"})
    profile = bare_profile(block_nodes=nodes, drives=drives, machine=machine)
    assert Nvram().claims(profile) == {"block:code", "block:code-file"}
    assert Disks().claims(profile) == {"block:vars", "block:vars-file"}
    request = MoveRequest(guest="guest", to="destination", maps={str(here): str(there)})
    board = ("-machine", "pc-q35-7.2,pflash0=code,pflash1=vars")
    async with pair(tmp_path, profile, [Disks(), Nvram()], request) as both:
        await both.source.start(assets.qemu_10(), [*board, *block_arguments(profile)])
        await both.move_all(assets.qemu_10(), *board)
        await both.destination.monitor.execute("quit")
        await both.destination.wait()
        (old,) = here.iterdir()
        assert (there / "vars.fd").read_bytes() == old.read_bytes()


@asynccontextmanager
async def exported(tmp_path: Path, address: str, shared: int) -> AsyncIterator[tuple[str, str]]:
    """A volume on an NBD server; its size is 16 MiB."""
    image = tmp_path / "volume.raw"
    image.write_bytes(bytes(16 * MIB))
    server = await asyncio.start_server(lambda _r, _w: None, address, 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    process = await asyncio.create_subprocess_exec(
        *("qemu-nbd", "-f", "raw", "-b", address, "-p", str(port), "-x", "vol", "-e", str(shared), "-t", str(image))
    )
    try:
        for _ in range(100):
            try:
                _, writer = await asyncio.open_connection(address, port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)  # qemu-nbd tells nobody that it listens
                continue
            writer.close()
            break
        yield address, str(port)
    finally:
        process.terminate()
        await process.wait()


def nbd_profile(host: str, port: str) -> Profile:
    server: dict[str, Any] = {"type": "inet", "host": host, "port": port}
    node = BlockNode(
        node_name="d0-file",
        live_name="d0-file",
        driver="nbd",
        options={"server": server, "export": "vol"},
        children={},
        read_only=False,
        virtual_size=16 * MIB,
        filename=None,
    )
    return disk_profile(node, format_node("d0", "raw"), disks=["d0"])


async def test_a_shared_nbd_volume_is_used_from_both_ends(tmp_path: Path) -> None:
    async with exported(tmp_path, "127.0.0.2", 5) as (host, port):
        profile = nbd_profile(host, port)
        assert Volumes().claims(profile) == {"block:d0", "block:d0-file", "device:/machine/peripheral/vd3"}
        async with pair(tmp_path, profile, [Disks(), Volumes()]) as both:
            await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
            await both.source.io("/machine/peripheral/vd3/virtio-backend", "write -P 0x77 1M 1M")
            await both.move_all(assets.qemu_10(), *MACHINE)
            assert both.made == []
            await both.destination.io("/machine/peripheral/vd3/virtio-backend", "read -P 0x77 1M 1M")
            await both.destination.kill()


async def test_a_volume_that_cannot_be_reached_blocks(tmp_path: Path) -> None:
    async with exported(tmp_path, "127.0.0.2", 5) as (host, port):
        profile = nbd_profile(host, port)
        request = MoveRequest(guest="guest", to="destination", maps={host: NOBODY})
        async with pair(tmp_path, profile, [Volumes()], request) as both:
            await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
            (blocked,) = await both.agree()
            assert "cannot be reached from here" in blocked.what
            assert "Connection refused" in blocked.what


async def test_a_server_for_one_client_only_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limosa.cargo.volumes._CHECK_SECONDS", 1.0)
    async with exported(tmp_path, "127.0.0.2", 1) as (host, port):
        profile = nbd_profile(host, port)
        async with pair(tmp_path, profile, [Volumes()]) as both:
            await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
            (blocked,) = await both.agree()
            assert "qemu-nbd --shared=0" in blocked.remedy


async def test_localhost_is_another_machine_at_each_host(tmp_path: Path) -> None:
    async with exported(tmp_path, "127.0.0.1", 5) as (host, port):
        profile = nbd_profile(host, port)
        async with pair(tmp_path, profile, [Volumes()]) as both:
            await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
            (blocked,) = await both.agree()
            assert "another machine at each host" in blocked.what


@contextmanager
def iscsi_target(tmp_path: Path, address: str, port: int) -> Iterator[str]:
    """A LUN of 16 MiB; yields the portal."""
    (tmp_path / "lun.raw").write_bytes(bytes(16 * MIB))
    environment = os.environ | {"TGT_IPC_SOCKET": str(tmp_path / "tgtd")}
    daemon = subprocess.Popen(["tgtd", "-f", "--iscsi", f"portal={address}:{port}"], env=environment)

    def order(*words: str) -> int:
        return subprocess.run(["tgtadm", "--lld", "iscsi", *words], env=environment, capture_output=True).returncode

    try:
        new = ("--op", "new", "--mode", "target", "--tid", "1", "-T", IQN)
        for _ in range(200):
            if order(*new) == 0:
                break
            sleep(0.05)  # tgtd tells nobody that it takes orders
        lun = ("--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", str(tmp_path / "lun.raw"))
        assert order("--op", "new", *lun) == 0
        assert order("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL") == 0
        yield f"{address}:{port}"
    finally:
        daemon.kill()  # it ignores SIGTERM while it has a target
        daemon.wait()


IQN = "iqn.2026-01.org.limosa:shared"


@pytest.mark.skipif(shutil.which("tgtd") is None, reason="the target needs tgtd (Debian: tgt)")
async def test_an_iscsi_volume_is_used_from_both_ends(tmp_path: Path) -> None:
    with iscsi_target(tmp_path, "127.0.0.3", free_port("127.0.0.3")) as portal:
        node = BlockNode(
            node_name="d0-file",
            live_name="d0-file",
            driver="iscsi",
            options={"transport": "tcp", "portal": portal, "target": IQN, "lun": 1},
            children={},
            read_only=False,
            virtual_size=16 * MIB,
            filename=None,
        )
        profile = disk_profile(node, format_node("d0", "raw"), disks=["d0"])
        async with pair(tmp_path, profile, [Disks(), Volumes()]) as both:
            await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
            await both.source.io("/machine/peripheral/vd3/virtio-backend", "write -P 0x78 1M 1M")
            await both.move_all(assets.qemu_10(), *MACHINE)
            assert both.findings == ()
            await both.destination.io("/machine/peripheral/vd3/virtio-backend", "read -P 0x78 1M 1M")
            await both.destination.kill()
