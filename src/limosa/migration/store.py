"""An agent's durable memory: moves and their steps, who owns which guest, and what was created for whom.

One SQLite file, in WAL mode with synchronous=FULL: a record that was written survives the plug being pulled.
Each record is written before the deed that it is about.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from limosa.errors import StateDiskError
from limosa.guest.discover import given_uuid
from limosa.migration import outbox
from limosa.migration.outbox import Outbox
from limosa.units import HostName, MoveId, Side
from limosa.wire.hooks import HookEvent

SCHEMA = (
    """
    CREATE TABLE moves (
        id TEXT NOT NULL, side TEXT NOT NULL, guest TEXT NOT NULL, identity TEXT NOT NULL, peer TEXT NOT NULL,
        opened REAL NOT NULL, closed REAL, ending TEXT, baggage BLOB NOT NULL, PRIMARY KEY (id, side)
    );
    CREATE TABLE steps (
        move TEXT NOT NULL, number INTEGER NOT NULL, outcome TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (move, number)
    );
    CREATE TABLE owners (
        identity TEXT PRIMARY KEY, epoch INTEGER NOT NULL, state TEXT NOT NULL, move TEXT NOT NULL,
        peer TEXT NOT NULL, token TEXT NOT NULL, at REAL NOT NULL
    );
    CREATE TABLE refused (move TEXT PRIMARY KEY, at REAL NOT NULL);
    CREATE TABLE ledger (
        move TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, noted REAL NOT NULL, struck REAL,
        PRIMARY KEY (move, kind, name)
    );
    CREATE TABLE said (at REAL NOT NULL, identity TEXT NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL);
    """,
    # `owners` knows the latest move of a guest only; who asks about an earlier one must not hear "never".
    """
    CREATE TABLE taken (move TEXT PRIMARY KEY, epoch INTEGER NOT NULL, at REAL NOT NULL);
    INSERT INTO taken SELECT move, epoch, at FROM owners JOIN moves ON moves.id = owners.move
        WHERE owners.state = 'here' AND moves.side = 'destination';
    """,
    outbox.TABLE,
    # The archive has a name of its own, so that whoever knows it up to a number notices when it was begun anew.
    """
    CREATE TABLE kept (
        number INTEGER PRIMARY KEY AUTOINCREMENT, move TEXT NOT NULL, side TEXT NOT NULL, ended REAL NOT NULL,
        guest TEXT NOT NULL, uuid TEXT NOT NULL, past BLOB, record BLOB, log BLOB NOT NULL, UNIQUE (move, side)
    );
    CREATE TABLE archive (name TEXT NOT NULL);
    INSERT INTO archive VALUES (lower(hex(randomblob(8))));
    """,
)
"""One script for each version of the file; a version that was released is never changed."""


RESERVE = 1024**2
"""Bytes put by for moves in flight: one takes some hundred KiB of the write-ahead log."""
LEAST = 256 * 1024
"""Free bytes below which the reserve is used, and no new move starts."""


ASK_DISK = 1.0
"""Seconds between two attempts at a state disk that refuses."""


class Held(StrEnum):
    """What this host knows of a guest's ownership."""

    HERE = "here"
    GIVEN_UP = "given up"


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """One guest's ownership as this host recorded it last.

    `epoch` grows by one with every move; `token` is the single-use grant of the move that brought it here or
    took it away; `peer` the other host of that move.
    """

    identity: str
    epoch: int
    state: Held
    move: MoveId
    peer: HostName
    token: str


class OpenMove(msgspec.Struct, frozen=True, kw_only=True):
    """A move that this host has not closed. `baggage` is what its side needs to go on, as JSON."""

    id: MoveId
    side: Side
    guest: str
    identity: str
    peer: HostName
    baggage: bytes
    outcomes: dict[int, str]
    """Number of a step -> its last recorded outcome."""
    opened: float = 0.0
    """Seconds since 1970."""


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was created, or was about to be, for a move."""

    move: MoveId
    kind: str
    name: str


async def insist(record: Callable[[], None]) -> None:
    """Write a record as soon as the state disk takes it; for what nothing waits for."""
    while True:
        with contextlib.suppress(StateDiskError):
            record()
            return
        await asyncio.sleep(ASK_DISK)  # a disk that can be written again tells nobody


def identity_of(uuid: str, name: str) -> str:
    """How a guest is known over time: by its UUID; by its name where it was started without one."""
    return given_uuid(uuid) or f"name:{name}"


class Store:
    """The journal file of one agent.

    Where the state disk cannot be written from the beginning, everything that is recorded can be read all the
    same, out of a copy in memory; every write tries the disk again.

    Args:
        path: the file.
        spare: a directory on another file system, for that copy; default: the system's for temporary files.

    Raises (every method that writes):
        StateDiskError: the record could not be made durable.
    """

    _unopened: StateDiskError | None = None

    def __init__(self, path: Path, spare: Path | None = None) -> None:
        self.path = path
        try:
            self._db = _opened(path)
        except (OSError, sqlite3.Error) as error:
            self._unopened = _unwritable(path, error)
            self._db = _upgraded(_copied(path, spare), path)

    @cached_property
    def outbox(self) -> Outbox:
        """Events that are recorded here, and told to hooks later."""
        return Outbox(lambda: self._db)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def check(self) -> None:
        """Prove that records can be written now, and for the time of a move; asked before a move is accepted.

        A reserve is put by, which moves in flight use up when the disk fills in their middle.
        """
        self._put_reserve_by()
        self.prove()

    def prove(self) -> None:
        """Prove that a record can be written now."""
        with self._writing():
            self._db.execute("CREATE TABLE IF NOT EXISTS probe (at REAL)")
            self._db.execute("DELETE FROM probe")
            self._db.execute("INSERT INTO probe VALUES (?)", (time.time(),))

    # -- moves ------------------------------------------------------------------------------------------------

    def open_move(self, move: OpenMove, objects: tuple[tuple[str, str], ...] = ()) -> None:
        """Record a move and all its steps, before the first of them is made; and what it will create (as `note`)."""
        with self._writing():
            self._db.execute(
                "INSERT INTO moves (id, side, guest, identity, peer, opened, baggage) VALUES (?,?,?,?,?,?,?)",
                (move.id, move.side, move.guest, move.identity, move.peer, time.time(), move.baggage),
            )
            self._note(move.id, objects)

    def keep(self, move: MoveId, side: Side, baggage: bytes) -> None:
        """Replace a move's baggage."""
        with self._writing():
            self._db.execute("UPDATE moves SET baggage=? WHERE id=? AND side=?", (baggage, move, side))

    def outcome(self, move: MoveId, outcomes: dict[int, str]) -> None:
        """Record what became of steps; several at once cost one write."""
        with self._writing():
            self._db.executemany(
                "INSERT OR REPLACE INTO steps VALUES (?,?,?,?)",
                [(move, number, outcome, time.time()) for number, outcome in outcomes.items()],
            )

    def close_move(self, move: MoveId, side: Side, ending: str, news: HookEvent | None = None) -> None:
        """Record that nothing is left to do for a move on this side, and in the same write what hooks shall hear."""
        with self._writing():
            now = time.time()
            self._db.execute("UPDATE moves SET closed=?, ending=? WHERE id=? AND side=?", (now, ending, move, side))
            if news is not None:
                self.outbox.post(self._identity(move), news, now)
        if news is not None:
            self.outbox.tell()

    def opened(self, move: MoveId, side: Side) -> float | None:
        """When a move was opened on this side, in seconds since 1970; None where it never was."""
        found = self._db.execute("SELECT opened FROM moves WHERE id=? AND side=?", (move, side)).fetchone()
        return None if found is None else float(found[0])

    def _identity(self, move: MoveId) -> str:
        found = self._db.execute("SELECT identity FROM moves WHERE id=?", (move,)).fetchone()
        return "" if found is None else str(found[0])

    def open_moves(self) -> tuple[OpenMove, ...]:
        """Moves that have not been closed, oldest first."""
        rows = self._db.execute(
            "SELECT id, side, guest, identity, peer, baggage, opened FROM moves WHERE closed IS NULL ORDER BY opened"
        ).fetchall()
        return tuple(
            OpenMove(
                id=MoveId(row[0]),
                side=Side(row[1]),
                guest=row[2],
                identity=row[3],
                peer=HostName(row[4]),
                baggage=row[5],
                outcomes=self._outcomes(row[0]),
                opened=row[6],
            )
            for row in rows
        )

    def open_since(self) -> float | None:
        """When the oldest open move was recorded, seconds since 1970; None where no move is open."""
        (oldest,) = self._db.execute("SELECT min(opened) FROM moves WHERE closed IS NULL").fetchone()
        return None if oldest is None else float(oldest)

    def is_known(self, move: MoveId, side: Side) -> bool:
        """Whether this move was ever opened on this side."""
        found = self._db.execute("SELECT 1 FROM moves WHERE id=? AND side=?", (move, side)).fetchone()
        return found is not None

    def endings(self) -> dict[tuple[str, Side], str]:
        """(move, side) -> how it ended, for every move that was closed."""
        rows = self._db.execute("SELECT id, side, ending FROM moves WHERE closed IS NOT NULL")
        return {(row[0], Side(row[1])): row[2] for row in rows}

    # -- ownership --------------------------------------------------------------------------------------------

    def owner(self, identity: str) -> Owner | None:
        """What is recorded of a guest; None for one that never moved."""
        row = self._db.execute(
            "SELECT identity, epoch, state, move, peer, token FROM owners WHERE identity=?", (identity,)
        ).fetchone()
        return None if row is None else _owner(row)

    def owners(self) -> tuple[Owner, ...]:
        """Every guest that is recorded."""
        rows = self._db.execute("SELECT identity, epoch, state, move, peer, token FROM owners ORDER BY identity")
        return tuple(_owner(row) for row in rows)

    def record_owner(self, owner: Owner) -> None:
        """Record who owns a guest from now on; one durable write.

        Raises:
            ValueError: the record would go back to an earlier epoch.
        """
        known = self.owner(owner.identity)
        if known is not None and known.epoch > owner.epoch:
            raise ValueError(f"{owner.identity} is at epoch {known.epoch} already, not {owner.epoch}")
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO owners VALUES (?,?,?,?,?,?,?)",
                (owner.identity, owner.epoch, owner.state, owner.move, owner.peer, owner.token, time.time()),
            )

    def take(self, owner: Owner, baggage: bytes) -> None:
        """Record that this host owns a guest that arrived, with what is needed to go on: one durable write."""
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO owners VALUES (?,?,?,?,?,?,?)",
                (owner.identity, owner.epoch, owner.state, owner.move, owner.peer, owner.token, time.time()),
            )
            self._db.execute(
                "UPDATE moves SET baggage=? WHERE id=? AND side=?", (baggage, owner.move, Side.DESTINATION)
            )
            self._db.execute("INSERT OR IGNORE INTO taken VALUES (?,?,?)", (owner.move, owner.epoch, time.time()))

    def give_back(self, move: MoveId, identity: str) -> None:
        """Record that a guest which was taken over, and has never executed here, is its source's again, for good."""
        with self._writing():
            self._db.execute("UPDATE owners SET state=? WHERE identity=? AND move=?", (Held.GIVEN_UP, identity, move))
            self._db.execute("DELETE FROM taken WHERE move=?", (move,))
            self._db.execute("INSERT OR IGNORE INTO refused VALUES (?,?)", (move, time.time()))

    def taken(self, move: MoveId) -> int | None:
        """The epoch that this host took over with a move; None if it did not. Stays true when the guest moves on."""
        found = self._db.execute("SELECT epoch FROM taken WHERE move=?", (move,)).fetchone()
        return None if found is None else int(found[0])

    def ending(self, move: MoveId, side: Side) -> str | None:
        """How a move was closed on this side; None while it is open, or unknown."""
        found = self._db.execute("SELECT ending FROM moves WHERE id=? AND side=?", (move, side)).fetchone()
        return None if found is None else found[0]

    def refuse(self, move: MoveId) -> None:
        """Record that this host will never take the guest of this move over: its twin is destroyed."""
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO refused VALUES (?,?)", (move, time.time()))

    def refused(self, move: MoveId) -> bool:
        """Whether this host has promised never to take the guest of this move over."""
        return self._db.execute("SELECT 1 FROM refused WHERE move=?", (move,)).fetchone() is not None

    def say(self, identity: str, who: str, what: str) -> None:
        """Record what somebody asserted about a guest, for ever."""
        with self._writing():
            self._db.execute("INSERT INTO said VALUES (?,?,?,?)", (time.time(), identity, who, what))

    def statements(self, identity: str) -> tuple[tuple[float, str, str], ...]:
        """(when, who, what) of everything asserted about a guest."""
        rows = self._db.execute("SELECT at, who, what FROM said WHERE identity=? ORDER BY at", (identity,))
        return tuple((row[0], row[1], row[2]) for row in rows)

    # -- ledger -----------------------------------------------------------------------------------------------

    def note(self, move: MoveId, objects: tuple[tuple[str, str], ...]) -> None:
        """Record (kind, name) of objects that are about to be created; several at once cost one write."""
        with self._writing():
            self._note(move, objects)

    def _note(self, move: MoveId, objects: tuple[tuple[str, str], ...]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO ledger (move, kind, name, noted) VALUES (?,?,?,?)",
            [(move, kind, name, time.time()) for kind, name in objects],
        )

    def strike(self, move: MoveId) -> None:
        """Record that a move's objects are gone, or belong to the guest now."""
        with self._writing():
            self._db.execute("UPDATE ledger SET struck=? WHERE move=? AND struck IS NULL", (time.time(), move))

    def noted(self) -> tuple[Noted, ...]:
        """Objects that were noted and not struck out."""
        rows = self._db.execute("SELECT move, kind, name FROM ledger WHERE struck IS NULL ORDER BY noted")
        return tuple(Noted(move=MoveId(row[0]), kind=row[1], name=row[2]) for row in rows)

    # -- for parts of the journal that have a file of their own -------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable write."""
        with self._writing():
            yield self._db

    def rows(self, query: str, values: tuple[str | int | float, ...]) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return self._db.execute(query, values).fetchall()

    # -- the file itself --------------------------------------------------------------------------------------

    @property
    def _reserve(self) -> Path:
        return self.path.with_name(f"{self.path.name}.reserve")

    def _put_reserve_by(self) -> None:
        if not self.path.parent.is_dir():
            return  # the write that follows makes it, or says why it cannot
        try:
            with self._reserve.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        if _free(self.path) < LEAST:
            raise _unwritable(self.path, OSError(errno.ENOSPC, "almost no room is left"))

    def _give_reserve_up(self) -> None:
        """Make room for what must be recorded of a move in flight."""
        with contextlib.suppress(OSError):  # then the write itself says what is wrong
            if _free(self.path) < LEAST:
                self._reserve.unlink(missing_ok=True)

    def _open_again(self) -> None:
        if self._unopened is None:
            return
        try:
            opened = _opened(self.path)
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(self.path, error) from error
        self._db.close()
        self._db, self._unopened = opened, None

    def _outcomes(self, move: str) -> dict[int, str]:
        return dict(self._db.execute("SELECT number, outcome FROM steps WHERE move=?", (move,)).fetchall())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._open_again()
        self._give_reserve_up()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            refusal = _unwritable(self.path, error)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                self._unopened = refusal  # SQLite keeps a file read-only that was so when it was opened
            raise refusal from error


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        _upgraded(db, path)
        db.execute("CREATE TABLE IF NOT EXISTS probe (at REAL)")
        db.execute("DELETE FROM probe")  # SQLite opens a read-only file without a word
        db.execute("INSERT INTO probe VALUES (?)", (time.time(),))
    except BaseException:
        db.close()
        raise
    return db


def _copied(path: Path, spare: Path | None) -> sqlite3.Connection:
    """What a journal says that cannot be opened where it is: to read one in WAL mode, SQLite writes beside it."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    try:
        with tempfile.TemporaryDirectory(dir=spare, prefix="limosa-journal-") as directory:
            for suffix in ("", "-wal"):
                if (part := path.with_name(path.name + suffix)).exists():
                    shutil.copyfile(part, Path(directory) / part.name)
            with contextlib.closing(sqlite3.connect(Path(directory) / path.name)) as copy:
                copy.backup(memory)
    except (OSError, sqlite3.Error) as error:
        raise _unwritable(path, error) from error
    return memory


def _upgraded(db: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(SCHEMA):
        raise StateDiskError(
            f"{path} was written by a newer limosa (format {version}, this one knows {len(SCHEMA)})",
            remedy="install that version again; nothing was changed",
        )
    for number in range(version, len(SCHEMA)):
        db.executescript(f"BEGIN; {SCHEMA[number]} PRAGMA user_version={number + 1}; COMMIT;")
    return db


def _free(path: Path) -> int:
    """Bytes that are free on the file system of a file."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize


def _owner(row: tuple[Any, ...]) -> Owner:
    return Owner(
        identity=row[0],
        epoch=row[1],
        state=Held(row[2]),
        move=MoveId(row[3]),
        peer=HostName(row[4]),
        token=row[5],
    )


def _unwritable(path: Path, error: Exception) -> StateDiskError:
    return StateDiskError(
        f"the journal {path} cannot be written: {error}",
        remedy=f"make room on the file system of {path.parent}, or mount it writable; no new move starts until then",
    )
