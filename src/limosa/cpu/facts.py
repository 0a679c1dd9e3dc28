"""What is known of a host's processor and of a guest's: the flags, and the facts beside them that no mask can hold.

Flags cross process boundaries by name, not as masks: two hosts may run different versions of limosa, and a name that
one of them does not know is kept and reported where a bit would be lost.
"""

from enum import StrEnum

import msgspec

from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import FLAGS, Cpuid, Flag, Msr

Version = tuple[int, int, int]

KVM_WORD, TCG_PHYS_BITS = 0x40000001, 40
"""CPUID leaf of KVM's own flags; address bits that TCG gives every 64-bit guest (TCG_PHYS_ADDR_BITS)."""


class SourceError(ValueError):
    """A text is not what it should be; `line` counts from 1, 0 where no single line is to blame."""

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {why}" if line else why)
        self.why = why
        self.line = line


class Source(StrEnum):
    """Where the facts come from."""

    QEMU = "qemu"
    """The QEMU and the accelerator that would run a guest: the only one that decides."""
    CPUID = "cpuid"
    """A dump of the CPUID instruction."""
    CPUINFO = "cpuinfo"
    """`/proc/cpuinfo`."""


class Area(msgspec.Struct, frozen=True):
    """Where XSAVE keeps one area, in bytes."""

    number: int
    offset: int
    size: int


class HostCpu(msgspec.Struct, frozen=True, kw_only=True):
    """A host's processor, as far as a guest can be given it."""

    host: str
    source: Source
    flags: tuple[str, ...]
    """By position."""
    untold: tuple[str, ...] = ()
    """Flags of which this source cannot say that they are missing."""
    unknown: tuple[str, ...] = ()
    """What is set and in no registry: bits by their place, or names."""
    removed: tuple[str, ...] = ()
    """Flags that the host has and its configuration takes away (`cpu.remove` in agent.toml)."""
    vendor: str = ""
    """CPUID's twelve letters, such as `GenuineIntel`."""
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    processor: str = ""
    """What its maker calls it."""
    microcode: str = ""
    phys_bits: int | None = None
    virt_bits: int | None = None
    areas: tuple[Area, ...] = ()
    tsc_khz: int | None = None
    tsc_scaling: bool | None = None
    """Whether a guest can be given another TSC frequency than the processor's; None where nobody says."""
    nested: bool | None = None
    """Whether the kernel lets guests run guests of their own; None where nobody says."""
    accel: str = ""
    """`kvm` or `tcg`; empty for a dump."""
    qemu: Version | None = None
    binary: str = ""
    machines: tuple[str, ...] = ()
    """Machine types that this QEMU knows; empty where there is no QEMU."""

    @property
    def mask(self) -> CpuFlags:
        """The flags."""
        return CpuFlags.sort(self.flags)[0]

    @property
    def unsure(self) -> CpuFlags:
        """The flags that may be there although they are not in the mask."""
        return CpuFlags.sort(self.untold)[0] - self.mask


class GuestCpu(msgspec.Struct, frozen=True, kw_only=True):
    """A running guest's processor: what the guest sees of it."""

    guest: str
    model: str
    """`-cpu` model, such as `Skylake-Server-v4`, `host` or `max`."""
    flags: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    """Switches of its CPU object that are on, and neither flags nor settings that this limosa knows."""
    accel: str
    machine: str
    qemu: Version
    vendor: str = ""
    family: int | None = None
    number: int | None = None
    """CPUID's model."""
    stepping: int | None = None
    phys_bits: int | None = None
    tsc_khz: int | None = None
    """As it was set; None where QEMU was left to take the host's."""
    hyperv: tuple[str, ...] = ()
    """Enlightenments that are on (`hv-time`, …)."""
    pmu: bool = False
    migratable: bool = True

    @property
    def mask(self) -> CpuFlags:
        """The flags."""
        return CpuFlags.sort(self.flags)[0]


def _of(*places: int) -> CpuFlags:
    """Flags of these CPUID leaves or MSRs."""

    def there(flag: Flag) -> bool:
        return (flag.place.leaf if isinstance(flag.place, Cpuid) else flag.place.index) in places

    return CpuFlags(sum(1 << flag.position for flag in FLAGS if there(flag)))


IN_MSRS = CpuFlags(sum(1 << flag.position for flag in FLAGS if isinstance(flag.place, Msr)))
"""Flags that CPUID does not tell."""

BY_KVM = _of(KVM_WORD) | CpuFlags.of(
    "hypervisor", "x2apic", "tsc-deadline", "tsc-adjust", "arat", "umip", "arch-capabilities"
)
"""Flags that KVM can give a guest whatever the processor has: software makes them up (Linux arch/x86/kvm/cpuid.c)."""

_VMX = _of(0x480, 0x485, 0x48B, 0x48C, 0x48D, 0x48E, 0x48F, 0x490, 0x491)

BEHIND: tuple[tuple[str, CpuFlags], ...] = (
    ("arch-capabilities", _of(0x10A)),
    ("core-capability", _of(0xCF)),
    ("pdcm", _of(0x345)),
    ("vmx", _VMX),
    ("svm", _of(0x8000000A)),
)
"""Flag -> flags in words that cannot be read, or mean nothing, without it. QEMU leaves those bits set in a CPU object
when it filters the flag itself (docs/qemu-notes.md)."""

AREAS: tuple[tuple[str, CpuFlags], ...] = (
    ("xsave", CpuFlags.of("xcr0-x87", "xcr0-sse")),
    ("avx", CpuFlags.of("xcr0-avx")),
    ("mpx", CpuFlags.of("xcr0-bndregs", "xcr0-bndcsr")),
    ("avx512f", CpuFlags.of("xcr0-opmask", "xcr0-zmm-hi256", "xcr0-hi16-zmm")),
    ("pku", CpuFlags.of("xcr0-pkru")),
    ("amx-tile", CpuFlags.of("xcr0-xtilecfg", "xcr0-xtiledata")),
    ("arch-lbr", CpuFlags.of("xss-lbr")),
)
"""Flag -> areas of XSAVE that QEMU switches on with it (target/i386/cpu.c, x86_ext_save_areas)."""


def with_areas(flags: CpuFlags) -> CpuFlags:
    """A guest's flags, and the areas of XSAVE that follow from them."""
    if "xsave" not in flags:
        return flags
    for name, areas in AREAS:
        if name in flags and (name != "arch-lbr" or "xsaves" in flags):
            flags |= areas
    return flags


def visible(flags: CpuFlags) -> CpuFlags:
    """Without the flags that stand behind one that is off."""
    for name, behind in BEHIND:
        if name not in flags:
            flags -= behind
    return flags
