"""A link that is cut while disks are copied: QEMU reports nothing, and limosa must still come back."""

import asyncio
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import msgspec
import pytest

from limosa.cargo import mirror
from limosa.cargo.disks import Disks
from limosa.cargo.kind import Streams, When
from limosa.errors import MoveFailed
from limosa.lab import assets
from limosa.testing.pair import Pair, block_arguments, pair
from limosa.testing.profiles import disk_profile, file_node, format_node
from limosa.units import MIB
from limosa.wire.moves import MoveRequest

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="a link of one's own needs root"),
]

CLONE_NEWNET = 0x40000000
MACHINE = ("-machine", "pc-q35-7.2")


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True)


@pytest.fixture
def far_host() -> Iterator[int]:
    """A network namespace of ours, and one behind a cable; the pid of what holds the far one."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0
    far = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE)
    try:
        assert far.stdout is not None
        assert far.stdout.readline() == b"ready\n"
        ip("link", "set", "lo", "up")
        ip("link", "add", "cable", "type", "veth", "peer", "name", "plug", "netns", far.pid)
        ip("address", "add", "10.9.0.1/24", "dev", "cable")
        ip("link", "set", "cable", "up")
        for words in ("address add 10.9.0.2/24 dev plug", "link set plug up"):
            subprocess.run(["nsenter", "-t", str(far.pid), "-n", "ip", *words.split()], check=True)
        yield far.pid
    finally:
        far.kill()
        far.wait()
        assert far.stdout is not None
        far.stdout.close()
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def behind_the_cable(tmp_path: Path, pid: int) -> Path:
    script = tmp_path / "far-qemu"
    script.write_text(f'#!/bin/sh\nexec nsenter -t {pid} -n -- {assets.qemu_10()} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("cut", ["while copying", "in sync", "synchronous, main loop stuck"])
async def test_a_cut_link_is_noticed_and_undone(
    tmp_path: Path, far_host: int, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "STALLED_SECONDS", 3.0)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "data.raw").write_bytes(os.urandom(32 * MIB))
    profile = disk_profile(file_node("d0-file", here / "data.raw"), format_node("d0", "raw"), disks=["d0"])
    stuck: asyncio.Task[None] | None = None
    slow = 4.0 * MIB if cut == "while copying" else None
    request = MoveRequest(guest="guest", to="destination", maps={str(here): str(there)}, bandwidth=slow)
    async with pair(tmp_path, profile, [Disks()], request) as both:
        for end in (both.source, both.destination):
            end.streams = Streams(address="10.9.0.2", nbd_port=10809, migration_port=10810, tls_creds=None)
        await both.source.start(assets.qemu_10(), [*MACHINE, *block_arguments(profile)])
        assert not await both.agree()
        await both.make(When.BEFORE_TWIN)
        await both.start_twin(behind_the_cable(tmp_path, far_host), *MACHINE)
        if cut == "while copying":
            await copy_and_cut(both)
        elif cut == "in sync":
            await both.make(When.COPY)
            ip("link", "set", "cable", "down")
            await both.source.io("/machine/peripheral/vd3/virtio-backend", "write -P 0x55 1M 64k")
        else:
            await both.copy()
            ip("link", "set", "cable", "down")
            # This write waits for the far end, and QEMU's main loop with it.
            stuck = asyncio.create_task(
                both.source.io("/machine/peripheral/vd3/virtio-backend", "write -P 0x55 1M 64k")
            )
            await asyncio.sleep(0.2)
        began = monotonic()
        await both.unmake_all()
        await both.unmake_all()
        assert monotonic() - began < 15
        if stuck is not None:
            await stuck
        monitor = both.source.monitor
        assert (await monitor.execute("query-status"))["status"] == "running"
        assert await monitor.execute("query-jobs") == []
        await both.source.io("/machine/peripheral/vd3/virtio-backend", "write -P 0x66 2M 64k")
        assert [*there.iterdir()] == []


async def copy_and_cut(both: Pair) -> None:
    begun = asyncio.Event()
    both.source.on_progress = lambda progress: begun.set() if progress.done > 4 * MIB else None
    copying = asyncio.create_task(both.make(When.COPY))
    await begun.wait()
    ip("link", "set", "cable", "down")
    with pytest.raises(MoveFailed, match="nothing was copied for"):
        await copying


def test_a_copy_says_all_that_is_needed_after_a_restart() -> None:
    copy = mirror.Copy(item="vda", node="d0", into="d0", name="limosa-0-d0", size=1)
    assert msgspec.json.decode(msgspec.json.encode(copy), type=mirror.Copy) == copy
