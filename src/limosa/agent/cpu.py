"""What guests can be given of a host's processor: asked here, and of the other hosts."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from limosa.agent.config import Config
from limosa.agent.dial import Peers
from limosa.cpu.facts import HostCpu, Version
from limosa.destination.binaries import Binary, choose, look_at_all
from limosa.destination.host_cpu import host_cpu
from limosa.errors import NotFound, UsageError
from limosa.units import HostName

KVM = Path("/dev/kvm")


class CpuAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a host's QEMUs is meant: the one that a guest like this would get, or the newest."""

    machine: str = ""
    version: Version | None = None
    accel: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Self:
        """Out of the words of a request.

        Raises:
            UsageError: a word is unknown, or the version is none.
        """
        if strange := query.keys() - set(cls.__struct_fields__):
            raise UsageError(f"cpu knows no {', '.join(sorted(strange))}")
        text = query.get("version", "")
        match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text)
        if text and match is None:
            raise UsageError(f"{text!r} is no version of QEMU: write 10.0.2")
        version = (int(match[1]), int(match[2]), int(match[3])) if match else None
        return cls(machine=query.get("machine", ""), version=version, accel=query.get("accel", ""))


async def this_cpu(config: Config, ask: CpuAsk) -> HostCpu:
    """This host, through the QEMU that is meant.

    Raises:
        Blocked: no QEMU here knows the machine type.
        LaunchError: it does not start under this accelerator.
        NotFound: there is no QEMU here.
    """
    able = await look_at_all(map(str, config.qemu))
    if not able:
        raise NotFound(f"{config.host} has no QEMU", remedy="install one, or name it as `qemu` in agent.toml")
    accel = ask.accel or config.cpu.accel or default_accel()
    return await host_cpu(config.host, _meant(able, ask), accel, config.cpu.remove)


async def cpu_of(config: Config, peers: Peers, host: HostName, ask: CpuAsk) -> HostCpu:
    """Any known host.

    Raises:
        NotFound: it is not known, or has no QEMU.
        PeerError: it cannot be asked.
        LimosaError: whatever it answers.
    """
    if host == config.host:
        return await this_cpu(config, ask)
    return await (await peers.link(host)).call("cpu.show", ask, HostCpu, timeout=60)


def default_accel() -> str:
    """KVM where this user may open it, else TCG."""
    return "kvm" if os.access(KVM, os.R_OK | os.W_OK) else "tcg"


def _meant(able: list[Binary], ask: CpuAsk) -> Binary:
    if ask.machine:
        return choose(able, machine=ask.machine, version=ask.version or (0, 0, 0))
    return max(able, key=lambda binary: (binary.target == "x86_64", binary.version))
