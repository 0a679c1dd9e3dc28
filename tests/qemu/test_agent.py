"""A real agent process, real QEMUs started by hand, and the command line's client."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from limosa.agent import pki
from limosa.agent.hosts import HostEntry, write_missing
from limosa.cli.client import AgentClient
from limosa.cli.transport import Unix
from limosa.errors import AgentUnreachable, MonitorBusy, MonitorMissing, NotFound
from limosa.guest.profile import Profile
from limosa.lab import assets
from limosa.qmp.monitor import Monitor
from limosa.testing.ports import free_port
from limosa.units import HostName
from limosa.wire.guests import GuestShown

pytestmark = pytest.mark.qemu

SMALL = ("-accel", "tcg", "-machine", "q35", "-nodefaults", "-display", "none")
STARTS_WITHIN = 20.0


@dataclass
class RunningAgent:
    """An agent in a process of its own."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "run/agent.sock"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def client(self) -> AgentClient:
        return AgentClient(Unix(str(self.socket)))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)


StartAgent = Callable[..., RunningAgent]


@pytest.fixture
def start_agent(short_dir: Path) -> Iterator[StartAgent]:
    """Starts an agent for one host and waits for its socket: `start_agent("a", port)`."""
    with ExitStack() as stop:

        def start(name: str, port: int = 0, **environment: str) -> RunningAgent:
            directory = short_dir / name
            directory.mkdir(exist_ok=True)
            (directory / "agent.toml").write_text(
                f'host = "{name}"\nlisten = "127.0.0.1:{port}"\nqemu = ["{assets.qemu_10()}"]\n'
                f'state_dir = "{directory}/state"\nrun_dir = "{directory}/run"\n'
            )
            command = [sys.executable, "-m", "limosa", "agent", "--config-dir", str(directory)]
            log = stop.enter_context((directory / "log").open("wb"))
            process = subprocess.Popen(command, stderr=log, env={**os.environ, **environment})
            stop.callback(process.wait)
            stop.callback(process.kill)
            agent = RunningAgent(process, directory)
            wait_for(lambda: answers(agent) or process.poll() is not None, agent)
            return agent

        yield start


def answers(agent: RunningAgent) -> bool:
    try:
        with agent.client() as client:
            client.hello()
    except AgentUnreachable:
        return False
    return True


def wait_for(true: Callable[[], bool], agent: RunningAgent) -> None:
    """Wait for what another process does without telling."""
    deadline = time.monotonic() + STARTS_WITHIN
    while not true():
        assert time.monotonic() < deadline, agent.log
        time.sleep(0.02)


@pytest.fixture
def guest(short_dir: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a QEMU by hand: `guest("web1", "-qmp", ...)`; relative paths are in `short_dir`."""
    with ExitStack() as stop:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            command = [str(assets.qemu_10()), *SMALL, "-m", "64", "-smp", "2", "-name", name, *arguments]
            process = subprocess.Popen(command, cwd=short_dir, stdin=subprocess.DEVNULL)
            stop.callback(process.wait)
            stop.callback(process.kill)
            return process

        yield start


Guest = Callable[..., subprocess.Popen[bytes]]


def shown(agent: RunningAgent, pid: int) -> GuestShown:
    with agent.client() as client:
        return next(each for each in client.guests() if each.pid == pid)


def wait_for_socket(path: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


async def test_a_guest_started_by_hand_is_listed_and_its_monitor_stays_its_owners(
    start_agent: StartAgent, guest: Guest, short_dir: Path
) -> None:
    process = guest("web1", "-qmp", "unix:web1.qmp,server=on,wait=off")
    wait_for_socket(short_dir / "web1.qmp")
    agent = start_agent("a")
    line = shown(agent, process.pid)
    assert (line.name, line.host, line.state, line.owner, line.movable) == ("web1", "a", "running", "by hand", "yes")
    assert (line.memory, line.vcpus, line.monitor) == (64 * 1024**2, 2, str(short_dir / "web1.qmp"))
    monitor = await Monitor.connect(str(short_dir / "web1.qmp"), pid=process.pid)
    held = await asyncio.to_thread(shown, agent, process.pid)
    assert (held.state, "hold" in held.movable) == ("unknown", True)
    await monitor.execute("stop")
    await monitor.close()
    assert shown(agent, process.pid).state == "paused"


def test_a_guest_without_a_monitor_is_listed_with_the_reason(start_agent: StartAgent, guest: Guest) -> None:
    process = guest("mute")
    agent = start_agent("a")
    wait_for(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().count(b"mute") == 1, agent)
    line = shown(agent, process.pid)
    assert (line.state, line.memory, line.vcpus, line.monitor) == ("unknown", 64 * 1024**2, 2, None)
    assert "has no QMP monitor" in line.movable
    with agent.client() as client, pytest.raises(MonitorMissing, match="has no QMP monitor"):
        client.profile(str(process.pid))


async def test_the_profile_is_read_by_name_pid_or_uuid_and_refused_while_the_monitor_is_held(
    start_agent: StartAgent, guest: Guest, short_dir: Path
) -> None:
    uuid = "8d2a1a0e-6a0c-4b7e-9c51-0d6f3a2f7a11"
    name = f"web-{os.getpid()}"
    process = guest(name, "-uuid", uuid, "-qmp", "unix:web.qmp,server=on,wait=off", "-device", "virtio-rng-pci,id=rng")
    wait_for_socket(short_dir / "web.qmp")
    agent = start_agent("a")
    with agent.client() as client:
        for wanted in (name, str(process.pid), uuid):
            profile = msgspec.json.decode(client.profile(wanted), type=Profile)
            assert (profile.name, profile.uuid) == (name, uuid)
            assert "rng" in {device.id for device in profile.devices}
        with pytest.raises(NotFound, match="no guest here is called web-nobody"):
            client.profile("web-nobody")
    monitor = await Monitor.connect(str(short_dir / "web.qmp"), pid=process.pid)
    with agent.client() as client, pytest.raises(MonitorBusy):
        await asyncio.to_thread(client.profile, name)
    await monitor.close()


def test_a_guest_goes_on_when_the_agent_stops(start_agent: StartAgent, guest: Guest, short_dir: Path) -> None:
    process = guest("web1", "-qmp", "unix:web1.qmp,server=on,wait=off")
    wait_for_socket(short_dir / "web1.qmp")
    agent = start_agent("a")
    started = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - started < 3
    assert not agent.socket.exists()
    assert process.poll() is None
    assert shown(start_agent("a"), process.pid).state == "running"


def test_two_agents_see_each_other_and_a_third_that_is_off(start_agent: StartAgent, short_dir: Path) -> None:
    pki.create_ca(short_dir / "ca", "fleet")
    entries = {HostName(name): HostEntry(address=f"127.0.0.1:{free_port()}") for name in ("a", "b", "c")}
    agents = []
    for name in ("a", "b"):
        pki.issue_host(short_dir / "ca", name, ["127.0.0.1"], short_dir / name / "pki")
        write_missing(short_dir / name / "hosts.toml", entries)
        agents.append(start_agent(name, entries[HostName(name)].endpoint.port))
    with agents[0].client() as client:
        here, b, c = client.hosts()
    assert (here.name, here.reachable, here.round_trip) == ("a", True, None)
    assert (b.name, b.reachable, b.qemu_versions) == ("b", True, here.qemu_versions)
    assert b.round_trip is not None
    assert 0 < b.round_trip < 1
    assert (c.reachable, c.why_not.endswith("connection refused")) == (False, True)


def test_certificates_that_come_later_are_used_after_a_hangup(start_agent: StartAgent, short_dir: Path) -> None:
    port = free_port()
    agent = start_agent("a", port)
    assert "no peer can reach this host yet" in agent.log
    pki.create_ca(short_dir / "ca", "fleet")
    pki.issue_host(short_dir / "ca", "a", ["127.0.0.1"], short_dir / "a/pki")
    agent.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in agent.log, agent)
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def test_one_agent_for_each_run_directory(start_agent: StartAgent) -> None:
    first = start_agent("a")
    command = [sys.executable, "-m", "limosa", "agent", "--config-dir", str(first.directory)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 2
    assert f"an agent (pid {first.process.pid}) runs in" in second.stderr
    assert answers(first)


def test_systemd_is_told_that_it_is_ready_that_it_lives_and_that_it_stops(
    start_agent: StartAgent, short_dir: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(short_dir / "notify"))
        systemd.settimeout(10)
        agent = start_agent("a", NOTIFY_SOCKET=str(short_dir / "notify"), WATCHDOG_USEC="200000")
        told = [systemd.recv(100).decode() for _ in range(4)]
        assert "READY=1\nSTATUS=host a" in told
        assert told.count("WATCHDOG=1") == 3
        assert agent.stop() == 0
        while (last := systemd.recv(100)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"
