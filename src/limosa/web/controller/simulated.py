"""A controller with API and dashboard on a fleet in memory: no TLS, so for this machine only."""

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvicorn

from limosa.agent import pki
from limosa.agent.config import Endpoint
from limosa.agent.hooks.config import HookConfig
from limosa.api.app import app
from limosa.errors import UsageError
from limosa.fleet.config import ControllerConfig
from limosa.fleet.controller import Controller
from limosa.fleet.db.engine import Database
from limosa.fleet.inventory import Inventory
from limosa.fleet.simulated.agents import SimulatedAgents
from limosa.fleet.simulated.stored import store
from limosa.units import HostName, Seconds
from limosa.web.controller.dashboard import extension
from limosa.wire.fleet import Role

LOOPBACK = ("127.0.0.1", "::1", "localhost")
NAME = HostName("simulated")
RETRIES = 3
HISTORY = 90 * 86400.0


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """Where the dashboard is, and the word of a token of each role."""

    url: str
    tokens: dict[Role, str]


@asynccontextmanager
async def simulated(
    inventory: Inventory, agents: SimulatedAgents, state_dir: Path
) -> AsyncIterator[tuple[Controller, dict[Role, str]]]:
    """A controller that follows simulated agents, and the words of its tokens.

    Args:
        inventory: the fleet before the first move.
        agents: those of its hosts.
        state_dir: where the database is made.
    """
    pki.create_ca(state_dir / "ca", NAME)
    pki.issue_host(state_dir / "ca", NAME, ["127.0.0.1"], state_dir / "pki", controller=True)
    config = ControllerConfig(
        host=NAME,
        listen=Endpoint("127.0.0.1", 0),
        database=f"sqlite:///{state_dir}/controller.db",
        pki_dir=state_dir / "pki",
        state_dir=state_dir,
        hosts_file=state_dir / "hosts.toml",
        limits=inventory.limits,
        retries=RETRIES,
        silence=Seconds(5.0),
        history_seconds=HISTORY,
        hooks=(
            HookConfig(name="log", file=str(state_dir / "told.jsonl")),
            HookConfig(name="dns", command=("/bin/false",), events=("operation.ended",)),
        ),
    )
    async with Database.opened(config.database) as database:
        await store(database, inventory)
    async with Controller.running(config, agents) as controller, agents.living():
        yield controller, {role: (await controller.tokens.make(role, role, "simulation")).word for role in Role}


async def serve(
    inventory: Inventory, agents: SimulatedAgents, listen: Endpoint, ready: Callable[[Serving], None]
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        inventory: the fleet before the first move.
        agents: those of its hosts.
        listen: on loopback; port 0 takes a free one.
        ready: told where it is.

    Raises:
        UsageError: the address is no loopback, or cannot be had.
    """
    if listen.host not in LOOPBACK:
        raise UsageError(
            f"{listen.host} is not loopback, and there is no TLS here",
            remedy="listen on 127.0.0.1, and reach it through ssh -L",
        )
    with tempfile.TemporaryDirectory(prefix="limosa-fleet-", dir=_in_memory()) as directory, bound(listen) as listening:
        async with simulated(inventory, agents, Path(directory)) as (controller, tokens):
            ready(Serving(url=f"http://{Endpoint(listen.host, listening.getsockname()[1])}/", tokens=tokens))
            await server_of(controller).serve(sockets=[listening])


def server_of(controller: Controller) -> uvicorn.Server:
    """What serves its API and its dashboard, without TLS."""
    config = uvicorn.Config(
        app(controller, [extension(secure=False)]),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def _in_memory() -> Path | None:
    """Where nothing has to reach a disk: what is simulated is gone with its process anyway."""
    memory = Path("/dev/shm")  # noqa: S108 - only a directory of its own is made there
    return memory if os.access(memory, os.W_OK) else None


def bound(listen: Endpoint) -> socket.socket:
    """A socket that listens there. Raises UsageError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen()  # whoever is told the address may connect at once
    except OSError as error:
        raise UsageError(
            f"cannot listen on {listen}: {error.strerror}", remedy="name another port with --listen"
        ) from error
    return made
