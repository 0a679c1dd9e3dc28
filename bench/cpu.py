"""A fleet's CPU flags: rows of words against plain integers and against a flag-by-flag loop, in the same run.

    uv run python bench/cpu.py [--runs 40] [--quick]

Two fleets: machines drawn from the dumps in ../shared/data/cpuid, of which many are equal, as in life; and a worst case
in which no two are. Times are medians and, in brackets, minima; loops in Python run once to five times. The ratios are
those of the minima: other work on the machine only ever adds. Answers are compared before they count.
"""

import argparse
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limosa.cpu.dump import read_dump
from limosa.cpu.fleet import Hard, Host, common, fold, matrix, pack, takers
from limosa.cpu.pools import order, pools
from limosa.cpu.sides import side_by_side

DUMPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "cpuid"
PAIRS_HOSTS, PAIRS_FLAGS, PAIRS_AIM = 900, 226, 5.0
ONE_HOSTS, ONE_FLAGS, ONE_AIM = 100_000, 512, 1.0
ORDERED = 2_000
"""Kinds of hosts, all different, between which the order is sought in the worst case."""
MIB = 1024 * 1024


class Taken(NamedTuple):
    """Milliseconds."""

    median: float
    least: float

    def __str__(self) -> str:
        return f"{self.median:11.3f} ms  ({self.least:.3f})"


def timed(deed: Callable[[], Any], runs: int) -> tuple[Taken, Any]:
    """How long it takes, and its answer."""
    times, answer = [], None
    for _ in range(runs):
        begin = time.perf_counter()
        answer = deed()
        times.append((time.perf_counter() - begin) * 1000)
    return Taken(statistics.median(times), min(times)), answer


def row(name: str, taken: Taken, ours: Taken, note: str = "") -> None:
    ratio = f"{taken.least / ours.least:9.1f} x" if taken is not ours else "          1"
    print(f"    {name:34} {taken!s:30} {ratio}  {note}")


def real_kinds() -> list[Host]:
    """The processors of the dumps."""
    if not DUMPS.is_dir():
        return []
    cpus = [read_dump(file.read_text("ascii"), file.stem) for file in sorted(DUMPS.glob("*.cpuid"))]
    return [host._replace(flags=int(host.flags)) for host in side_by_side(cpus).hosts]


def narrowed(kinds: Sequence[Host], flags: int) -> list[Host]:
    """The same with this many flags: those that some host has and others have not come first."""
    masks = [kind.flags for kind in kinds]
    every, some = reduce(and_, masks), reduce(lambda one, other: one | other, masks)
    width = some.bit_length()
    kept = sorted(range(width), key=lambda bit: (not some >> bit & 1, every >> bit & 1, bit))[:flags]
    return [
        kind._replace(flags=sum((kind.flags >> bit & 1) << place for place, bit in enumerate(kept))) for kind in kinds
    ]


def drawn(kinds: Sequence[Host], count: int, chance: random.Random) -> list[Host]:
    return [chance.choice(kinds)._replace(name=f"host-{number}") for number in range(count)]


def all_different(count: int, flags: int, chance: random.Random) -> list[Host]:
    """Hosts of one vendor, each with some nine in ten of the flags: no two are equal."""

    def mask() -> int:
        return chance.getrandbits(flags) | chance.getrandbits(flags) | chance.getrandbits(flags)

    return [Host(f"host-{number}", mask(), Hard("one vendor", 46)) for number in range(count)]


def text(mask: int, flags: int) -> str:
    """A mask as the loop reads it: one character a flag."""
    return format(mask, f"0{flags}b")


def loop_has_all(guest: str, host: str) -> bool:
    """Flag by flag, until one is missing."""
    for wanted, there in zip(guest, host, strict=True):  # noqa: SIM110, the loop is what is measured
        if wanted == "1" and there == "0":
            return False
    return True


def all_pairs(title: str, hosts: list[Host], flags: int, runs: int, quick: bool) -> None:
    print(f"  all pairs, {len(hosts)} hosts x {flags} flags, {title}: {len(fold(hosts).kinds)} kinds")
    rules = [(host.flags, host.hard) for host in hosts]

    def plain() -> list[list[bool]]:
        return [[one & other == one and mine.within(its) for other, its in rules] for one, mine in rules]

    def fresh() -> Any:
        return matrix(fold(hosts))

    fleet = fold(hosts)
    fleet.words, fleet.lacks  # noqa: B018, packed once and kept
    ours, told = timed(lambda: matrix(fleet), runs)
    whole, _ = timed(fresh, runs)
    ints, by_ints = timed(plain, 1)
    assert told.tolist() == by_ints
    row("limosa", ours, ours, f"aim {PAIRS_AIM} ms; {told.nbytes / MIB:.1f} MiB")
    row("limosa, folding and packing too", whole, ours)
    row("plain integers", ints, ours)
    if not quick:
        texts = [(text(host.flags, flags), host.hard) for host in hosts]
        loop, by_loop = timed(
            lambda: [[mine.within(its) and loop_has_all(one, other) for other, its in texts] for one, mine in texts], 1
        )
        assert by_loop == by_ints
        row("flag by flag", loop, ours)


def one_guest(title: str, hosts: list[Host], flags: int, runs: int) -> None:
    folding, fleet = timed(lambda: fold(hosts), 3)
    print(f"  one guest against {len(hosts)} hosts x {flags} flags, {title}: {len(fleet.kinds)} kinds")
    guest = hosts[len(hosts) // 2].flags
    packing, words = timed(lambda: pack([mask for mask, _ in fleet.kinds], -(-flags // 64)), 3)
    fleet.lacks  # noqa: B018, packed once and kept
    masks = [host.flags for host in hosts]
    ours, told = timed(lambda: takers(fleet, guest), runs)
    ints, by_ints = timed(lambda: [mask & guest == guest for mask in masks], 5)
    texts, asked = [text(mask, flags) for mask in masks], text(guest, flags)
    loop, by_loop = timed(lambda: [loop_has_all(asked, one) for one in texts], 1)
    assert told.tolist() == by_ints == by_loop
    kept = sum(map(sys.getsizeof, masks)) / MIB
    row("limosa", ours, ours, f"aim {ONE_AIM} ms; rows {2 * words.nbytes / MIB:.2f} MiB")
    row("plain integers", ints, ours, f"{kept:.1f} MiB")
    row("flag by flag", loop, ours, f"{sum(map(sys.getsizeof, texts)) / MIB:.1f} MiB")
    print(f"    once for a fleet: folding {folding.median:.0f} ms, packing {packing.median:.1f} ms")


def baseline(title: str, hosts: list[Host], flags: int, runs: int) -> None:
    fleet = fold(hosts)
    fleet.words  # noqa: B018, packed once and kept
    print(f"  baseline of {len(hosts)} hosts x {flags} flags, {title}")
    masks = [host.flags for host in hosts]
    texts = [text(mask, flags) for mask in masks]

    def flag_by_flag() -> int:
        left = ["1"] * flags
        for one in texts:
            for place, there in enumerate(one):
                if there == "0":
                    left[place] = "0"
        return int("".join(left), 2)

    ours, told = timed(lambda: common(fleet), runs)
    ints, by_ints = timed(lambda: reduce(and_, masks), 5)
    loop, by_loop = timed(flag_by_flag, 1)
    assert told == by_ints == by_loop
    row("limosa", ours, ours)
    row("plain integers", ints, ours)
    row("flag by flag", loop, ours)


def pooled(title: str, hosts: list[Host], flags: int, ordered: list[Host]) -> None:
    print(f"  pools of {len(hosts)} hosts x {flags} flags, {title}")

    def by_compare() -> int:
        """Each host against one of every pool so far."""
        found: list[tuple[str, Hard]] = []
        for one, hard in texts:
            for other, its in found:
                if hard == its and all(mine == there for mine, there in zip(one, other, strict=True)):
                    break
            else:
                found.append((one, hard))
        return len(found)

    def by_ints() -> int:
        """Each host's mask against one of every pool so far."""
        found: list[tuple[int, Hard]] = []
        for host in few:
            if (host.flags, host.hard) not in found:
                found.append((host.flags, host.hard))
        return len(found)

    few = hosts if len(fold(hosts).kinds) < 1000 else hosts[:ORDERED]
    ours, found = timed(lambda: pools(fold(hosts)), 3)
    part, _ = timed(lambda: pools(fold(few)), 3) if few is not hosts else (ours, None)
    row("limosa: the pools", ours, ours, f"{len(found)} pools")
    texts = [(text(host.flags, flags), host.hard) for host in few]
    ints, count = timed(by_ints, 1)
    assert count == len(fold(few).kinds)
    note = "" if few is hosts else f"for {len(few)} of them"
    if few is not hosts:
        row("limosa: the pools", part, part, note)
    row("plain integers, one by one", ints, part, note)
    if few is hosts:
        loop, count = timed(by_compare, 1)
        assert count == len(fold(few).kinds)
        row("flag by flag", loop, part, note)
    kinds = pools(fold(ordered))
    lines, drawn_lines = timed(lambda: order(kinds), 3)
    print(f"    {'limosa: the order between them':34} {lines!s}  {len(kinds)} pools, {len(drawn_lines)} lines")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="leave out the slowest loops")
    asked = parser.parse_args()
    chance = random.Random(1)
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {processor()}")
    if kinds := real_kinds():
        drawn_pairs = drawn(narrowed(kinds, PAIRS_FLAGS), PAIRS_HOSTS, chance)
        many = drawn(kinds, ONE_HOSTS, chance)
        all_pairs("drawn from real ones", drawn_pairs, PAIRS_FLAGS, asked.runs, asked.quick)
        one_guest("drawn from real ones", many, ONE_FLAGS, asked.runs)
        baseline("drawn from real ones", many, ONE_FLAGS, asked.runs)
        pooled("drawn from real ones", many, ONE_FLAGS, many)
    else:
        print(f"  no dumps in {DUMPS}: only the worst case is measured")
    worst = all_different(ONE_HOSTS, ONE_FLAGS, chance)
    all_pairs("all different", all_different(PAIRS_HOSTS, PAIRS_FLAGS, chance), PAIRS_FLAGS, asked.runs, asked.quick)
    one_guest("all different", worst, ONE_FLAGS, asked.runs)
    baseline("all different", worst, ONE_FLAGS, asked.runs)
    pooled("all different", worst, ONE_FLAGS, worst[:ORDERED])
    print(f"  peak memory of this program: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def processor() -> str:
    """What the kernel calls this machine's processor, and how many of it there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    main()
