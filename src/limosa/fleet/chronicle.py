"""What happened, and who changed what: events that people and hooks follow, and the audit log."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import changes, events
from limosa.wire.fleet import Change, Event

Body = Mapping[str, str | int | float | bool | None]

PAGE = 500
"""Events, or changes, in one answer at most."""


async def tell(connection: AsyncConnection, kind: str, subject: str, body: Body | None = None) -> None:
    """Within a transaction: something happened."""
    row = {"at": time.time(), "kind": kind, "subject": subject, "body": msgspec.json.encode(body or {}).decode()}
    await connection.execute(sa.insert(events).values(row))


async def note(connection: AsyncConnection, who: str, what: str, subject: str, why: str = "") -> None:
    """Within a transaction: somebody changed something."""
    row = {"at": time.time(), "who": who, "what": what, "subject": subject, "why": why}
    await connection.execute(sa.insert(changes).values(row))


async def events_after(database: Database, number: int) -> tuple[Event, ...]:
    """The next events, oldest first."""
    return await _events(database, sa.select(events).where(events.c.number > number).order_by(events.c.number), PAGE)


async def events_about(database: Database, subject: str, limit: int) -> tuple[Event, ...]:
    """What happened to one thing, latest first."""
    wanted = sa.select(events).where(events.c.subject == subject).order_by(events.c.number.desc())
    return await _events(database, wanted, limit)


async def last_event(database: Database) -> int:
    """Number of the latest event; 0 before the first."""
    async with database.read() as connection:
        return int((await connection.execute(sa.select(sa.func.max(events.c.number)))).scalar() or 0)


async def changes_before(database: Database, number: int | None, limit: int, words: str = "") -> tuple[Change, ...]:
    """Lines of the audit log, latest first.

    Args:
        database: where it is kept.
        number: only lines before it; None for all.
        limit: how many at most.
        words: only lines in which these stand; empty for all.
    """
    wanted = sa.select(changes).order_by(changes.c.number.desc())
    if words:
        columns = (changes.c.who, changes.c.what, changes.c.subject, changes.c.why)
        wanted = wanted.where(sa.or_(*(column.icontains(words, autoescape=True) for column in columns)))
    if number is not None:
        wanted = wanted.where(changes.c.number < number)
    return tuple(Change(**row) for row in await _rows(database, wanted, min(limit, PAGE)))


async def _events(database: Database, wanted: sa.Select[Any], limit: int) -> tuple[Event, ...]:
    rows = await _rows(database, wanted, limit)
    return tuple(msgspec.convert({**row, "body": msgspec.json.decode(row["body"])}, Event) for row in rows)


async def _rows(database: Database, wanted: sa.Select[Any], limit: int) -> list[dict[str, Any]]:
    """What is found, with plain names: SQLAlchemy's names of columns are strings of a kind of its own."""
    async with database.read() as connection:
        found = (await connection.execute(wanted.limit(limit))).mappings()
        return [{str(name): row[name] for name in row} for row in found]
