"""The planners on fleets generated from CPUID dumps, beside a naive greedy and, where installed, CP-SAT.

    uv run python bench/fleet.py --cpuid DIRECTORY [--hosts 1000] [--solver SECONDS] [--json]
    uv run python bench/fleet.py --cpuid DIRECTORY --controller [--seconds 120] [--database sqlite] [--json]

The second line measures a controller that follows such a fleet (controller.py); the rest of this page is of the first.

Four questions, each on one fleet: a drain of many hosts, a rebalance, a consolidation, and a drain of a tight fleet
(91 % of all vCPUs) with and without make-room chains. Time is that of the whole plan: moves, waits, prediction, and the
reasons of who stays. It is given as a ratio to the naive greedy of the same run; what counts besides is what no clock
tells: guests placed, moves, hosts freed, and how far that is from a bound that no plan can beat.

The naive greedy takes guests in their order and the first host that fits; to even out load it moves the largest guest
of the busiest host to the idlest that takes it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller import DATABASES, measure
from controller import page as cost
from limosa.cli.table import table
from limosa.fleet.board import Board
from limosa.fleet.consolidate import consolidate, homeless, upper_bound
from limosa.fleet.drain import drain
from limosa.fleet.dumps import processors
from limosa.fleet.finish import finished
from limosa.fleet.generate import Shape, generate
from limosa.fleet.inventory import Inventory
from limosa.fleet.placing import has_a_home, place
from limosa.fleet.plan import Operation, Plan, Role
from limosa.fleet.rebalance import TOLERANCE, lower_bound, rebalance
from limosa.fleet.scenario import Trouble
from limosa.fleet.simulate import carry_out
from limosa.fleet.solver import improve_consolidation, improve_drain, installed
from limosa.units import HostName, Seconds

NOW = Seconds(0.0)
TIMES = 3
"""Runs of each planner; the shortest counts, for whatever else this machine does only makes it longer."""


class Row(NamedTuple):
    """What one planner answered to one question."""

    question: str
    planner: str
    seconds: float
    ratio: float
    moves: int
    result: str
    bound: str
    broken: int
    """Constraints that were broken when the plan was played through."""


def first(_board: Board, _guest: int, hosts: NDArray[np.intp]) -> int:
    return int(hosts[0])


def naive_drain(fleet: Inventory, names: Sequence[HostName]) -> Plan:
    board = Board(fleet, names)
    stay = [guest for name in names for guest in board.on(board.index[name]) if not place(board, guest, first)]
    return finished(board, Operation.DRAIN, [Role.LEAVE] * board.mark(), empty=names, stay=stay)


def naive_rebalance(fleet: Inventory) -> Plan:
    board, stuck = Board(fleet), set[int]()
    busy = np.array([guest.busy for guest in fleet.guests])
    cores = np.array([host.cores for host in fleet.hosts])
    load = np.bincount(board.at, busy, len(cores)) / cores
    mean = float((load * cores).sum() / cores.sum())
    while True:
        load[list(stuck)] = mean
        host = int(np.argmax(load))
        if load[host] <= mean + TOLERANCE:
            return finished(board, Operation.REBALANCE, [Role.EVEN_OUT] * board.mark())
        guests = sorted((g for g in board.on(host) if board.movable(g)), key=lambda g: -busy[g])
        guest = next(iter(guests), None)
        hosts = np.flatnonzero(board.hosts_for(guest)) if guest is not None else np.zeros(0, np.intp)
        if guest is None or not len(hosts):
            stuck.add(host)
            continue
        idlest = int(hosts[np.argmin(load[hosts])])
        load[host] -= busy[guest] / cores[host]
        load[idlest] += busy[guest] / cores[idlest]
        board.move(guest, idlest)


def naive_consolidate(fleet: Inventory) -> Plan:
    board, freed, received = Board(fleet), list[HostName](), set[int]()
    for host in range(len(fleet.hosts)):
        if host in received:
            continue
        mark = board.mark()
        board.takes[host] = False
        if all(place(board, guest, first) for guest in board.on(host)):
            freed.append(fleet.hosts[host].name)
            received |= {destination for _, _, destination in board.log[mark:]}
        else:
            board.back_to(mark)
            board.takes[host] = True
    return finished(board, Operation.CONSOLIDATE, [Role.LEAVE] * board.mark(), empty=freed)


def timed(plan: Callable[[], Plan], times: int = TIMES) -> tuple[float, Plan]:
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        found = plan()
        best = min(best, time.perf_counter() - begun)
    return best, found


def rows(
    question: str, fleet: Inventory, bound: str, result: Callable[[Plan], str], planners: dict[str, Callable[[], Plan]]
) -> Iterator[Row]:
    """One row for each planner; the first one is what the others' times are compared with."""
    base = 0.0
    for name, planner in planners.items():
        seconds, plan = timed(planner, 1 if "CP-SAT" in name else TIMES)
        base = base or seconds
        broken = len(carry_out(fleet, plan, Trouble()).broken)
        yield Row(question, name, seconds, seconds / base, len(plan.moves), result(plan), bound, broken)


def drains(fleet: Inventory, count: int, question: str, solver: float) -> Iterator[Row]:
    names = tuple(host.name for host in random.Random(3).sample(fleet.hosts, count))
    board = Board(fleet, names)
    leaving = [guest for name in names for guest in board.on(board.index[name])]
    able = sum(has_a_home(board, guest) for guest in leaving)

    def result(plan: Plan) -> str:
        freed = set(plan.freed)
        return (
            f"{len(leaving) - len(plan.left)} placed, {len(freed)} hosts empty, {plan.prediction.seconds / 60:.0f} min"
        )

    planners: dict[str, Callable[[], Plan]] = {
        "naive greedy": lambda: naive_drain(fleet, names),
        "drain without chains": lambda: drain(fleet, names, chains=False),
        "drain": lambda: drain(fleet, names),
    }
    if solver:
        plan = drain(fleet, names, chains=False)
        planners["CP-SAT on it without chains"] = lambda: improve_drain(fleet, plan, names, seconds=solver).plan
    yield from rows(question, fleet, f"{able} can be placed", result, planners)


def balances(fleet: Inventory) -> Iterator[Row]:
    least = lower_bound(fleet, now=NOW)

    def result(plan: Plan) -> str:
        return f"{worst(fleet.replayed(p.move for p in plan.moves)):.1%} off the mean, from {worst(fleet):.1%}"

    planners = {"naive greedy": lambda: naive_rebalance(fleet), "rebalance": lambda: rebalance(fleet, now=NOW)}
    yield from rows(f"rebalance to {TOLERANCE:.0%}", fleet, f"{least} moves at least", result, planners)


def worst(fleet: Inventory) -> float:
    loads = {host.name: sum(guest.busy for guest in fleet.on(host.name)) for host in fleet.hosts}
    mean = sum(loads.values()) / sum(host.cores for host in fleet.hosts)
    return max(abs(loads[host.name] / host.cores - mean) for host in fleet.hosts)


def packings(fleet: Inventory, solver: float) -> Iterator[Row]:
    before = Board(fleet)

    def result(plan: Plan) -> str:
        after = Board(fleet.replayed(planned.move for planned in plan.moves), plan.freed)
        hosts = [host for host in np.flatnonzero(after.takes).tolist() if homeless(before, (host,)) is None]
        lost = sum(homeless(after, (host,)) is not None for host in hosts)
        each = len(plan.moves) / max(1, len(plan.freed))
        return f"{len(plan.freed)} freed, {each:.1f} moves each; {lost} hosts whose loss the rest cannot take over"

    planners: dict[str, Callable[[], Plan]] = {
        "naive greedy": lambda: naive_consolidate(fleet),
        "consolidate": lambda: consolidate(fleet),
    }
    if solver:
        plan = consolidate(fleet)
        planners["CP-SAT on it"] = lambda: improve_consolidation(fleet, plan, seconds=solver).plan
    yield from rows("consolidate, N+1", fleet, f"{upper_bound(fleet)} freed at most", result, planners)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpuid", type=Path, required=True, help="directory of CPUID dumps")
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--solver", type=float, default=20.0 if installed() else 0.0, help="seconds; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--controller", action="store_true", help="measure a controller instead of the planners")
    parser.add_argument("--seconds", type=float, default=120.0, help="of measuring a controller, on each database")
    parser.add_argument("--database", choices=DATABASES, action="append", help="default: both, one after the other")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    cpus = processors(asked.cpuid)
    usual = generate(cpus, Shape(hosts=asked.hosts, seed=asked.seed))
    if asked.controller:
        measured = measure(usual, asked.seconds, asked.database or DATABASES)
        print(json.dumps([row._asdict() for row in measured]) if asked.json else cost(measured, usual, asked.seconds))
        return
    tight = generate(cpus, Shape(hosts=asked.hosts, fill=0.916, unevenness=0.05, seed=asked.seed))
    found = [
        *drains(usual, asked.hosts // 20, f"drain of {asked.hosts // 20} hosts", 0.0),
        *balances(usual),
        *packings(usual, asked.solver),
        *drains(tight, asked.hosts // 50, f"tight ({fill(tight):.0%}): drain of {asked.hosts // 50}", asked.solver),
    ]
    if asked.json:
        print(json.dumps([row._asdict() for row in found], indent=1))
    else:
        print(page(usual, tight, found))


def fill(fleet: Inventory) -> float:
    return sum(guest.vcpus for guest in fleet.guests) / sum(host.cores for host in fleet.hosts)


def page(usual: Inventory, tight: Inventory, found: Sequence[Row]) -> str:
    sizes = " and ".join(
        f"{len(fleet.hosts)} hosts with {len(fleet.guests)} guests ({fill(fleet):.0%} of vCPUs)"
        for fleet in (usual, tight)
    )
    heads = ("QUESTION", "PLANNER", "TIME", "TO NAIVE", "MOVES", "RESULT", "BOUND", "BROKEN")
    cells: list[tuple[Any, ...]] = [
        (
            row.question,
            row.planner,
            f"{row.seconds:.2f} s",
            f"{row.ratio:.1f}",
            str(row.moves),
            row.result,
            row.bound,
            str(row.broken),
        )
        for row in found
    ]
    return f"{sizes}\n\n{table(heads, cells, right=('TIME', 'TO NAIVE', 'MOVES', 'BROKEN'))}"


if __name__ == "__main__":
    main()
