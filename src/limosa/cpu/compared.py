"""Every kind of host against every other: who can take whose guests, as values and as a picture. Pure; numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limosa.cpu.flags import NONE, CpuFlags
from limosa.cpu.fleet import Host, fold, missing_counts, within
from limosa.cpu.pools import Pool
from limosa.cpu.pools import pools as find_pools
from limosa.cpu.sides import Sides
from limosa.cpu.svg import NEVER, NO, YES, Cell, matrix
from limosa.units import format_count

NAMED = 12
"""Flags that are named before the rest is counted."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Every kind of host against every other: row from, column to."""

    pools: tuple[Pool, ...]
    takes: list[list[bool]]
    missing: list[list[int]]
    untold: CpuFlags


def compared(sides: Sides) -> Compared:
    """Compare the kinds of hosts, in the order of the pools."""
    return between(find_pools(fold(sides.hosts)), sides.untold)


def between(found: tuple[Pool, ...], untold: CpuFlags = NONE) -> Compared:
    """Compare pools.

    Args:
        found: as `pools` gave them.
        untold: flags of which some source cannot tell; they are left out everywhere.
    """
    fleet = fold(Host(pool.hosts[0], pool.flags, pool.hard) for pool in found)
    if not found:
        return Compared((), [], [], untold)
    return Compared(found, within(fleet).tolist(), missing_counts(fleet.words).tolist(), untold)


def cell(shown: Compared, row: int, column: int) -> Cell:
    """Whether guests of one kind may go to another, and what they would miss there."""
    here, there = shown.pools[row], shown.pools[column]
    way = f"{here.hosts[0]} to {there.hosts[0]}: "
    if shown.takes[row][column]:
        return Cell(YES, "", way + "fits")
    if here.hard.vendor != there.hard.vendor:
        return Cell(NEVER, "-", way + f"{here.hard.vendor} is not {there.hard.vendor}")
    if not shown.missing[row][column]:
        bits = f"{here.hard.address_bits} address bits, {there.hard.address_bits} there"
        return Cell(NO, "bits", way + bits)
    return Cell(NO, str(shown.missing[row][column]), way + f"lacks {some(here.flags - there.flags)}")


def matrix_picture(shown: Compared) -> str:
    """The matrix as SVG."""
    hosts = sum(len(pool.hosts) for pool in shown.pools)
    ways = sum(map(sum, shown.takes)) - len(shown.pools)
    described = (
        f"{format_count(hosts, 'host')} of {format_count(len(shown.pools), 'kind')}; "
        f"open to all guests: {format_count(ways, 'way')} from one kind to another."
    )

    def unlabelled(row: int, column: int) -> Cell:
        one = cell(shown, row, column)
        return Cell(one.kind, "" if one.kind == NEVER else one.label, one.told)

    labels = [labelled(pool) for pool in shown.pools]
    return matrix(labels, [pool.hard.vendor for pool in shown.pools], unlabelled, described)


def labelled(pool: Pool) -> str:
    """A pool's first host, and how many more there are."""
    return pool.hosts[0] + (f" (+{len(pool.hosts) - 1})" if len(pool.hosts) > 1 else "")


def counted(things: Sequence[object], what: str = "host") -> str:
    """`1 host`, `2 hosts`."""
    return format_count(len(things), what)


def some(flags: CpuFlags) -> str:
    """Flags by name; when there are many, the first of them and how many more."""
    names = flags.names()
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
