"""The fleet's processors: pools, what a group has in common, and what one flag costs. Pure; numpy."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np

from limosa.cpu.baseline import nearest
from limosa.cpu.compared import between, some
from limosa.cpu.cost import held_back
from limosa.cpu.facts import HostCpu
from limosa.cpu.flags import ALL, NONE, CpuFlags
from limosa.cpu.fleet import Host
from limosa.cpu.pools import Pool
from limosa.cpu.registry import FLAGS
from limosa.fleet.inventory import Inventory
from limosa.web import words
from limosa.web.links import Query, address
from limosa.web.look import Look


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool of interchangeable hosts."""

    number: int
    hosts: str
    href: str
    processors: str
    vendor: str
    flags: str
    address_bits: str
    takes: str
    """Hosts whose guests it can take."""
    leaves: str
    """Hosts that can take its guests."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What a baseline would gain without a pool."""

    pool: int
    hosts: str
    gain: str
    flags: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """What all hosts of a vendor have in common."""

    vendor: str
    hosts: str
    value: str
    """For `-cpu`."""
    sees: str
    held_back: tuple[HeldBack, ...]


@dataclass(frozen=True, slots=True)
class FlagPool:
    """A pool, and whether it has a flag."""

    number: int
    hosts: str
    has: bool
    processors: str


@dataclass(frozen=True, slots=True)
class FlagCost:
    """What one flag costs: who has it, and who cannot do without."""

    name: str
    sentence: str
    hosts_with: str
    hosts_without: str
    guests: str
    """That see it, with that word: each of them can go to hosts that have it only."""
    pools: tuple[FlagPool, ...]


@dataclass(frozen=True, slots=True)
class Cpu:
    """The page."""

    empty: bool
    pools: tuple[PoolRow, ...]
    baselines: tuple[Baseline, ...]
    asked: str
    flag: FlagCost | None
    unknown: str
    """A flag that was asked for and that nobody knows."""
    flags: tuple[str, ...]
    """Every flag that some hosts have and others lack."""


def cpu(look: Look, query: Query) -> Cpu:
    """The page as its address asks for it: `flag`."""
    asked = query.get("flag", "").strip().lower()
    known = {flag.name: flag.sentence for flag in FLAGS}
    kinds = {each.host: each for each in look.cpus}
    some_have, all_have = NONE, ALL
    for pool in look.pools:
        some_have, all_have = some_have | pool.flags, all_have & pool.flags
    return Cpu(
        empty=not look.pools,
        pools=tuple(_pools(look.pools, kinds)),
        baselines=tuple(_baselines(look.pools)),
        asked=asked,
        flag=_flag(look, asked, known[asked], kinds) if asked in known else None,
        unknown=asked if asked and asked not in known else "",
        flags=(some_have - all_have).names(),
    )


def _pools(found: Sequence[Pool], kinds: Mapping[str, HostCpu]) -> Iterator[PoolRow]:
    sizes = np.array([len(pool.hosts) for pool in found])
    takes = np.array(between(tuple(found)).takes, np.bool_).reshape(len(found), len(found))
    for number, pool in enumerate(found, 1):
        here = number - 1
        yield PoolRow(
            number=number,
            hosts=words.count(len(pool.hosts), "host"),
            href=address("/hosts", {}, pool=number),
            processors=_processors(pool, kinds),
            vendor=pool.hard.vendor or words.NONE,
            flags=str(pool.flags.bit_count()),
            address_bits=str(pool.hard.address_bits or words.NONE),
            takes=words.count(int(sizes[takes[:, here]].sum()) - 1, "other"),
            leaves=words.count(int(sizes[takes[here]].sum()) - 1, "other"),
        )


def _processors(pool: Pool, kinds: Mapping[str, HostCpu]) -> str:
    names = Counter(kinds[host].processor for host in pool.hosts if host in kinds)
    return words.listed([name for name, _ in names.most_common() if name], 3) or words.NONE


def _baselines(found: Sequence[Pool]) -> Iterator[Baseline]:
    numbered = list(enumerate(found, 1))
    for vendor, same in groupby(numbered, key=lambda each: each[1].hard.vendor):
        group = list(same)
        flags = ALL
        for _, pool in group:
            flags &= pool.flags
        gains = held_back([Host(str(number), pool.flags, pool.hard) for number, pool in group])
        value, sees = _value(flags, vendor)
        yield Baseline(
            vendor=vendor or "vendor not told",
            hosts=words.count(sum(len(pool.hosts) for _, pool in group), "host"),
            value=value,
            sees=words.count(sees, "flag"),
            held_back=tuple(
                HeldBack(number, words.count(len(pool.hosts), "host"), str(gain.bit_count()), some(gain))
                for (number, pool), (_, gain) in zip(group, gains, strict=True)
                if gain and len(group) > 1
            ),
        )


@lru_cache(maxsize=64)
def _value(flags: CpuFlags, vendor: str) -> tuple[str, int]:
    """The nearest model with flags added and taken, and how many flags a guest sees."""
    best = nearest(flags, vendor=vendor)[0]
    return str(best), best.sees.bit_count()


def _flag(look: Look, name: str, sentence: str, kinds: Mapping[str, HostCpu]) -> FlagCost:
    pools = tuple(
        FlagPool(
            number, words.count(len(pool.hosts), "host"), bool(pool.flags & CpuFlags.of(name)), _processors(pool, kinds)
        )
        for number, pool in enumerate(look.pools, 1)
    )
    sizes = [len(pool.hosts) for pool in look.pools]
    having = sum(size for size, pool in zip(sizes, pools, strict=True) if pool.has)
    return FlagCost(
        name=name,
        sentence=sentence,
        hosts_with=words.count(having, "host has", "hosts have"),
        hosts_without=words.count(sum(sizes) - having, "host lacks", "hosts lack"),
        guests=words.count(_seeing(look.inventory, name), "guest sees", "guests see"),
        pools=pools,
    )


def _seeing(inventory: Inventory, name: str) -> int:
    return sum(guest.cpu is not None and name in guest.cpu.flags for guest in inventory.guests)
