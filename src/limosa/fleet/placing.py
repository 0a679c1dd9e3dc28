"""Where a guest goes best, and in which order guests are placed. Pure; numpy."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from limosa.cpu.fleet import Truth
from limosa.fleet.board import DISK, Board, Scores

Pick = Callable[[Board, int, NDArray[np.intp]], int]
"""Board, guest and the hosts that it may go to -> one of them."""


def fill_after(board: Board, guest: int, hosts: NDArray[np.intp]) -> Scores:
    """For each of these hosts: how full the fuller of vCPUs and memory would be with this guest, 0 to 1."""
    size = board.size[:DISK, hosts]
    full: Scores = ((size - board.free[:DISK, hosts] + board.need[:DISK, guest, None]) / size).max(axis=0)
    return full


def roomiest(board: Board, guest: int, hosts: NDArray[np.intp]) -> int:
    """The host that would be least full: load stays even."""
    return int(hosts[np.argmin(fill_after(board, guest, hosts))])


def tightest(board: Board, guest: int, hosts: NDArray[np.intp]) -> int:
    """The host that would be fullest: large holes stay for large guests."""
    return int(hosts[np.argmax(fill_after(board, guest, hosts))])


def place(board: Board, guest: int, pick: Pick) -> bool:
    """Move a guest to the best host that takes it; False where none does."""
    hosts = np.flatnonzero(board.hosts_for(guest))
    if guest in board.moved or not len(hosts):
        return False
    board.move(guest, pick(board, guest, hosts))
    return True


def place_all(board: Board, guests: Iterable[int], pick: Pick) -> list[int]:
    """Move these guests, those that are hardest to place first.

    Returns:
        Those that no host takes, in the order in which they were tried.
    """
    return [guest for guest in hardest_first(board, guests) if not place(board, guest, pick)]


def hardest_first(board: Board, guests: Iterable[int]) -> list[int]:
    """Guests that few hosts could take come first, then large ones: who is left for last finds holes everywhere."""
    takers = (board.kinds.hosts & board.takes).sum(axis=1)
    share = bulk(board)
    return sorted(guests, key=lambda guest: (takers[board.kinds.of_guest[guest]], -share[guest], guest))


def bulk(board: Board) -> Scores:
    """For each guest: the larger of its shares of a mean host, in vCPUs and memory."""
    mean = board.size[:DISK].mean(axis=1, keepdims=True)
    shares: Scores = (board.need[:DISK] / mean).max(axis=0)
    return shares


def has_a_home(board: Board, guest: int, among: Truth | None = None) -> bool:
    """Whether any of these hosts, by default the open ones, could take this guest if it were empty."""
    large_enough = (board.size >= board.need[:, guest, None]).all(axis=0)
    return bool((board.kinds.takers(guest) & (board.takes if among is None else among) & large_enough).any())
