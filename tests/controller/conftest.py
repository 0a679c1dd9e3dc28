"""Databases that a controller may have: SQLite in a file, and a PostgreSQL that is started for these tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from limosa.fleet.db.engine import Database
from limosa.testing.postgres import Cluster, NotInstalled, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for all tests of this run."""
    try:
        with running() as cluster:
            yield cluster
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/controller.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def postgres_url(postgres: Cluster, tmp_path: Path) -> str:
    """An empty database of that PostgreSQL."""
    return postgres.create(f"t{abs(hash(tmp_path)):x}")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.opened(database_url) as opened:
        yield opened
