"""Databases that a controller may have: SQLite in a file, and a PostgreSQL that is started for these tests."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from limosa.errors import NotFound
from limosa.fleet.db.engine import Database
from limosa.testing import postgres as pg


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A cluster; returns its directory."""
    try:
        pg.programs()
    except NotFound as error:
        pytest.skip(f"{error.what}: {error.remedy}")
    with pg.postgres() as directory:
        yield directory


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/controller.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def postgres_url(postgres: Path, tmp_path: Path) -> str:
    """An empty database of that PostgreSQL."""
    return pg.database_in(postgres, f"t{abs(hash(tmp_path)):x}")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.opened(database_url) as opened:
        yield opened
