"""What `limosa cpu matrix` and `pools` print: pages for people, values for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from limosa.cli.table import table
from limosa.cpu.compared import Compared, cell, counted, labelled, some
from limosa.cpu.flags import CpuFlags
from limosa.cpu.models import LEFT_TO_QEMU
from limosa.cpu.pools import Pool, Up

GRID = 16
"""Kinds of hosts up to which the matrix is a grid on a terminal; beyond, it is counted."""


def matrix_page(shown: Compared) -> str:
    """A grid for few kinds, counts for many."""
    rows = list(_grid(shown)) if len(shown.pools) <= GRID else list(_counts(shown))
    if len(shown.pools) <= GRID:
        heads = ("GUESTS OF", *(str(number) for number in range(1, len(shown.pools) + 1)))
        told = "columns are the hosts of the rows; a number: so many flags are missing there; -: another vendor"
        page = table(heads, rows, right=heads[1:])
    else:
        heads = ("HOSTS", "VENDOR", "FLAGS", "TAKES GUESTS OF", "ITS GUESTS FIT ON")
        told = "hosts besides themselves; a picture of all: --svg FILE"
        page = table(heads, rows, right=heads[2:])
    return "\n".join((page, "", told, *left_out(shown.untold)))


def _grid(shown: Compared) -> Iterator[tuple[str, ...]]:
    for row, pool in enumerate(shown.pools):
        cells = (cell(shown, row, column).label or "yes" for column in range(len(shown.pools)))
        yield (f"{row + 1} {labelled(pool)}", *cells)


def _counts(shown: Compared) -> Iterator[tuple[str, ...]]:
    sizes = [len(pool.hosts) for pool in shown.pools]
    for place, pool in enumerate(shown.pools):
        takes = sum(size for size, row in zip(sizes, shown.takes, strict=True) if row[place]) - 1
        fits = sum(size for size, fit in zip(sizes, shown.takes[place], strict=True) if fit) - 1
        yield labelled(pool), pool.hard.vendor, str(pool.flags.bit_count()), str(takes), str(fits)


def matrix_value(shown: Compared) -> dict[str, Any]:
    """The matrix for programs."""
    kinds = [_kind(pool) for pool in shown.pools]
    return {"kinds": kinds, "takes": shown.takes, "missing": shown.missing, "left_out": shown.untold.names()}


def left_out(untold: CpuFlags) -> Iterator[str]:
    """A line about flags that are left out of a comparison, if there are any."""
    if named := untold - LEFT_TO_QEMU:
        yield f"left out, as not every source tells of them: {some(named)}"


def _kind(pool: Pool) -> dict[str, Any]:
    return {
        "hosts": pool.hosts,
        "vendor": pool.hard.vendor,
        "address_bits": pool.hard.address_bits,
        "flags": pool.flags.names(),
        "mask": pool.flags.hex(),
    }


def pools_page(found: Sequence[Pool], lines: Sequence[Up], untold: CpuFlags) -> str:
    """The pools, and to which others the guests of each may go."""
    up: dict[int, list[str]] = {}
    for line in lines:
        up.setdefault(line.lower, []).append(str(line.upper + 1))
    rows = [
        (
            str(number + 1),
            str(len(pool.hosts)),
            pool.hard.vendor,
            str(pool.flags.bit_count()),
            str(pool.hard.address_bits or "-"),
            " ".join(up.get(number, ())) or "-",
            labelled(pool),
        )
        for number, pool in enumerate(found)
    ]
    heads = ("POOL", "HOSTS", "VENDOR", "FLAGS", "ADDRESS BITS", "NEXT ABOVE", "WHO")
    page = table(heads, rows, right=("POOL", "HOSTS", "FLAGS", "ADDRESS BITS"))
    hosts = [host for pool in found for host in pool.hosts]
    told = f"{counted(hosts)} in {counted(found, 'pool')}; guests may go to the pools next above, and on from there"
    return "\n".join((page, "", told, *left_out(untold)))


def pools_value(found: Sequence[Pool], lines: Sequence[Up], untold: CpuFlags) -> dict[str, Any]:
    """Pools and order for programs; numbers count from 1, as on the page."""
    up = [
        {
            "from": line.lower + 1,
            "to": line.upper + 1,
            "more": (found[line.upper].flags - found[line.lower].flags).names(),
        }
        for line in lines
    ]
    pools = [{"pool": number, **_kind(pool)} for number, pool in enumerate(found, 1)]
    return {"pools": pools, "up": up, "left_out": untold.names()}
