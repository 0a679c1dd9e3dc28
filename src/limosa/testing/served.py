"""A controller as it runs: a process of its own, behind TLS; and a fleet whose agents are not there."""

import asyncio
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limosa.agent import pki
from limosa.fleet.db.engine import Database
from limosa.fleet.registry import Registry
from limosa.fleet.tokens import Tokens
from limosa.testing.fleet import FLAGS, FRESH, guest, report
from limosa.testing.ports import free_port
from limosa.wire.fleet import Role

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A controller that answers."""

    directory: Path
    port: int
    tokens: dict[Role, str]
    """The word of one token of each role."""
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """The certificate that vouches for it."""
        return self.directory / "pki" / pki.CA_CERT

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.directory / "log").read_text()


@contextmanager
def served(directory: Path, database: str = "") -> Iterator[Served]:
    """Run a controller with three hosts, three guests and a token of each role, until the block is left.

    Args:
        directory: an empty one, for everything that it keeps.
        database: the URL of an empty one; default SQLite in that directory.

    Raises:
        RuntimeError: it ended, or did not become ready; with its log.
    """
    pki.create_ca(directory / "ca", "ca")
    pki.issue_host(directory / "ca", "fleet-1", ["127.0.0.1"], directory / "pki", controller=True)
    port = free_port()
    url = database or f"sqlite:///{directory}/state/controller.db"
    settings = f'listen = "127.0.0.1:{port}"\nstate_dir = "{directory}/state"\ndatabase = "{url}"\n'
    (directory / "controller.toml").write_text(settings)
    (directory / "hosts.toml").touch()
    (directory / "state").mkdir(mode=0o700)
    tokens = asyncio.run(_fill(url))
    with (directory / "log").open("wb") as log:
        words = [sys.executable, "-m", "limosa", "controller", "--json", "--config-dir", str(directory)]
        process = subprocess.Popen(words, stdout=log, stderr=log)
    running = Served(directory=directory, port=port, tokens=tokens, process=process)
    try:
        _until_ready(running)
        yield running
    finally:
        process.terminate()
        process.wait()


async def _fill(url: str) -> dict[Role, str]:
    async with Database.opened(url) as database:
        registry, tokens, now = Registry(database), Tokens(database), time.time() + FRESH
        await registry.take("a", report("a", guest("web1", "a"), guest("web2", "a")), now)
        await registry.take("b", report("b", guest("db1", "b")), now)
        await registry.take("c", report("c", flags=FLAGS[:2]), now)
        return {role: (await tokens.make(role, role, "test")).word for role in Role}


def _until_ready(running: Served) -> None:
    context = ssl.create_default_context(cafile=str(running.ca))
    until = time.monotonic() + START_SECONDS
    while running.process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{running.url}/readyz", context=context):  # noqa: S310  (always https)
                return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise RuntimeError(f"the controller is not ready:\n{running.log}")
