"""Moves that a controller orders: each is started once, however often it is ordered, and by whoever leads it now."""

import hashlib
from pathlib import Path

import msgspec
import structlog

from limosa.agent.files import replace_file
from limosa.errors import Fenced, NotFound, StateDiskError, UsageError
from limosa.migration.moves import Moves
from limosa.units import HostName, MoveId, Side
from limosa.wire.reports import Deed, Hand, Order, Outcome, Pace
from limosa.wire.rpc import Handlers

REMEMBERED = 1000
"""Operations whose epoch is kept; an older one is over for long."""

OPEN = "open"
"""Said of a move that the journal has open and this agent has not taken up yet: its state disk refuses."""

_log = structlog.get_logger()


def move_of(hand: Hand, deed: str) -> MoveId:
    """The id of an ordered move: it follows from operation and deed, so a repeated order meets the first one's move."""
    return MoveId("m" + hashlib.sha256(f"{hand.operation}/{deed}".encode()).hexdigest()[:8])


class Fence:
    """The latest epoch of each operation, durable: who was replaced is not obeyed any more."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._epochs: dict[str, int] = msgspec.json.decode(file.read_bytes()) if file.exists() else {}

    def pass_through(self, hand: Hand, caller: HostName) -> None:
        """Let an order in, or not.

        Raises:
            Fenced: another controller leads the operation by now.
            StateDiskError: a new epoch could not be kept.
        """
        known = self._epochs.get(hand.operation, -1)
        if hand.epoch < known:
            raise Fenced(
                f"operation {hand.operation} is in other hands than {caller}'s since (epoch {known}, not {hand.epoch})",
                remedy="this controller was replaced: it reads the operation again",
            )
        if hand.epoch > known:
            self._keep(hand)

    def _keep(self, hand: Hand) -> None:
        kept = {**self._epochs, hand.operation: hand.epoch}
        for oldest in list(kept)[: max(0, len(kept) - REMEMBERED)]:
            del kept[oldest]
        try:
            replace_file(self._file, msgspec.json.encode(kept), 0o600)
        except OSError as error:
            raise StateDiskError(f"{self._file} cannot be written: {error.strerror}") from error
        self._epochs = kept


class Orders:
    """Calls that controllers may make about moves."""

    def __init__(self, moves: Moves, state_dir: Path) -> None:
        self._moves = moves
        self._fence = Fence(state_dir / "operations.json")

    def handlers(self) -> Handlers:
        """For `peer.serve`, as what controllers may call."""
        return {
            "fleet.start": (Order, self._start),
            "fleet.status": (Deed, self._status),
            "fleet.abort": (Deed, self._abort),
            "fleet.speed": (Pace, self._speed),
        }

    async def _start(self, order: Order, caller: HostName) -> Outcome:
        self._fence.pass_through(order.hand, caller)
        move = move_of(order.hand, order.deed)
        known = self._outcome(move)
        if known.status is not None and order.request.guest not in {known.status.guest, known.status.uuid}:
            raise UsageError(f"{move} is a move of {known.status.guest} already", remedy="order it as another deed")
        if known.status is not None or known.ending:
            return known
        _log.info("a controller orders a move", controller=caller, move=move, guest=order.request.guest)
        request = msgspec.structs.replace(order.request, operation=order.hand.operation)
        return Outcome(move=move, status=await self._moves.start(request, move))

    async def _status(self, deed: Deed, caller: HostName) -> Outcome:
        self._fence.pass_through(deed.hand, caller)
        return self._outcome(move_of(deed.hand, deed.deed))

    async def _abort(self, deed: Deed, caller: HostName) -> Outcome:
        self._fence.pass_through(deed.hand, caller)
        move = move_of(deed.hand, deed.deed)
        known = self._outcome(move)
        if known.status is None or known.status.state.over:
            return known
        _log.info("a controller aborts a move", controller=caller, move=move)
        return Outcome(move=move, status=await self._moves.abort(move))

    async def _speed(self, pace: Pace, caller: HostName) -> Outcome:
        self._fence.pass_through(pace.hand, caller)
        move = move_of(pace.hand, pace.deed)
        known = self._outcome(move)
        if known.status is None or known.status.state.over:
            return known
        return Outcome(move=move, status=await self._moves.set_speed(move, pace.rate))

    def _outcome(self, move: MoveId) -> Outcome:
        try:
            return Outcome(move=move, status=self._moves.get(move))
        except NotFound:
            store = self._moves.store
            opened = OPEN if store.is_known(move, Side.SOURCE) else ""
            return Outcome(move=move, status=None, ending=store.ending(move, Side.SOURCE) or opened)
