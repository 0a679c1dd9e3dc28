"""A part of a fleet as a problem for a solver: guests, the hosts that they may be on, and what that costs. Pure; numpy.

A whole fleet is too large to be solved; a few dozen hosts with what runs on them are not. What a planner found for the
rest stays as it is.
"""

from collections.abc import Collection, Iterable, Sequence

import msgspec
import numpy as np

from limosa.fleet.board import Board
from limosa.units import MIB

Amounts = tuple[int, int, int]
"""vCPUs; MiB of memory; MiB of disk. Needs are rounded up and room down, so that nothing is overfilled."""

NOWHERE = -1


class Item(msgspec.Struct, frozen=True):
    """A guest that the solver may place."""

    need: Amounts
    hosts: tuple[int, ...]
    """Places in the problem of the hosts that may have it."""
    costs: tuple[int, ...]
    """What it costs to have it on each of them."""
    left: int | None
    """What it costs to leave it where it is, on none of them; None where it has to be on one."""
    groups: tuple[int, ...]
    hint: int
    """The host on which a planner put it, or `NOWHERE`."""


class Problem(msgspec.Struct, frozen=True):
    """What is to be solved: the least sum of costs."""

    items: tuple[Item, ...]
    rooms: tuple[Amounts, ...]
    """What the items on each host may have together."""
    on: tuple[int, ...]
    """What it costs that there is any item on a host."""
    seconds: float
    workers: int


class Answer(msgspec.Struct, frozen=True):
    """For each item its host, or `NOWHERE`."""

    hosts: tuple[int, ...]
    proven: bool
    """No better answer exists."""


class Part(msgspec.Struct, frozen=True):
    """A problem, and what its places mean on the board."""

    problem: Problem
    guests: tuple[int, ...]
    hosts: tuple[int, ...]


def part_of(
    board: Board, start: Sequence[int], hosts: Sequence[int], *, free: Collection[int], on: int, left: int
) -> Part:
    """The guests on these hosts, and others that have no place yet, as a problem.

    Args:
        board: the fleet as a planner's moves left it; open hosts take guests.
        start: for each guest its host before them.
        hosts: the hosts of the part.
        free: guests elsewhere that are to come onto one of these hosts: those that the planner left.
        on: what it costs that a host has guests; 0 where that does not matter.
        left: what it costs to leave a guest of `free` where it is.
    """
    place = {host: index for index, host in enumerate(hosts)}
    guests = [g for host in hosts for g in board.on(host) if board.kinds.takers(g).any()]
    guests += sorted(free)
    chosen = set(guests)
    kept = {host: [g for g in board.on(host) if g not in chosen] for host in hosts}
    groups = {name: index for index, name in enumerate(sorted({n for g in guests for n in _groups(board, g)}))}
    items = tuple(
        _item(board, guest, int(start[guest]), place, kept, groups, left if guest in free else None) for guest in guests
    )
    rooms = tuple(_room(board, host, [g for g in board.on(host) if g in chosen]) for host in hosts)
    costs = tuple(0 if kept[host] else on for host in hosts)
    return Part(Problem(items, rooms, costs, 0.0, 0), tuple(guests), tuple(hosts))


def _groups(board: Board, guest: int) -> tuple[str, ...]:
    return board.inventory.guests[guest].groups


def _item(
    board: Board,
    guest: int,
    start: int,
    place: dict[int, int],
    kept: dict[int, list[int]],
    groups: dict[str, int],
    left: int | None,
) -> Item:
    at, own = int(board.at[guest]), set(_groups(board, guest))
    able = board.kinds.takers(guest) & board.takes
    able[[at, start]] |= [at in place, start in place]  # where it is or was, it may be
    hosts = [
        host
        for host in place
        if able[host] and not any(own.intersection(_groups(board, other)) for other in kept[host])
    ]
    return Item(
        need=_amounts(board.need[:, guest].tolist(), up=True),
        hosts=tuple(place[host] for host in hosts),
        # A guest that leaves a host has to move anyway.
        costs=tuple(int(host != start and board.takes[start]) for host in hosts),
        left=left,
        groups=tuple(groups[name] for name in sorted(own)),
        hint=place.get(at, NOWHERE) if left is None else NOWHERE,
    )


def _room(board: Board, host: int, items: Iterable[int]) -> Amounts:
    own = list(items)
    room = np.maximum(board.free[:, host] + board.need[:, own].sum(axis=1), board.need[:, own].sum(axis=1))
    return _amounts(room.tolist(), up=False)


def _amounts(exact: Sequence[int], *, up: bool) -> Amounts:
    vcpus, memory, disk = exact
    more = MIB - 1 if up else 0
    return vcpus, (memory + more) // MIB, (disk + more) // MIB
