"""A PostgreSQL of one's own, for tests and benchmarks: started by hand, reached by a unix socket, gone afterwards."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

UNPRIVILEGED = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""
USER = "limosa"
START_SECONDS = 20


class NotInstalled(Exception):
    """There is no PostgreSQL on this machine."""


class Cluster(NamedTuple):
    """A running PostgreSQL."""

    directory: Path
    """Of its data and its socket."""
    pid: int

    def create(self, name: str) -> str:
        """Make an empty database; its URL."""
        subprocess.run([programs() / "createdb", "-h", self.directory, "-U", USER, name], check=True)
        return f"postgresql://{USER}@/{name}?host={self.directory}"


def programs() -> Path:
    """Where Debian, or anybody else, keeps initdb and postgres.

    Raises:
        NotInstalled: nowhere.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    if not found:
        raise NotInstalled("PostgreSQL is not installed (scripts/setup installs it)")
    return found[0]


@contextmanager
def running(*, durable: bool = False) -> Iterator[Cluster]:
    """Run a cluster that listens on a unix socket in its own directory only.

    Args:
        durable: whether a commit waits for the disk.

    Raises:
        NotInstalled: there is no PostgreSQL.
    """
    where = programs()
    with tempfile.TemporaryDirectory(prefix="lm-pg-") as name:
        directory = Path(name)
        if os.geteuid() == 0:
            shutil.chown(directory, UNPRIVILEGED)
        data = directory / "data"
        made = _as_user(where / "initdb", "-D", data, "-A", "trust", "-U", USER, "--no-sync", "-E", "UTF8")
        subprocess.run(made, check=True, capture_output=True, cwd=directory)
        settings = (f"fsync={'on' if durable else 'off'}", "listen_addresses=", f"unix_socket_directories={directory}")
        words = _as_user(where / "postgres", "-D", data, *(word for each in settings for word in ("-c", each)))
        server = subprocess.Popen(words, cwd=directory, stderr=subprocess.DEVNULL)
        try:
            ready = [str(where / "pg_isready"), "-h", name, "-t", str(START_SECONDS)]
            while subprocess.run(ready, check=False, capture_output=True).returncode:
                assert server.poll() is None, "PostgreSQL ended"
            yield Cluster(directory, server.pid)
        finally:
            server.terminate()
            server.wait()


def _as_user(*words: str | Path) -> list[str]:
    drop = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
    return [*(drop if os.geteuid() == 0 else []), *map(str, words)]
