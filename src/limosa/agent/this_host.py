"""What this host says of itself, and of the hosts it knows."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from limosa.agent.config import Config, address_towards
from limosa.agent.dial import Peers
from limosa.agent.files import replace_file
from limosa.agent.hosts import HostEntry, Hosts
from limosa.agent.join import own_entry
from limosa.cargo.kind import HostFacts
from limosa.destination.binaries import look_at
from limosa.errors import LimosaError
from limosa.units import HostName
from limosa.wire.guests import Hello, HostShown
from limosa.wire.rpc import PROTOCOL, Caller

_log = structlog.get_logger()

PROBE_LIMIT = 3.0
"""Seconds that `limosa hosts` waits for one host."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a peer's `hello`. Bytes."""

    hello: Hello
    memory_free: int
    cpus: int
    qemu_versions: tuple[str, ...]


def hello(config: Config) -> Hello:
    """Who this agent is."""
    return Hello(host=config.host, version=version("limosa"), pid=os.getpid(), protocol=PROTOCOL)


async def condition(config: Config) -> Condition:
    """How this host is."""
    return Condition(
        hello=hello(config),
        memory_free=memory_free(Path("/proc/meminfo").read_text()),  # noqa: ASYNC240  (not a disk)
        cpus=len(os.sched_getaffinity(0)),
        qemu_versions=await qemu_versions(config.qemu),
    )


async def qemu_versions(binaries: Sequence[Path]) -> tuple[str, ...]:
    """Versions of the QEMU programs that run, each once, newest first."""
    found = {binary.version for path in binaries if (binary := await look_at(str(path)))}
    return tuple(".".join(map(str, each)) for each in sorted(found, reverse=True))


def memory_free(meminfo: str) -> int:
    """Bytes that can be used without swapping, out of the text of `/proc/meminfo`."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def facts(config: Config, hosts: Hosts) -> HostFacts:
    """This host as cargo sees it."""
    return HostFacts(
        name=config.host,
        migration_address=migration_address(config, hosts),
        state_dir=str(config.state_dir),
        run_dir=str(config.run_dir),
        machine_id=machine_id(config.state_dir),
        storage=tuple(map(str, config.storage)),
        bridges=dict(config.bridges),
        cpu_remove=config.cpu.remove,
    )


def migration_address(config: Config, hosts: Hosts) -> str:
    """Where RAM and disks arrive: as configured, else as hosts.toml says of this host, else on the way to a peer."""
    known = hosts.known()
    if config.migration_address:
        return config.migration_address
    if config.host in known:
        return known[config.host].migration_address
    others = [entry.migration_address for entry in known.values()]
    return address_towards(others[0]) if others else address_towards()


def machine_id(state_dir: Path) -> str:
    """An id of this host and no other: kept in its state directory, tied to the machine's own id.

    The machine's alone would not do: containers and lab hosts share it; nor the file's alone: images are copied.
    """
    machine = Path("/etc/machine-id")
    own = machine.read_bytes().strip() if machine.exists() else b""
    return hashlib.sha256(own + b"\0" + _host_id(state_dir / "host-id")).hexdigest()[:32]


def _host_id(file: Path) -> bytes:
    if not file.exists():
        made = secrets.token_hex(16).encode()
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(file, made, 0o600)
        except OSError as error:
            # No move starts while nothing can be recorded; until then one id is as good as another.
            _log.error("the state disk cannot be written", file=str(file), why=error.strerror)
            return made
    return file.read_bytes()


async def show_hosts(config: Config, hosts: Hosts, peers: Peers) -> tuple[HostShown, ...]:
    """Every known host, this one first, each asked at the same time as the others.

    Raises:
        UsageError: `hosts.toml` is wrong.
    """
    others = sorted((name, entry) for name, entry in hosts.known().items() if name != config.host)
    probes = (_probe(peers, name, entry) for name, entry in others)
    return (await _this(config, hosts), *await asyncio.gather(*probes))


async def _this(config: Config, hosts: Hosts) -> HostShown:
    now = await condition(config)
    return _shown(config.host, own_entry(config), migration_address(config, hosts), now, None)


async def _probe(peers: Peers, name: HostName, entry: HostEntry) -> HostShown:
    try:
        async with asyncio.timeout(PROBE_LIMIT):
            link: Caller = await peers.link(name)
            started = asyncio.get_running_loop().time()
            now = await link.call("hello", None, Condition)
            taken = asyncio.get_running_loop().time() - started
    except (LimosaError, TimeoutError) as error:
        why = error.what if isinstance(error, LimosaError) else f"no answer within {PROBE_LIMIT:g} s"
        return HostShown(
            name=name,
            address=entry.address,
            migration_address=entry.migration_address,
            reachable=False,
            why_not=why,
        )
    return _shown(name, entry, entry.migration_address, now, link.round_trip or taken)


def _shown(name: str, entry: HostEntry, migration: str, now: Condition, round_trip: float | None) -> HostShown:
    return HostShown(
        name=name,
        address=entry.address,
        migration_address=migration,
        reachable=True,
        round_trip=round_trip,
        version=now.hello.version,
        memory_free=now.memory_free,
        cpus=now.cpus,
        qemu_versions=now.qemu_versions,
    )
