"""What a QEMU of this host can give a guest: asked of the program itself, under the accelerator that would run it."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from limosa.cpu.cpuinfo import read_cpuinfo
from limosa.cpu.expansion import BROADEST, read_expansion
from limosa.cpu.facts import HostCpu, SourceError
from limosa.destination.binaries import Binary
from limosa.errors import LaunchError
from limosa.guest.probe import Board, Probe
from limosa.guest.profile import Value

FRESH = 300.0
"""Seconds for which an answer is kept: kernel modules and microcode are changed under a running agent."""

_Key = tuple[str, int, int, str]


async def host_cpu(host: str, binary: Binary, accel: str, remove: Iterable[str] = ()) -> HostCpu:
    """The host through this program and accelerator.

    Args:
        host: its name.
        binary: the QEMU program.
        accel: `kvm` or `tcg`.
        remove: flags that its configuration takes away; known to be flags.

    Raises:
        LaunchError: the program does not start so, or knows no model for it.
    """
    return read_expansion(
        host,
        await _broadest(binary, accel),
        accel=accel,
        version=binary.version,
        binary=binary.path,
        machines=binary.machines,
        processor=_processor(host),
        remove=remove,
    )


async def _broadest(binary: Binary, accel: str) -> Mapping[str, Value]:
    if accel not in BROADEST:
        raise LaunchError(f"limosa knows no CPU model for the accelerator {accel}", detail=f"accelerator {accel}")
    stat = await asyncio.to_thread(Path(binary.path).stat)
    key = (binary.path, stat.st_mtime_ns, stat.st_size, accel)
    told, when = _known().get(key, ({}, -FRESH))
    if time.monotonic() - when >= FRESH:
        told, when = await _ask(binary, accel), time.monotonic()
        _known()[key] = told, when
    return told


async def _ask(binary: Binary, accel: str) -> Mapping[str, Value]:
    question: dict[str, Any] = {"type": "full", "model": {"name": BROADEST[accel]}}
    async with Probe(Path(binary.path)).running(Board(machine="none", cpu="", accel=accel)) as monitor:
        answer = await monitor.execute("query-cpu-model-expansion", question)
    expanded: Mapping[str, Value] = answer["model"]["props"]
    return expanded


def _processor(host: str) -> HostCpu | None:
    """What the kernel says; None where it runs on something that has no /proc/cpuinfo of x86."""
    try:
        return read_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), host)
    except SourceError:
        return None


@lru_cache(maxsize=1)
def _known() -> dict[_Key, tuple[Mapping[str, Value], float]]:
    return {}
