"""A PostgreSQL of one's own, for as long as a block lasts: Debian's programs, a directory, a unix socket in it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limosa.errors import NotFound

UNPRIVILEGED = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""
READY_LIMIT = 20
"""Seconds that it may take to answer."""


def programs() -> Path:
    """Where Debian, or anybody else, keeps initdb and postgres. Raises NotFound."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    if not found:
        raise NotFound("PostgreSQL is not installed", remedy="scripts/setup installs it")
    return found[0]


def _as_user(*words: str | Path) -> list[str]:
    drop = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
    return [*(drop if os.geteuid() == 0 else []), *map(str, words)]


@contextmanager
def postgres() -> Iterator[Path]:
    """A cluster that listens on a unix socket in its own directory only; gives that directory.

    Raises:
        NotFound: it is not installed.
        RuntimeError: it does not start.
    """
    where = programs()
    with tempfile.TemporaryDirectory(prefix="lm-pg-") as name:
        directory = Path(name)
        if os.geteuid() == 0:
            shutil.chown(directory, UNPRIVILEGED)
        data = directory / "data"
        made = _as_user(where / "initdb", "-D", data, "-A", "trust", "-U", "limosa", "--no-sync", "-E", "UTF8")
        subprocess.run(made, check=True, capture_output=True, cwd=directory)
        quick = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={directory}")
        server = subprocess.Popen(
            _as_user(where / "postgres", "-D", data, *quick), cwd=directory, stderr=subprocess.DEVNULL
        )
        try:
            ready = [str(where / "pg_isready"), "-h", name, "-t", str(READY_LIMIT)]
            while subprocess.run(ready, check=False, capture_output=True).returncode:
                if server.poll() is not None:
                    raise RuntimeError(f"PostgreSQL ended with status {server.returncode}")
            yield directory
        finally:
            server.terminate()
            server.wait()


def database_in(cluster: Path, name: str) -> str:
    """Make an empty database in a cluster; returns its URL."""
    subprocess.run([programs() / "createdb", "-h", cluster, "-U", "limosa", name], check=True)
    return f"postgresql://limosa@/{name}?host={cluster}"
