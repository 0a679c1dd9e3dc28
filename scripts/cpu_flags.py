#!/usr/bin/env python3
"""Find out where each CPU flag of a QEMU lies, and hold it against src/limosa/cpu/flags.tsv.

    uv run python scripts/cpu_flags.py [--qemu PATH]

Each flag is switched on alone, on a CPU that is plugged into a machine that never executes. It shows in the CPU's words
of CPUID, as something that it has or that was filtered; flags in MSRs show in the warning that TCG lacks them. What
neither shows (KVM's own under TCG, the word of arch-capabilities in QEMU 10.0) is named: its places are in Linux'
asm/kvm_para.h and in Intel's description of IA32_ARCH_CAPABILITIES.

Rows that the table lacks are printed, to be appended with a sentence: a released row is never changed or moved.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limosa.cpu.registry import FLAGS, REGISTERS, WIDTH, Cpuid, Msr, Place, by_name, parse_place
from limosa.guest.probe import Board, Probe
from limosa.lab import assets
from limosa.qmp.monitor import Monitor

MODEL = "base-x86_64-cpu"
BATCH = 200
"""CPUs in one machine; a board has room for 254 more than it starts with."""

# Flags without which others are not even filtered, but dropped.
GATES = (
    *("lm", "xsave", "avx", "mpx", "xsaves", "invpcid", "rdtscp", "rdrand", "rdseed", "waitpkg", "sgx", "pdcm"),
    *("arch-capabilities", "core-capability", "svm", "vmx", "vmx-secondary-ctls", "vmx-ept", "vmx-vpid", "vmx-vmfunc"),
)
_WARNING = re.compile(r"MSR\(([0-9A-F]+)H\)\.(\S+) \[bit (\d+)\]")
# These areas of XSAVE follow from the flags.
_FOLLOWING = {("eax", 0), ("edx", 0), ("ecx", 1), ("edx", 1)}


async def names_of(qemu: Path) -> tuple[str, ...]:
    """The flags by the names that QEMU prints, each once."""
    listing = await asyncio.create_subprocess_exec(str(qemu), "-cpu", "help", stdout=asyncio.subprocess.PIPE)
    out, _ = await listing.communicate()
    return tuple(dict.fromkeys(out.decode().partition("Recognized CPUID flags:")[2].split()))


async def bits(monitor: Monitor, cpu: str) -> set[Place]:
    """The CPUID bits that a plugged CPU has or was asked to have."""
    found: set[Place] = set()
    for name in ("feature-words", "filtered-features"):
        told: list[dict[str, Any]] = await monitor.execute("qom-get", {"path": cpu, "property": name})
        for word in told:
            leaf, sub, register = (
                word["cpuid-input-eax"],
                word.get("cpuid-input-ecx", 0),
                word["cpuid-register"].lower(),
            )
            if leaf == 0xD and (register, sub) in _FOLLOWING:
                continue
            found |= {Cpuid(leaf, sub, register, bit) for bit in range(32) if word["features"] >> bit & 1}
    return found


async def places(qemu: Path, names: Iterable[str]) -> dict[str, set[Place]]:
    """Name -> the bits that it switches on, on top of what the gates do."""
    found: dict[str, set[Place]] = {}
    wanted = list(names)
    board = Board(machine="pc", cpu="base,apic=on", accel="tcg", options=(("smp.maxcpus", "255"),))
    for start in range(0, len(wanted), BATCH):
        async with Probe(qemu).running(board) as monitor:
            slots = [s for s in await monitor.execute("query-hotpluggable-cpus") if "qom-path" not in s]
            plain = await plugged(monitor, slots.pop(), "plain", dict.fromkeys(GATES, True))
            for name in wanted[start : start + BATCH]:
                flags = dict.fromkeys(GATES, True) | {name: name not in GATES}
                found[name] = plain ^ await plugged(monitor, slots.pop(), name.replace(".", "-"), flags)
                if name in GATES:  # what goes with it, too: its own bit is where the table says
                    found[name] &= {f.place for f in FLAGS if f.name == name}
    return found


async def plugged(monitor: Monitor, slot: dict[str, Any], name: str, flags: dict[str, bool]) -> set[Place]:
    """Plug a CPU with these flags; its CPUID bits."""
    await monitor.execute("device_add", {"driver": MODEL, "id": f"cpu-{name}", **slot["props"], **flags})
    return await bits(monitor, f"/machine/peripheral/cpu-{name}")


async def warned(qemu: Path, names: Iterable[str]) -> dict[str, set[Place]]:
    """Name -> the MSR bits that QEMU names when it warns that TCG lacks them."""
    on = ",".join(f"{name}=on" for name in (*GATES, *names))
    words = ("-machine", "pc", "-accel", "tcg", "-cpu", f"base,apic=on,{on}", "-nodefaults", "-display", "none", "-S")
    talk = await asyncio.create_subprocess_exec(
        str(qemu),
        *(*words, "-monitor", "stdio"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await talk.communicate(b"quit\n")
    found: dict[str, set[Place]] = {}
    for index, name, bit in _WARNING.findall(said.decode()):
        found.setdefault(name, set()).add(Msr(int(index, 16), int(bit)))
    return found


def order(place: Place) -> tuple[int, ...]:
    """Places in the order of the table."""
    if isinstance(place, Msr):
        return 1, place.index, place.bit
    return 0, place.leaf, place.subleaf, REGISTERS.index(place.register), place.bit


async def check(qemu: Path) -> int:
    """Compare, print what is new, and say what is wrong; 1 if anything is."""
    names = await names_of(qemu)
    msr = await warned(qemu, (name for name in names if name not in GATES))
    seen = await places(qemu, [name for name in names if name not in msr]) | msr
    known, trouble, position = by_name(), 0, WIDTH
    silent = sorted(name for name in names if not seen[name])
    for name in names:
        if name not in known:
            print(position, name, " ".join(map(str, sorted(seen[name], key=order))), "", "", "", "", sep="\t")
            position += 1
        elif seen[name] and seen[name] != {known[name].place, *known[name].also}:
            trouble = 1
            print(f"{name} is at {' '.join(map(str, seen[name]))}, not {known[name].place}", file=sys.stderr)
    print(f"{len(names)} flags, {position - WIDTH} new; shown by nothing: {' '.join(silent)}", file=sys.stderr)
    return trouble


def main() -> int:
    """Ask the QEMU that was named, or the lab's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qemu", type=Path, default=assets.qemu_10())
    return asyncio.run(check(parser.parse_args().qemu))


if __name__ == "__main__":
    assert all(parse_place(str(flag.place)) == flag.place for flag in FLAGS)
    sys.exit(main())
