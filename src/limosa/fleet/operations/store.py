"""Operations in the database: made, steered by operators, carried on by one controller at a time."""

import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from limosa.errors import Blocked, Fenced, NotFound
from limosa.fleet.bandwidth import Way
from limosa.fleet.chronicle import note, tell
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import answers, operations
from limosa.fleet.inventory import HostState
from limosa.fleet.operations.advance import Wish
from limosa.fleet.operations.planning import EMPTIES
from limosa.fleet.registry import moved, set_state
from limosa.wire.fleet import About, Item, ItemState, Operation, OperationKind, Phase
from limosa.wire.reports import Hand

_OPEN = (Phase.RUNNING, Phase.PAUSED, Phase.CANCELLING)
REMEMBER = 7 * 86400.0
"""Seconds for which an idempotency key is remembered."""


class Kept(NamedTuple):
    """An operation that somebody has to carry on."""

    id: str
    holder: str


_DEEDS = {Wish.RUN: "resume", Wish.PAUSE: "pause", Wish.CANCEL: "cancel"}
"""What operators call it; the audit log has their words."""


class OperationStore:
    """Operations in a database.

    Args:
        database: where.
        holder: the controller that claims them.
    """

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    async def get(self, operation: str) -> Operation:
        """One operation. Raises NotFound."""
        return (await self.load(operation))[0]

    async def load(self, operation: str) -> tuple[Operation, Wish]:
        """An operation, and what operators want of it. Raises NotFound."""
        async with self._database.read() as connection:
            row = await _row(connection, operation)
        return _decoded(row), Wish(row["wish"])

    async def before(self, created: float | None, limit: int) -> tuple[Operation, ...]:
        """The latest operations, from before a time."""
        wanted = sa.select(operations).order_by(operations.c.created.desc(), operations.c.id).limit(limit)
        if created is not None:
            wanted = wanted.where(operations.c.created < created)
        async with self._database.read() as connection:
            return tuple(_decoded(row) for row in (await connection.execute(wanted)).mappings())

    async def about(self, wanted: Collection[str]) -> tuple[About, ...]:
        """What these operations are about; those that are not there are left out."""
        named = sa.select(operations.c.body).where(operations.c.id.in_(wanted))
        async with self._database.read() as connection:
            bodies = (await connection.execute(named)).scalars().all()
        return tuple(msgspec.json.decode(body, type=About) for body in bodies)

    async def answered(self, who: str, key: str, asked: str) -> Operation | None:
        """The operation that this key made before; None for a new key.

        Raises:
            Blocked: the key was used for something else.
        """
        async with self._database.read() as connection:
            known = await _answered(connection, who, key, asked)
            return None if known is None else _decoded(await _row(connection, known))

    async def add(self, operation: Operation, key: str = "", asked: str = "") -> Operation:
        """Keep a new operation, which waits for its approval; the earlier one where the same key asked the same.

        Raises:
            Blocked: the key was used for something else.
        """
        async with self._database.write() as connection:
            await connection.execute(sa.delete(answers).where(answers.c.at < time.time() - REMEMBER))
            if key and (known := await _answered(connection, operation.who, key, asked)) is not None:
                return _decoded(await _row(connection, known))  # the same request was being planned beside this one
            row = {"id": operation.id, "created": operation.created, "phase": operation.phase, "body": _json(operation)}
            await connection.execute(sa.insert(operations).values(row))
            if key:
                kept = {"who": operation.who, "key": key, "asked": asked, "operation": operation.id, "at": time.time()}
                await connection.execute(sa.insert(answers).values(kept))
            await note(connection, operation.who, f"plan {operation.kind}", operation.id, operation.why)
            await tell(connection, "operation", operation.id, {"phase": operation.phase, "kind": operation.kind})
        return operation

    async def approve(self, operation: str, who: str, why: str = "", deed: str = "approve") -> Operation:
        """Let a planned operation run; from then on no guest goes to a host that it empties.

        Args:
            operation: its id.
            who: lets it.
            why: for the audit log.
            deed: what he calls that.

        Raises:
            NotFound: there is none.
            Blocked: it was approved before, another one works on the same hosts, or guests of it are in another one.
        """
        async with self._database.write() as connection:
            row = await _row(connection, operation)
            planned = _decoded(row)
            if planned.phase is not Phase.PLANNED:
                raise Blocked(f"{operation} is {planned.phase}: only a planned operation is approved")
            await _require_alone(connection, planned)
            if planned.kind in EMPTIES and planned.hosts:
                await set_state(connection, planned.hosts, HostState.DRAINING, f"{operation}: {planned.why}")
            if planned.kind is OperationKind.RESTORE:
                await set_state(connection, planned.hosts, HostState.ACTIVE, "")
            running = msgspec.structs.replace(planned, phase=Phase.RUNNING)
            await _keep(connection, running)
            await note(connection, who, deed, operation, why)
        return running

    async def wish(self, operation: str, wish: Wish, who: str, why: str = "") -> Operation:
        """Pause an operation, let it go on, or cancel it; one that waits for approval can only be cancelled.

        Raises:
            NotFound: there is none.
            Blocked: it is over, being cancelled, or not begun.
        """
        async with self._database.write() as connection:
            row = await _row(connection, operation)
            now = _decoded(row)
            if now.phase.over or row["wish"] == Wish.CANCEL or (now.phase is Phase.PLANNED and wish is not Wish.CANCEL):
                raise Blocked(f"{operation} is {now.phase}: it cannot be told to {_DEEDS[wish]}")
            await connection.execute(sa.update(operations).where(operations.c.id == operation).values(wish=wish))
            if now.phase is Phase.PLANNED:
                now = msgspec.structs.replace(now, phase=Phase.CANCELLED, ended=time.time())
                await _keep(connection, now)
            await note(connection, who, _DEEDS[wish], operation, why)
            await tell(connection, "operation", operation, {"phase": now.phase, "wish": wish})
        return now

    # -- for whoever carries it on ------------------------------------------------------------------------------

    async def claim(self, operation: str) -> Hand:
        """Take it in hand; whoever had it before is fenced off. Raises NotFound."""
        async with self._database.write() as connection:
            own = operations.c.id == operation
            taken = sa.update(operations).where(own).values(epoch=operations.c.epoch + 1, holder=self._holder)
            epoch = (await connection.execute(taken.returning(operations.c.epoch))).scalar()
        if epoch is None:
            raise NotFound(f"there is no operation {operation}")
        return Hand(operation, epoch)

    async def save(self, hand: Hand, operation: Operation, now: float) -> None:
        """Save it, with what follows for hosts and guests. Raises Fenced."""
        async with self._database.write() as connection:
            # The row is locked by this from here on, so that a claim waits until all of it is saved.
            own = (operations.c.id == hand.operation) & (operations.c.epoch == hand.epoch)
            touched = await connection.execute(sa.update(operations).where(own).values(holder=self._holder))
            if touched.rowcount == 0:
                raise Fenced(f"another controller carries {hand.operation} on")
            before = _decoded(await _row(connection, hand.operation))
            for item in _newly_done(before, operation):
                await _record_move(connection, operation, item, now)
            await _keep(connection, operation)
            if operation.phase.over and operation.kind in EMPTIES:
                await _close(connection, operation)

    async def open(self) -> tuple[Kept, ...]:
        """Operations that are not over, and who carries each on."""
        wanted = sa.select(operations.c.id, operations.c.holder).where(operations.c.phase.in_(_OPEN))
        async with self._database.read() as connection:
            return tuple(Kept(row.id, row.holder) for row in await connection.execute(wanted))

    async def in_flight(self, but: str) -> tuple[Way, ...]:
        """Moves that run, of all operations but this one."""
        wanted = sa.select(operations.c.body).where(operations.c.phase.in_(_OPEN) & (operations.c.id != but))
        async with self._database.read() as connection:
            opened = [_decoded(row) for row in (await connection.execute(wanted)).mappings()]
        moving = (item for each in opened for item in each.items if item.state is ItemState.MOVING)
        return tuple(Way(item.source, item.destination) for item in moving)


async def _row(connection: AsyncConnection, operation: str) -> Mapping[Any, Any]:
    wanted = sa.select(operations).where(operations.c.id == operation)
    row = (await connection.execute(wanted)).mappings().first()
    if row is None:
        raise NotFound(f"there is no operation {operation}", remedy="limosa operations lists them")
    return row


async def _answered(connection: AsyncConnection, who: str, key: str, asked: str) -> str | None:
    """The operation that this key made. Raises Blocked where it was asked for another thing."""
    remembered = answers.c.at >= time.time() - REMEMBER
    wanted = sa.select(answers).where((answers.c.who == who) & (answers.c.key == key) & remembered)
    row = (await connection.execute(wanted)).first()
    if row is None:
        return None
    if row.asked != asked:
        raise Blocked(
            f"the idempotency key {key} was used for another request ({row.operation})",
            remedy="use a key once, and again only to repeat the same request",
        )
    return str(row.operation)


async def _require_alone(connection: AsyncConnection, planned: Operation) -> None:
    """Raises Blocked where another operation has a host or a guest of this one in hand."""
    wanted = sa.select(operations).where(operations.c.phase.in_(_OPEN))
    for row in (await connection.execute(wanted)).mappings():
        other = _decoded(row)
        both = set(planned.hosts) & set(other.hosts)
        guests = {i.guest for i in planned.items} & {i.guest for i in other.items if not i.over}
        if both or guests:
            about = ", ".join(sorted(both)) or f"{len(guests)} of the same guests"
            raise Blocked(
                f"{other.kind} {other.id} works on {about} already",
                remedy=f"wait for it, or limosa operations cancel {other.id}",
            )


async def _keep(connection: AsyncConnection, operation: Operation) -> None:
    kept = msgspec.structs.replace(operation, number=operation.number + 1)
    values = {"phase": kept.phase, "body": _json(kept)}
    await connection.execute(sa.update(operations).where(operations.c.id == kept.id).values(values))
    done = sum(item.over for item in kept.items)
    await tell(connection, "operation", kept.id, {"phase": kept.phase, "over": done, "of": len(kept.items)})


def _newly_done(before: Operation, after: Operation) -> list[Item]:
    done = {i.guest for i in before.items if i.state is ItemState.DONE}
    return [item for item in after.items if item.state is ItemState.DONE and item.guest not in done]


async def _record_move(connection: AsyncConnection, operation: Operation, item: Item, now: float) -> None:
    """A guest lives elsewhere now. It belongs where it was before a drain first took it away."""
    if operation.kind is OperationKind.DRAIN:
        await moved(connection, item.guest, away_from=item.source, now=now)
    else:
        await moved(connection, item.guest, away_from=None, now=now)
    body = {"name": item.name, "from": item.source, "to": item.destination, "operation": operation.id}
    await tell(connection, "guest.moved", item.guest, body)


async def _close(connection: AsyncConnection, operation: Operation) -> None:
    """What becomes of hosts that were to be emptied: open again after a cancellation, drained if nobody is left."""
    if operation.phase is Phase.CANCELLED:
        await set_state(connection, operation.hosts, HostState.ACTIVE, "")
        return
    occupied = {left.host for left in operation.left}
    gone = {ItemState.DONE, ItemState.REROUTED}
    occupied |= {item.source for item in operation.items if item.state not in gone}
    empty = [host for host in operation.hosts if host not in occupied]
    if empty:
        await set_state(connection, empty, HostState.DRAINED, f"{operation.id}: {operation.why}")


def _decoded(row: Mapping[Any, Any]) -> Operation:
    return msgspec.json.decode(row["body"], type=Operation)


def _json(operation: Operation) -> str:
    return msgspec.json.encode(operation).decode()
