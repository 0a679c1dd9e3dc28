"""Processors for fleets without any dumps: QEMU's own models of servers, as hosts that could run guests. Pure."""

from collections.abc import Iterator

from limosa.cpu.facts import HostCpu, Source
from limosa.cpu.flags import CpuFlags
from limosa.cpu.models import CpuModel, models

SERVERS = (
    "Broadwell-v4",
    "Cascadelake-Server-v5",
    "Cooperlake-v2",
    "EPYC-Genoa-v1",
    "EPYC-Milan-v2",
    "EPYC-Rome-v4",
    "EPYC-v4",
    "Icelake-Server-v7",
    "SapphireRapids-v3",
    "Skylake-Server-v5",
)
PHYS_BITS = 46
"""Address bits of servers of these years."""


def processors() -> tuple[HostCpu, ...]:
    """One host of each model, by name."""
    return tuple(_host(model) for model in models() if model.name in SERVERS)


def _host(model: CpuModel) -> HostCpu:
    return HostCpu(
        host=model.name,
        source=Source.QEMU,
        flags=(model.flags | model.with_vmx | CpuFlags.of(*_virtualization(model))).names(),
        vendor=model.vendor,
        processor=model.name.rpartition("-v")[0],
        phys_bits=PHYS_BITS,
        accel="kvm",
        qemu=(10, 0, 2),
        machines=("pc-q35-7.2", "pc-q35-10.0"),
    )


def _virtualization(model: CpuModel) -> Iterator[str]:
    yield "svm" if model.vendor == "AuthenticAMD" else "vmx"
