"""The controller's process: the controller, and its API over TLS, until it is told to stop."""

import asyncio
import fcntl
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog
import uvicorn

from limosa.agent.config import Endpoint
from limosa.agent.pki import HOST_CERT, HOST_KEY
from limosa.api.app import Extension, app
from limosa.api.metrics import Measured
from limosa.api.patience import CONNECTIONS, Patient
from limosa.errors import UsageError
from limosa.fleet.config import ControllerConfig
from limosa.fleet.controller import Controller

GRACE = 2
"""Seconds that requests in flight, and streams, may take when the controller stops."""
KEEP_ALIVE = 10
"""Seconds for which an idle connection is kept after a request."""
FILES = 4 * CONNECTIONS
"""Open files that the process may have: its connections, those that still shake hands, and everything else."""

_log = structlog.get_logger()


async def serve(config: ControllerConfig, extensions: Sequence[Extension] = ()) -> None:
    """Run a controller until SIGTERM or SIGINT; operations in hand go on after the next start.

    Raises:
        UsageError: one of this state directory runs already, or the port cannot be had.
        StateDiskError: the database cannot be used.
    """
    _allow_files()
    with only_one(config), listening(config.listen) as door:
        async with Controller.running(config) as controller:
            server = _Server(settings(config, controller, extensions))
            loop = asyncio.get_running_loop()
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(each, server.stop)
            _log.info("controller runs", controller=config.host, listen=str(config.listen))
            await server.serve(sockets=[door])


class _Server(uvicorn.Server):
    """uvicorn without its handling of signals: it ends the process by the signal once it has served.

    Then the controller would keep its leases, and another one would wait for their end.
    """

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the event loop."""
        yield

    def stop(self) -> None:
        """Stop serving: requests in flight, and streams, have `GRACE` seconds."""
        self.should_exit = True


@contextmanager
def listening(endpoint: Endpoint) -> Iterator[socket.socket]:
    """A socket that listens there; uvicorn, where it cannot, leaves the process without a word of ours.

    Raises:
        UsageError: the address is not this host's, or the port is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        door = socket.create_server(address[:2], family=family)
    except OSError as error:
        what = f"cannot listen on {endpoint}: {error.strerror}"
        raise UsageError(what, remedy="set listen in controller.toml, or stop what uses that port") from error
    with door:
        yield door


def settings(config: ControllerConfig, controller: Controller, extensions: Sequence[Extension] = ()) -> uvicorn.Config:
    """How a controller's API is served: TLS, patience, and nothing else that listens."""
    return uvicorn.Config(
        Measured(app(controller, extensions), controller.meters),
        ssl_certfile=str(config.pki_dir / HOST_CERT),
        ssl_keyfile=str(config.pki_dir / HOST_KEY),
        ssl_context_factory=_tls,
        http=Patient,
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=KEEP_ALIVE,
    )


def _tls(_config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _allow_files() -> None:
    """Have room for more connections than are let in, whatever soft limit the process began with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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


def run(config: ControllerConfig, extensions: Sequence[Extension] = ()) -> None:
    """`serve`, in a loop of its own."""
    asyncio.run(serve(config, extensions))
