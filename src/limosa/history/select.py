"""Choosing among finished moves. Pure."""

from collections.abc import Sequence

import msgspec

from limosa.wire.history import HistoryPage, PastMove
from limosa.wire.moves import MoveState


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which moves are asked for; None: all. Times in seconds since 1970, of a move's end."""

    guest: str | None = None
    """Name or UUID."""
    host: str | None = None
    """Source or destination."""
    outcome: MoveState | None = None
    operation: str | None = None
    since: float | None = None
    until: float | None = None
    """Not included."""
    after: str = ""
    """Id of the last move that is known already."""
    limit: int = 100

    def fits(self, move: PastMove) -> bool:
        """Whether a move is one of them; `after` and `limit` are not looked at."""
        return (
            (self.guest is None or self.guest in {move.guest, move.uuid})
            and (self.host is None or self.host in {move.source, move.destination})
            and (self.outcome is None or self.outcome is move.state)
            and (self.operation is None or self.operation == move.operation)
            and (self.since is None or self.since <= move.ended)
            and (self.until is None or move.ended < self.until)
        )


def page(moves: Sequence[PastMove], wanted: Wanted) -> HistoryPage:
    """A page of them, latest first; `moves` in any order."""
    fitting = sorted(filter(wanted.fits, moves), key=lambda move: (-move.ended, move.id))
    start = next((place + 1 for place, move in enumerate(fitting) if move.id == wanted.after), 0)
    chosen = fitting[start : start + wanted.limit]
    return HistoryPage(tuple(chosen), chosen[-1].id if len(fitting) > start + wanted.limit else None)
