"""A host through the QEMU and the accelerator that would run a guest: what `query-cpu-model-expansion` says. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from limosa.cpu.facts import IN_MSRS, TCG_PHYS_BITS, HostCpu, Source, Version, with_areas
from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import FLAGS, Msr

BROADEST = {"kvm": "host", "tcg": "max"}
"""Accelerator -> the model that has all it can give."""

_ARCH_CAPABILITIES = 0x10A


def read_expansion(
    host: str,
    properties: Mapping[str, Any],
    *,
    accel: str,
    version: Version,
    binary: str = "",
    machines: Iterable[str] = (),
    processor: HostCpu | None = None,
    remove: Iterable[str] = (),
) -> HostCpu:
    """The host that this QEMU runs on.

    Args:
        host: its name.
        properties: of the broadest model, fully expanded.
        accel: `kvm` or `tcg`.
        version: QEMU's.
        binary: QEMU's path.
        machines: the machine types that it knows.
        processor: what the kernel says of the processor; it counts where guests run on it and not on TCG.
        remove: flags to leave out, by any of their names.

    Raises:
        UnknownFlag: one of `remove` is no flag.
    """
    on, _ = CpuFlags.sort(name for name, value in properties.items() if value is True)
    if accel == "tcg":
        on |= _granted_by_tcg(properties)
    taken = CpuFlags.of(*remove) & on
    real = processor if accel != "tcg" else None
    return HostCpu(
        host=host,
        source=Source.QEMU,
        flags=with_areas(on - taken).names(),
        untold=(),
        removed=taken.names(),
        unknown=real.unknown if real else (),
        vendor=real.vendor if real else str(properties.get("vendor", "")),
        family=real.family if real else properties.get("family"),
        model=real.model if real else properties.get("model"),
        stepping=real.stepping if real else properties.get("stepping"),
        processor=processor.processor if processor else "",
        microcode=processor.microcode if processor else "",
        phys_bits=real.phys_bits if real else TCG_PHYS_BITS,
        virt_bits=real.virt_bits if real else 57 if "la57" in on else 48,
        tsc_scaling=real.tsc_scaling if real else True,
        nested="vmx" in on or "svm" in on,
        accel=accel,
        qemu=version,
        binary=binary,
        machines=tuple(sorted(machines)),
    )


def _granted_by_tcg(properties: Mapping[str, Any]) -> CpuFlags:
    """TCG grants the word of arch-capabilities in whole: it can be read by a kernel only, and TCG has no such faults.

    Source: QEMU target/i386/cpu.c, FEAT_ARCH_CAPABILITIES; QEMU 10.0 reports none of them as unavailable although
    `max` does not have them, because it has no `arch-capabilities`.
    """
    word = (f for f in FLAGS if isinstance(f.place, Msr) and f.place.index == _ARCH_CAPABILITIES)
    return CpuFlags(sum(1 << f.position for f in word if f.name in properties)) & IN_MSRS
