"""What `limosa doctor` finds on real hosts, and what it removes: everything that is nobody's, and nothing else."""

import asyncio
import contextlib
import os
from pathlib import Path

import msgspec
import pytest

from limosa.errors import MonitorMissing
from limosa.lab import assets
from limosa.lab.commands import limosa
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.lab import Lab
from limosa.qmp.monitor import Monitor
from limosa.wire.doctor import Diagnosis

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

UUID = "6d7a3a3e-6a3c-4e0e-9a0b-0d6a5b1f2c11"
BOARD = ("-accel", "tcg", "-machine", "q35", "-m", "32", "-nodefaults", "-display", "none")


async def bare(host: Host, name: str, directory: str, *words: str) -> Process:
    """A QEMU without a system, once its monitor answers (polled: a socket that somebody else binds tells nobody)."""
    host.path(directory).mkdir(parents=True, exist_ok=True)
    qmp = ("-qmp", f"unix:{directory}/qmp,server=on,wait=off")
    process = await host.spawn([str(assets.qemu_10()), *BOARD, "-name", name, *qmp, *words], name=name)
    async with asyncio.timeout(30):
        while True:
            assert process.running
            with contextlib.suppress(MonitorMissing):
                monitor = await Monitor.connect(str(host.path(f"{directory}/qmp")), greeting_timeout=10)
                await monitor.close()
                return process
            await asyncio.sleep(0.02)


async def examined(host: Host, *words: str) -> tuple[int, Diagnosis]:
    answer = await limosa(host, "doctor", "--json", *words)
    assert answer.out, answer.err
    return answer.status, msgspec.json.decode(answer.out.strip(), type=Diagnosis)


def made(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.usefixtures("clean")
async def test_healthy_hosts_are_clean(lab: Lab) -> None:
    answer = await limosa(lab.host("a"), "doctor")
    assert (answer.status, answer.out.strip()) == (0, "2 hosts looked at: all is well"), answer.out + answer.err


@pytest.mark.usefixtures("clean")
async def test_strays_are_found_and_removed_and_nothing_else(lab: Lab) -> None:
    a = lab.host("a")
    guest = await bare(a, "web1", "/run/limosa/web1", "-netdev", "tap,id=n,ifname=tap7,script=no,downscript=no")
    twin = await bare(a, "web2", "/run/limosa/guests/mdead0001", "-incoming", "defer", "-S")
    used = made(a.path("/srv/.used.raw.limosa-mdead0002"))
    reader = await a.spawn(["sleep", "600"], stdin=os.open(used, os.O_RDONLY), name="reader")
    for name in (".new.raw.limosa-mdead0003", "old.raw.limosa-mdead0004", "x.raw"):
        made(a.path(f"/srv/{name}"))
    os.link(a.path("/srv/x.raw"), a.path("/srv/.x.raw.limosa-mdead0005"))
    made(a.path("/run/limosa/moves/mdead0006-in/psk/keys.psk"))
    for tap in ("ltdead1", "tap8"):
        await a.run(["ip", "tuntap", "add", tap, "mode", "tap"])
    for tap, move in (("ltdead1", "mdead0007"), ("tap7", "mdead0008")):
        await a.run(["ip", "link", "set", tap, "alias", f"limosa:{move}:n"])

    status, diagnosis = await examined(a)
    assert status == 40
    words = "\n".join(trouble.what for trouble in diagnosis.troubles)
    for stray in (".new.raw", "/srv/.x.raw.limosa", "mdead0006-in", "ltdead1", f"twin of web2 (pid {twin.inner_pid})"):
        assert stray in words, words
    for other in ("tap7", "tap8", ".used.raw"):
        assert other not in words
    assert "1 old images" in words

    status, after = await examined(a, "--fix")
    removed = {fixed.what for fixed in after.fixed if fixed.removed}
    left = {fixed.what: fixed.why for fixed in after.fixed if not fixed.removed}
    assert removed == {
        f"twin of web2 (pid {twin.inner_pid})",
        "file /srv/.new.raw.limosa-mdead0003",
        "file /srv/.x.raw.limosa-mdead0005",
        "directory /run/limosa/moves/mdead0006-in",
        "directory /run/limosa/guests/mdead0001",
        "tap ltdead1",
    }
    assert "sleep" in left["file /srv/.used.raw.limosa-mdead0002"]
    assert "qemu" in left["tap tap7"]
    assert "guest's image" in left["image /srv/x.raw"]
    assert status == 0, after.troubles
    assert not twin.running
    assert guest.running
    assert reader.running
    assert {path.name for path in a.path("/srv").iterdir()} == {
        ".used.raw.limosa-mdead0002",
        "old.raw.limosa-mdead0004",
        "x.raw",
    }
    taps = (await a.run(["ip", "tuntap", "list"])).stdout
    assert ("tap7" in taps, "tap8" in taps, "ltdead1" in taps) == (True, True, False)
    reader.kill()
    used.unlink()


@pytest.mark.usefixtures("clean")
async def test_what_a_move_left_inside_a_qemu_is_found_and_removed(lab: Lab) -> None:
    a = lab.host("a")
    made(a.path("/srv/d.raw"), bytes(1 << 20))
    disk = ("-blockdev", "raw,node-name=d0,file.driver=file,file.filename=/srv/d.raw", "-device", "virtio-blk,drive=d0")
    await bare(a, "web1", "/run/limosa/web1", *disk)
    monitor = await Monitor.connect(str(a.path("/run/limosa/web1/qmp")), greeting_timeout=10)
    await monitor.execute("blockdev-add", {"driver": "null-co", "node-name": "limosa-12345678-d0", "size": 1 << 20})
    await monitor.execute("object-add", {"qom-type": "secret", "id": "limosa-tls", "data": "x"})
    await monitor.execute("block-dirty-bitmap-add", {"node": "d0", "name": "limosa-b"})
    await monitor.close()
    status, diagnosis = await examined(a)
    assert (status, len(diagnosis.troubles)) == (40, 3), diagnosis.troubles
    status, after = await examined(a, "--fix")
    assert status == 0, after.troubles
    assert [fixed.removed for fixed in after.fixed] == [True] * 3


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("there", ["a", "b"])
async def test_a_uuid_that_runs_twice_is_found_on_one_host_and_on_two(lab: Lab, there: str) -> None:
    one = await bare(lab.host("a"), "web1", "/run/limosa/one", "-uuid", UUID)
    two = await bare(lab.host(there), "web1", "/run/limosa/two", "-uuid", UUID)
    for words in ((), ("--fix",)):
        status, diagnosis = await examined(lab.host("a"), *words)
        (trouble,) = diagnosis.troubles
        assert (status, trouble.weight) == (40, "error")
        assert f"UUID {UUID} runs 2 times" in trouble.what
        assert f"web1 on {there}" in trouble.what
        assert trouble.what.count("running") == 2
    assert one.running
    assert two.running
    one.kill()
    two.kill()
