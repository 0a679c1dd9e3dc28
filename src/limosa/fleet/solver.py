"""Improve a plan with CP-SAT, in a process of its own and within a time limit; needs the extra `[solver]`.

    better, said = improve_drain(inventory, plan, hosts, seconds=20)

What comes back is the better of the two plans, and a sentence on what the solver did: it is never worse than what the
planner found, and the same where OR-Tools is not installed.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import msgspec
import numpy as np

from limosa.fleet.assignment import NOWHERE, Answer, Part, Problem, part_of
from limosa.fleet.board import Board
from limosa.fleet.consolidate import with_reserve
from limosa.fleet.finish import finished
from limosa.fleet.home import moved_in_turn
from limosa.fleet.inventory import Inventory
from limosa.fleet.placing import has_a_home
from limosa.fleet.plan import Operation, Plan, Role
from limosa.units import HostName, format_count

MOST_HOSTS = 40
"""Hosts that are solved together: with 10 guests each, 16,000 decisions."""

GRACE = 15.0
"""Seconds beyond its limit after which the solver's process is ended: it reads and builds its model in them."""

HOST_ON, GUEST_LEFT = 1_000, 100_000
"""What a host that stays on, and a guest that is left, cost beside one move."""


class Improved(NamedTuple):
    """The better plan, and what the solver did."""

    plan: Plan
    said: str


def installed() -> bool:
    """Whether OR-Tools is there."""
    return find_spec("ortools") is not None


def improve_drain(inventory: Inventory, plan: Plan, hosts: Iterable[HostName], *, seconds: float = 20.0) -> Improved:
    """Place guests that a drain left, or place them with fewer others moved.

    Args:
        inventory: the fleet before the plan.
        plan: what `drain` answered.
        hosts: the hosts that are drained.
        seconds: for the solver.
    """
    names = tuple(dict.fromkeys(hosts))
    board = _after(inventory, plan, names)
    stay = [guest for name in names for guest in board.on(board.index[name]) if has_a_home(board, guest)]
    helped = [planned for planned in plan.moves if planned.role is Role.MAKE_ROOM]
    if not stay and not helped:
        return Improved(plan, "no guest is left that could be placed, and none moved to make room: nothing to improve")
    part = _drain_part(inventory, board, stay, [board.index[planned.move.source] for planned in helped])
    answer, said = _asked(part.problem, seconds)
    if answer is None:
        return Improved(plan, said)
    better = _drained(inventory, names, _wanted(board, part, answer))
    return _better(plan, better, said, key=lambda p: (len(p.left), len(p.moves)))


def _drain_part(inventory: Inventory, board: Board, stay: Sequence[int], involved: Sequence[int]) -> Part:
    start = [board.index[guest.host] for guest in inventory.guests]
    could = board.takes.copy()
    if stay:
        could &= board.kinds.hosts[board.kinds.of_guest[list(stay)]].any(axis=0)
    by_room = sorted(np.flatnonzero(could).tolist(), key=lambda host: (-int(board.free[0, host]), host))
    hosts = list(dict.fromkeys([*involved, *by_room]))[:MOST_HOSTS]
    return part_of(board, start, hosts, free=stay, on=0, left=GUEST_LEFT)


def _drained(inventory: Inventory, names: tuple[HostName, ...], wanted: dict[int, HostName]) -> Plan:
    board = Board(inventory, names)
    moved_in_turn(board, wanted)
    closed = {board.index[name] for name in names}
    roles = [Role.LEAVE if source in closed else Role.MAKE_ROOM for _, source, _ in board.log]
    stay = [guest for name in names for guest in board.on(board.index[name])]
    return finished(board, Operation.DRAIN, roles, empty=names, stay=stay)


def improve_consolidation(inventory: Inventory, plan: Plan, *, seconds: float = 20.0) -> Improved:
    """Free more hosts than `consolidate` did, or as many with fewer moves."""
    board = _after(inventory, plan, plan.freed)
    start = [board.index[guest.host] for guest in inventory.guests]
    able = [host for host in np.flatnonzero(board.takes).tolist() if board.on(host)]
    used = (board.size - board.free)[0] / board.size[0]
    hosts = sorted(able, key=lambda host: (float(used[host]), host))[:MOST_HOSTS]
    part = part_of(board, start, hosts, free=(), on=HOST_ON, left=0)
    answer, said = _asked(part.problem, seconds)
    if answer is None:
        return Improved(plan, said)
    better = _consolidated(inventory, _wanted(board, part, answer), plan.freed)
    return _better(plan, better, said, key=lambda p: (-len(p.freed), len(p.moves)))


def _consolidated(inventory: Inventory, wanted: dict[int, HostName], freed: Sequence[HostName]) -> Plan:
    board = Board(inventory)
    moved_in_turn(board, wanted)
    arrivals = {destination for _, _, destination in board.log}
    left_empty = {source for _, source, _ in board.log if not board.on(source)} - arrivals
    empty = [board.index[name] for name in freed if not board.on(board.index[name])]
    hosts = [host for host in dict.fromkeys([*empty, *sorted(left_empty)]) if board.takes[host]]
    kept = with_reserve(board, hosts)
    names = [inventory.hosts[host].name for host in kept]
    return finished(board, Operation.CONSOLIDATE, [Role.LEAVE] * board.mark(), empty=names)


def _after(inventory: Inventory, plan: Plan, closed: Iterable[HostName]) -> Board:
    """The board with a plan's moves made."""
    board = Board(inventory, closed)
    places = {guest.uuid: place for place, guest in enumerate(inventory.guests)}
    for planned in plan.moves:
        board.move(places[planned.move.guest], board.index[planned.move.destination])
    return board


def _wanted(board: Board, part: Part, answer: Answer) -> dict[int, HostName]:
    """Where each guest that moves is to end: as the solver says, else as the plan said."""
    ends = {guest: host for guest, _, host in board.log}
    ends |= {g: part.hosts[place] for g, place in zip(part.guests, answer.hosts, strict=True) if place != NOWHERE}
    inventory = board.inventory
    return {g: inventory.hosts[h].name for g, h in ends.items() if inventory.guests[g].host != inventory.hosts[h].name}


def _better(plan: Plan, other: Plan, said: str, key: Callable[[Plan], tuple[int, int]]) -> Improved:
    if key(other) < key(plan):
        return Improved(
            msgspec.structs.replace(other, notes=(*plan.notes, *other.notes)), f"{said}; its plan is better"
        )
    return Improved(plan, f"{said}; the plan is as good")


def _asked(problem: Problem, seconds: float) -> tuple[Answer | None, str]:
    """The solver's answer, and a sentence."""
    if not installed():
        return None, "the solver is not installed: pip install 'limosa[solver]'"
    workers = min(4, os.cpu_count() or 1)
    question = msgspec.json.encode(msgspec.structs.replace(problem, seconds=seconds, workers=workers))
    command = [sys.executable, "-m", "limosa.fleet.cpsat"]
    try:
        done = subprocess.run(command, input=question, capture_output=True, timeout=seconds + GRACE, check=False)
    except subprocess.TimeoutExpired:
        return None, f"the solver did not end in {seconds + GRACE:.0f} s"
    if done.returncode:
        return None, f"the solver failed: {done.stderr.decode(errors='replace').strip()[-200:]}"
    answer = msgspec.json.decode(done.stdout, type=Answer | None)
    if answer is None:
        return None, f"the solver found nothing in {seconds:.0f} s"
    return answer, f"the solver looked at {format_count(len(problem.rooms), 'host')}" + (
        ", exhaustively" if answer.proven else ""
    )
