"""Where QEMU keeps RAM, and what its emulator (TCG) gets wrong there while it copies. Pure.

QEMU clears the dirty bits of a RAM block and then tells its emulated CPUs by an offset inside that block, where one
among all blocks is meant (`cpu_physical_memory_sync_dirty_bitmap`, include/exec/ram_addr.h, 9.0 to 10.2): only the
block at offset 0 is watched as it should be. Before 9.0 the CPUs are not told at all. KVM is not concerned.
Proof: docs/qemu-notes.md, "RAM under TCG".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from limosa.units import Side
from limosa.wire.findings import Finding, Severity

KIND = "memory"
TOLD_SINCE = (9, 0, 0)

_LINE = re.compile(
    r"^\s*(?P<name>\S.*?)\s+\d+ [KMG]?i?B\s+(?P<offset>0x[0-9a-f]+)\s+(?P<used>0x[0-9a-f]+)\s+0x", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class RamBlock:
    """One RAM block; bytes."""

    name: str
    offset: int
    used: int


def parse(info_ramblock: str) -> tuple[RamBlock, ...]:
    """The blocks that `info ramblock` lists."""
    return tuple(
        RamBlock(found["name"], int(found["offset"], 16), int(found["used"], 16))
        for found in _LINE.finditer(info_ramblock)
    )


def findings(
    blocks: tuple[RamBlock, ...], backends: Mapping[str, str], version: tuple[int, int, int]
) -> Iterator[Finding]:
    """What may befall a guest whose RAM is copied while TCG runs it.

    Args:
        blocks: all of its RAM blocks.
        backends: those that the guest uses as memory, block name -> what people call it.
        version: of its QEMU.
    """
    first = next((block for block in blocks if block.offset == 0), None)
    larger = [block for block in blocks if first and block.used > first.used]
    if version >= TOLD_SINCE and first and larger:
        yield _finding(
            Severity.BLOCKS,
            f"under TCG this QEMU aborts when RAM is copied: {first.name} lies in front of the larger {larger[0].name}",
            "use KVM, or start the guest with base RAM as its first memory backend",
        )
    missed = [name for block in blocks if (name := backends.get(block.name)) and (block.offset or version < TOLD_SINCE)]
    if missed:
        yield _finding(
            Severity.WARNING,
            f"under TCG this QEMU may miss writes to {', '.join(missed)} while RAM is copied: old data may arrive",
            "use KVM, or see that nothing writes there during the move",
        )


def _finding(severity: Severity, what: str, remedy: str) -> Finding:
    return Finding(severity=severity, kind=KIND, what=what, remedy=remedy, side=Side.SOURCE)
