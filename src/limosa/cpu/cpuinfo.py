"""`/proc/cpuinfo` as Linux prints it on x86. Pure.

Linux has names for what it uses, and leaves the rest out: of flags without a name this source says nothing.
"""

import re
from collections.abc import Iterator, Mapping
from functools import reduce

from limosa.cpu.facts import BEHIND, BY_KVM, HostCpu, Source, SourceError, with_areas
from limosa.cpu.flags import ALL, NONE, CpuFlags
from limosa.cpu.registry import BEYOND, FLAGS

MAX_BYTES = 16 * 1024**2
"""A machine with 1024 processors prints two megabytes."""

Block = Mapping[str, str]

# Linux sets these by what it found in the words of either vendor (arch/x86/kernel/cpu/common.c,
# init_speculation_control).
_MITIGATIONS = {
    "GenuineIntel": {"ibrs": "spec-ctrl", "ibpb": "spec-ctrl", "stibp": "stibp", "ssbd": "ssbd"},
    "AuthenticAMD": {"ibrs": "ibrs", "ibpb": "ibpb", "stibp": "amd-stibp", "ssbd": "amd-ssbd"},
}
_SIZES = re.compile(r"(\d+) bits physical, (\d+) bits virtual")


def read_cpuinfo(text: str, host: str) -> HostCpu:
    """The host whose `/proc/cpuinfo` this is.

    Raises:
        SourceError: it is none, or of another architecture, or cut off; names the line.
    """
    blocks = [*_blocks(text)]
    first = blocks[0]
    read = [_flags(block) for block in blocks]
    flags = with_areas(reduce(CpuFlags.__and__, (flags for flags, _ in read)))
    sizes = _SIZES.fullmatch(first.get("address sizes", ""))
    return HostCpu(
        host=host,
        source=Source.CPUINFO,
        flags=flags.names(),
        untold=(_untold(first) - flags).names(),
        unknown=tuple(sorted({name for _, unknown in read for name in unknown})),
        vendor=first["vendor_id"],
        family=_number(first, "cpu family"),
        model=_number(first, "model"),
        stepping=_number(first, "stepping"),
        processor=first.get("model name", ""),
        microcode=first.get("microcode", ""),
        phys_bits=int(sizes[1]) if sizes else None,
        virt_bits=int(sizes[2]) if sizes else None,
        tsc_scaling="tsc_scale" in first["flags"].split() or "tsc_scaling" in first.get("vmx flags", "").split(),
    )


def _blocks(text: str) -> Iterator[Block]:
    """One mapping for each logical processor."""
    if len(text) > MAX_BYTES:
        raise SourceError(f"{len(text)} bytes of /proc/cpuinfo are not believed; the limit is {MAX_BYTES}")
    block: dict[str, str] = {}
    number = start = 0
    found = False
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not line.strip():
            if block:
                yield _whole(block, start)
                found, block = True, {}
            continue
        if not colon:
            raise SourceError(f"{line.strip()[:60]!r} is not `name : value`", number)
        if name in block:
            raise SourceError(f"{name} comes twice for one processor", number)
        if not block:
            start = number
        block[name] = value
    if block:
        yield _whole(block, start)
    elif not found:
        raise SourceError("the file is empty")


def _whole(block: Block, line: int) -> Block:
    if "vendor_id" not in block and ("CPU implementer" in block or "isa" in block or "cpu" in block):
        raise SourceError("a processor of another architecture; limosa moves x86 guests", line)
    for name in ("vendor_id", "flags"):
        if name not in block:
            raise SourceError(f"no line `{name}` for the processor that begins here: cut off?", line)
    if "processor" not in block:
        raise SourceError("this is not /proc/cpuinfo: no line `processor`", line)
    return block


def _number(block: Block, name: str) -> int | None:
    value = block.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 10 else None


def _names() -> dict[str, CpuFlags]:
    """Linux's name -> flag, `vmx:` before those of the line of its own."""
    return {name: CpuFlags(1 << flag.position) for flag in FLAGS for name in flag.linux}


def _flags(block: Block) -> tuple[CpuFlags, frozenset[str]]:
    """One processor's flags, and the names that are none."""
    known = _names()
    known |= {name: CpuFlags.of(flag) for name, flag in _MITIGATIONS.get(block["vendor_id"], {}).items()}
    said = [*block["flags"].split(), *(f"vmx:{name}" for name in block.get("vmx flags", "").split())]
    flags = reduce(CpuFlags.__or__, (known[name] for name in said if name in known), NONE)
    named = {*BEYOND.values(), *_OF_LINUX}
    return flags, frozenset(name for name in said if name not in known and name not in named)


def _untold(block: Block) -> CpuFlags:
    """Flags for which Linux has no name, and those that KVM makes up. Without `vmx` or `svm`, none behind these."""
    named = reduce(CpuFlags.__or__, _names().values())
    named |= CpuFlags.of(*_MITIGATIONS.get(block["vendor_id"], {}).values())
    untold = (ALL - named) | BY_KVM
    for name, behind in BEHIND:
        if name in ("vmx", "svm") and name not in block["flags"].split():
            untold -= behind
    return untold


# Names of Linux's own: about the kernel, about power, or put together from other bits.
_KERNELS_WORDS = """
    constant_tsc rep_good nopl xtopology cpuid extd_apicid aperfmperf arch_perfmon pebs bts art tsc_known_freq
    tsc_reliable nonstop_tsc_s3 cpuid_fault epb pti ssbd ibrs ibpb stibp invpcid_single vmmcall ibrs_enhanced up
    cat_l2 cat_l3 cdp_l2 cdp_l3 mba hw_pstate proc_feedback amd_dcm rapl acc_power ring3mwait intel_ppin tpr_shadow
    cqm_llc cqm_occup_llc cqm_mbm_total cqm_mbm_local user_shstk amd_lbr_v2 amd_lbr_pmc_freeze debug_swap sev sev_es
    sev_snp sme fast_cppc retpoline eagerfpu
    """
_OF_LINUX = frozenset(_KERNELS_WORDS.split())
