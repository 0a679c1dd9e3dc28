"""Opening the database, and bringing it to this version's tables.

async with Database.opened("sqlite:////var/lib/limosa/controller.db") as database:
    async with database.write() as connection: ...     one transaction, committed at the end
    async with database.read() as connection: ...      one consistent look
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from limosa.errors import StateDiskError, UsageError

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
BUSY_SECONDS = 20.0
"""How long SQLite waits for another writer."""

MIGRATING = 0x6C696D6F
"""PostgreSQL's advisory lock while tables are changed."""


def url_of(text: str) -> URL:
    """A database URL with the driver that is used for it.

    Raises:
        UsageError: it is no such URL, or for a database that limosa does not know.
    """
    try:
        url = make_url(text)
    except sa.exc.ArgumentError as error:
        raise UsageError(f"{text!r} is no database URL", remedy=_REMEDY) from error
    kind = url.get_backend_name()
    if kind not in DRIVERS:
        raise UsageError(f"limosa keeps nothing in {kind}", remedy=_REMEDY)
    return url.set(drivername=DRIVERS[kind])


_REMEDY = "write sqlite:////var/lib/limosa/controller.db or postgresql://user@host/limosa"


class Database:
    """The controller's database; several controllers may share one on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        # SQLite has one writer at a time, and who waits for it tries again by luck: within a process they queue up.
        self._writer: AbstractAsyncContextManager[object] = nullcontext() if self.shared else asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def opened(cls, text: str) -> AsyncIterator[Self]:
        """Open it, bring it up to date, and close it in the end.

        Raises:
            UsageError: the URL makes no sense.
            StateDiskError: the database cannot be reached, or not be written.
        """
        engine = _engine(url_of(text))
        try:
            try:
                await migrate(engine)
            except (sa.exc.OperationalError, OSError) as error:
                said = str(getattr(error, "orig", error)).strip().splitlines()[0]
                raise StateDiskError(f"the database cannot be used: {said}", remedy=f"see that {text} can") from error
            yield cls(engine)
        finally:
            await engine.dispose()

    @property
    def shared(self) -> bool:
        """Whether other controllers may use it at the same time."""
        return self.engine.url.get_backend_name() != "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """One look."""
        async with self.engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: everything or, after an error, nothing."""
        async with self._writer, self.engine.connect() as connection:
            await connection.execution_options(limosa_writes=True)
            async with connection.begin():
                yield connection

    def between_writes(self) -> AbstractAsyncContextManager[object]:
        """While the block runs, nothing of this process writes: a write to SQLite that is cut off keeps its lock."""
        return self._writer


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, pool_pre_ping=True)
    if url.database:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, see _begin_sqlite
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that begins as a reader and then writes is refused at once when another wrote meanwhile
    # (SQLITE_BUSY_SNAPSHOT); one that begins as a writer waits its turn.
    writes = connection.get_execution_options().get("limosa_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


async def migrate(engine: AsyncEngine, version: str = "head") -> None:
    """Bring a database to a version: `head`, `base` (empty), or one by its name."""

    def run(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        config.attributes["connection"] = connection
        if connection.dialect.name == "postgresql":  # controllers may start side by side
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATING)))
        (command.downgrade if version == "base" else command.upgrade)(config, version)

    async with engine.connect() as connection:
        await connection.execution_options(limosa_writes=True)
        async with connection.begin():
            await connection.run_sync(run)
