"""What pages ask of their agent, and through it of other hosts: once for everybody who looks, and not too often."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from limosa.agent.cpu import CpuAsk
from limosa.agent.daemon import Agent
from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.errors import LimosaError
from limosa.units import HostName
from limosa.wire.doctor import FleetDiagnosis
from limosa.wire.guests import HostShown
from limosa.wire.history import Mark, MoveLog, MoveRecord, PastMove
from limosa.wire.reports import GuestReport

T = TypeVar("T")

GUESTS_EVERY = 2.0
"""Seconds between two looks at this host's guests: each borrows their monitors."""
HOSTS_EVERY = 15.0
DOCTOR_EVERY = 20.0
CPU_EVERY = 600.0
"""Seconds for which a host's processor stays known."""
LOG_EVERY = 2.0
"""Seconds between two questions for the other host's log of a move in flight."""
LOGS = 32
"""Moves whose other host's log stays known."""
PEER_LIMIT = 5.0
"""Seconds that a page waits for another host."""

_log = structlog.get_logger()


class Kept(Generic[T]):
    """An answer that stays good for some seconds; who asks meanwhile waits for the same one."""

    def __init__(self, seconds: float, ask: Callable[[], Awaitable[T]]) -> None:
        self._seconds = seconds
        self._ask = ask
        self._lock = asyncio.Lock()
        self._known: tuple[float, T] | None = None

    async def get(self) -> T:
        """The answer, asked again where it is too old. Raises what asking raises."""
        async with self._lock:
            now = time.monotonic()
            if self._known is None or now - self._known[0] >= self._seconds:
                self._known = (now, await self._ask())
            return self._known[1]

    def forget(self) -> None:
        """Ask again next time."""
        self._known = None


class Asked:
    """One agent, as its pages ask it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.guests: Kept[tuple[GuestReport, ...]] = Kept(GUESTS_EVERY, agent.reports)
        self.hosts: Kept[tuple[HostShown, ...]] = Kept(HOSTS_EVERY, agent.known_hosts)
        self.diagnosis: Kept[FleetDiagnosis] = Kept(DOCTOR_EVERY, self._examine)
        self._cpus: dict[tuple[str, CpuAsk], Kept[HostCpu]] = {}
        self._logs: dict[str, Kept[MoveLog | str]] = {}
        self._past: tuple[Mark, tuple[PastMove, ...]] | None = None

    @property
    def host(self) -> str:
        """This host."""
        return self.agent.config.host

    async def _examine(self) -> FleetDiagnosis:
        at, known = time.time(), len({*self.agent.hosts.known(), self.agent.config.host})
        found = await self.agent.examine(fix=False)
        return FleetDiagnosis(at=at, hosts=known, asked=len(found.hosts), troubles=found.troubles)

    # -- processors ---------------------------------------------------------------------------------------------

    async def cpus(self, guest: GuestCpu, hosts: Sequence[str]) -> dict[str, HostCpu | str]:
        """What each host would give a guest like this; why it does not tell, where it does not."""
        wanted = CpuAsk(machine=guest.machine, version=guest.qemu, accel=guest.accel)
        told = await asyncio.gather(*(self._cpu(host, wanted) for host in hosts))
        return dict(zip(hosts, told, strict=True))

    async def _cpu(self, host: str, wanted: CpuAsk) -> HostCpu | str:
        kept = self._cpus.setdefault((host, wanted), Kept(CPU_EVERY, lambda: self.agent.cpu(HostName(host), wanted)))
        return await _in_time(kept.get())

    # -- moves --------------------------------------------------------------------------------------------------

    def past(self) -> tuple[PastMove, ...]:
        """Finished moves out of this host, latest first; read again when one has come to them."""
        archive = self.agent.moves.archive
        mark = archive.mark()
        if self._past is None or self._past[0] != mark:
            self._past = (mark, archive.past())
        return self._past[1]

    async def log(self, record: MoveRecord) -> MoveLog:
        """What both hosts logged of a move, by time."""
        told = record.status
        other = told.destination if told.source == self.host else told.source
        logs = {self.host: self._own_log(told.id), other: await self._log_at(other, told.id, over=told.state.over)}
        known = [log for log in logs.values() if isinstance(log, MoveLog)]
        return MoveLog(
            lines=tuple(sorted((line for log in known for line in log.lines), key=lambda line: line.at)),
            dropped=sum(log.dropped for log in known),
            silent={host: log for host, log in logs.items() if isinstance(log, str)},
        )

    def _own_log(self, move: str) -> MoveLog | str:
        try:
            return self.agent.moves.log(move)
        except LimosaError as error:
            return error.what

    async def _log_at(self, host: str, move: str, *, over: bool) -> MoveLog | str:
        # What is known of a move that was in flight is not all that is to be known of it when it is over.
        name = f"{move} {over}"
        if name not in self._logs and len(self._logs) >= LOGS:
            del self._logs[next(iter(self._logs))]
        seconds = CPU_EVERY if over else LOG_EVERY
        kept = self._logs.setdefault(name, Kept(seconds, lambda: self._ask_log(host, move)))
        told = await kept.get()
        if over and isinstance(told, str):
            kept.forget()  # it may answer the next time
        return told

    async def _ask_log(self, host: str, move: str) -> MoveLog | str:
        return await _in_time(self.agent.log_at(HostName(host), move))


async def _in_time(asked: Awaitable[T]) -> T | str:
    """Another host's answer; why there is none, where there is none."""
    try:
        async with asyncio.timeout(PEER_LIMIT):
            return await asked
    except LimosaError as error:
        return error.what
    except TimeoutError:
        return f"no answer within {PEER_LIMIT:g} s"
