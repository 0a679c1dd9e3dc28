"""Events for hooks: a table of the journal, so that an event and what makes it true are one record."""

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from limosa.wire.hooks import HookEvent

TABLE = """
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, subject TEXT NOT NULL, kind TEXT NOT NULL,
        at REAL NOT NULL, body BLOB NOT NULL
    );
"""

KEPT = 7 * 86400.0
"""Seconds for which an event is kept; longer than any hook is tried."""


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """One event as it is kept. Events of one subject are delivered in the order of their numbers."""

    number: int
    id: str
    subject: str
    kind: str
    at: float
    """Seconds since 1970."""
    body: bytes
    """A `HookEvent` as JSON: what is sent, and signed."""


class Outbox:
    """The table.

    Args:
        db: the journal's connection as it is now.
    """

    def __init__(self, db: Callable[[], sqlite3.Connection]) -> None:
        self._db = db
        self._told: list[Callable[[], None]] = []

    def listen(self, call: Callable[[], None]) -> None:
        """Have something called after each event that was recorded."""
        self._told.append(call)

    def post(self, subject: str, event: HookEvent, at: float) -> None:
        """Add an event to the transaction that is open; old ones go with it, so that they cost no write."""
        row = (event.id, subject, event.type, at, msgspec.json.encode(event))
        db = self._db()
        db.execute("INSERT OR IGNORE INTO outbox (id, subject, kind, at, body) VALUES (?,?,?,?,?)", row)
        db.execute("DELETE FROM outbox WHERE at < ?", (at - KEPT,))

    def tell(self) -> None:
        """Call whoever listens: the transaction is on disk."""
        for call in self._told:
            call()

    def after(self, number: int) -> tuple[Posted, ...]:
        """Events with higher numbers, oldest first."""
        rows = self._db().execute(f"{_SELECT} WHERE number > ? ORDER BY number", (number,))
        return tuple(_posted(row) for row in rows)

    def get(self, number: int) -> Posted | None:
        """One event; None where it is not kept any more."""
        row = self._db().execute(f"{_SELECT} WHERE number = ?", (number,)).fetchone()
        return None if row is None else _posted(row)

    def last(self) -> int:
        """Number of the latest event ever; 0 before the first."""
        row = self._db().execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return 0 if row is None else int(row[0])


_SELECT = "SELECT number, id, subject, kind, at, body FROM outbox"


def _posted(row: tuple[Any, ...]) -> Posted:
    number, event, subject, kind, at, body = row
    return Posted(number=number, id=event, subject=subject, kind=kind, at=at, body=body)
