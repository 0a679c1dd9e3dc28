"""What goes wrong in the middle of a move: noticed, rolled back, with the guest as it was and nothing left behind."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from limosa.errors import MonitorLost, QmpError
from limosa.lab.guestctl import GuestOptions
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.network import Link
from limosa.lab.provision import SOCKET, start_agent
from limosa.lab.records import verify_image
from limosa.lab.trouble import (
    Flight,
    Watched,
    copying_disks,
    copying_ram,
    kill_twin,
    left_behind,
    pids_of,
    traces,
    with_owner,
)
from limosa.units import Side
from limosa.wire.moves import MoveState, MoveStatus

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

MOMENTS: dict[str, tuple[str, Callable[[MoveStatus], bool]]] = {
    "disks": ("5M", copying_disks),
    "memory": ("16M", copying_ram),
}
"""What is being copied -> a bandwidth at which that lasts for seconds, and how it shows."""

in_every_copy = pytest.mark.parametrize("moment", list(MOMENTS))


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A medium on storage that both hosts share."""
    path = tmp_path_factory.mktemp("media") / "disc.iso"
    path.write_bytes(b"limosa's disc".ljust(1 << 20, b"."))
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(lab: Lab, medium: Path) -> AsyncIterator[Watched]:
    """One guest for all that it survives where it is."""
    drive = ("-blockdev", f"driver=raw,node-name=disc,read-only=on,file.driver=file,file.filename={medium}")
    slots = ("-device", "pcie-root-port,id=rp1,chassis=1")
    spec = await booted(lab.host("a"), "web1", *drive, "-device", "ide-cd,drive=disc,id=cd", *slots)
    async with Watched.over(spec, lab.host("a"), lab.host("b")) as watched:
        yield watched


async def booted(host: Host, name: str, *devices: str, tap: str = "tap0") -> GuestSpec:
    """A guest with a disk of records and one that takes long to copy."""
    data, full = f"/srv/{name}-data.raw", f"/srv/{name}-full.raw"
    host.path(data).touch()
    os.truncate(host.path(data), 16 << 20)
    host.path(full).write_bytes(os.urandom(24 << 20))
    options = GuestOptions(addresses=("10.66.0.100/24",), pages=8, pages_rate=1, records="auto")
    disks = (*blockdev("data", data, "raw", serial="data"), *blockdev("full", full, "raw", serial="full"))
    spec = with_owner(GuestSpec(name, options, memory=192, devices=(*disks, *devices), taps=(tap,)))
    await start(host, spec)
    async with await control(host, spec):
        return spec


async def under_way(web: Watched, moment: str) -> Flight:
    """A move in the middle of its copy."""
    rate, reached = MOMENTS[moment]
    flight = await Flight.depart(web.source, web.spec.name, "b", "--bandwidth", rate)
    now = await flight.until(reached)
    assert not now.state.over, flight.story()
    return flight


def failed(report: MoveStatus, *words: str) -> None:
    """The move failed, was rolled back, and says these words."""
    assert report.error is not None, report
    assert (report.state, report.guest_runs) == (MoveState.FAILED, Side.SOURCE), report.error
    told = f"{report.error['what']} {report.error['detail']}"
    assert [word for word in words if word not in told] == [], told
    assert report.error["remedy"]
    assert report.warnings == ()


@in_every_copy
async def test_a_twin_that_is_killed_is_noticed(web: Watched, moment: str) -> None:
    flight = await under_way(web, moment)
    await kill_twin(web.destination)
    failed(await flight.landed(), "web1")
    assert await flight.exit_status() == 20
    assert await web.changes() == []


@pytest.mark.parametrize(("moment", "drop"), [("disks", False), ("memory", True)])
async def test_a_cut_migration_link_is_noticed(lab: Lab, web: Watched, moment: str, *, drop: bool) -> None:
    flight = await under_way(web, moment)
    await lab.cut("b", Link.MIGRATION, drop=drop)
    try:
        failed(await flight.landed(), "s")
        assert await flight.exit_status() == 20
        assert await web.changes() == []
    finally:
        await lab.heal("b")


async def test_a_destination_that_fills_up_is_said(web: Watched) -> None:
    there = web.destination
    await there.run(["mount", "-t", "tmpfs", "-o", "size=34M", "tmpfs", "/srv"])
    try:
        flight = await under_way(web, "disks")
        await there.run(["dd", "if=/dev/zero", "of=/srv/junk", "bs=1M"], check=False)
        failed(await flight.landed(), "disk-", "No space left on device")
        await there.run(["rm", "/srv/junk"])
        assert await left_behind(there, web.there) == []
    finally:
        await there.run(["umount", "-l", "/srv"])
    assert await flight.exit_status() == 20
    assert await web.changes() == []


async def test_a_device_plugged_in_mid_move_stays_at_the_source(web: Watched) -> None:
    image = web.source.path("/srv/plugged.raw")
    image.touch()
    os.truncate(image, 1 << 20)
    flight = await under_way(web, "disks")
    file = {"driver": "file", "filename": "/srv/plugged.raw"}
    await web.owner.execute("blockdev-add", {"driver": "raw", "node-name": "plugged", "file": file})
    device = {"driver": "virtio-blk-pci", "id": "plugged", "drive": "plugged", "bus": "rp1", "serial": "plugged"}
    await web.owner.execute("device_add", device)
    failed(await flight.landed(), "web1", "changed")
    assert await flight.exit_status() == 20
    async with await control(web.source, web.spec) as agent:
        disk = (await agent.status()).disk("plugged")
        await agent.sha256(disk.name, 0, 1 << 20)
    mark = web.owner.events.position
    await web.owner.execute("device_del", {"id": "plugged"})
    await web.owner.events.wait(
        lambda e: e.name == "DEVICE_DELETED" and e.data.get("device") == "plugged", since=mark, timeout=30
    )
    await web.owner.execute("blockdev-del", {"node-name": "plugged"})
    image.unlink()
    assert await web.changes() == []


@in_every_copy
async def test_a_medium_taken_out_in_mid_move_ends_it(web: Watched, moment: str) -> None:
    flight = await under_way(web, moment)
    await web.owner.execute("blockdev-open-tray", {"id": "cd", "force": True})
    await web.owner.execute("blockdev-remove-medium", {"id": "cd"})
    if moment == "memory":
        # Another one, where QEMU's own list of devices looks the same.
        await web.owner.execute("blockdev-close-tray", {"id": "cd"})
    failed(await flight.landed(), "web1", "cd")
    assert await flight.exit_status() == 20
    if moment == "memory":
        await web.owner.execute("blockdev-open-tray", {"id": "cd", "force": True})
    await web.owner.execute("blockdev-insert-medium", {"id": "cd", "node-name": "disc"})
    await web.owner.execute("blockdev-close-tray", {"id": "cd"})
    assert await web.changes() == []


async def test_a_disk_cannot_be_resized_while_it_is_copied(web: Watched) -> None:
    flight = await under_way(web, "disks")
    with pytest.raises(QmpError):
        await web.owner.execute("block_resize", {"node-name": "data", "size": 32 << 20})
    await kill_twin(web.destination)
    failed(await flight.landed())
    assert await web.changes() == []


GARBAGE = """
import os, socket, sys
for family, place in ((socket.AF_INET, each) for each in sys.argv[1:]):
    host, _, port = place.rpartition(":")
    for words in (b"", b"\\0" * 64, b"GET / HTTP/1.1\\r\\n\\r\\n", os.urandom(4096)):
        with socket.socket(family) as one:
            one.settimeout(3)
            try:
                one.connect((host, int(port)))
                one.sendall(words)
                one.shutdown(socket.SHUT_WR)
                one.recv(65536)
            except OSError:
                pass
"""


async def test_garbage_on_every_socket_harms_no_move(web: Watched) -> None:
    a, b = web.source, web.destination
    flight = await under_way(web, "memory")
    listening = (await b.run(["ss", "-Hltn"])).stdout.split()
    ports = [word for word in listening if word.startswith("10.6") and not word.endswith(":*")]
    assert len(ports) >= 2, ports  # the peer port and NBD; QEMU no longer listens for RAM where it has all its streams
    await a.run([sys.executable, "-c", GARBAGE, *ports], timeout=120)
    sockets = [a.path(SOCKET), b.path(SOCKET), *qmp_sockets(b)]
    assert len(sockets) > 2
    for path in sockets:
        for words in (b"\0" * 64, b"GET / HTTP/1.1\r\n\r\n", b'{"execute": ', os.urandom(4096)):
            await throw(path, words)
    report = await flight.landed()
    assert (report.state, report.guest_runs) == (MoveState.COMPLETED, Side.DESTINATION), report.error
    async with await control(b, web.spec) as agent:
        now = await agent.status()
        assert (await agent.check_pages()).intact
    assert now.boot_id == web.status.boot_id
    await web.bring_home()
    assert await web.changes() == []


def qmp_sockets(host: Host) -> list[Path]:
    return [*host.path("/run/limosa/guests").glob("*/qmp"), host.path("/run/limosa/web1/qmp")]


async def throw(path: Path, words: bytes) -> None:
    """Send bytes to a unix socket, and hang up after a moment; whoever holds it may leave us waiting."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(words)
        async with asyncio.timeout(1):
            await writer.drain()
            await reader.read(65536)
    except (OSError, TimeoutError):
        return
    finally:
        writer.close()


async def test_a_destination_agent_that_is_killed_is_noticed(web: Watched) -> None:
    flight = await under_way(web, "disks")
    assert web.destination.agent is not None
    web.destination.agent.kill()
    try:
        report = await flight.landed()
    finally:
        # What it left is its own to clear away, as soon as somebody starts it again.
        await start_agent(web.destination)
    assert (report.state, report.guest_runs) == (MoveState.FAILED, Side.SOURCE), report.error
    assert await flight.exit_status() in {20, 75}
    assert await web.changes() == []


async def test_a_guest_that_reboots_in_mid_move_runs_once(web: Watched) -> None:
    flight = await under_way(web, "memory")
    async with await control(web.source, web.spec) as agent:
        await agent.reboot()
    report = await flight.landed()
    if report.state is MoveState.COMPLETED:
        assert report.guest_runs is Side.DESTINATION
        assert await pids_of(web.source, "web1") == []
        async with await control(web.destination, web.spec) as agent:
            now = await agent.status()
        assert now.boot_id != web.status.boot_id
        assert not now.oopsed
        await web.bring_home()
        assert await web.changes(same_boot=False) == []
    else:
        failed(report)
        assert await web.changes(same_boot=False) == []


@in_every_copy
async def test_a_guest_that_powers_off_in_mid_move_is_not_moved(lab: Lab, moment: str) -> None:
    a, b = lab.host("a"), lab.host("b")
    before, name, tap = await traces(b), f"off-{moment}", f"tap-{moment}"
    spec = await booted(a, name, tap=tap)
    async with Watched.over(spec, a, b) as guest:
        flight = await under_way(guest, moment)
        async with await control(a, spec) as agent:
            written = (await agent.status()).disk("data").acknowledged
            await agent.power_off()
        report = await flight.landed()
        assert await flight.exit_status() == 20
        assert report.state is MoveState.FAILED
        assert report.error is not None
        assert name in report.error["what"]
        assert "powered" in report.error["what"]
        with pytest.raises(MonitorLost):
            await guest.owner.execute("query-status")
    assert await left_behind(b, before) == []
    assert await pids_of(a, name) == []
    verdict = verify_image(a.path(f"/srv/{name}-data.raw"), "raw", written)
    assert verdict.intact, verdict
    await a.run(["sh", "-c", f"rm -f /srv/{name}*; ip link del {tap}"])
