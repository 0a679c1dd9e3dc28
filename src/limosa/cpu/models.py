"""QEMU's named CPU models, as QEMU 10.0 itself describes them (scripts/cpu_models.py). Pure.

The table says what a model asks for; what an accelerator then adds or takes is in `SAID`.
"""

from functools import cache, reduce
from importlib.resources import files
from operator import or_

import msgspec

from limosa.cpu.facts import BEHIND, KVM_WORD
from limosa.cpu.flags import NONE, CpuFlags
from limosa.cpu.registry import FLAGS, Cpuid, Flag

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
    return isinstance(flag.place, Cpuid) and flag.place.leaf == KVM_WORD


LEFT_TO_QEMU = CpuFlags.of("hypervisor", *(flag.name for flag in FLAGS if _paravirtual(flag) or not flag.settable))
"""Flags that are no property of hardware: that there is a hypervisor, KVM's own interface, and what follows from others
(areas of XSAVE). A value leaves them as QEMU sets them."""


def shut(mask: CpuFlags) -> CpuFlags:
    """The flags that nobody sees where this mask is all: those in words behind a flag that is not in it.

    Source:
        QEMU target/i386/cpu.c, feature_dependencies.
    """
    return reduce(or_, (behind for name, behind in BEHIND if name not in mask), NONE)
