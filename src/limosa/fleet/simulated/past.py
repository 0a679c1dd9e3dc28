"""Moves that a simulated fleet has behind it when it begins. Pure, and the same for a seed."""

import random
from collections.abc import Iterator

import msgspec

from limosa.fleet.inventory import Guest, Host, Inventory
from limosa.fleet.simulated.moves import SimulatedMove

DAY = 86400.0
LEAST_RATE = 125e6
"""Bytes per second of a link that nobody measured."""
A_DAY = 2.5
"""Hosts that are emptied on a day, on average, in a fleet of a hundred or more."""
MOST_AT_ONCE = 12
ABORTED = 0.01
"""Share of moves that somebody took back."""
WORKING = (8 * 3600.0, 18 * 3600.0)
"""Seconds of a day between which hosts are emptied."""


def past_moves(inventory: Inventory, now: float, *, days: int, trouble: float, seed: int) -> Iterator[SimulatedMove]:
    """Guests that came to where they are now from hosts that were emptied; later ones last.

    Args:
        inventory: the fleet as it is now.
        now: seconds since 1970; all moves are over by then.
        days: how far back.
        trouble: share of moves whose link broke, 0 to 1.
        seed: of what happened by chance.
    """
    dice = random.Random(seed)  # noqa: S311 - chance in a simulation, not a secret
    if len(inventory.hosts) < 2:
        return
    each_day = A_DAY * min(1.0, len(inventory.hosts) / 100)
    midnight = now - now % DAY
    for back in range(days, 0, -1):
        for _ in range(_times(dice, each_day)):
            at = midnight - back * DAY + dice.uniform(*WORKING)
            yield from _emptied(inventory, dice, at, trouble)


def _times(dice: random.Random, mean: float) -> int:
    whole = int(2 * mean * dice.random())
    return whole + (dice.random() < mean % 1)


def _emptied(inventory: Inventory, dice: random.Random, at: float, trouble: float) -> Iterator[SimulatedMove]:
    source = dice.choice(inventory.hosts)
    there = [each for each in inventory.guests if each.host != source.name and each.host in inventory.by_name]
    for guest in dice.sample(there, min(len(there), dice.randint(3, MOST_AT_ONCE))):
        move = _one(guest, source, inventory.by_name[guest.host], dice, at, trouble)
        yield move
        at = move.ends + dice.uniform(0.5, 20.0)


def _one(
    guest: Guest, source: Host, destination: Host, dice: random.Random, at: float, trouble: float
) -> SimulatedMove:
    link = min(source.link or LEAST_RATE, destination.link or LEAST_RATE)
    move = SimulatedMove(
        id=f"{dice.getrandbits(48):012x}",
        guest=msgspec.structs.replace(guest, host=source.name),
        destination=destination.name,
        began=at,
        operation="",
        rate=link * dice.uniform(0.5, 0.95),
        fails=dice.random() < trouble,
    )
    if dice.random() < ABORTED:
        return msgspec.structs.replace(move, aborted=at + dice.uniform(0.1, 0.9) * (move.ends - at))
    return move
