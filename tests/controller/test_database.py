"""The database's versions, up and down, on SQLite and PostgreSQL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from limosa.api.understood import LARGEST_NUMBER
from limosa.errors import StateDiskError, UsageError
from limosa.fleet.chronicle import changes_before, events_after, note, tell
from limosa.fleet.db.engine import Database, migrate
from limosa.fleet.db.tables import changes, events, hosts, metadata


async def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    def differences(connection: sa.Connection) -> Sequence[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_every_version_can_be_left_and_reached_again(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(sa.insert(hosts).values(name="a"))
    await migrate(database.engine, "base")
    async with database.read() as connection:
        names = await connection.run_sync(lambda each: sa.inspect(each).get_table_names())
    assert names == ["alembic_version"]
    await migrate(database.engine)
    await migrate(database.engine)
    async with database.read() as connection:
        assert (await connection.execute(sa.select(hosts))).all() == []


async def test_events_and_changes_are_numbered_beyond_32_bits(database: Database) -> None:
    many = 2**31 + 7
    async with database.write() as connection:
        await connection.execute(sa.insert(events).values(number=many, at=0.0, kind="host", subject="a"))
        await connection.execute(sa.insert(changes).values(number=many, at=0.0, who="a", what="set", subject="a"))
        if database.shared:
            for table in ("events", "changes"):
                await connection.execute(sa.text(f"SELECT setval('{table}_number_seq', {many})"))
        await tell(connection, "host", "b", {})
        await note(connection, "b", "set", "b", "")
    assert [event.number for event in await events_after(database, many)] == [many + 1]
    assert [change.number for change in await changes_before(database, LARGEST_NUMBER, 5)] == [many + 1, many]


async def test_numbers_go_on_after_a_version_was_left_and_reached_again(database: Database) -> None:
    async with database.write() as connection:
        await tell(connection, "host", "a", {})
    await migrate(database.engine, "0005")
    async with database.write() as connection:
        await tell(connection, "host", "b", {})
    await migrate(database.engine)
    async with database.write() as connection:
        await tell(connection, "host", "c", {})
    assert [(each.number, each.subject) for each in await events_after(database, 0)] == [(1, "a"), (2, "b"), (3, "c")]


async def test_what_fails_half_way_leaves_nothing(database: Database) -> None:
    async def insert_twice() -> None:
        async with database.write() as connection:
            await connection.execute(sa.insert(hosts).values(name="a"))
            await connection.execute(sa.insert(hosts).values(name="a"))

    with pytest.raises(sa.exc.IntegrityError):
        await insert_twice()
    async with database.read() as connection:
        assert (await connection.execute(sa.select(hosts))).all() == []


async def test_a_database_that_limosa_does_not_know_is_refused_by_name() -> None:
    for url in ("mysql://x/y", "no url"):
        with pytest.raises(UsageError):
            async with Database.opened(url):
                pass


async def test_a_database_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateDiskError, match="the database cannot be used"):
        async with Database.opened(f"postgresql://limosa@/nothing?host={tmp_path}"):
            pass
