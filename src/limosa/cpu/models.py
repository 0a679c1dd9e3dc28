"""QEMU's named CPU models, as QEMU 10.0 itself describes them (scripts/cpu_models.py). Pure.

The table says what a model asks for; what an accelerator then adds or takes is in `SAID`.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import msgspec

from limosa.cpu.flags import NONE, CpuFlags
from limosa.cpu.registry import FLAGS, Cpuid, Flag, Msr

QEMU = "10.0"
"""The version whose answers the table holds."""


class CpuModel(msgspec.Struct, frozen=True):
    """A named model that means the same on every machine type."""

    name: str
    """With its version: a bare name means what the machine type makes of it."""
    also: tuple[str, ...]
    """Bare names that stand for this version unless a machine type says otherwise."""
    vendor: str
    flags: CpuFlags
    with_vmx: CpuFlags
    """What `vmx=on` brings with it."""


@cache
def models() -> tuple[CpuModel, ...]:
    """All models, by name."""
    _, *lines = files("limosa.cpu").joinpath("models.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(_model(*line.split("\t")) for line in lines)


def _model(name: str, also: str, vendor: str, flags: str, with_vmx: str) -> CpuModel:
    return CpuModel(name, tuple(also.split()), vendor, CpuFlags.of(*flags.split()), CpuFlags.of(*with_vmx.split()))


SAID = CpuFlags.of("acpi", "monitor", "svm", "vme", "x2apic")
"""Flags that accelerators and machine types switch behind a model's back: a value that means the same everywhere says
them, on or off.

Source:
    QEMU target/i386/kvm/kvm-cpu.c, kvm_default_props; target/i386/tcg/tcg-cpu.c, x86_cpu_apply_props of `vme`.
"""


def _paravirtual(flag: Flag) -> bool:
    return isinstance(flag.place, Cpuid) and flag.place.leaf == 0x4000_0001


LEFT_TO_QEMU = CpuFlags.of("hypervisor", *(flag.name for flag in FLAGS if _paravirtual(flag) or not flag.settable))
"""Flags that are no property of hardware: that there is a hypervisor, KVM's own interface, and what follows from others
(areas of XSAVE). A value leaves them as QEMU sets them."""


def _behind(flag: Flag) -> str:
    """The flag without which QEMU clears this one; empty where there is none."""
    match flag.place:
        case Msr(index=0x10A):
            return "arch-capabilities"
        case Msr(index=0xCF):
            return "core-capability"
        case Msr(index=index) if 0x480 <= index <= 0x491:
            return "vmx"
        case Cpuid(leaf=0x8000_000A):
            return "svm"
        case _:
            return ""


@cache
def gates() -> Mapping[CpuFlags, CpuFlags]:
    """A flag that opens a register -> the flags of that register.

    Source:
        QEMU target/i386/cpu.c, feature_dependencies.
    """
    found: dict[CpuFlags, CpuFlags] = {}
    for flag in FLAGS:
        if gate := _behind(flag):
            key = CpuFlags.of(gate)
            found[key] = found.get(key, NONE) | CpuFlags.of(flag.name)
    return MappingProxyType(found)


def shut(mask: CpuFlags) -> CpuFlags:
    """The flags that nobody sees where this mask is all: their gates are closed."""
    closed = NONE
    for gate, behind in gates().items():
        if not gate & mask:
            closed |= behind
    return closed
