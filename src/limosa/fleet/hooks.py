"""Hooks of a controller: the agents' courier, over the controller's own events.

Only the controller that leads delivers. How far each hook is stands in the database, so that the next one that leads
goes on there; an event may then arrive twice, under the same id.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.courier import Courier
from limosa.agent.hooks.progress import Progress, shown
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import events, hook_progress
from limosa.fleet.registry import upsert
from limosa.migration.outbox import Posted
from limosa.wire.fleet import Phase
from limosa.wire.hooks import HookEvent, HookShown, HookTried, stamp

OPERATION_ENDED, TWO_OWNERS, HOST_STATE = KINDS = ("operation.ended", "guest.two-owners", "host.state")
"""What a controller tells of. Where guests live is told by the agents, with or without a controller."""

TELLER = "controller"
"""Whoever leads: a controller that takes over must not change an event that was tried already."""

GRACE = 10.0
"""Seconds for which an event rests where several controllers write: numbers are given out before they are committed,
and one that is passed over would never be read."""

_SOURCES = ("operation", "audit", "host")
_OVER = frozenset(str(phase) for phase in Phase if phase.over)

_log = structlog.get_logger()


class FleetEvents:
    """The events of a fleet that hooks may want."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, number: int) -> Sequence[Posted]:
        """Events with higher numbers, oldest first."""
        wanted = sa.select(events).where(events.c.number > number, events.c.kind.in_(_SOURCES))
        if self._database.shared:
            wanted = wanted.where(events.c.at <= time.time() - GRACE)
        async with self._database.read() as connection:
            rows = (await connection.execute(wanted.order_by(events.c.number))).mappings().all()
        return tuple(posted for row in rows if (posted := posted_of(row)) is not None)

    async def get(self, number: int) -> Posted | None:
        """One event; None where it is not kept any more."""
        async with self._database.read() as connection:
            found = (await connection.execute(sa.select(events).where(events.c.number == number))).mappings().first()
        return None if found is None else posted_of(found)

    async def last(self) -> int:
        """Number of the latest event; 0 before the first."""
        async with self._database.read() as connection:
            return int((await connection.execute(sa.select(sa.func.max(events.c.number)))).scalar() or 0)


class HookTable:
    """How far each hook is, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Mapping[str, Progress]:
        """What was saved last, by whoever led."""
        async with self._database.read() as connection:
            rows = (await connection.execute(sa.select(hook_progress))).mappings().all()
        return {row["hook"]: msgspec.json.decode(row["progress"], type=Progress) for row in rows}

    async def save(self, progress: Mapping[str, Progress]) -> None:
        """Keep this from now on; if it cannot be kept, whoever leads next tells some events again."""
        rows = [{"hook": name, "progress": msgspec.json.encode(each).decode()} for name, each in progress.items()]
        if not rows:
            return
        try:
            async with self._database.write() as connection:
                await connection.execute(upsert(connection, hook_progress, rows, update=("progress",)))
        except sa.exc.SQLAlchemyError as error:
            _log.warning("what hooks were told of cannot be kept", why=str(error))


class FleetHooks:
    """The hooks of one controller: told while it leads, shown and tried by every one.

    Args:
        hooks: who wants to be told.
        database: where events are, and how far each hook is.
    """

    def __init__(self, hooks: Sequence[HookConfig], database: Database) -> None:
        self._hooks = hooks
        self._table = HookTable(database)
        self._events = FleetEvents(database)
        self._courier: Courier | None = None

    async def deliver(self, *, leads: bool) -> None:
        """Tell what happened since, or leave that to the controller that leads."""
        if not leads and self._courier is not None:
            courier, self._courier = self._courier, None
            await courier.close()
        elif leads and self._courier is None:
            courier = self._made()
            await courier.open()
            courier.start()
            self._courier = courier
        elif self._courier is not None:
            self._courier.wake()

    @property
    def told(self) -> tuple[HookShown, ...]:
        """How each hook fares that this controller tells: none where another one leads."""
        return () if self._courier is None else self._courier.shown()

    async def shown(self) -> tuple[HookShown, ...]:
        """How each hook fares; where another controller leads, as that one saved it last."""
        if self._courier is not None:
            return self._courier.shown()
        saved = await self._table.load()
        return tuple(shown(hook, saved.get(hook.called, Progress(seen=0))) for hook in self._hooks)

    async def test(self, name: str) -> tuple[HookTried, ...]:
        """Send an event to try it from here, to one hook or to all where the name is empty. Raises NotFound."""
        return await (self._courier or self._made()).test(name)

    def _made(self) -> Courier:
        return Courier(self._hooks, TELLER, self._events, self._table)


def posted_of(row: Mapping[Any, Any]) -> Posted | None:
    """An event of the controller as hooks hear of it; None for one that is not for them. Pure."""
    body = msgspec.json.decode(str(row["body"]), type=dict[str, Any])
    match row["kind"]:
        case "operation" if body.get("phase") in _OVER and "of" in body:
            kind, data = OPERATION_ENDED, {"operation": row["subject"], **body}
        case "audit" if "two owners" in body:
            data = {"guest": row["subject"], "name": body["name"], "hosts": str(body["two owners"]).split(", ")}
            kind = TWO_OWNERS
        case "host":
            kind, data = HOST_STATE, {"host": row["subject"], **body}
        case _:
            return None
    named = f"{row['number']} {row['at']!r} {row['kind']} {row['subject']}"
    event = HookEvent(
        id=f"evt_{hashlib.sha256(named.encode()).hexdigest()[:32]}",
        type=kind,
        timestamp=stamp(row["at"]),
        teller=TELLER,
        data=data,
    )
    return Posted(
        number=row["number"],
        id=event.id,
        subject=row["subject"],
        kind=kind,
        at=row["at"],
        body=msgspec.json.encode(event),
    )
