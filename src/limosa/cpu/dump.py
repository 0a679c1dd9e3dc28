"""Raw dumps of the CPUID instruction, one leaf a line, as InstLatx64 and others write them. Pure.

    CPUID 00000007: 00000000-029C67AF-00000000-00000000 [SL 00]

The values are eax, ebx, ecx, edx. A dump may hold several logical processors, each from leaf 0 on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from limosa.cpu.facts import BY_KVM, IN_MSRS, Area, HostCpu, Source, SourceError
from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import BEYOND, REGISTERS, Cpuid, by_place

MAX_BYTES = 8 * 1024**2
"""The largest public dump, of a machine with 288 logical processors, has half a megabyte."""
MAX_LINE = 200

Registers = tuple[int, int, int, int]
Leaves = Mapping[tuple[int, int], Registers]
"""(leaf, subleaf) -> eax, ebx, ecx, edx."""

_LINE = re.compile(
    r"CPUID (?P<leaf>[0-9A-Fa-f]{8}): (?P<values>[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{8}){3})"
    r"(?: \[SL (?P<sub>[0-9A-Fa-f]{1,8})\])?"
)
_BASIC, _EXTENDED, _CENTAUR = 0, 0x80000000, 0xC0000000
_NEEDED = (0x1, 0x7, 0xD, 0x80000001)
# AMD repeats these bits of leaf 1 in leaf 80000001 (APM volume 3, appendix E).
_REPEATED = 0x0183F3FF
# Numbers among the flags: MAWAU in 7.0.ecx, the version of AVX10 in 24.0.ebx.
_NUMBERS = {(7, 0, "ecx"): 0x003E0000, (0x24, 0, "ebx"): 0x000000FF}
# Leaves whose subleaves older tools wrote in their order, without numbers.
_COUNTED = frozenset(
    {0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1A, 0x1F, 0x8000001D, 0x80000020, 0x80000026}
)
_WORDS = sorted({(p.leaf, p.subleaf, p.register) for p in by_place() if isinstance(p, Cpuid) and p.leaf >> 28 != 4})


def read_dump(text: str, host: str) -> HostCpu:
    """The host that a dump was taken on.

    Raises:
        SourceError: it is no dump, or one that is cut off or contradicts itself; names the line.
    """
    processors = [*_processors(text)]
    found = [_flags(leaves) for leaves in processors]
    # Some processors have cores of two kinds: a guest may run on any of them.
    flags = reduce(CpuFlags.__and__, (flags for flags, _ in found))
    first = processors[0]
    family, model, stepping = _signature(first[1, 0][0])
    sizes = first.get((0x80000008, 0), (0, 0, 0, 0))[0]
    return HostCpu(
        host=host,
        source=Source.CPUID,
        flags=flags.names(),
        untold=((IN_MSRS | BY_KVM | _left_out(first)) - flags).names(),
        unknown=tuple(sorted({name for _, unknown in found for name in unknown})),
        vendor=_letters(first[0, 0], (1, 3, 2)),
        family=family,
        model=model,
        stepping=stepping,
        processor=_brand(first),
        phys_bits=sizes & 0xFF or None,
        virt_bits=sizes >> 8 & 0xFF or None,
        areas=_areas(first),
        tsc_khz=_tsc(first),
        tsc_scaling=True if "tsc-scale" in flags else None,
    )


def _processors(text: str) -> Iterator[Leaves]:
    """Each logical processor's leaves, checked to be whole."""
    if len(text) > MAX_BYTES:
        raise SourceError(f"a dump of {len(text)} bytes is not believed; the limit is {MAX_BYTES}")
    leaves: dict[tuple[int, int], Registers] = {}
    number = last = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        leaf, sub, values = _parse(line, number)
        if leaf == 0 and leaves:
            _require_whole(leaves, last)
            yield leaves
            leaves = {}
        if not leaves and leaf != 0:
            raise SourceError(f"a processor begins with leaf 0, not {leaf:x}", number)
        leaves[_key(leaves, leaf, sub, number)] = values
        last = number
    if not leaves:
        raise SourceError("the dump is empty")
    _require_whole(leaves, last)
    yield leaves


def _parse(line: str, number: int) -> tuple[int, int | None, Registers]:
    if len(line) > MAX_LINE:
        raise SourceError(f"{len(line)} characters in one line", number)
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise SourceError(
            f"{line.strip()[:60]!r} is not `CPUID LEAF: EAX-EBX-ECX-EDX [SL SUBLEAF]` of an x86 processor", number
        )
    eax, ebx, ecx, edx = (int(value, 16) for value in match["values"].split("-"))
    return int(match["leaf"], 16), int(match["sub"], 16) if match["sub"] else None, (eax, ebx, ecx, edx)


def _key(leaves: Leaves, leaf: int, sub: int | None, number: int) -> tuple[int, int]:
    key = (leaf, sub or 0)
    if key not in leaves:
        return key
    if sub is None and leaf in _COUNTED:
        return leaf, 1 + max(other for known, other in leaves if known == leaf)
    raise SourceError(f"leaf {leaf:x} comes twice" + (f" with subleaf {sub:x}" if sub is not None else ""), number)


def _require_whole(leaves: Leaves, line: int) -> None:
    """The leaves that most flags are in must be there, where the processor announces them."""
    if not re.fullmatch(r"[ -~]{12}", _letters(leaves[0, 0], (1, 3, 2))):
        raise SourceError("leaf 0 names no vendor: not an x86 processor", line)
    for leaf in (_EXTENDED, *_NEEDED):
        if (leaf == _EXTENDED or leaf <= _highest(leaves, leaf)) and (leaf, 0) not in leaves:
            raise SourceError(f"cut off: leaf {leaf:x} is announced and missing", line)


def _left_out(leaves: Leaves) -> CpuFlags:
    """Flags in leaves that are announced and missing: some tools write no more than they know."""
    gone = {leaf for leaf, _, _ in _WORDS if leaf <= _highest(leaves, leaf) and (leaf, 0) not in leaves}
    places = ((place, flag) for place, flag in by_place().items() if isinstance(place, Cpuid))
    return CpuFlags(sum(1 << flag.position for place, flag in places if place.leaf in gone))


def _highest(leaves: Leaves, leaf: int) -> int:
    """The highest leaf that is announced in a leaf's range; -1 where the range is not there."""
    start = next(start for start in (_CENTAUR, _EXTENDED, _BASIC) if leaf >= start)
    highest = leaves.get((start, 0), (0, 0, 0, 0))[0]
    return highest if highest >= start else -1


def _flags(leaves: Leaves) -> tuple[CpuFlags, frozenset[str]]:
    """One processor's flags, and what is set besides."""
    known, mask, unknown = by_place(), 0, set()
    also = {place for flag in known.values() for place in flag.also}
    for place in _set_bits(leaves):
        if (flag := known.get(place)) is not None:
            mask |= 1 << flag.position
        elif place not in also:
            unknown.add(f"{BEYOND[place]} ({place})" if place in BEYOND else str(place))
    return CpuFlags(mask), frozenset(unknown)


def _set_bits(leaves: Leaves) -> Iterator[Cpuid]:
    for leaf, sub, register in _WORDS:
        if leaf > _highest(leaves, leaf) or (leaf == 7 and sub > leaves[7, 0][0]):
            continue  # beyond the highest leaf, Intel repeats the answer of that leaf (SDM volume 2A, CPUID)
        word = leaves.get((leaf, sub), (0, 0, 0, 0))[REGISTERS.index(register)]
        word &= ~_NUMBERS.get((leaf, sub, register), 0)
        if (leaf, register) == (0x80000001, "edx"):
            word &= ~(_REPEATED & leaves[1, 0][3])
        yield from (Cpuid(leaf, sub, register, bit) for bit in range(32) if word >> bit & 1)


def _signature(eax: int) -> tuple[int, int, int]:
    """Family, model and stepping out of leaf 1 (SDM volume 2A, CPUID, figure 3-6)."""
    family, model, stepping = eax >> 8 & 0xF, eax >> 4 & 0xF, eax & 0xF
    if family in (6, 15):
        model |= eax >> 12 & 0xF0
    if family == 15:
        family += eax >> 20 & 0xFF
    return family, model, stepping


def _letters(registers: Registers, order: Sequence[int]) -> str:
    return b"".join(registers[index].to_bytes(4, "little") for index in order).decode("latin-1")


def _brand(leaves: Leaves) -> str:
    names = (_letters(leaves[leaf, 0], range(4)) for leaf in range(0x80000002, 0x80000005) if (leaf, 0) in leaves)
    return " ".join("".join(names).replace("\0", " ").split())


def _areas(leaves: Leaves) -> tuple[Area, ...]:
    """Areas of XSAVE from 2 on; 0 and 1 lie where FXSAVE puts them."""
    if _highest(leaves, 0xD) < 0xD:
        return ()
    subs = sorted(sub for leaf, sub in leaves if leaf == 0xD and sub > 1)
    return tuple(Area(sub, leaves[0xD, sub][1], leaves[0xD, sub][0]) for sub in subs if leaves[0xD, sub][0])


def _tsc(leaves: Leaves) -> int | None:
    """Leaf 15: the crystal's frequency and its ratio to the TSC's; None where the processor does not tell both."""
    denominator, numerator, crystal, _ = leaves.get((0x15, 0), (0, 0, 0, 0))
    if _highest(leaves, 0x15) < 0x15 or not (denominator and numerator and crystal):
        return None
    return crystal * numerator // denominator // 1000
