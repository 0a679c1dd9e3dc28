"""Following the agents: one link to each host, its reports taken in as they come."""

import asyncio
import time
from collections.abc import Iterable

import sqlalchemy as sa
import structlog

from limosa.errors import LimosaError
from limosa.fleet.agents import Known as KnownHosts
from limosa.fleet.agents import Links
from limosa.fleet.history import History
from limosa.fleet.registry import Registry
from limosa.units import HostName
from limosa.wire.history import Mark
from limosa.wire.reports import Known, Report, ReportAsk

WAIT = 10.0
"""Seconds that an agent may keep a question, if it has nothing new."""
ANSWER_SECONDS = 20.0
AGAIN = 2.0
"""Seconds until a host that could not be asked is asked again."""
NOTE_SIGNS = 5.0
"""Seconds between two writes of who gave a sign of life."""

_log = structlog.get_logger()


class Intake:
    """Takes reports into the registry: those that come while some are being written are written together."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: dict[str, tuple[Report, asyncio.Future[None]]] = {}
        self._writing: asyncio.Task[None] | None = None

    async def take(self, host: str, report: Report) -> None:
        """Have a host's report kept; its next one comes when this one is.

        Raises:
            SQLAlchemyError: the database refuses.
        """
        kept = asyncio.get_running_loop().create_future()
        self._waiting[host] = report, kept
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="intake")
        await kept

    async def _write(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, {}
            try:
                await self._registry.take_all([(host, report) for host, (report, _) in taken.items()], time.time())
            except sa.exc.SQLAlchemyError as error:
                _tell(taken.values(), error)
            else:
                _tell(taken.values(), None)


def _tell(taken: Iterable[tuple[Report, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, kept in taken:
        if kept.done():  # nobody waits any more: this controller does not lead now
            continue
        if error is None:
            kept.set_result(None)
        else:
            kept.set_exception(error)


class Follower:
    """Follows every host that is known, also those that are added later. Only the leading controller does."""

    def __init__(self, hosts: KnownHosts, peers: Links, registry: Registry, history: History) -> None:
        self._hosts = hosts
        self._peers = peers
        self._registry = registry
        self._intake = Intake(registry)
        self._history = history
        self._signs: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self.heard: dict[str, float] = {}
        """Hosts whose agents answer, and when each did last, seconds since 1970."""

    async def follow(self) -> None:
        """Do it until cancelled."""
        followed: dict[HostName, asyncio.Task[None]] = {}
        try:
            while True:
                known = self._hosts.known()
                await self._registry.list_hosts(known.keys() - followed.keys())
                for name in known.keys() - followed.keys():
                    followed[name] = asyncio.create_task(self._follow(name), name=f"follow {name}")
                for name in followed.keys() - known.keys():
                    followed.pop(name).cancel()
                    self.heard.pop(name, None)
                await asyncio.sleep(NOTE_SIGNS)
                signs, self._signs = self._signs, {}
                troubles, self._troubles = self._troubles, {}
                await self._registry.seen(signs)
                await self._registry.silent(troubles)
        finally:
            for task in followed.values():
                task.cancel()
            await asyncio.gather(*followed.values(), return_exceptions=True)
            self.heard.clear()

    async def _follow(self, host: HostName) -> None:
        known: Known | None = None
        kept: Mark | None = None
        logged = ""
        while True:
            try:
                known, kept = await self._ask(host, known, kept)
                logged = ""
            except LimosaError as error:
                if error.what != logged:  # once, not each time that it is asked again
                    _log.info("a host is silent", host=host, why=error.what)
                    logged = error.what
                self.heard.pop(host, None)
                self._troubles[host] = error.what
                await asyncio.sleep(AGAIN)
            except sa.exc.SQLAlchemyError as error:  # what was not kept is asked for again
                _log.error("a report cannot be kept", host=host, why=str(error))
                await asyncio.sleep(AGAIN)

    async def _ask(self, host: HostName, known: Known | None, kept: Mark | None) -> tuple[Known, Mark | None]:
        """The next report is taken in, and the finished moves that it announces."""
        link = await self._peers.link(host)
        ask = ReportAsk(known=known, kept=kept, wait=WAIT)
        report = await link.call("fleet.report", ask, Report, timeout=ANSWER_SECONDS)
        self._signs[host] = self.heard[host] = time.time()
        self._troubles.pop(host, None)
        if report.kept is not None and report.kept != kept:
            await self._history.catch_up(host)
        if report.number and (report.since == 0 or report.machine or report.guests or report.gone):
            await self._intake.take(host, report)
        return Known(report.incarnation, report.number), report.kept
