"""The controller's process: the controller, and its API over TLS, until it is told to stop."""

import asyncio
import fcntl
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn

from limosa.agent.pki import HOST_CERT, HOST_KEY
from limosa.api.app import app
from limosa.api.metrics import Measured
from limosa.errors import UsageError
from limosa.fleet.config import ControllerConfig
from limosa.fleet.controller import Controller

GRACE = 2
"""Seconds that requests in flight, and streams, may take when the controller stops."""
SLOW_HEADERS = 10
"""Seconds that an idle connection is kept."""

_log = structlog.get_logger()


async def serve(config: ControllerConfig) -> None:
    """Run a controller until SIGTERM or SIGINT; operations in hand go on after the next start.

    Raises:
        UsageError: one of this state directory runs already, or the port cannot be had.
        StateDiskError: the database cannot be used.
    """
    with only_one(config):
        async with Controller.running(config) as controller:
            server = uvicorn.Server(_settings(config, controller))
            _log.info("controller runs", controller=config.host, listen=str(config.listen))
            await server.serve()
            if not server.started:
                raise UsageError(f"cannot listen on {config.listen}", remedy="set listen in controller.toml")


def _settings(config: ControllerConfig, controller: Controller) -> uvicorn.Config:
    return uvicorn.Config(
        Measured(app(controller), controller.meters),
        host=config.listen.host,
        port=config.listen.port,
        ssl_certfile=str(config.pki_dir / HOST_CERT),
        ssl_keyfile=str(config.pki_dir / HOST_KEY),
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=SLOW_HEADERS,
    )


@contextmanager
def only_one(config: ControllerConfig) -> Iterator[None]:
    """Hold the lock of this state directory.

    Raises:
        UsageError: another controller holds it, or the directory cannot be made.
    """
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (config.state_dir / "controller.lock").open("a+")
    except OSError as error:
        raise UsageError(f"cannot use {error.filename}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"a controller runs in {config.state_dir} already",
                remedy="stop it, or give this one its own state_dir in controller.toml",
            ) from error
        yield


def run(config: ControllerConfig) -> None:
    """`serve`, in a loop of its own."""
    asyncio.run(serve(config))
