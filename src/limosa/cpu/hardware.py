"""What a guest may be given of what the hardware has, where only the hardware was asked (a dump, /proc/cpuinfo). Pure.

A host that was asked through its QEMU has answered already. These rules are for the others; they are those of Linux and
QEMU, and err on the side of giving less.
"""

from limosa.cpu.flags import NONE, CpuFlags
from limosa.cpu.registry import FLAGS, Cpuid

_MACHINE = ("dtes64", "monitor", "ds-cpl", "ds", "smx", "est", "tm", "tm2", "acpi", "pbe", "cid", "xtpr", "dca", "pn")
_AMD_MACHINE = ("extapic", "ibs", "skinit", "wdt", "lwp", "nodeid-msr", "perfctr-nb", "tce")
_AMD_NESTED = ("svm-lock", "decodeassists", "avic")
_BY_SETTING = ("ht", "pdcm", "intel-pt", "sgx", "sgxlc")
_PINNING = ("invtsc",)
_GONE = ("mpx", "ia64")
_SGX_LEAF = tuple(flag.name for flag in FLAGS if isinstance(flag.place, Cpuid) and flag.place.leaf == 0x12)

WITHHELD = CpuFlags.of(*_MACHINE, *_AMD_MACHINE, *_AMD_NESTED, *_BY_SETTING, *_PINNING, *_GONE, *_SGX_LEAF)
"""Flags that a guest is not given: those of the machine itself; those that follow from other settings (vCPUs, `pmu`,
KVM's `pt_mode`, EPC memory); what makes QEMU block a migration; what Linux no longer supports.

Source:
    Linux arch/x86/kvm/cpuid.c (the features that it marks as not passed) and svm/svm.c; Linux 5.6 for MPX; QEMU
    target/i386/cpu.c.
"""

EMULATED = CpuFlags.of("x2apic", "tsc-adjust", "tsc-deadline", "arat")
"""Flags that KVM gives to guests on any hardware.

Source:
    Linux arch/x86/kvm/cpuid.c; QEMU target/i386/kvm/kvm.c, kvm_arch_get_supported_cpuid.
"""


def guest_share(hardware: CpuFlags) -> CpuFlags:
    """The flags that KVM on this hardware would give to a guest that may move."""
    # Intel's processors tell of SYSCALL only when 64-bit code asks (SDM, CPUID leaf 80000001H), and many dumps were
    # made by 32-bit programs. Long mode never comes without it.
    syscall = CpuFlags.of("syscall") if "lm" in hardware else NONE
    return (hardware - WITHHELD) | EMULATED | syscall
