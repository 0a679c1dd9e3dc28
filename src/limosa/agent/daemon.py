"""The agent itself: puts its parts together, runs until it is told to stop, and leaves guests alone."""

import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog

from limosa.agent import look, this_host
from limosa.agent.api import Api
from limosa.agent.config import Config
from limosa.agent.cpu import CpuAsk, cpu_of
from limosa.agent.dial import Peers
from limosa.agent.doctor import Doctor
from limosa.agent.front import Answer, Front
from limosa.agent.history import History
from limosa.agent.hooks.courier import Courier
from limosa.agent.hooks.journal import JournalEvents, ProgressFile
from limosa.agent.hosts import Hosts
from limosa.agent.join import Door
from limosa.agent.keeper import Keeper
from limosa.agent.metrics import AgentState, Metrics
from limosa.agent.metrics_port import MetricsPort
from limosa.agent.notify import feed_watchdog, notify
from limosa.agent.orders import Orders
from limosa.agent.peer import PeerServer, serve
from limosa.agent.reports import Reporter
from limosa.agent.service import Service
from limosa.cpu.facts import HostCpu
from limosa.errors import LimosaError, NotFound, UsageError
from limosa.guest.discover import find_guests
from limosa.guest.profile import Profile
from limosa.migration.archive import DAY, Retention
from limosa.migration.diary import keep
from limosa.migration.moves import Moves
from limosa.units import HostName
from limosa.wire.doctor import Diagnosis
from limosa.wire.guests import GuestShown, Hello, HostShown
from limosa.wire.history import MoveLog, RecordAsk
from limosa.wire.hooks import HookShown, HookTried
from limosa.wire.reports import GuestReport

_log = structlog.get_logger()


class Agent:
    """One running agent. `start` it, `stop` it.

    Args:
        config: its settings.
        pages: makes what answers browsers, when the first one asks; None for an agent without pages.
    """

    def __init__(self, config: Config, pages: "Pages | None" = None) -> None:
        self.config = config
        self.hosts = Hosts(config.hosts_file)
        self.metrics = Metrics()
        self.peers = Peers(config, self.hosts, self.metrics.calls.heard)
        facts = this_host.facts(config, self.hosts)
        self.moves = Moves(
            facts,
            link=self.peers.link,
            qemu_binaries=[str(path) for path in config.qemu],
            ports=config.migration_ports,
            retention=Retention(config.history.moves, config.history.days * DAY),
        )
        self.server: PeerServer | None = None
        self._service = Service(config, self.hosts, self.peers)
        outbox = self.moves.store.outbox
        self.courier = Courier(config.hooks, config.host, JournalEvents(outbox), ProgressFile(config.hooks_file))
        outbox.listen(self.courier.wake)
        self.doctor = Doctor(config, self.hosts, self.peers, self.moves, self.courier)
        self._reporter = Reporter(config, self.moves, facts.migration_address)
        self.moves.when_over(self.metrics.moves.count)
        self.metrics.read(
            AgentState(
                config, self.hosts, self.peers, self.moves, self._reporter, lambda: self.server, self.courier.shown
            )
        )
        self._metrics_port: MetricsPort | None = None
        self._orders = Orders(self.moves, config.state_dir)
        self._keeper = Keeper(config.run_dir, self.moves)
        self._history = History(self.moves)
        self._front = Front(config.web, partial(pages, self) if pages else None)
        self._api = Api(config, self.moves, self, (*self._history.routes(), *self._front.routes()))
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Open the peer port and the API.

        Raises:
            PeerError: the port cannot be had, or a certificate is no good.
            UsageError: the socket cannot be made, or `hosts.toml` is wrong.
        """
        await self.courier.open()
        await self.moves.restore()
        self._keeper.start()
        self.courier.start()
        await self._open_peer_port()
        await self._open_metrics_port()
        await self._open_front()
        await self._api.open()
        self._beside(this_host.qemu_versions(self.config.qemu))  # asked once now, so that nobody waits for it later
        _log.info(
            "agent runs",
            host=self.config.host,
            socket=str(self.config.socket),
            peer_port=self.server.port if self.server else None,
            guests=[guest.name for guest in find_guests()],
        )

    async def stop(self) -> None:
        """Roll back moves that have not committed, and let go of everything. No QEMU is stopped."""
        await self._api.stop_accepting()
        await self._front.close()
        await self._reporter.close()
        await self._keeper.close()
        await self.moves.close()
        if self._metrics_port:
            await self._metrics_port.close()
        await self.courier.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._service.close()
        if self.server:
            await self.server.close()
        await self.peers.close()
        await self._api.close()

    def reload(self) -> None:
        """Use the certificates that are there now; `hosts.toml` is read again by itself."""
        self._beside(self._reload())

    async def _reload(self) -> None:
        try:
            if self.server:
                self.server.reload()
            else:
                await self._open_peer_port()
            await self._open_metrics_port()
        except LimosaError as error:
            _log.error("cannot use the new certificates", why=error.what, remedy=error.remedy)
        else:
            _log.info("reloaded")

    async def _open_peer_port(self) -> None:
        handlers = {**self.moves.handlers(), **self._service.handlers(), **self.doctor.handlers()}
        handlers |= self._history.for_peers()
        for_controllers = {
            **self._reporter.handlers(),
            **self._orders.handlers(),
            **self.doctor.for_controllers(),
            **self._history.handlers(),
        }
        door = Door(self.config, self._service.tell_of)
        try:
            self.server = await serve(self.config, handlers, self.hosts, door.routes(), for_controllers=for_controllers)
        except NotFound as error:
            _log.warning("no peer can reach this host yet", why=error.what, remedy=error.remedy)

    async def _open_metrics_port(self) -> None:
        """Open it, or open it again with the certificates that are there now. Guests move without it too."""
        if self._metrics_port:
            await self._metrics_port.close()
        if self.config.metrics is None:
            return
        self._metrics_port = MetricsPort(self.config, self.config.metrics, self.metrics.text)
        try:
            await self._metrics_port.open()
        except LimosaError as error:
            _log.error("Prometheus cannot scrape this agent", why=error.what, remedy=error.remedy)

    async def _open_front(self) -> None:
        """Open the port for browsers. Guests move without it too."""
        try:
            await self._front.open()
        except LimosaError as error:
            _log.error("browsers cannot reach this agent on its port", why=error.what, remedy=error.remedy)

    def _beside(self, deed: Any) -> None:
        task = asyncio.ensure_future(deed)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- what the API tells -------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """Who this agent is."""
        return this_host.hello(self.config)

    async def guests(self) -> tuple[GuestShown, ...]:
        """The guests here."""
        return await look.show_guests(self.config.host, self.moves)

    async def reports(self) -> tuple[GuestReport, ...]:
        """The guests here, in all that controllers are told of them."""
        return await self._reporter.guests()

    async def log_at(self, host: HostName, move: str) -> MoveLog:
        """What another host logged of a move. Raises LimosaError."""
        return await (await self.peers.link(host)).call("move.log", RecordAsk(move=move), MoveLog)

    async def profile(self, guest: str) -> Profile:
        """One guest's profile."""
        return await look.read_profile(guest, self.moves)

    async def examine(self, *, fix: bool) -> Diagnosis:
        """What is wrong here and elsewhere; with `fix`, after what is proved unused here was removed."""
        return await (self.doctor.fix() if fix else self.doctor.examine())

    async def known_hosts(self) -> tuple[HostShown, ...]:
        """The hosts that are known."""
        return await this_host.show_hosts(self.config, self.hosts, self.peers)

    def hooks(self) -> tuple[HookShown, ...]:
        """How each hook fares."""
        return self.courier.shown()

    async def test_hooks(self, name: str) -> tuple[HookTried, ...]:
        """Try one hook, or all."""
        return await self.courier.test(name)

    async def cpu(self, host: HostName, ask: CpuAsk) -> HostCpu:
        """The processor of this host, or of another one."""
        return await cpu_of(self.config, self.peers, host, ask)


Pages = Callable[[Agent], Answer]
"""Makes what answers an agent's browsers."""


async def run(config: Config, pages: Pages | None = None) -> None:
    """Run an agent until SIGTERM or SIGINT; SIGHUP makes it use new certificates.

    Args:
        config: its settings.
        pages: as `Agent` takes it.

    Raises:
        UsageError: an agent runs already in this `run_dir`, or the settings make no sense.
        PeerError: the peer port cannot be had.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with only_one(config):
        agent = Agent(config, pages)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, agent.reload)
        watchdog = asyncio.create_task(feed_watchdog())
        try:
            await agent.start()
            notify(f"READY=1\nSTATUS=host {config.host}")
            await stop.wait()
            _log.info("agent stops")
            notify("STOPPING=1")
        finally:
            await agent.stop()
            watchdog.cancel()


@contextmanager
def only_one(config: Config) -> Iterator[None]:
    """Hold the lock of this `run_dir`.

    Raises:
        UsageError: another agent holds it, or a directory cannot be made.
    """
    try:
        config.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (config.run_dir / "agent.lock").open("a+")
    except OSError as error:
        raise UsageError(f"cannot use {error.filename}: {error.strerror}", remedy="run the agent as root") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            remedy = "stop it, or give this one its own LIMOSA_RUN_DIR and LIMOSA_STATE_DIR"
            raise UsageError(f"an agent (pid {pid}) runs in {config.run_dir} already", remedy=remedy) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def configure_logging(*, json: bool | None = None, debug: bool = False) -> None:
    """Log to standard error: for people on a terminal, else as one JSON object a line.

    Args:
        json: force one or the other.
        debug: say more.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    exceptions = [structlog.processors.format_exc_info] if as_json else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            keep,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *exceptions,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, stream=sys.stderr)
