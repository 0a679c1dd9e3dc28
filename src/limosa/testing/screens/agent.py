"""One host's pages as its agent serves them on a port of loopback, in a process of its own: full, and empty."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from uuid import NAMESPACE_DNS, uuid5

import aiohttp
import msgspec

from limosa.errors import PeerError
from limosa.testing.agent import Here, Script, guest, opened, peer
from limosa.testing.moves import record
from limosa.testing.screens.fleets import HOSTILE, apart
from limosa.units import GIB, MIB, Side
from limosa.wire.doctor import Facts, Trouble, Weight
from limosa.wire.guests import WebLink
from limosa.wire.history import LogLine, MoveLog, MoveRecord
from limosa.wire.moves import MoveState, Progress, Stage, StepShown

PAGES = {
    "agent-move-flying": "/moves/m-flying",
    "agent-guests": "/guests",
    "agent-guest": "/guests/web1",
    "agent-guest-blocked": "/guests/batch7",
    "agent-moves": "/moves",
    "agent-move-completed": "/moves/m-past",
    "agent-move-failed": "/moves/m-failed",
    "agent-history": "/history",
    "agent-hosts": "/hosts",
    "agent-host": "/hosts/b",
    "agent-doctor": "/doctor",
    "agent-search": "/search?q=w",
    "agent-not-found": "/guests/no-such-guest",
}
EMPTY_PAGES = {
    "agent-guests": "/guests",
    "agent-moves": "/moves",
    "agent-history": "/history",
    "agent-hosts": "/hosts",
    "agent-doctor": "/doctor",
    "agent-search": "/search",
}
WEEKS = 5
"""Of finished moves."""


def full() -> Script:
    """Guests of all kinds, hosts that are reached and one that is not, and something wrong."""
    odd = msgspec.structs.replace(
        guest("batch7", key="u3", movable="device vfio-pci is not migratable", owner="by hand")
    )
    hostile = guest(HOSTILE, key="u4", memory=512 * MIB, vcpus=1)
    return Script(
        guests=(
            guest("web1", key=str(uuid5(NAMESPACE_DNS, "web1")), memory=8 * GIB, vcpus=4),
            guest("db1", key="u2", memory=64 * GIB, vcpus=16, owner="limosa", state="moving", run_state="running"),
            msgspec.structs.replace(odd, blocked=("device vfio-pci is not migratable",)),
            hostile,
        ),
        hosts=(
            peer("a", version="0.1.0", cpus=32, memory_free=70 * GIB, qemu_versions=("10.0.2",)),
            peer("b", version="0.1.0", cpus=32, memory_free=96 * GIB, qemu_versions=("10.0.2",), round_trip=0.0004),
            peer("c", version="0.1.0", cpus=64, memory_free=4 * GIB, qemu_versions=("7.2.17",), round_trip=0.0012),
            peer("d", reachable=False, why_not="no route to host"),
        ),
        facts=(Facts(host="a"),),
        troubles=(
            Trouble(
                weight=Weight.WARNING,
                host="d",
                what="it does not answer: no route to host",
                guest_runs="",
                remedy="see whether it is up, and whether its port 7447 is reached from here",
            ),
        ),
        peer_log=PeerError("d cannot be reached: no route to host"),
    )


def empty() -> Script:
    """An agent that nobody has given anything to do."""
    return Script(
        guests=(), hosts=(peer("a", version="0.1.0", cpus=32, memory_free=120 * GIB),), facts=(Facts(host="a"),)
    )


@contextmanager
def agent_served(*, empty_handed: bool) -> Iterator[str]:
    """Serve an agent's pages until the block is left; what is yielded lets one browser in, once."""
    link: str
    with apart(_run, empty_handed) as link:
        yield link


def _run(empty_handed: bool, pipe: Connection) -> None:
    asyncio.run(_serve(empty() if empty_handed else full(), pipe))


async def _serve(script: Script, pipe: Connection) -> None:
    async with opened(script) as (agent, _):
        if script.guests:
            _past(agent, time.time())
        connector = aiohttp.UnixConnector(str(agent.config.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post("http://limosa-agent/v1/web-link") as answer,
        ):
            pipe.send(msgspec.json.decode(await answer.read(), type=WebLink).url)
        await asyncio.Event().wait()


def _past(agent: Here, now: float) -> None:
    """Moves that are over, of some weeks, and one in flight."""
    keep = agent.moves.archive.keep
    for week in range(WEEKS, 0, -1):
        for number in range(7 - week):
            began = now - week * 7 * 86400 + number * 3600
            keep(record(f"m{week}{number:06}", guest="web2", began=began, blackout_ms=50.0 + 9 * number), _log(began))
    keep(record("m-failed", began=now - 7200, state=MoveState.FAILED), _log(now - 7200, "move failed"))
    keep(record("m-past", began=now - 3600), _log(now - 3600))
    agent.flies(_flying(now))


def _log(began: float, end: str = "move completed") -> MoveLog:
    told = ((0.0, "move begins"), (0.2, "stage reserve"), (0.9, "stage copy"), (8.5, end))
    return MoveLog(lines=tuple(LogLine(at=began + at, host="a", level="info", event=what) for at, what in told))


def _flying(now: float) -> MoveRecord:
    made = record("m-flying", guest="db1", began=now - 5, state=MoveState.RUNNING)
    ram = Progress(item="ram", done=20 * GIB, total=64 * GIB, rate=1.1e9, dirty_rate=6e7, passes=1, state="copying")
    copy = StepShown(
        stage=Stage.COPY,
        name="precopy",
        summary="copies RAM while the guest runs",
        side=Side.SOURCE,
        started=0.9,
        outcome="running",
    )
    steps = (*made.status.steps, copy)
    status = msgspec.structs.replace(made.status, error=None, progress=(ram,), stage=Stage.COPY, steps=steps)
    return msgspec.structs.replace(made, status=status, ended=None)
