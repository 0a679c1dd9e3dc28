"""What `limosa cpu baseline` and `cost` print: pages for people, values for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limosa.cli.cpu_fleet_page import left_out
from limosa.cli.table import pairs, table
from limosa.cpu.compared import counted, some
from limosa.cpu.cost import Admission, Guest, Pin, Stranded, admission, held_back, islands, pins, stranded
from limosa.cpu.flags import CpuFlags
from limosa.cpu.fleet import fold
from limosa.cpu.registry import FLAGS
from limosa.cpu.sides import Shared, hard, side_by_side
from limosa.units import format_count

if TYPE_CHECKING:
    from limosa.cpu.baseline import CpuValue
    from limosa.cpu.facts import GuestCpu, HostCpu

DEFAULT_ADDRESS_BITS = 40
"""Physical address bits that QEMU gives a named model (target/i386/cpu.h, TCG_PHYS_ADDR_BITS; KVM follows it)."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A group, what it shares, how that is said, and how else it could be."""

    group: Sequence[HostCpu]
    shared: Shared
    value: CpuValue
    others: tuple[CpuValue, ...]


def baseline_page(told: Baseline) -> str:
    """The value alone on the first line; then what is to be known about it."""
    value = told.value
    rows = [
        ("hosts", f"{len(told.group)}: {', '.join(cpu.host for cpu in told.group[:8])}"),
        ("guests see", f"{format_count(value.sees.bit_count(), 'flag')}, mask {value.sees.hex()}"),
        ("changes", f"{value.changes} against {value.model.name}; the rest is what accelerators would switch"),
    ]
    if len(told.group) > 8:
        rows[0] = ("hosts", f"{rows[0][1]} and {len(told.group) - 8} more")
    if kept := value.sees - told.shared.known:
        rows.append(("as the model", f"{some(kept)}: not every source tells of them"))
    if bits := _narrow(told.group):
        rows.append(("addresses", f"the narrowest host has {bits} bits: add phys-bits={bits}"))
    if told.others:
        rows.append(("or with", ", ".join(f"{one.model.name} ({one.changes} changes)" for one in told.others)))
    return f"{value}\n\n{pairs(rows)}"


def _narrow(group: Sequence[HostCpu]) -> int | None:
    bits = min((cpu.phys_bits for cpu in group if cpu.phys_bits), default=DEFAULT_ADDRESS_BITS)
    return bits if bits < DEFAULT_ADDRESS_BITS else None


def baseline_value(told: Baseline) -> dict[str, Any]:
    """The baseline for programs; `value` is what goes behind -cpu."""
    return {
        "value": str(told.value),
        "hosts": [cpu.host for cpu in told.group],
        "model": told.value.model.name,
        "on": told.value.on.names(),
        "off": told.value.off.names(),
        "changes": told.value.changes,
        "flags": told.value.sees.names(),
        "mask": told.value.sees.hex(),
        "as_the_model": (told.value.sees - told.shared.known).names(),
        "phys_bits": _narrow(told.group),
        "others": [str(one) for one in told.others],
    }


@dataclass(frozen=True, slots=True)
class Costs:
    """A group as it is, and as it would be."""

    group: tuple[str, ...]
    baseline: CpuFlags
    admission: Admission | None
    held_back: tuple[tuple[str, CpuFlags], ...]
    guests: int
    others: tuple[str, ...]
    """Guests under another accelerator than the hosts were asked about: nothing is said of them."""
    pins: tuple[Pin, ...]
    stranded: tuple[Stranded, ...]
    islands: tuple[str, ...]
    untold: CpuFlags


def costs(group: Sequence[HostCpu], newcomer: HostCpu | None, seen: Sequence[tuple[str, GuestCpu]]) -> Costs:
    """Count it.

    Args:
        group: hosts of one vendor, at least one.
        newcomer: a host that might join.
        seen: guests, each behind the name of its host; those of other hosts than the group's do not count.
    """
    sides = side_by_side([*group, *([newcomer] if newcomer else [])])
    members = sides.hosts[: len(group)]
    names = tuple(host.name for host in members)
    accels = {cpu.accel for cpu in group if cpu.accel}
    here = [(host, guest) for host, guest in seen if host in names]
    inside = [
        Guest(guest.guest, host, guest.mask - sides.untold, hard(guest))
        for host, guest in here
        if not accels - {guest.accel}
    ]
    return Costs(
        group=names,
        baseline=admission(members[0], members).before,
        admission=admission(sides.hosts[-1], members, inside) if newcomer else None,
        held_back=held_back(members),
        guests=len(inside),
        others=tuple(guest.guest for _, guest in here if accels - {guest.accel}),
        pins=pins(inside, members),
        stranded=stranded(inside, members),
        islands=islands(fold(members)) if len(members) > 1 else (),
        untold=sides.untold,
    )


def cost_page(told: Costs) -> str:
    """What it costs, and who is bound to what."""
    parts = [*_admission(told), *_holding(told), *_bound(told), *left_out(told.untold)]
    return "\n".join(parts)


def _admission(told: Costs) -> Iterator[str]:
    if (new := told.admission) is None:
        return
    count = new.lost.bit_count()
    flags = format_count(new.before.bit_count(), "flag")
    yield f"admitting {new.host} takes {count} of the {flags} of {counted(told.group)}"
    rows = [(flag.name, flag.sentence) for flag in FLAGS if new.lost >> flag.position & 1]
    if rows:
        yield table(("FLAG", "WHAT IT IS"), rows, indent="  ")
    if new.excluded:
        yield f"guests that could not go there: {', '.join(new.excluded)}"
    yield ""


def _holding(told: Costs) -> Iterator[str]:
    share = f"{counted(told.group)}: {format_count(told.baseline.bit_count(), 'flag')} in common"
    rows = [(host, str(gain.bit_count()), some(gain)) for host, gain in told.held_back if gain]
    if rows:
        yield f"{share}; without one of these there would be more"
        yield table(("WITHOUT", "MORE", "FLAGS"), rows, right=("MORE",), indent="  ")
    else:
        yield f"{share}; no single one of them holds the others back"
    if told.islands:
        yield f"a guest with every flag of its host could not leave {', '.join(told.islands)}"
    yield ""


def _bound(told: Costs) -> Iterator[str]:
    if told.others:
        yield f"not counted, as the hosts were asked about another accelerator (--accel): {', '.join(told.others)}"
    if not told.guests:
        yield "no guests are counted: an agent tells of those on its own host"
        return
    if not told.pins:
        yield f"no guest pins the group; {format_count(told.guests, 'guest')} can go to every host"
        return
    rows = [
        (pin.guest, pin.host, ", ".join(pin.others[:6]) or "nowhere", some(pin.beyond) or "vendor or address bits")
        for pin in told.pins
    ]
    whole = format_count(told.guests, "guest")
    yield f"{format_count(len(told.pins), f'of {whole} pins', f'of {whole} pin')} the group:"
    yield table(("GUEST", "ON", "CAN GO TO", "SEES BEYOND THE BASELINE"), rows, indent="  ")
    for one in told.stranded:
        yield f"no guest can leave {one.host}: {', '.join(one.guests)}"


def cost_value(told: Costs) -> dict[str, Any]:
    """Costs for programs."""
    new = told.admission
    return {
        "group": told.group,
        "baseline": told.baseline.names(),
        "admission": new
        and {"host": new.host, "lost": new.lost.names(), "after": new.after.names(), "excluded": new.excluded},
        "held_back": [{"host": host, "flags": gain.names()} for host, gain in told.held_back],
        "not_counted": told.others,
        "pins": [
            {"guest": pin.guest, "host": pin.host, "beyond": pin.beyond.names(), "others": pin.others}
            for pin in told.pins
        ],
        "stranded": [{"host": one.host, "guests": one.guests} for one in told.stranded],
        "islands": told.islands,
        "left_out": told.untold.names(),
    }
