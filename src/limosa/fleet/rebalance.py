"""Even out load with few moves. Pure; numpy.

A host's load is the cores that its guests keep busy, over the cores that it has. A fleet is even when no active host is
farther than a tolerance from the mean of all of them. What is outside of that band is *excess*; each move is the one
that takes away most of it, so large guests go and few of them.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from limosa.cpu.fleet import Truth
from limosa.fleet.board import Board, Scores
from limosa.fleet.finish import finished
from limosa.fleet.inventory import Inventory
from limosa.fleet.plan import Operation, Plan, Role
from limosa.units import Seconds, format_count

TOLERANCE = 0.1
"""Share of a host's cores by which its load may be off the mean."""

LEAST_GAIN = 1e-6
"""Excess that a move has to take away, or it is not worth making."""

Option = tuple[float, float, int, int]
"""Excess and spread that it takes away, guest, destination."""


@dataclass
class _Load:
    """Busy cores on a board, and how far each host is from the mean.

    Attributes:
        busy: for each host.
        able: for each guest: may it be moved to even out load?
        stuck: hosts for which nothing more can be done.
    """

    board: Board
    tolerance: float
    able: Truth
    guest_busy: Scores = field(init=False)
    busy: Scores = field(init=False)
    cores: Scores = field(init=False)
    mean: float = field(init=False)
    stuck: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        inventory = self.board.inventory
        self.guest_busy = np.array([guest.busy for guest in inventory.guests], np.float64)
        self.cores = np.array([max(1, host.cores) for host in inventory.hosts], np.float64)
        self.busy = np.bincount(self.board.at, self.guest_busy, len(self.cores)).astype(np.float64)
        on = self.board.takes
        self.mean = float(self.busy[on].sum() / max(1.0, self.cores[on].sum()))

    def off(self, busy: Scores, cores: Scores) -> Scores:
        """How far loads are from the mean; negative below it."""
        found: Scores = busy / cores - self.mean
        return found

    def excess(self, off: Scores) -> Scores:
        """What of it is outside of the band."""
        return np.maximum(np.abs(off) - self.tolerance, 0.0)

    def offs(self) -> Scores:
        """For each host; 0 for those that are not active."""
        return np.where(self.board.takes, self.off(self.busy, self.cores), 0.0)

    def worst(self) -> float:
        """The largest distance from the mean."""
        return float(np.abs(self.offs()).max(initial=0.0))

    def gains(self, guests: NDArray[np.intp], hosts: NDArray[np.intp]) -> tuple[Scores, Scores]:
        """What moving each of these guests to the host beside it takes away: excess, and spread (squares)."""
        here, load = self.board.at[guests], self.guest_busy[guests]
        # A host that is not active is not part of the mean: nothing is gained by relieving it.
        counts = self.board.takes[here]
        before = self.off(self.busy[here], self.cores[here]) * counts, self.off(self.busy[hosts], self.cores[hosts])
        after = (
            self.off(self.busy[here] - load, self.cores[here]) * counts,
            self.off(self.busy[hosts] + load, self.cores[hosts]),
        )
        excess = sum(
            (self.excess(b) - self.excess(a) for b, a in zip(before, after, strict=True)), np.zeros(len(hosts))
        )
        spread = sum((b * b - a * a for b, a in zip(before, after, strict=True)), np.zeros(len(hosts)))
        return excess, spread

    def move(self, guest: int, host: int) -> None:
        load = self.guest_busy[guest]
        self.busy[self.board.at[guest]] -= load
        self.busy[host] += load
        self.board.move(guest, host)
        self.able[guest] = False


def rebalance(inventory: Inventory, *, now: Seconds, tolerance: float = TOLERANCE, most: int | None = None) -> Plan:
    """Bring every active host's load within `tolerance` of the mean, with few moves.

    Args:
        inventory: the fleet.
        now: Unix time: guests that moved less than the fleet's cooldown ago stay.
        tolerance: share of a host's cores.
        most: moves that are allowed at all; None for as many as it takes.
    """
    load = _start(inventory, now, tolerance)
    before = load.worst()
    while (most is None or load.board.mark() < most) and (found := _best(load)):
        load.move(*found)
    least = lower_bound(inventory, now=now, tolerance=tolerance)
    notes = (
        f"mean load {load.mean:.0%} of cores; farthest host off by {before:.1%} before and {load.worst():.1%} after",
        f"at least {format_count(least, 'move is', 'moves are')} needed",
        *_uneven(load),
    )
    return finished(load.board, Operation.REBALANCE, [Role.EVEN_OUT] * load.board.mark(), notes=notes)


def _start(inventory: Inventory, now: float, tolerance: float) -> _Load:
    board = Board(inventory)
    rested = [g.moved_at is None or now - g.moved_at >= inventory.limits.cooldown for g in inventory.guests]
    movable = [board.movable(guest) for guest in range(len(inventory.guests))]
    return _Load(board, tolerance, np.array(rested, np.bool_) & np.array(movable, np.bool_))


def _best(load: _Load) -> tuple[int, int] | None:
    """The guest and the host of the next move; None where the fleet is even, or as even as it gets."""
    while True:
        excess = load.excess(load.offs())
        excess[list(load.stuck)] = 0.0
        host = int(np.argmax(excess)) if len(excess) else 0
        if not len(excess) or excess[host] <= LEAST_GAIN:
            return None
        options = _relieve(load, host) if load.offs()[host] > 0 else _fill(load, host)
        gain, _, guest, destination = max(options, default=(0.0, 0.0, -1, -1))
        if gain > LEAST_GAIN:
            load.stuck.clear()  # whoever was stuck may have room now
            return guest, destination
        load.stuck.add(host)


def _relieve(load: _Load, host: int) -> list[Option]:
    """For each guest of a busy host, the best place to go."""
    found = []
    for guest in load.board.on(host):
        if load.able[guest] and len(hosts := np.flatnonzero(load.board.hosts_for(guest))):
            excess, spread = load.gains(np.full(len(hosts), guest), hosts)
            best = int(np.lexsort((spread, excess))[-1])
            found.append((float(excess[best]), float(spread[best]), guest, int(hosts[best])))
    return found


def _fill(load: _Load, host: int) -> list[Option]:
    """For an idle host, the best guest to fetch."""
    guests = np.flatnonzero(load.board.guests_for(host) & load.able)
    if not len(guests):
        return []
    excess, spread = load.gains(guests, np.full(len(guests), host))
    best = int(np.lexsort((spread, excess))[-1])
    return [(float(excess[best]), float(spread[best]), int(guests[best]), host)]


def _uneven(load: _Load) -> list[str]:
    names = [load.board.inventory.hosts[host].name for host in np.flatnonzero(load.excess(load.offs()) > LEAST_GAIN)]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"no guest that may move would bring these within {load.tolerance:.0%} of the mean: {shown}"]


def lower_bound(inventory: Inventory, *, now: Seconds, tolerance: float = TOLERANCE) -> int:
    """How many moves an even fleet needs at least, whatever may go where.

    A busy host has to lose as many guests as its largest ones that bring it into the band; an idle one has to gain as
    many as the largest of the fleet. One move can serve one of each.
    """
    load = _start(inventory, now, tolerance)
    limit, offs = load.tolerance + LEAST_GAIN, load.offs()
    leave = sum(
        _count(
            load.guest_busy[[g for g in load.board.on(host) if load.able[g]]], (offs[host] - limit) * load.cores[host]
        )
        for host in np.flatnonzero(offs > limit).tolist()
    )
    arrive = sum(
        _count(load.guest_busy[load.able], (-offs[host] - limit) * load.cores[host])
        for host in np.flatnonzero(offs < -limit).tolist()
    )
    return max(leave, arrive)


def _count(loads: Scores, needed: float) -> int:
    """How many of the largest loads make up what is needed; all of them where they do not."""
    sums = np.cumsum(np.sort(loads)[::-1])
    return min(int(np.searchsorted(sums, needed)) + 1, len(loads))
