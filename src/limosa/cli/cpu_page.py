"""What the `limosa cpu` commands print about one guest and one host. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from limosa.cli.table import pairs, table
from limosa.cpu.compat import CpuFinding, Severity, missing
from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import FLAGS, WIDTH, Flag, flag

_COLUMNS = 100
_HEAD = """\
# CPU flags and their positions

Made by `limosa cpu flags --markdown`; the source is `src/limosa/cpu/flags.tsv`.

There are {width} flags. A position is a flag's bit in every mask that limosa prints or takes; it is never
moved and never used again. *Where* is `leaf.subleaf.register.bit` of CPUID, or `msr.index.bit`; leaves,
subleaves and indexes are hexadecimal. The names are QEMU's; those that begin with `xcr0-` and `xss-` are
limosa's own, for the areas of XSAVE, which QEMU switches on with other flags. In the column of Linux, `vmx:`
marks names of the line `vmx flags` of `/proc/cpuinfo`. [cpu.md](cpu.md) says what limosa does with them.

| position | flag | where | QEMU takes also | Linux | libcpuid | what |
| ---: | --- | --- | --- | --- | --- | --- |
"""


def flags_table(flags: Iterable[Flag]) -> str:
    """What `limosa cpu flags` prints."""
    rows = [(str(f.position), f.name, str(f.place), " ".join(f.linux), " ".join(f.libcpuid), f.sentence) for f in flags]
    return table(("POSITION", "FLAG", "WHERE", "LINUX", "LIBCPUID", "WHAT"), rows, right=("POSITION",))


def flags_markdown() -> str:
    """The page docs/cpu-flags.md."""
    return _HEAD.format(width=WIDTH) + "".join(map(_markdown_row, FLAGS))


def _markdown_row(f: Flag) -> str:
    places = ", ".join(map(str, (f.place, *f.also)))
    others = (" ".join(names) for names in (f.qemu, f.linux, f.libcpuid))
    return f"| {f.position} | `{f.name}` | {places} | " + " | ".join(others) + f" | {f.sentence} |\n"


def host_page(cpu: HostCpu) -> str:
    """What `limosa cpu show HOST` prints."""
    sections = [f"{cpu.host}  {_from(cpu)}", pairs(_host_facts(cpu)), _flag_lines(cpu.mask)]
    if cpu.removed:
        sections.append(_named("taken away by agent.toml (cpu.remove)", cpu.removed))
    if cpu.unknown:
        sections.append(_named("set, and nothing that QEMU gives to guests", cpu.unknown))
    if cpu.untold:
        sections.append(f"{len(cpu.untold)} more flags may be there: this source does not tell (--json names them)")
    return "\n\n".join(sections)


def guest_page(cpu: GuestCpu) -> str:
    """What `limosa cpu show GUEST` prints."""
    sections = [f"{cpu.guest}  a guest that runs", pairs(_guest_facts(cpu)), _flag_lines(cpu.mask)]
    if cpu.unknown:
        sections.append(_named("on, and unknown to this limosa", cpu.unknown))
    return "\n\n".join(sections)


def _from(cpu: HostCpu) -> str:
    if cpu.qemu is None:
        return f"from {'a CPUID dump' if cpu.source == 'cpuid' else '/proc/cpuinfo'}"
    return f"through QEMU {'.'.join(map(str, cpu.qemu))} with {cpu.accel}  {cpu.binary}"


def _host_facts(cpu: HostCpu) -> Iterator[tuple[str, str]]:
    yield (
        "processor",
        " ".join(filter(None, (cpu.processor, _signature(cpu.vendor, cpu.family, cpu.model, cpu.stepping)))),
    )
    if cpu.microcode:
        yield "microcode", cpu.microcode
    if cpu.phys_bits:
        yield "addresses", f"{cpu.phys_bits} bits physical, {cpu.virt_bits} bits virtual"
    if cpu.tsc_khz:
        yield "tsc", f"{cpu.tsc_khz} kHz"
    if cpu.tsc_scaling is not None:
        yield "tsc scaling", "yes" if cpu.tsc_scaling else "no"
    if cpu.nested is not None:
        yield "nested guests", "yes" if cpu.nested else "no"
    yield "mask", cpu.mask.hex()


def _guest_facts(cpu: GuestCpu) -> Iterator[tuple[str, str]]:
    yield "model", f"{cpu.model}  {_signature(cpu.vendor, cpu.family, cpu.number, cpu.stepping)}"
    yield "machine", f"{cpu.machine} {cpu.accel}, QEMU {'.'.join(map(str, cpu.qemu))}"
    if cpu.phys_bits:
        yield "addresses", f"{cpu.phys_bits} bits physical"
    if cpu.tsc_khz:
        yield "tsc", f"{cpu.tsc_khz} kHz"
    if cpu.hyperv:
        yield "hyper-v", " ".join(cpu.hyperv)
    yield "settings", f"pmu={_switch(cpu.pmu)} migratable={_switch(cpu.migratable)}"
    yield "mask", cpu.mask.hex()


def _signature(vendor: str, family: int | None, model: int | None, stepping: int | None) -> str:
    numbers = "" if family is None else f" family {family} model {model} stepping {stepping}"
    return f"({vendor}{numbers})" if vendor else ""


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _flag_lines(mask: CpuFlags) -> str:
    return _named(f"{mask.bit_count()} of {WIDTH} flags", mask.names())


def _named(head: str, names: Sequence[str]) -> str:
    lines = textwrap.wrap(" ".join(names), _COLUMNS, break_long_words=False, break_on_hyphens=False)
    return "\n".join((head, *(f"  {line}" for line in lines)))


def explain_page(guest: GuestCpu, host: HostCpu, found: Sequence[CpuFinding]) -> str:
    """What `limosa cpu explain` prints."""
    stops = [finding for finding in found if finding.severity is Severity.BLOCKS]
    verdict = "cannot go on there without a reboot" if stops else "can go on there"
    sections = [f"{guest.guest} on {host.host}: {verdict}", *map(_finding, found)]
    if lacks := missing(guest, host):
        sections.append(missing_table(lacks))
    return "\n\n".join(sections)


def missing_table(lacks: CpuFlags) -> str:
    """What each flag is, that the guest sees and the host lacks."""
    flags = [flag(name) for name in lacks.names()]
    rows = [(f.name, str(f.place), f.sentence) for f in flags]
    return table(("MISSING", "WHERE", "WHAT"), rows)


def _finding(finding: CpuFinding) -> str:
    rows = [("why", finding.cause), ("to do", finding.remedy)]
    if finding.consent and finding.severity is Severity.BLOCKS:
        rows.append(("or", f"--allow {finding.consent} accepts it"))
    return f"{finding.severity}: {finding.what}\n{pairs(rows)}"


def masks_of(mask: CpuFlags) -> dict[str, str]:
    """A mask in both written forms, for JSON."""
    return {"hex": mask.hex(), "bits": mask.bits()}


def shown(cpu: HostCpu | GuestCpu) -> dict[str, Any]:
    """A processor for JSON, its mask written out."""
    told: dict[str, Any] = msgspec.to_builtins(cpu)
    return told | {"mask": masks_of(cpu.mask)}


def explained(guest: GuestCpu, host: HostCpu, found: Sequence[CpuFinding]) -> dict[str, Any]:
    """`limosa cpu explain --json`."""
    return {
        "guest": guest.guest,
        "host": host.host,
        "compatible": all(finding.severity is not Severity.BLOCKS for finding in found),
        "missing": msgspec.to_builtins([flag(name) for name in missing(guest, host).names()]),
        "findings": msgspec.to_builtins(found),
    }
