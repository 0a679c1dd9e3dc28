"""Make-room chains: when no host fits a guest, others move away from one first. Pure; numpy.

A guest of 16 vCPUs finds 6 free on every host of a tight fleet; three guests of 4 find room on three others, and then
it fits. Victims may need chains of their own, to a small depth. A chain either ends with its guest placed or leaves
the board as it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from limosa.cpu.fleet import Truth
from limosa.fleet.board import Board, Numbers
from limosa.fleet.placing import place, tightest


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a chain may go.

    Attributes:
        hosts: how many hosts are tried, those that lack least first.
        victims: how many guests may leave one host for one guest.
        depth: how many links a chain may have.
    """

    hosts: int = 48
    victims: int = 4
    depth: int = 2

    @property
    def shorter(self) -> "Reach":
        """Of a victim's own chain: few hosts are tried, for each try has as many of its own."""
        return Reach(hosts=6, victims=2, depth=self.depth - 1)


@dataclass(slots=True)
class Effort:
    """How many times a search may still try to send a guest away: about 50 us each on 1,000 hosts.

    Counted, not timed, so that the same fleet gets the same plan.
    """

    left: int = 20_000

    def spend(self) -> bool:
        """Take one try; False where none is left."""
        self.left -= 1
        return self.left >= 0


def make_room(board: Board, guest: int, effort: Effort, reach: Reach | None = None, *, only: int | None = None) -> bool:
    """Move a guest to a host from which others move away first; False, and nothing moved, where no way is found.

    Args:
        board: where we are.
        guest: it is to find room.
        effort: what may still be tried, for this guest and those after it.
        reach: how far to look.
        only: the one host that will do.
    """
    reach = reach or Reach()
    candidates = [host for host in _candidates(board, guest) if only in (None, host)]
    for host in candidates[: reach.hosts]:
        mark = board.mark()
        if _cleared(board, guest, host, effort, reach):
            board.move(guest, host)
            return True
        board.back_to(mark)
        if effort.left <= 0:
            break
    return False


def _candidates(board: Board, guest: int) -> list[int]:
    """Hosts that could take the guest if they were empty, those that lack the least room first."""
    need = board.need[:, guest, None]
    could: Truth = board.kinds.takers(guest) & board.takes & (board.size >= need).all(axis=0)
    could[board.at[guest]] = False
    hosts = np.flatnonzero(could)
    lack = (np.maximum(need - board.free[:, hosts], 0) / board.size[:, hosts]).sum(axis=0)
    # A rival has to leave, whatever its size: hosts without one come first.
    lack += ~board.lonely(guest)[hosts]
    found: list[int] = hosts[np.argsort(lack, kind="stable")].tolist()
    return found


def _cleared(board: Board, guest: int, host: int, effort: Effort, reach: Reach) -> bool:
    """Send guests away until this one fits; on failure some may have moved."""
    with _shut(board, host):
        victims = 0
        for rival in board.rivals(guest, host):
            victims += 1
            if victims > reach.victims or not _sent_away(board, rival, effort, reach):
                return False
        stuck: set[int] = set()
        while (lack := _lack(board, guest, host)).any():
            victim = _victim(board, host, lack, stuck)
            if victim is None or victims >= reach.victims:
                return False
            if _sent_away(board, victim, effort, reach):
                victims += 1
            else:
                stuck.add(victim)
        return True


@contextmanager
def _shut(board: Board, host: int) -> Iterator[None]:
    """Nobody comes in while it is cleared."""
    was = bool(board.takes[host])
    board.takes[host] = False
    try:
        yield
    finally:
        board.takes[host] = was


def _lack(board: Board, guest: int, host: int) -> Numbers:
    need = board.need[:, guest]
    return np.where(need, np.maximum(need - board.free[:, host], 0), 0)


def _victim(board: Board, host: int, lack: Numbers, stuck: set[int]) -> int | None:
    """The smallest guest whose going is enough, else the one that helps most; None where nobody can go."""
    able = [guest for guest in board.on(host) if guest not in stuck and board.movable(guest)]
    if not able:
        return None
    sizes = board.need[:, able] / board.size[:, host, None]
    enough = (board.need[:, able] >= lack[:, None]).all(axis=0)
    if enough.any():
        return able[int(np.argmin(np.where(enough, sizes.max(axis=0), np.inf)))]
    helps = np.minimum(sizes, (lack / board.size[:, host])[:, None]).sum(axis=0)
    return able[int(np.argmax(helps))] if helps.max() > 0 else None


def _sent_away(board: Board, victim: int, effort: Effort, reach: Reach) -> bool:
    if not effort.spend() or not board.movable(victim):
        return False
    if place(board, victim, tightest):
        return True
    return reach.depth > 1 and make_room(board, victim, effort, reach.shorter)
