"""How well the guests of a fleet could leave their hosts: for metrics, over all of them at once. Pure; numpy.

Two questions are asked of each guest. Which other hosts could take it, if they had room: `compatible`, which changes
with the fleet's hardware. Can it leave now: a guest that cannot is counted under the constraint that takes its last
host away, when they are asked in the order of `ORDER`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from limosa.cpu.fleet import Truth
from limosa.fleet.board import DISK, MEMORY, VCPUS, Board
from limosa.fleet.constraints import Constraint, Heard, immovable, refusals
from limosa.fleet.inventory import Inventory

LASTING = (Constraint.CPU, Constraint.STORAGE, Constraint.NETWORK, Constraint.LINK, Constraint.PIN)
PASSING = (Constraint.STATE, Constraint.VCPUS, Constraint.MEMORY, Constraint.DISK, Constraint.ANTI_AFFINITY)
ORDER = (Constraint.GUEST, *LASTING, *PASSING)

CLASSES = (("0", 0), ("1", 1), ("2-4", 4), ("5-19", 19))
"""Words for numbers of hosts, and the largest number of each; what is above all of them is `MANY`."""
MANY = "20+"

_ROWS = {Constraint.VCPUS: VCPUS, Constraint.MEMORY: MEMORY, Constraint.DISK: DISK}


class Bound(NamedTuple):
    """A guest, and how many other hosts could take it if they had room."""

    guest: str
    name: str
    hosts: int


class Mobility(NamedTuple):
    """How well guests could leave."""

    stuck: Mapping[Constraint, int]
    """Guests that no host can take now, by constraint; every one of `ORDER` is there."""
    classes: Mapping[str, int]
    """Guests by the number of compatible hosts, in words."""
    compatible: tuple[Bound, ...]
    """Every guest, those with the fewest compatible hosts first."""


def survey(fleet: Inventory) -> Mobility:
    """Ask both questions of every guest."""
    board = Board(fleet)
    counts = _compatible(board)
    stuck = Counter(_stuck(board))
    names = [Bound(guest.uuid, guest.name, count) for guest, count in zip(fleet.guests, counts.tolist(), strict=True)]
    return Mobility(
        stuck={constraint: stuck[constraint] for constraint in ORDER},
        classes=_classes(counts),
        compatible=tuple(sorted(names, key=lambda bound: (bound.hosts, bound.name))),
    )


def _compatible(board: Board) -> NDArray[np.int64]:
    """For each guest the other hosts, open to arrivals or not, that could take it if they were empty."""
    table, kinds = board.kinds.hosts, board.kinds.of_guest
    if not table.size:
        return np.zeros(len(kinds), np.int64)
    own = table[kinds, board.at].astype(np.int64)
    found: NDArray[np.int64] = table.sum(axis=1)[kinds] - own
    return found


def _classes(counts: NDArray[np.int64]) -> Mapping[str, int]:
    place = np.searchsorted([most for _, most in CLASSES], counts)
    sizes = np.bincount(place, minlength=len(CLASSES) + 1)
    return dict(zip((*(word for word, _ in CLASSES), MANY), sizes.tolist(), strict=True))


def _stuck(board: Board) -> Sequence[Constraint]:
    fleet = board.inventory
    heard: Heard = {}
    lasting: dict[int, Constraint] = {}
    found = []
    for place, guest in enumerate(fleet.guests):
        if immovable(guest, fleet.by_name[guest.host]):
            found.append(Constraint.GUEST)
            continue
        fits = board.kinds.takers(place).copy()
        fits[board.at[place]] = False
        if not fits.any():
            kind = int(board.kinds.of_guest[place])
            if kind not in lasting:
                lasting[kind] = _lasting(board, place, heard)
            found.append(lasting[kind])
        elif (why := _passing(board, place, fits)) is not None:
            found.append(why)
    return found


def _passing(board: Board, guest: int, fits: Truth) -> Constraint | None:
    """What takes the last of these hosts away now; None where one is left."""
    for constraint in PASSING:
        if constraint is Constraint.STATE:
            fits &= board.takes
        elif constraint is Constraint.ANTI_AFFINITY:
            fits &= board.lonely(guest)
        elif need := int(board.need[_ROWS[constraint], guest]):
            fits &= board.free[_ROWS[constraint]] >= need
        if not fits.any():
            return constraint
    return None


def _lasting(board: Board, place: int, heard: Heard) -> Constraint:
    """What takes the last host away from a guest that no host could take even if it were empty."""
    fleet, guest = board.inventory, board.inventory.guests[place]
    others = [host for host in fleet.hosts if host.name != guest.host]
    against = [{refusal.constraint for refusal in refusals(fleet, guest, host, heard)} for host in others]
    for constraint in LASTING:
        against = [said for said in against if constraint not in said]
        if not against:
            return constraint
    return Constraint.STATE  # what is left takes no moves in at all (max_in)
