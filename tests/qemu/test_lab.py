"""The lab itself: hosts are up, apart and joined; links break and mend; nothing is left behind."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limosa.errors import NotFound, UsageError
from limosa.lab import Host, Lab, LabError, Link, LinkState, Process, take_down
from limosa.lab.faults import links
from limosa.lab.network import CABLES
from limosa.lab.observer import until
from limosa.lab.state import MOUNT_POINTS, inits, lab_names, start_time

pytestmark = pytest.mark.qemu

PING = ("ping", "-c1", "-W1")
SENDER = """
import socket, sys
beat = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(5):
    beat.sendto(b"beat %d" % number, (sys.argv[1], 7777))
"""
SINK = """
import socket
server = socket.create_server(("", 5000))
print("listens", flush=True)
client, _ = server.accept()
size = 0
while data := client.recv(1 << 16):
    size += len(data)
    print(size, flush=True)
"""
SOURCE = """
import socket, sys
sink = socket.create_connection((sys.argv[1], 5000))
print("connected", flush=True)
sys.stdin.readline()
sink.sendall(bytes(int(sys.argv[2])))
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMOSA_LAB_DIR", str(tmp_path / "labs"))
    monkeypatch.delenv("LIMOSA_LAB", raising=False)
    return tmp_path / "labs"


@pytest.fixture
async def lab(base: Path) -> AsyncIterator[Lab]:
    async with Lab.up(hosts=2, name="t", agents=False) as up:
        yield up


def left_behind(base: Path) -> list[str]:
    """Processes, network namespaces, mounts and directories that belong to labs below `base`."""
    processes = [f"process {pid}" for pid, lab, _ in inits() if lab.parent == base]
    mounts = [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(base) in line]
    directories = [f"directory {base}"] if base.exists() else []
    return processes + mounts + directories


def namespace(pid: int | str, kind: str = "net") -> Path:
    return Path(f"/proc/{pid}/ns/{kind}").readlink()


def network_namespaces() -> set[Path]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.add(namespace(process.name))
    return found


def stdout(process: Process) -> str:
    assert process.stdout_path is not None
    return process.stdout_path.read_text()


def stderr(process: Process) -> str:
    assert process.stderr_path is not None
    return process.stderr_path.read_text()


def on_the_machine(directory: str) -> list[Path]:
    return list(Path(directory).iterdir())


def cli(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limosa.cli.lab", *words],
        capture_output=True, text=True, timeout=60, env={**os.environ, **more}, check=False,
    )  # fmt: skip


async def reaches(host: Host, address: str) -> bool:
    return (await host.run([*PING, address], check=False)).status == 0


async def test_two_hosts_are_up_within_five_seconds(base: Path) -> None:
    begun = time.monotonic()
    async with Lab.up(hosts=2, name="t", agents=False):
        assert time.monotonic() - begun < 5


async def test_hosts_reach_each_other_on_every_link_and_by_name(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    for address in (b.addresses.guest, b.addresses.migration, b.addresses.peer, "b", lab.observer.address):
        await a.run([*PING, address])


async def test_each_host_has_its_own_directories_processes_and_name(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    for directory in ("/srv", "/var/lib/limosa", "/run/limosa", "/etc/limosa"):
        await a.run(["touch", f"{directory}/mine"])
        assert a.path(f"{directory}/mine").exists()
        assert not b.path(f"{directory}/mine").exists()
        assert Path(directory, "mine") not in on_the_machine(directory)
    assert (await a.run(["hostname"])).stdout == "a\n"
    assert (await a.run(["cat", "/proc/1/cmdline"])).stdout.split("\0")[-2] == "a"
    assert (await a.run(["ls", "/sys/class/net"])).stdout.split() == ["br0", "eth0", "lo", "mig0", "peer0"]


async def test_files_elsewhere_are_shared(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("seen")
    for host in lab.hosts.values():
        assert (await host.run(["cat", str(tmp_path / "shared")])).stdout == "seen"


async def test_other_hosts_disks_are_out_of_sight(lab: Lab) -> None:
    assert (await lab.host("a").run(["ls", str(lab.store.directory.parent)])).stdout == ""


async def test_run_gives_status_output_and_input(lab: Lab) -> None:
    done = await lab.host("a").run(["sh", "-c", "cat; pwd; echo no >&2; exit 3"], stdin="in\n", cwd="/srv", check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "in\n/srv\n", "no\n")
    with pytest.raises(LabError) as failed:
        await lab.host("a").run(["sh", "-c", "echo why >&2; exit 1"])
    assert failed.value.detail == "why"
    with pytest.raises(LabError, match="no such program"):
        await lab.host("a").run(["no-such-program"])


async def test_run_ends_in_time_and_takes_its_children_along(lab: Lab) -> None:
    a = lab.host("a")
    with pytest.raises(LabError, match=r"took longer than 2 s on a") as late:
        await a.run(["sh", "-c", "echo begun; sleep 4242 & wait"], timeout=2)
    assert late.value.detail == "begun\n"
    await until(lambda: _count("4242") == 0, 5)


async def test_spawned_processes_write_to_files_and_tell_their_end(lab: Lab) -> None:
    process = await lab.host("a").spawn(["sh", "-c", "echo out; echo err >&2; exec sleep 60"])
    assert process.running
    assert start_time(process.pid) == process.start_time
    assert namespace(process.pid, "pid") != namespace("self", "pid")
    await until(lambda: (stdout(process), stderr(process)) == ("out\n", "err\n"), 5)
    process.send_signal(signal.SIGTERM)
    assert await process.wait(5) == -signal.SIGTERM
    assert not process.running


async def test_init_reaps_orphans(lab: Lab) -> None:
    a = lab.host("a")
    await a.run(["sh", "-c", "(sleep 0.05 &)"])
    await a.run(["sleep", "0.2"])
    assert " Z" not in (await a.run(["ps", "axo", "pid,stat"])).stdout


async def test_init_outlives_bad_requests(lab: Lab) -> None:
    for request in (
        b"",
        b"garbage",
        b"[]",
        b'{"argv": [], "env": {}, "cwd": "/"}',
        b'{"argv": ["true"]}',
        b'{"argv": ["true"], "env": 1, "cwd": 2}',
    ):
        client = await asyncio.to_thread(_send, lab.host("a"), request)
        assert b"error" in client or client == b""
    assert (await lab.host("a").run(["echo", "alive"])).stdout == "alive\n"


def _send(host: Host, request: bytes) -> bytes:
    from limosa.lab.inside import connect

    with connect(host.directory) as client:
        if request:
            client.send(request)
            return client.recv(4096)
        return b""


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("link", list(Link))
async def test_a_cut_link_passes_nothing_until_it_is_healed(lab: Lab, link: Link, drop: bool) -> None:
    a, b = lab.host("a"), lab.host("b")
    there = {Link.GUEST: b.addresses.guest, Link.MIGRATION: b.addresses.migration, Link.PEER: b.addresses.peer}
    await lab.cut("a", link, drop=drop)
    assert (await links(lab.fabric, a))[link] is (LinkState.DROPPING if drop else LinkState.DOWN)
    for each, address in there.items():
        assert await reaches(a, address) is (each is not link)
    told = (await a.run(["ip", "-br", "link", "show", CABLES[link].inside])).stdout
    assert ("LOWER_UP" in told) is drop
    await lab.heal("a")
    assert set((await links(lab.fabric, a)).values()) == {LinkState.UP}
    for address in there.values():
        assert await reaches(a, address)


async def connected(source: Host, sink: Host, size: int) -> tuple[Process, Process, int]:
    """A TCP connection over the migration link; a byte into the descriptor makes it send `size` bytes."""
    server = await sink.spawn(["python3", "-c", SINK])
    await until(lambda: stdout(server) == "listens\n", 10)
    reader, go = os.pipe()
    client = await source.spawn(["python3", "-c", SOURCE, sink.addresses.migration, str(size)], stdin=reader)
    os.close(reader)
    await until(lambda: stdout(client) == "connected\n", 10)
    return server, client, go


async def test_swallowed_packets_do_not_reset_connections(lab: Lab) -> None:
    server, client, go = await connected(lab.host("a"), lab.host("b"), 4 << 20)
    await lab.cut("a", drop=True)
    os.write(go, b"\n")
    with pytest.raises(TimeoutError):
        await client.wait(0.5)
    assert stdout(server) == "listens\n"
    await lab.heal("a")
    assert await client.wait(30) == 0
    assert await server.wait(30) == 0
    assert stdout(server).split()[-1] == str(4 << 20)
    os.close(go)


async def test_the_migration_link_keeps_to_its_rate(base: Path) -> None:
    async with Lab.up(hosts=2, name="t", agents=False, link_mbit=100) as lab:
        size = 4 << 20
        server, _, go = await connected(lab.host("a"), lab.host("b"), size)
        begun = time.monotonic()
        os.write(go, b"\n")
        await server.wait(30)
        assert 40 < size * 8 / 1e6 / (time.monotonic() - begun) < 130
        os.close(go)


async def test_pulling_the_plug_kills_everything_and_keeps_the_disks(lab: Lab) -> None:
    a = lab.host("a")
    await a.run(
        ["sh", "-c", "echo kept > /srv/disk; echo kept > /var/lib/limosa/journal; echo lost > /run/limosa/sock"]
    )
    shell = await a.spawn(["sh", "-c", "setsid sleep 4243 & sleep 4243"])
    await until(lambda: _count("4243") >= 2, 5)
    network = namespace(a.pid)
    begun = time.monotonic()
    await lab.unplug("a")
    assert time.monotonic() - begun < 2
    assert not shell.running
    assert await shell.wait() == -signal.SIGKILL
    assert _count("4243") == 0
    assert not a.plugged
    assert network not in network_namespaces()
    assert a.path("/srv/disk").read_text() == "kept\n"
    with pytest.raises(LabError, match="switched off"):
        await a.run(["true"])
    await lab.plug("a")
    done = await a.run(["cat", "/srv/disk", "/var/lib/limosa/journal"])
    assert done.stdout == "kept\nkept\n"
    assert (await a.run(["ls", "/run/limosa"])).stdout == ""
    assert await reaches(a, "b")
    assert await reaches(lab.host("b"), a.addresses.guest)
    with pytest.raises(LabError, match="power already"):
        await lab.plug("a")


def _count(argument: str) -> int:
    """Processes on the machine that have this among their arguments."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += argument.encode() in (process / "cmdline").read_bytes().split(b"\0")[1:]
        except OSError:
            continue  # it ended meanwhile
    return found


async def test_an_unplugged_host_has_no_links_to_cut(lab: Lab) -> None:
    await lab.unplug("a")
    await lab.unplug("a")
    with pytest.raises(UsageError, match="unplugged"):
        await lab.cut("a")
    with pytest.raises(NotFound):
        await lab.cut("z")


async def test_the_observer_sees_a_cut_as_a_gap(lab: Lab) -> None:
    a, b = lab.host("a").addresses.guest, lab.host("b").addresses.guest
    async with lab.observer.ping([a, b]) as record:
        await until(lambda: record.traces[a].received > 20, 10)
        await lab.cut("a", Link.GUEST, drop=True)
        begun = time.monotonic_ns()
        await asyncio.sleep(0.3)
        ended = time.monotonic_ns()
        await lab.heal("a", Link.GUEST)
        seen = record.traces[a].received
        await until(lambda: record.traces[a].received > seen + 20, 10)
    gap = record.traces[a].largest_gap
    assert gap is not None
    assert record.clock is not None
    assert record.clock.to_monotonic(gap.start) < begun
    assert record.clock.to_monotonic(gap.end) > ended
    assert 300 < gap.ms < 1500
    assert record.traces[b].largest_gap_ms < 100
    assert record.traces[b].lost == 0
    assert record.lost == record.traces[a].lost >= 30
    assert len(record.timeline) == record.traces[a].sent


async def test_the_observer_keeps_what_heartbeats_say(lab: Lab) -> None:
    a = lab.host("a")
    async with lab.observer.heartbeats() as record:
        await a.run(["python3", "-c", SENDER, lab.observer.address])
        await until(lambda: len(record.beats) == 5, 10)
    assert [beat.content for beat in record.of(a.addresses.guest)] == [b"beat %d" % number for number in range(5)]
    assert record.of("10.66.0.99") == []
    assert record.largest_gap_ms() < 1000


async def test_an_observer_that_cannot_record_says_why(lab: Lab) -> None:
    async with lab.observer.heartbeats(7000):
        with pytest.raises(LabError) as failed:
            async with lab.observer.heartbeats(7000):
                pass
    assert "Address already in use" in failed.value.detail


async def test_taps_hang_on_the_bridge(lab: Lab) -> None:
    a = lab.host("a")
    await a.add_tap("tap0")
    await a.add_tap("tap1", queues=True)
    told = json.loads((await a.run(["ip", "-j", "link", "show", "master", "br0"])).stdout)
    assert {entry["ifname"] for entry in told} == {"eth0", "tap0", "tap1"}
    with pytest.raises(LabError):
        await a.add_tap("tap0")


async def mount_points_gone(missing: set[Path]) -> bool:
    """Whether mount points that were missing are so again, or another lab on this machine needs them; polled.

    One that comes up just now has them before it has a host, and one that goes has no host before they go.
    """
    deadline = time.monotonic() + 10
    while not any(True for _ in inits()) and any(point.exists() for point in missing):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def test_down_leaves_nothing(base: Path) -> None:
    missing = {point for point in MOUNT_POINTS if not point.exists()}
    lab = await Lab.up(hosts=2, name="t", agents=False)
    await lab.host("a").spawn(["setsid", "sleep", "4244"])
    namespaces = {namespace(role.pid) for role in (*lab.hosts.values(), lab.fabric, lab.observer)}
    assert len(namespaces) == 4
    assert left_behind(base)
    await lab.down()
    assert left_behind(base) == []
    assert not namespaces & network_namespaces()
    assert _count("4244") == 0
    assert await mount_points_gone(missing)
    assert await take_down("t") == 0


async def test_down_finds_what_a_killed_up_left(base: Path) -> None:
    for delay in (0.2, 0.25, 0.3, 0.35, 0.4, 0.5):
        up = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "limosa.cli.lab", "up", "--no-agents", "--hosts", "4", "--name", "t"
        )
        await asyncio.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            up.kill()
        await up.wait()
        await take_down("t")
        assert left_behind(base) == [], f"killed after {delay} s"


async def test_down_finds_inits_without_records(base: Path) -> None:
    lab = await Lab.up(hosts=2, name="t", agents=False)
    for record in lab.store.directory.glob("*/init.json"):
        record.unlink()
    (lab.store.directory / "lab.json").unlink()
    assert lab_names() == ("t",)
    with pytest.raises(LabError, match="never finished"):
        Lab.open("t")
    assert await take_down("t") == 4
    assert left_behind(base) == []


async def test_an_init_that_died_is_a_host_without_power(lab: Lab) -> None:
    a = lab.host("a")
    pid = a.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not a.plugged, 5)
    await lab.plug("a")
    assert a.pid != pid
    assert await reaches(a, "b")


async def test_two_labs_stand_side_by_side(base: Path) -> None:
    async with Lab.up(hosts=2, name="one", agents=False) as one, Lab.up(hosts=1, name="two", agents=False) as two:
        assert lab_names() == ("one", "two")
        await one.host("a").run(["touch", "/srv/mine"])
        assert not two.host("a").path("/srv/mine").exists()
        assert not await reaches(two.host("a"), one.host("b").addresses.guest)
        await one.down()
        assert (await two.host("a").run(["ls", "-d", "/etc/limosa", "/srv"])).stdout == "/etc/limosa\n/srv\n"
        await two.host("a").run([*PING, two.observer.address])
    assert left_behind(base) == []


async def test_a_lab_that_is_up_is_not_built_again(lab: Lab) -> None:
    with pytest.raises(LabError, match="is there already"):
        await Lab.up(name="t", agents=False)
    await lab.host("a").run(["true"])


def test_the_commands_speak_for_people_and_for_programs(base: Path) -> None:
    assert cli("up", "--no-agents", LIMOSA_LAB="t").returncode == 0
    try:
        assert json.loads(cli("ls", "--json").stdout) == [{"name": "t", "hosts": ["a", "b"], "complete": True}]
        ran = cli("exec", "--name", "t", "a", "--", "sh", "-c", "hostname; exit 7")
        assert (ran.returncode, ran.stdout) == (7, "a\n")
        assert "a-mig" in cli("exec", "--name", "t", "fabric", "ip", "-br", "link").stdout
        assert json.loads(cli("cut", "a", "--drop", "--name", "t", "--json").stdout)["state"] == "dropping"
        assert cli("unplug", "b", "--name", "t").returncode == 0
        a, b = json.loads(cli("status", "--name", "t", "--json").stdout)["hosts"]
        assert (a["links"]["migration"], a["plugged"], b["plugged"]) == ("dropping", True, False)
        assert cli("plug", "b", "--name", "t").returncode == 0
        assert cli("heal", "a", "--name", "t").returncode == 0
        assert "dropping" not in cli("status", "--name", "t").stdout
        refused = cli("up", "--name", "t")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (20, 3)
        unknown = cli("exec", "--name", "t", "z", "true")
        assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 3)
    finally:
        down = cli("down", "--all", "--json")
    assert json.loads(down.stdout) == {"down": ["t"]}
    assert left_behind(base) == []
    assert cli("status", "--name", "t").returncode == 2


async def test_limosa_on_a_host_talks_to_that_hosts_agent(base: Path) -> None:
    async with Lab.up(hosts=2, name="t") as lab:
        a, b = lab.host("a"), lab.host("b")
        for host, other in ((a, b), (b, a)):
            hello = json.loads((await host.run(["limosa", "hosts", "--json"])).stdout)
            assert {entry["name"] for entry in hello} == {"a", "b"}
            assert {entry["name"] for entry in hello if entry["reachable"]} >= {other.name}
        await lab.unplug("b")
        await lab.plug("b")
        assert b.agent is not None
        assert b.agent.running
        assert json.loads((await b.run(["limosa", "ls", "--json"])).stdout) == []


def test_without_root_the_commands_say_so(base: Path) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "limosa.cli.lab", "up"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "needs root" in done.stderr
