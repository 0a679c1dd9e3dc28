"""One host's agent, a real one that was not started: its guests, its peers and what they answer are a script."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limosa.agent.api import Api
from limosa.agent.config import load
from limosa.agent.cpu import CpuAsk
from limosa.agent.daemon import Agent
from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.errors import LimosaError
from limosa.units import GIB, HostName
from limosa.web.agent.site import Site
from limosa.wire.doctor import Diagnosis, Facts, Trouble
from limosa.wire.guests import GuestShown, HostShown
from limosa.wire.history import MoveLog, MoveRecord
from limosa.wire.moves import MoveStatus
from limosa.wire.reports import GuestReport


def guest(name: str = "web1", *, key: str = "u1", flags: tuple[str, ...] = ("avx2",), **shown: Any) -> GuestReport:
    """A guest of host a; `shown` are other values of what `limosa ls` says of it."""
    values: dict[str, Any] = {
        "name": name,
        "uuid": key,
        "pid": 4711,
        "host": "a",
        "state": "running",
        "memory": 2 * GIB,
        "vcpus": 2,
        "owner": "libvirt",
        "monitor": f"/run/{name}.qmp",
        "movable": "yes",
    }
    cpu = GuestCpu(guest=name, model="qemu64", flags=flags, accel="tcg", machine="pc-q35-7.2", qemu=(7, 2, 0))
    return GuestReport(
        key=key,
        shown=GuestShown(**(values | shown)),
        epoch=3,
        here=True,
        cpu=cpu,
        disk=GIB,
        networks=("br0",),
        load=0.5,
        blocked=(),
    )


def peer(name: str, **more: Any) -> HostShown:
    """A host that is reached."""
    values: dict[str, Any] = {"name": name, "address": f"{name}.example:7447", "migration_address": name}
    return HostShown(**(values | {"reachable": True} | more))


@dataclass
class Script:
    """What the agent sees, and what it is told to do."""

    guests: tuple[GuestReport, ...] = (guest(),)
    hosts: tuple[HostShown, ...] = (peer("a"), peer("b", memory_free=8 * GIB, round_trip=0.0012))
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"b": ("avx2",), "c": ()})
    troubles: tuple[Trouble, ...] = ()
    facts: tuple[Facts, ...] = ()
    told: list[Any] = field(default_factory=list)
    peer_log: MoveLog | LimosaError = field(default_factory=lambda: MoveLog(lines=()))


class Here(Agent):
    """An agent on a host that is a script."""

    script: Script

    async def reports(self) -> tuple[GuestReport, ...]:
        """Its guests."""
        return self.script.guests

    async def known_hosts(self) -> tuple[HostShown, ...]:
        """Itself and its peers."""
        return self.script.hosts

    async def cpu(self, host: HostName, ask: CpuAsk) -> HostCpu:
        """What a peer would give a guest."""
        return HostCpu(host=host, source=Source.QEMU, flags=self.script.flags[host], accel=ask.accel)

    async def log_at(self, host: HostName, move: str) -> MoveLog:  # noqa: ARG002
        """What a peer logged. Raises what the script says."""
        if isinstance(self.script.peer_log, LimosaError):
            raise self.script.peer_log
        return self.script.peer_log

    async def examine(self, *, fix: bool) -> Diagnosis:
        """What is wrong."""
        assert not fix
        return Diagnosis(hosts=self.script.facts, troubles=self.script.troubles)

    def flies(self, flying: MoveRecord) -> None:
        """Have one move in flight, that obeys whatever it is told."""
        told, kept = self.script.told, self.moves.record

        async def steer(name: str, *more: Any) -> MoveStatus:
            told.append((name, *more))
            return flying.status

        seams: dict[str, Any] = {
            "record": lambda move: flying if move == flying.status.id else kept(move),
            "flying": lambda: (flying.status,),
            "all": lambda: (flying.status,),
            "abort": lambda move: steer("abort", move),
            "set_speed": lambda move, rate: steer("speed", move, rate),
        }
        vars(self.moves).update(seams)


@asynccontextmanager
async def opened(script: Script) -> AsyncIterator[tuple[Here, int]]:
    """An agent that answers on its socket, and on a port of loopback; yields it and the port."""
    with tempfile.TemporaryDirectory(prefix="lm-") as directory:  # pytest's own paths are too long for a socket
        dirs = {key: f"{directory}/{key}" for key in ("state_dir", "pki_dir")}
        given = {"host": "a", "qemu": [], "run_dir": directory, "web": "127.0.0.1:0", **dirs}
        agent = Here(load(Path(directory), overrides=given), lambda running: Site(running).answer)
        agent.script = script
        api, front = agent._api, agent._front  # noqa: SLF001  (what `start` opens, and no more)
        assert isinstance(api, Api)
        await front.open()
        await api.open()
        try:
            yield agent, front.port
        finally:
            await front.close()
            await api.close()
            await agent.peers.close()
            agent.moves.store.close()
