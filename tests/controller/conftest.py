"""Databases that a controller may have: SQLite in a file, and one of a PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limosa.fleet.db.engine import Database
from limosa.testing.postgres import Cluster


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
