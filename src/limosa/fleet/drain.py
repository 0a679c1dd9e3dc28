"""Empty hosts: one, several at once, or many in groups that go one after the other. Pure; numpy.

    drain(inventory, ["host-7"])        one plan; all of these hosts are empty at its end
    rolling(inventory, names)           groups; a group's hosts are back, and take guests, before the next one begins

No guest moves twice, and none goes to a host that is emptied later.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from limosa.fleet.board import Board
from limosa.fleet.chains import Effort, make_room
from limosa.fleet.finish import finished
from limosa.fleet.inventory import GuestId, HostState, Inventory
from limosa.fleet.kinds import Kinds
from limosa.fleet.placing import Pick, bulk, hardest_first, has_a_home, place, place_all, roomiest, tightest
from limosa.fleet.plan import Operation, Plan, Role, Rolling
from limosa.units import HostName

PATIENCE = 4
"""Hosts in a row for which a group has no room, after which it is closed: those after them hold more."""

EFFORT_FOR_A_HOST = 4_000
"""Tries of chains before a host has to wait for a later group."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One way to empty hosts: the board, and the guests that stay."""

    board: Board
    stay: tuple[int, ...]
    extra: int
    """Moves of guests that make room."""

    @property
    def cost(self) -> tuple[int, int]:
        return len(self.stay), self.extra


def drain(inventory: Inventory, hosts: Iterable[HostName], *, chains: bool = True) -> Plan:
    """Empty all of these hosts.

    Guests are first spread evenly; where that leaves some, packed tightly; where that does too, others make room
    (unless `chains` is off). A host that joins the fleet, empty and with a name behind those of other empty ones,
    never makes the answer worse: what could be done without it is tried too.

    Raises:
        KeyError: there is no such host.
    """
    names = tuple(dict.fromkeys(hosts))
    best = _best(inventory, names, chains=chains)
    leaving = {inventory.by_name[name].name for name in names}
    roles = [
        Role.LEAVE if inventory.hosts[source].name in leaving else Role.MAKE_ROOM for _, source, _ in best.board.log
    ]
    return finished(best.board, Operation.DRAIN, roles, empty=names, stay=best.stay)


def _best(inventory: Inventory, names: tuple[HostName, ...], *, chains: bool) -> _Attempt:
    kinds = Kinds(inventory)
    first = Board(inventory, names, kinds)
    leaving = [guest for name in names for guest in first.on(first.index[name])]
    hopeless = sum(not has_a_home(first, guest) for guest in leaving)
    empties = _empties(first, leaving)
    best: _Attempt | None = None
    # All empty hosts first, then without the last one, and so on: a fleet that gained one host tries all that the
    # fleet without it tried.
    for count in range(len(empties), -1, -1):
        for pick, with_chains in ((roomiest, False), (tightest, False), (tightest, chains), (roomiest, chains)):
            tried = _attempt(Board(inventory, names, kinds), leaving, pick, empties[count:], chains=with_chains)
            if best is None or tried.cost < best.cost:
                best = tried
            if best.cost == (hopeless, 0):
                return best
    assert best is not None
    return best


def _empties(board: Board, leaving: Collection[int]) -> list[int]:
    """Open hosts without guests that could take one of these, in the inventory's order."""
    hosts, inventory = [], board.inventory
    could = (
        board.kinds.hosts[list({int(kind) for kind in board.kinds.of_guest[list(leaving)]})].any(axis=0) & board.takes
    )
    for host in np.flatnonzero(could).tolist():
        name = inventory.hosts[host].name
        if not inventory.on(name) and not inventory.arriving_at(name):
            hosts.append(host)
    return hosts


def _attempt(board: Board, leaving: Sequence[int], pick: Pick, kept: Sequence[int], *, chains: bool) -> _Attempt:
    """Place the guests, with hosts of `kept` only for those that are left in the end."""
    board.takes[list(kept)] = False
    stay = place_all(board, leaving, pick)
    if chains and stay:
        stay = with_room_made(board, stay)
    extra = board.mark() - (len(leaving) - len(stay))
    for host in kept:
        board.takes[host] = True
        for guest in hardest_first(board, stay):
            if board.hosts_for(guest)[host]:
                board.move(guest, host)
                stay.remove(guest)
    return _Attempt(board, tuple(stay), extra)


def with_room_made(board: Board, stay: Sequence[int]) -> list[int]:
    """Place guests by chains, small ones first, until nothing more can be done; those that still stay."""
    share, waiting, before, effort = bulk(board), list(stay), -1, Effort()
    while waiting and before != len(waiting):
        before = len(waiting)
        waiting.sort(key=lambda guest: (share[guest], guest))
        waiting = [guest for guest in waiting if not (place(board, guest, tightest) or make_room(board, guest, effort))]
    return waiting


def rolling(
    inventory: Inventory, hosts: Iterable[HostName], *, largest: int | None = None, moved: Iterable[GuestId] = ()
) -> Rolling:
    """Empty hosts in groups, each as large as room allows, and at most `largest`.

    Hosts of a group go together and come back, empty and active, before the next group; its guests may go to them
    then. Hosts that cannot be emptied come last; their plans say who stays. Where moves of a group have failed, the
    groups after it are planned again, with `moved` for the guests that this operation has moved already.

    Raises:
        KeyError: there is no such host.
    """
    waiting = tuple(dict.fromkeys(hosts))
    places = {guest.uuid: place for place, guest in enumerate(inventory.guests)}
    fleet, kinds, gone = inventory, Kinds(inventory), {places[uuid] for uuid in moved}
    groups, plans = [], []
    while waiting:
        board = Board(fleet, waiting, kinds)
        board.moved |= gone
        group, stay = _group(board, waiting, largest or len(waiting))
        plan = finished(board, Operation.DRAIN, _roles(board, group), empty=group, stay=stay)
        groups.append(group)
        plans.append(plan)
        gone |= {guest for guest, _, _ in board.log}
        fleet = fleet.replayed(board.moves()).in_state(HostState.DRAINING, group).in_state(HostState.ACTIVE, plan.freed)
        waiting = tuple(name for name in waiting if name not in group)
    return Rolling(groups=tuple(groups), plans=tuple(plans))


def _group(board: Board, waiting: Sequence[HostName], largest: int) -> tuple[tuple[HostName, ...], list[int]]:
    """Empty as many hosts as can go together, the emptiest first; their names, and guests that stay on them."""
    group: list[HostName] = []
    by_size = sorted(waiting, key=lambda name: (int(board.need[0, list(board.on(board.index[name]))].sum()), name))
    refused = 0
    for name in by_size:
        if len(group) == largest or refused == PATIENCE:
            break
        guests = board.on(board.index[name])
        if not all(board.movable(guest) and has_a_home(board, guest) for guest in guests):
            continue
        refused = 0 if _emptied(board, guests) else refused + 1
        if not refused:
            group.append(name)
    if group:
        return tuple(group), []
    # None can be emptied: what can leave them does.
    last = tuple(by_size[:largest])
    leaving = [guest for name in last for guest in board.on(board.index[name])]
    able = [guest for guest in leaving if board.movable(guest)]
    stay = with_room_made(board, place_all(board, able, roomiest))
    return last, [*(guest for guest in leaving if guest not in able), *stay]


def _emptied(board: Board, guests: Sequence[int]) -> bool:
    """Move all guests of a host away, or none of them."""
    mark, effort = board.mark(), Effort(EFFORT_FOR_A_HOST)
    stay = place_all(board, guests, roomiest)
    if all(place(board, guest, tightest) or make_room(board, guest, effort) for guest in reversed(stay)):
        return True
    board.back_to(mark)
    return False


def _roles(board: Board, group: Sequence[HostName]) -> list[Role]:
    leaving = {board.index[name] for name in group}
    return [Role.LEAVE if source in leaving else Role.MAKE_ROOM for _, source, _ in board.log]
