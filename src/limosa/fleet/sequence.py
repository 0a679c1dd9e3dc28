"""What each move of a plan has to wait for. Pure.

Planners find moves one after the other, each on the board as the earlier ones leave it; they are carried out side by
side. A move counts every earlier arrival at its destination as there, and of the departures only those that it waits
for. So whichever guests are on their way to a host at a time, the last of them in the plan's order has counted all the
others: there is room for them together, in every order that keeps the waits, and if any of them fails.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from limosa.fleet.inventory import Guest, Inventory, Move, Room
from limosa.fleet.plan import Planned, Role
from limosa.units import HostName


def sequenced(inventory: Inventory, moves: Sequence[Move], roles: Iterable[Role]) -> tuple[Planned, ...]:
    """The same moves, each with what it waits for.

    Args:
        inventory: the fleet before the first move.
        moves: valid one after the other, no guest twice.
        roles: why each is there.

    Raises:
        ValueError: a move is not valid after those before it.
    """
    guests = [inventory.by_uuid[move.guest] for move in moves]
    arrived: dict[HostName, list[int]] = defaultdict(list)
    departed: dict[HostName, list[int]] = defaultdict(list)
    found = []
    for place, (move, role) in enumerate(zip(moves, roles, strict=True)):
        host = move.destination
        there = [guests[other] for other in arrived[host]]
        gone = {other: guests[other] for other in departed[host]}
        found.append(Planned(move, role, waits(guests[place], inventory.free(host), there, gone)))
        arrived[host].append(place)
        departed[move.source].append(place)
    return tuple(found)


def waits(guest: Guest, free: Room, arrived: Iterable[Guest], gone: dict[int, Guest]) -> tuple[int, ...]:
    """The departures from a host that a guest has to wait for.

    Args:
        guest: it goes there.
        free: what was free there in the beginning.
        arrived: guests whose moves there come earlier in the plan.
        gone: departures that come earlier in the plan, by their place in it.

    Raises:
        ValueError: there is no room even after all of them.
    """
    lack = _lack(guest, free, arrived)
    rivals = [place for place, other in gone.items() if set(other.groups).intersection(guest.groups)]
    for place in rivals:
        lack = _less(lack, gone[place])
    # The largest first: fewer waits.
    others = sorted((place for place in gone if place not in rivals), key=lambda place: -gone[place].vcpus)
    needed = []
    for place in others:
        if max(lack) <= 0:
            break
        if _helps(lack, gone[place]):
            lack = _less(lack, gone[place])
            needed.append(place)
    if max(lack) > 0:
        raise ValueError(f"{guest.name} has no room there at this place in the plan")
    return tuple(sorted((*rivals, *needed)))


def _lack(guest: Guest, free: Room, arrived: Iterable[Guest]) -> Room:
    others = tuple(arrived)
    return Room(
        guest.vcpus + sum(other.vcpus for other in others) - free.vcpus,
        guest.memory + sum(other.memory for other in others) - free.memory,
        # A guest without local disks asks for no room, however full the store is.
        guest.disk + sum(other.disk for other in others) - free.disk if guest.disk else 0,
    )


def _less(lack: Room, gone: Guest) -> Room:
    return Room(lack.vcpus - gone.vcpus, lack.memory - gone.memory, lack.disk - gone.disk)


def _helps(lack: Room, gone: Guest) -> bool:
    return any(short > 0 and part for short, part in zip(lack, (gone.vcpus, gone.memory, gone.disk), strict=True))
