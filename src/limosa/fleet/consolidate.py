"""Fill few hosts, so that others can be switched off. Pure; numpy.

Hosts with the fewest guests are emptied first, into the fullest that take them. A host is freed whole or not at all,
and one that took guests in stays on. What stays on must be able to take over the guests of any host that is lost, where
it could before (N+1).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from limosa.fleet.board import DISK, VCPUS, Board, Numbers
from limosa.fleet.finish import finished
from limosa.fleet.inventory import Inventory
from limosa.fleet.placing import hardest_first, has_a_home, place_all, tightest
from limosa.fleet.plan import Operation, Plan, Role
from limosa.units import format_count

Group = tuple[int, ...]
"""Hosts that may be lost together."""


def consolidate(inventory: Inventory, *, most: int | None = None) -> Plan:
    """Free as many active hosts as can be switched off.

    Args:
        inventory: the fleet; `limits.reserve` hosts may be lost together afterwards.
        most: hosts that are to be freed at most; None for as many as can be.
    """
    board = Board(inventory)
    limit = len(board.takes) if most is None else most
    empty = _already_empty(board)
    freed = _emptied(board, empty, limit)
    board.takes[empty[limit:]] = True
    kept = with_reserve(board, freed)
    names = [inventory.hosts[host].name for host in kept]
    bound = upper_bound(inventory)
    notes = [f"no plan could free more than {format_count(bound, 'host')}: the others hold all vCPUs and memory"]
    if len(kept) < len(freed):
        notes.append(f"{len(freed) - len(kept)} more could be emptied, and stay on as the reserve for a lost host")
    return finished(board, Operation.CONSOLIDATE, [Role.LEAVE] * board.mark(), empty=names, notes=tuple(notes))


def _already_empty(board: Board) -> list[int]:
    inventory = board.inventory
    return [
        host
        for host in np.flatnonzero(board.takes).tolist()
        if not board.on(host) and not inventory.arriving_at(inventory.hosts[host].name)
    ]


def _emptied(board: Board, empty: Sequence[int], limit: int) -> list[int]:
    """Empty one host after the other; what is empty already comes first, for it costs no move."""
    board.takes[list(empty)] = False
    freed = list(empty[:limit])
    received: set[int] = set()
    for host in _by_guests(board):
        if len(freed) >= limit:
            break
        if host in received:
            continue
        mark = board.mark()
        board.takes[host] = False
        if all(map(board.movable, board.on(host))) and not place_all(board, board.on(host), tightest):
            freed.append(host)
            received |= {destination for _, _, destination in board.log[mark:]}
        else:
            board.back_to(mark)
            board.takes[host] = True
    return freed


def _by_guests(board: Board) -> list[int]:
    """Open hosts that hold guests and expect none, those that are cheapest to empty first."""
    inventory = board.inventory
    able = [
        host for host in np.flatnonzero(board.takes).tolist() if not inventory.arriving_at(inventory.hosts[host].name)
    ]
    used = board.size - board.free
    return sorted(able, key=lambda host: (len(board.on(host)), used[0, host], host))


def with_reserve(board: Board, freed: Iterable[int]) -> list[int]:
    """Take freed hosts back, with their guests, until the rest could take over lost ones; those that stay free."""
    free = list(freed)
    board.takes[free] = False
    if not board.inventory.limits.reserve:
        return free
    first = Board(board.inventory, kinds=board.kinds)
    waiting = _groups(board, board.inventory.limits.reserve)
    while waiting:
        group = waiting.pop()
        while free and (guest := homeless(board, group)) is not None:
            if homeless(first, group) is not None:
                break  # nor could it be taken over before: no reason to keep others on
            host = _helper(board, free, guest)
            free.remove(host)
            board.take_back_from(host)
            board.takes[host] = True
            if board.on(host):
                waiting.append((host,))
    return free


def _groups(board: Board, reserve: int) -> list[Group]:
    """Hosts that may be lost together: each with those that are next to it in size."""
    used = (board.size - board.free)[0]
    able = [host for host in np.flatnonzero(board.takes).tolist() if board.on(host)]
    by_use = sorted(able, key=lambda host: (used[host], host))
    return [tuple(by_use[start : start + reserve]) for start in range(max(1, len(by_use) - reserve + 1))]


def _helper(board: Board, freed: Sequence[int], guest: int) -> int:
    """The freed host that helps most to find this guest a home: one that can take it, with the most room."""
    could, room = board.kinds.takers(guest), board.free[VCPUS].copy()
    for other, source, _ in board.log:
        room[source] -= board.need[VCPUS, other]  # they come back with it
    return max(freed, key=lambda host: (bool(could[host]), int(room[host]), -host))


def homeless(board: Board, group: Group) -> int | None:
    """A guest of these hosts that finds no room on the other open ones if these are lost; None where all do.

    Guests that no other active host could take, were it empty, are left out.
    """
    open_hosts, others = board.takes.copy(), board.active.copy()
    board.takes[list(group)] = others[list(group)] = False
    guests = [guest for host in group for guest in board.on(host) if has_a_home(board, guest, others)]
    placed: list[tuple[int, int, int]] = []
    found = None
    for guest in hardest_first(board, guests):
        hosts = np.flatnonzero(board.hosts_for(guest))
        if not len(hosts):
            found = guest
            break
        placed.append((guest, int(board.at[guest]), tightest(board, guest, hosts)))
        board.shift(*placed[-1])
    for guest, source, host in reversed(placed):
        board.shift(guest, host, source)
    board.takes[:] = open_hosts
    return found


def upper_bound(inventory: Inventory) -> int:
    """How many active hosts could be freed at most, whatever fits where.

    Hosts with guests that cannot move stay on, and as many of the largest others as hold all vCPUs and all memory
    together with them.
    """
    board = Board(inventory)
    on = np.flatnonzero(board.takes)
    used = (board.size - board.free)[:DISK, on]
    held = np.array([_is_held(board, host) for host in on.tolist()], np.bool_)
    # A host may hold more than it should: it counts with what it holds.
    size = np.maximum(board.size[:DISK, on], used)
    more = max(_fewest(size[row, ~held], int(used[row].sum() - size[row, held].sum())) for row in range(DISK))
    return len(on) - int(held.sum()) - more


def _is_held(board: Board, host: int) -> bool:
    coming = board.inventory.arriving_at(board.inventory.hosts[host].name)
    return bool(coming) or not all(map(board.movable, board.on(host)))


def _fewest(sizes: Numbers, used: int) -> int:
    """How many of the largest hosts hold this much; all where they do not."""
    if used <= 0:
        return 0
    return min(int(np.searchsorted(np.cumsum(np.sort(sizes)[::-1]), used)) + 1, len(sizes))
