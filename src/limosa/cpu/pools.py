"""Pools of interchangeable hosts, and the order between them. Pure; numpy.

Hosts of one pool have equal flags and equal hard facts: a guest may go to any of them and come back. A pool is *below*
another when every guest of it may go there. That order is drawn with as few lines as say it all: its transitive
reduction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from limosa.cpu.flags import CpuFlags
from limosa.cpu.fleet import Fleet, Hard, pack, rows_within

MOST = 20_000
"""Pools of one vendor between which an order is sought. Each pair is compared: 20,000 take seconds and 50 MB."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Hosts that are the same to every guest."""

    hosts: tuple[str, ...]
    flags: CpuFlags
    hard: Hard


@dataclass(frozen=True, slots=True)
class Up:
    """A line of the order: guests of pool `lower` may go to pool `upper`, and no pool lies between."""

    lower: int
    upper: int


def pools(fleet: Fleet) -> tuple[Pool, ...]:
    """The pools of a fleet: vendor by vendor, those with the fewest flags first; so none is below an earlier one."""
    found = [
        Pool(hosts, CpuFlags(flags), hard) for hosts, (flags, hard) in zip(fleet.members, fleet.kinds, strict=True)
    ]
    return tuple(sorted(found, key=_place))


def _place(pool: Pool) -> tuple[str, int, int, str]:
    return pool.hard.vendor, pool.flags.bit_count(), pool.hard.address_bits, pool.hosts[0]


def order(found: Sequence[Pool]) -> tuple[Up, ...]:
    """The order between pools, as `pools` gave them, with no line that follows from others.

    Raises:
        ValueError: a vendor has more than `MOST` pools.
    """
    lines: list[Up] = []
    start = 0
    for _, same in groupby(found, key=lambda pool: pool.hard.vendor):
        group = list(same)
        if len(group) > MOST:
            raise ValueError(f"{len(group)} different kinds of hosts: an order is sought between {MOST} at most")
        lines += (Up(start + lower, start + upper) for lower, upper in _reduced(_above(group)))
        start += len(group)
    return tuple(lines)


def _above(group: Sequence[Pool]) -> list[int]:
    """For each pool of one vendor the pools above it, as a bit for each place in the sequence."""
    words = pack([pool.flags for pool in group])
    bits = np.array([pool.hard.address_bits for pool in group])
    rows: list[int] = []
    for part, inside in rows_within(words, np.invert(words)):
        inside &= bits[part, None] <= bits
        rows += (int.from_bytes(row.tobytes(), "little") for row in np.packbits(inside, axis=1, bitorder="little"))
    return [row & ~(1 << place) for place, row in enumerate(rows)]


def _reduced(above: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of neighbours in a partial order whose every element stands before those above it."""
    for lower, left in enumerate(above):
        while left:
            # The first one left is a neighbour: whatever lay between would stand before it, and be left too.
            upper = (left & -left).bit_length() - 1
            yield lower, upper
            left &= ~(above[upper] | 1 << upper)
