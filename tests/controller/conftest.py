"""Databases that a controller may have: SQLite in a file, and a PostgreSQL that is started for these tests."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from limosa.fleet.db.engine import Database

UNPRIVILEGED = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""


def programs() -> Path:
    """Where Debian, or anybody else, keeps initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    if not found:
        pytest.skip("PostgreSQL is not installed (scripts/setup installs it)")
    return found[0]


def as_user(*words: str | Path) -> list[str]:
    drop = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
    return [*(drop if os.geteuid() == 0 else []), *map(str, words)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A cluster that listens on a unix socket in its own directory only; returns that directory."""
    where = programs()
    with tempfile.TemporaryDirectory(prefix="lm-pg-") as name:
        directory = Path(name)
        if os.geteuid() == 0:
            shutil.chown(directory, UNPRIVILEGED)
        data = directory / "data"
        made = as_user(where / "initdb", "-D", data, "-A", "trust", "-U", "limosa", "--no-sync", "-E", "UTF8")
        subprocess.run(made, check=True, capture_output=True, cwd=directory)
        quick = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={directory}")
        server = subprocess.Popen(
            as_user(where / "postgres", "-D", data, *quick), cwd=directory, stderr=subprocess.DEVNULL
        )
        try:
            ready = [str(where / "pg_isready"), "-h", name, "-t", "20"]
            while subprocess.run(ready, check=False, capture_output=True).returncode:
                assert server.poll() is None, "PostgreSQL ended"
            yield directory
        finally:
            server.terminate()
            server.wait()


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
    name = f"t{abs(hash(tmp_path)):x}"
    subprocess.run([programs() / "createdb", "-h", postgres, "-U", "limosa", name], check=True)
    return f"postgresql://limosa@/{name}?host={postgres}"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.opened(database_url) as opened:
        yield opened
