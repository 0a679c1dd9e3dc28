"""Finished moves in an agent's journal: what became of them, and what was logged; the latest ones, for a while.

Both ends keep what they logged; the record of the move is the source's. Each is one durable write, made when the move
has come to its end: never while a guest is paused by it.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from limosa.errors import NotFound
from limosa.migration.store import Store
from limosa.units import MoveId, Side
from limosa.wire.history import HistoryTold, Mark, MoveLog, MoveRecord, PastMove
from limosa.wire.moves import MoveState

DAY = 86400.0
LARGEST_ANSWER = 4 * 1024**2
"""Bytes of records in one answer, if there is more than one in it."""


class Retention(NamedTuple):
    """How many finished moves are kept, and for how many seconds after their end."""

    moves: int = 1000
    seconds: float = 90 * DAY


DEFAULT_RETENTION = Retention()


class Archive:
    """The finished moves of one agent.

    Args:
        store: its journal.
        retention: how much is kept.
    """

    def __init__(self, store: Store, retention: Retention) -> None:
        self._store = store
        self._retention = retention

    def keep(self, record: MoveRecord, log: MoveLog) -> None:
        """Keep a move that left this host, or was to.

        Raises:
            StateDiskError: it could not be made durable.
        """
        past = past_move(record)
        row = (past.guest, past.uuid, _json(past), _json(record), _json(log))
        self._insert(MoveId(past.id), Side.SOURCE, row)

    def keep_log(self, move: MoveId, guest: str, uuid: str, log: MoveLog) -> None:
        """Keep what was logged of a move that came to this host, or was to. Raises as `keep` does."""
        self._insert(move, Side.DESTINATION, (guest, uuid, None, None, _json(log)))

    def _insert(self, move: MoveId, side: Side, row: tuple[str, str, bytes | None, bytes | None, bytes]) -> None:
        now = time.time()
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO kept (move, side, ended, guest, uuid, past, record, log) "
                "VALUES (?,?,?,?,?,?,?,?)",
                (move, side, now, *row),
            )
            db.execute("DELETE FROM kept WHERE ended < ?", (now - self._retention.seconds,))
            db.execute(
                "DELETE FROM kept WHERE number <= (SELECT number FROM kept ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (self._retention.moves,),
            )

    def record(self, wanted: str) -> MoveRecord:
        """A move by its id, or the latest one of a guest by its name or UUID.

        Raises:
            NotFound: nothing is kept of it.
        """
        found = self._store.rows(
            "SELECT record FROM kept WHERE record IS NOT NULL AND (move=? OR guest=? OR uuid=?) "
            "ORDER BY move=? DESC, number DESC LIMIT 1",
            (wanted, wanted, wanted, wanted),
        )
        if not found:
            raise NotFound(f"there is no move {wanted} here", remedy="`limosa watch` lists the moves of this host")
        return msgspec.json.decode(found[0][0], type=MoveRecord)

    def log(self, move: str) -> MoveLog | None:
        """What was logged of a move here; None where nothing is kept of it."""
        found = self._store.rows("SELECT log FROM kept WHERE move=? ORDER BY side DESC LIMIT 1", (move,))
        return msgspec.json.decode(found[0][0], type=MoveLog) if found else None

    def past(self) -> tuple[PastMove, ...]:
        """Every move of which this host was the source, latest first."""
        found = self._store.rows("SELECT past FROM kept WHERE past IS NOT NULL ORDER BY number DESC", ())
        return tuple(msgspec.json.decode(row[0], type=PastMove) for row in found)

    def mark(self) -> Mark:
        """How far it goes now."""
        ((number,),) = self._store.rows("SELECT COALESCE(MAX(number), 0) FROM kept WHERE record IS NOT NULL", ())
        return Mark(self._name(), int(number))

    def after(self, mark: Mark) -> HistoryTold:
        """The records behind a mark, oldest first, as many as one answer takes; all of them for a foreign mark."""
        name = self._name()
        known = mark.number if mark.archive == name else 0
        chosen: list[bytes] = []
        size = 0
        behind = "SELECT number FROM kept WHERE record IS NOT NULL AND number>? ORDER BY number"
        for (number,) in self._store.rows(behind, (known,)):
            ((record,),) = self._store.rows("SELECT record FROM kept WHERE number=?", (number,))
            size += len(record)
            if chosen and size > LARGEST_ANSWER:
                break
            chosen.append(record)
            known = number
        return HistoryTold(mark=Mark(name, known), records=_decoded(chosen))

    def _name(self) -> str:
        ((name,),) = self._store.rows("SELECT name FROM archive", ())
        return str(name)


def past_move(record: MoveRecord) -> PastMove:
    """A finished move in a line. Pure."""
    status, measured, error = record.status, record.status.measured, record.status.error or {}
    return PastMove(
        id=status.id,
        guest=status.guest,
        uuid=status.uuid,
        source=status.source,
        destination=status.destination,
        began=record.began,
        ended=record.began + status.elapsed if record.ended is None else record.ended,
        state=status.state,
        cause="" if status.state is MoveState.COMPLETED else str(error.get("code", status.state)),
        what=str(error.get("what", "")),
        seconds=status.elapsed,
        blackout_ms=measured.blackout_ms if measured else None,
        qemu_downtime_ms=measured.qemu_downtime_ms if measured else None,
        ram_bytes=measured.ram_bytes if measured else 0,
        disk_bytes=measured.disk_bytes if measured else 0,
        operation=status.operation,
    )


def _json(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value)


def _decoded(records: Sequence[bytes]) -> tuple[MoveRecord, ...]:
    return tuple(msgspec.json.decode(record, type=MoveRecord) for record in records)
