"""What a host needs before its agent can start: names, certificates, settings; then the agent itself."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from limosa.lab import assets
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.state import LabError, Store

if TYPE_CHECKING:
    from limosa.lab.lab import Lab

AGENT_LIMIT = 20.0
"""Seconds that an agent may take to answer on its socket."""

SOCKET = "/run/limosa/agent.sock"


def write_host_names(store: Store, hosts: Iterable[Host]) -> None:
    """Write what the hosts see as /etc/hosts: each by its name, on the peer link."""
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{host.addresses.peer} {host.name}" for host in hosts)]
    (store.directory / "hosts").write_text("\n".join(lines) + "\n")


def agent_toml(host: Host, qemu: Iterable[str]) -> str:
    """A host's settings: its peer link and migration link kept apart, disks in /srv, the QEMUs of this machine."""
    binaries = list(qemu)
    lines = [
        f"host = {json.dumps(host.name)}",
        f"listen = {json.dumps(host.addresses.peer)}",
        f"migration_address = {json.dumps(host.addresses.migration)}",
        'storage = ["/srv"]',
        'metrics = "127.0.0.1"',  # its own: each host has a network namespace
        *([f"qemu = {json.dumps(binaries)}"] if binaries else []),
        "[cpu]",
        'accel = "tcg"',  # what the lab's guests run under
    ]
    return "\n".join(lines) + "\n"


def qemu_binaries() -> list[str]:
    """The QEMUs that the lab's guests may run on, newest first; none where this machine has none yet."""
    with contextlib.suppress(assets.AssetMissing):
        return [str(path) for path in (assets.qemu_10(), assets.qemu_7()) if path]
    return []


def provision(lab: "Lab", host: Host) -> None:
    """Write a host's /etc/limosa: settings, certificates of the lab's own CA, the addresses of all hosts."""
    from limosa.agent.pki import create_ca, issue_host

    directory = host.path("/etc/limosa")
    ca = lab.store.directory / "pki"
    if not ca.exists():
        create_ca(ca, f"limosa lab {lab.name}")
    own = host.addresses
    issue_host(ca, host.name, [own.peer, own.migration, own.guest], directory / "pki")
    (directory / "agent.toml").write_text(agent_toml(host, qemu_binaries()))
    write_hosts(directory / "hosts.toml", lab.hosts.values())


def write_hosts(file: Path, hosts: Iterable[Host]) -> None:
    """Write a hosts.toml that names these hosts."""
    from limosa.agent.config import PEER_PORT
    from limosa.agent.hosts import HostEntry, write_missing
    from limosa.units import HostName

    known = {
        HostName(each.name): HostEntry(address=f"{each.addresses.peer}:{PEER_PORT}", migration=each.addresses.migration)
        for each in hosts
    }
    write_missing(file, known)


async def start_agent(host: Host) -> Process:
    """Start the host's agent and wait until its socket answers; its log is `log/agent.err` in the host's directory.

    It is `host.agent` from then on; kill that, and start another one, to see what an agent's death does.

    Raises:
        LabError: it ended, or did not answer in time; `detail` is the end of its log.
    """
    agent = await host.spawn([sys.executable, "-m", "limosa", "agent"], name="agent", cwd="/")
    deadline = time.monotonic() + AGENT_LIMIT
    while not answers(host):
        if not agent.running or time.monotonic() > deadline:
            ended = "ended" if not agent.running else f"did not answer within {AGENT_LIMIT:g} s"
            log = agent.stderr_path.read_text(errors="replace")[-4000:] if agent.stderr_path else ""
            agent.kill()
            raise LabError(f"the agent of {host.name} {ended}", detail=log, remedy="limosa lab up --no-agents")
        await asyncio.sleep(0.02)  # a socket that somebody else will bind tells nobody
    host.agent = agent
    return agent


def answers(host: Host) -> bool:
    """Whether somebody listens on the host's agent socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(host.path(SOCKET)))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
