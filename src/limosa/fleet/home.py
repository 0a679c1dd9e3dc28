"""Guests that go to hosts that are named: home after a drain, or where an operator sends them. Pure.

The planner's part is the order: who frees room goes before who needs it.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from limosa.fleet.board import Board
from limosa.fleet.chains import Effort, make_room
from limosa.fleet.finish import finished
from limosa.fleet.inventory import Guest, GuestId, HostState, Inventory
from limosa.fleet.placing import bulk
from limosa.fleet.plan import Operation, Plan, Role
from limosa.units import HostName


def return_home(inventory: Inventory, hosts: Iterable[HostName] | None = None) -> Plan:
    """Bring guests back to where they belong.

    Args:
        inventory: the fleet; hosts of `hosts` that are draining or drained count as active.
        hosts: only guests whose home is among them; None for all guests that are away from home.

    Raises:
        KeyError: there is no such host.
    """
    chosen = None if hosts is None else {inventory.by_name[name].name for name in hosts}
    closed = (HostState.DRAINING, HostState.DRAINED)
    opened = [name for name in chosen or () if inventory.by_name[name].state in closed]
    fleet = inventory.in_state(HostState.ACTIVE, opened) if opened else inventory
    wanted = {place: home for place, guest in enumerate(fleet.guests) if (home := _home(fleet, guest, chosen))}
    return _towards(fleet, wanted, Operation.RESTORE, Role.GO_HOME)


def _home(fleet: Inventory, guest: Guest, chosen: set[HostName] | None) -> HostName | None:
    """Where a guest is to go; None where it is at home, or has none in this fleet."""
    if guest.home in (None, guest.host) or guest.home not in fleet.by_name:
        return None
    return guest.home if chosen is None or guest.home in chosen else None


def move_set(inventory: Inventory, wanted: Mapping[GuestId, HostName], *, chains: bool = False) -> Plan:
    """Move these guests to these hosts; with `chains`, others may make room for them.

    Raises:
        KeyError: there is no such guest or host.
    """
    places = {guest.uuid: place for place, guest in enumerate(inventory.guests)}
    known = {places[uuid]: inventory.by_name[host].name for uuid, host in wanted.items()}
    going = {place: host for place, host in known.items() if inventory.guests[place].host != host}
    kept = known.keys() - going.keys()
    return _towards(inventory, going, Operation.MOVE_SET, Role.AS_ASKED, chains=chains, kept=kept)


def _towards(
    fleet: Inventory,
    wanted: Mapping[int, HostName],
    operation: Operation,
    role: Role,
    *,
    chains: bool = False,
    kept: AbstractSet[int] = frozenset(),
) -> Plan:
    """With `chains`, others make room, but not those of `kept`: they are where they are wanted."""
    board = Board(fleet)
    stay = moved_in_turn(board, wanted)
    if chains:
        # Those that are still to move may not be sent elsewhere to make room.
        for guest in tuple(stay):
            if _room_made(board, guest, board.index[wanted[guest]], kept | set(stay)):
                stay.remove(guest)
        stay = moved_in_turn(board, {guest: wanted[guest] for guest in stay})
    roles = [role if guest in wanted else Role.MAKE_ROOM for guest, _, _ in board.log]
    return finished(board, operation, roles, stay=stay, targets=wanted)


def moved_in_turn(board: Board, wanted: Mapping[int, HostName]) -> list[int]:
    """Move who can, large guests first, until nobody can any more; those that stay."""
    share = bulk(board)
    stay = sorted(wanted, key=lambda guest: (-share[guest], guest))
    before = -1
    while stay and before != len(stay):
        before, waiting, stay = len(stay), stay, []
        for guest in waiting:
            host = board.index[wanted[guest]]
            if board.hosts_for(guest)[host]:
                board.move(guest, host)
            else:
                stay.append(guest)
    return stay


def _room_made(board: Board, guest: int, host: int, others: AbstractSet[int]) -> bool:
    """Move a guest to this host, from which others move away first."""
    held = others - {guest}
    board.moved |= held  # none of them has moved, or it would not be among the others
    try:
        return make_room(board, guest, Effort(), only=host)
    finally:
        board.moved -= held
