"""Which QEMU of this host can run a guest that arrives."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from limosa.errors import Blocked
from limosa.units import Side

_VERSION = re.compile(r"version (\d+)\.(\d+)\.(\d+)")

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Binary:
    """One QEMU program and what it can be."""

    path: str
    version: Version
    machines: frozenset[str]


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


def choose(binaries: Sequence[Binary], *, machine: str, version: Version) -> Binary:
    """The best program for a guest: the source's own version, else the nearest newer, else the newest older.

    Args:
        binaries: what this host has.
        machine: pinned machine type, such as `pc-q35-10.0`.
        version: of the QEMU that runs the guest.

    Raises:
        Blocked: none knows the machine type.
    """
    able = [b for b in binaries if machine in b.machines]
    if not able:
        have = ", ".join(f"{b.path} ({'.'.join(map(str, b.version))})" for b in binaries) or "none"
        raise Blocked(
            f"no QEMU at the destination knows the machine type {machine}; it has {have}",
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
    return Binary(path=path, version=(major, minor, micro), machines=machines)


async def _output(*command: str) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return ""
    out, _ = await process.communicate()
    return out.decode(errors="replace")
