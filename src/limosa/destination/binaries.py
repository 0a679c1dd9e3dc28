"""Which QEMU of this host can run a guest that arrives."""

import asyncio
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from limosa.errors import Blocked
from limosa.units import Side

_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")
_CPU_DEVICE = re.compile(r'^name "[^"]+-(\w+)-cpu"', re.MULTILINE)
_BY_NAME = re.compile(r"qemu-system-(\w+)")

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Binary:
    """One QEMU program and what it can be."""

    path: str
    version: Version
    machines: frozenset[str]
    target: str = "x86_64"
    """The architecture it emulates, as QEMU names it: the same machine types are in more than one program."""


async def look_at(path: str) -> Binary | None:
    """Ask a QEMU program for its version and machine types; None where it does not run.

    The answer is kept for as long as the file stays the same.
    """
    try:
        stat = await asyncio.to_thread(Path(path).stat)
    except OSError:
        return None
    key = (path, stat.st_mtime_ns, stat.st_size)
    if key not in _known():
        _known()[key] = await _ask(path)
    return _known()[key]


async def look_at_all(paths: Iterable[str]) -> list[Binary]:
    """Those of these QEMU programs that run here."""
    return [binary for path in paths if (binary := await look_at(path)) is not None]


def choose(binaries: Sequence[Binary], *, machine: str, version: Version, target: str = "x86_64") -> Binary:
    """The best program for a guest: the source's own version, else the nearest newer, else the newest older.

    Args:
        binaries: what this host has.
        machine: pinned machine type, such as `pc-q35-10.0`.
        version: of the QEMU that runs the guest.
        target: the architecture that it emulates.

    Raises:
        Blocked: none knows the machine type.
    """
    able = [b for b in binaries if machine in b.machines and b.target == target]
    if not able:
        have = ", ".join(f"{b.path} ({'.'.join(map(str, b.version))})" for b in binaries) or "none"
        raise Blocked(
            f"no QEMU for {target} at the destination knows the machine type {machine}; it has {have}",
            guest_runs=Side.SOURCE,
            remedy="install a QEMU that lists it in `-machine help`, and name it as `qemu` in agent.toml",
        )
    newer = sorted((b for b in able if b.version >= version), key=lambda b: b.version)
    return newer[0] if newer else max(able, key=lambda b: b.version)


@lru_cache(maxsize=1)
def _known() -> dict[tuple[str, int, int], Binary | None]:
    return {}


async def _ask(path: str) -> Binary | None:
    version = _VERSION.search(await _output(path, "--version"))
    if version is None:
        return None
    listing = await _output(path, "-machine", "help")
    machines = frozenset(line.split()[0] for line in listing.splitlines()[1:] if line.strip())
    major, minor, micro = (int(part) for part in version.groups())
    return Binary(path=path, version=(major, minor, micro), machines=machines, target=await _target(path))


async def _target(path: str) -> str:
    """What a program emulates: its CPU devices are named after it; else its own name tells, else it is this machine."""
    told = _CPU_DEVICE.search(await _output(path, "-device", "help")) or _BY_NAME.search(PurePath(path).name)
    return told[1] if told else platform.machine()


async def _output(*command: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ""
    out, _ = await process.communicate()
    return out.decode(errors="replace")
