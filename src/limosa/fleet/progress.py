"""How far operations are, and when they will probably be over: read without the rest of what an operation holds."""

from collections import Counter
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import operations
from limosa.wire.fleet import ItemState, OperationKind, Phase

FORECAST_WEIGHS = 0.1
"""How much the forecast counts beside what was seen, in shares of all moves."""

_OPEN = tuple(phase for phase in Phase if not phase.over)


class ItemHead(msgspec.Struct, frozen=True, kw_only=True):
    """A move of an operation."""

    state: ItemState = ItemState.WAITING
    bytes: int = 0


class ForecastHead(msgspec.Struct, frozen=True, kw_only=True):
    """What was expected."""

    seconds: float | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that is not over; the names of `limosa.wire.fleet.Operation`."""

    id: str
    kind: OperationKind
    phase: Phase
    created: float
    items: tuple[ItemHead, ...]
    left: tuple[object, ...]
    forecast: ForecastHead
    began: float | None = None

    @property
    def states(self) -> Mapping[ItemState, int]:
        """How many of its moves are in each state."""
        found = Counter(item.state for item in self.items)
        return {state: found[state] for state in ItemState}


async def open_heads(database: Database) -> tuple[Head, ...]:
    """Operations that are planned or under way, oldest first."""
    wanted = sa.select(operations.c.body).where(operations.c.phase.in_(_OPEN)).order_by(operations.c.created)
    async with database.read() as connection:
        bodies = (await connection.execute(wanted)).scalars()
        return tuple(msgspec.json.decode(body, type=Head) for body in bodies)


def predicted_end(head: Head, now: float) -> float | None:
    """When an operation will probably be over, seconds since 1970.

    Until a first move is over the forecast counts; then, more and more, the time that those which are over took. The
    forecast weighs as much as a tenth of all moves.

    Returns:
        None while it does not run, and where no duration was forecast.
    """
    expected = head.forecast.seconds
    if head.phase is not Phase.RUNNING or head.began is None or expected is None:
        return None
    waits = (ItemState.WAITING, ItemState.MOVING)
    left = sum(item.state in waits for item in head.items)
    if not left:
        return now
    count = len(head.items)
    over, trust = count - left, max(1.0, FORECAST_WEIGHS * count)
    whole = (trust * expected + (now - head.began) * count) / (trust + over) if over else expected
    return max(now, head.began + whole)
