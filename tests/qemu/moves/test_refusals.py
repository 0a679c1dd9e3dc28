"""What limosa will not do: said in three lines, with the guest as it was and nothing left at the destination."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from limosa.lab import assets
from limosa.lab.commands import migrate
from limosa.lab.guestctl import GuestOptions
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.hosts import Host
from limosa.lab.inside import Process, tool
from limosa.lab.lab import Lab
from limosa.lab.network import Link
from limosa.lab.provision import start_agent
from limosa.lab.trouble import Refusal, Watched, configure, left_behind, refused, traces, with_owner
from limosa.qmp.monitor import Monitor
from limosa.units import Side
from limosa.wire.moves import MoveState

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

UUID = "6d7a3a3e-6a3c-4e0e-9a0b-0d6a5b1f2c11"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(lab: Lab) -> AsyncIterator[Watched]:
    """One guest for all refusals: each must leave it as it was."""
    a, b = lab.host("a"), lab.host("b")
    a.path("/srv/data.raw").touch()
    os.truncate(a.path("/srv/data.raw"), 16 << 20)
    a.path("/srv/full.raw").write_bytes(os.urandom(12 << 20))
    options = GuestOptions(addresses=("10.66.0.100/24",), pages=8, records="auto")
    disks = (
        *blockdev("data", "/srv/data.raw", "raw", serial="data"),
        *blockdev("full", "/srv/full.raw", "raw", serial="full"),
    )
    spec = with_owner(GuestSpec("web1", options, memory=192, devices=disks, uuid=UUID))
    await start(a, spec)
    async with await control(a, spec):
        pass
    async with Watched.over(spec, a, b) as watched:
        yield watched


async def bare(host: Host, name: str, *words: str, monitor: bool = True, memory: str = "32") -> tuple[Process, Path]:
    """A QEMU that runs its firmware and no system; its monitor's path, as the machine sees it."""
    directory = f"/run/limosa/{name}"
    host.path(directory).mkdir(parents=True)
    board = ("-accel", "tcg", "-machine", "q35", "-m", memory, "-nodefaults", "-display", "none", "-name", name)
    qmp = ("-qmp", f"unix:{directory}/qmp,server=on,wait=off") if monitor else ()
    process = await host.spawn([str(assets.qemu_10()), *board, *qmp, *words], name=name)
    path = host.path(f"{directory}/qmp")
    if monitor:
        await bound(path, process)
    assert process.running
    return process, path


async def bound(path: Path, process: Process) -> None:
    """Wait until a process made its socket (polled: a socket that somebody else will bind tells nobody)."""
    async with asyncio.timeout(20):
        while True:
            if there(path) or not process.running:
                return
            await asyncio.sleep(0.02)


def there(path: Path) -> bool:
    return path.exists()


def said(refusal: Refusal, status: int, *words: str) -> None:
    """The refusal has this exit status, names these things, and says what to do."""
    assert refusal.status == status, refusal.text
    assert [word for word in words if word not in refusal.what] == [], refusal.text
    assert refusal.remedy, refusal.text


async def test_an_unknown_guest_or_host_is_named(web: Watched) -> None:
    said(await refused(web.source, "migrate", "web7", "--to", "b"), 2, "web7")
    said(await refused(web.source, "migrate", "web1", "--to", "z"), 2, "z")
    said(await refused(web.source, "migrate", "web1", "--to", "a"), 2, "web1", "a")
    assert await web.changes() == []


async def test_a_guest_without_a_monitor_is_refused(web: Watched) -> None:
    process, _ = await bare(web.source, "mute", monitor=False)
    said(await refused(web.source, "migrate", "mute", "--to", "b"), 10, "mute", "monitor")
    assert process.running
    process.kill()
    assert await web.changes() == []


async def test_a_monitor_that_somebody_holds_stays_his(web: Watched) -> None:
    held = await Monitor.connect(str(web.source.path(web.spec.monitor_path)))
    try:
        refusal = await refused(web.source, "migrate", "web1", "--to", "b")
        said(refusal, 10, "monitor")
        assert "-qmp" in refusal.remedy
        assert (await held.execute("query-status"))["running"]
    finally:
        await held.close()
    assert await web.changes() == []


async def test_a_destination_out_of_reach_is_named(lab: Lab, web: Watched) -> None:
    await lab.cut("b", Link.PEER)
    said(await refused(web.source, "migrate", "web1", "--to", "b"), 75, "b")
    await lab.heal("b")
    assert web.destination.agent is not None
    web.destination.agent.send_signal(signal.SIGTERM)
    await web.destination.agent.wait(20)
    said(await refused(web.source, "migrate", "web1", "--to", "b"), 75, "b")
    await start_agent(web.destination)
    assert await web.changes() == []


async def test_a_destination_without_the_right_qemu_is_refused(web: Watched) -> None:
    older = assets.qemu_7()
    lacking = [["/no/such/qemu"], *([[str(older)]] if older else [])]
    try:
        for binaries in lacking:
            await agent_with(web.destination, qemu=binaries)
            said(await refused(web.source, "migrate", "web1", "--to", "b"), 10, "pc-q35-10.0")
    finally:
        await agent_with(web.destination)
    assert await web.changes() == []


async def agent_with(host: Host, **keys: object) -> None:
    """Start a host's agent anew, with other settings."""
    assert host.agent is not None
    host.agent.send_signal(signal.SIGTERM)
    await host.agent.wait(20)
    await configure(host, **keys)
    await start_agent(host)


async def test_disks_that_do_not_fit_are_refused(web: Watched) -> None:
    await web.destination.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", "/srv"])
    try:
        said(await refused(web.source, "migrate", "web1", "--to", "b"), 10, "/srv", "free")
    finally:
        await web.destination.run(["umount", "/srv"])
    assert await web.changes() == []


async def test_a_guest_larger_than_free_memory_is_refused(web: Watched) -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    # Memory that the guest never touches costs nothing; the kernel grants no more than it has.
    process, _ = await bare(web.source, "whale", memory=str(total - 64))
    said(await refused(web.source, "migrate", "whale", "--to", "b"), 10, "b has", "memory free")
    process.kill()
    await process.wait(20)
    assert await web.changes() == []


async def test_a_file_at_the_destination_is_never_overwritten(web: Watched) -> None:
    precious = web.destination.path("/srv/data.raw")
    precious.write_bytes(b"precious" * 4096)
    for _ in range(2):
        said(await refused(web.source, "migrate", "web1", "--to", "b"), 10, "/srv/data.raw", "exists")
        assert precious.read_bytes() == b"precious" * 4096
    precious.unlink()
    assert await web.changes() == []


async def test_a_uuid_that_runs_at_the_destination_is_refused(web: Watched) -> None:
    process, monitor = await bare(web.destination, "double", "-uuid", UUID)
    refusal = await refused(web.source, "migrate", "web1", "--to", "b")
    said(refusal, 10, "UUID", "double")
    there = await Monitor.connect(str(monitor))
    assert (await there.execute("query-status"))["running"]
    await there.close()
    process.kill()
    await process.wait(20)
    assert await web.changes() == []


async def test_a_device_that_no_kind_claims_is_named(web: Watched) -> None:
    shared = ("-object", "memory-backend-ram,id=shared,size=1M,share=on", "-device", "ivshmem-plain,memdev=shared")
    process, monitor = await bare(web.source, "odd", "-device", "edu,id=lecture", *shared)
    said(await refused(web.source, "migrate", "odd", "--to", "b"), 10, "lecture", "edu", "ivshmem-plain")
    owner = await Monitor.connect(str(monitor))
    assert (await owner.execute("query-status"))["running"]
    await owner.close()
    process.kill()
    await process.wait(20)
    assert await web.changes() == []


async def test_what_a_copy_would_lose_goes_only_with_consent(web: Watched) -> None:
    a, b = web.source, web.destination
    image = "/srv/old.qcow2"
    await a.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"])
    await a.run(["qemu-io", "-c", "write -P 0x5a 0 1M", image])
    await a.run(["qemu-img", "snapshot", "-c", "monday", image])
    await a.run(["qemu-io", "-c", "write -P 0xa5 512K 1M", image])
    await a.run(["qemu-img", "bitmap", "--add", image, "backup"])
    await a.run(["sh", "-c", f"qemu-img convert -O raw {image} /srv/truth.raw"])
    nic = ("-netdev", "user,id=slirp", "-device", "e1000,netdev=slirp")
    process, monitor = await bare(a, "old", *blockdev("sys", image, "qcow2"), *nic)
    words = {"lose-snapshots": "monday", "lose-bitmaps": "backup", "break-user-net": "slirp"}
    before = await traces(b)
    refusal = await refused(a, "migrate", "old", "--to", "b")
    said(refusal, 10, *words.values())
    assert [word for word in words if f"--allow {word}" not in refusal.remedy] == []
    assert await left_behind(b, before) == []
    owner = await Monitor.connect(str(monitor))
    assert (await owner.execute("query-status"))["running"]
    await owner.close()
    answer = await migrate(a, "old", b, *(flag for word in words for flag in ("--allow", word)))
    assert answer.status == 0, answer.err + answer.out
    assert answer.move().state is MoveState.COMPLETED
    assert not process.running
    here = await Monitor.connect(str(b.path("/run/limosa/old/qmp")))
    assert (await here.execute("query-status"))["running"]
    await here.execute("quit")
    await here.gone()
    await here.close()
    pair = (str(b.path(image)), str(a.path("/srv/truth.raw")))
    assert "identical" in await tool(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", *pair])
    await a.run(["sh", "-c", "rm -rf /srv/old* /srv/truth.raw /run/limosa/old"])
    await b.run(["sh", "-c", "rm -rf /srv/old* /run/limosa/guests/*"])
    assert await web.changes() == []


async def test_a_paused_guest_moves_and_stays_paused(web: Watched) -> None:
    """Last of all: it ends at the other host."""
    await web.owner.execute("stop")
    answer = await migrate(web.source, "web1", web.destination)
    assert answer.status == 0, answer.err + answer.out
    assert answer.move().guest_runs is Side.DESTINATION
    owner = await Monitor.connect(str(web.destination.path(f"{web.spec.directory}/owner")))
    assert (await owner.execute("query-status"))["status"] == "paused"
    await owner.execute("cont")
    async with await control(web.destination, web.spec) as agent:
        now = await agent.status()
        assert (await agent.check_pages()).intact
    await owner.close()
    assert now.boot_id == web.status.boot_id
    assert not now.oopsed
