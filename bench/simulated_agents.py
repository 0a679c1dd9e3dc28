"""Agents of a generated fleet, in one process: real peer ports with real certificates, and reports that change.

Each agent has an address of its own in 127.0.0.0/8 and answers `fleet.report` as a real one does, out of the same
ledger; what is simulated is the host behind it. Every `every` seconds, each agent at a moment of its own, the loads of
all its guests change, and now and then a guest ends and another one starts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from limosa.agent import pki
from limosa.agent.config import Endpoint, load
from limosa.agent.hosts import HostEntry
from limosa.agent.ledger import Ledger
from limosa.agent.peer import serve
from limosa.fleet.inventory import Guest, Host, Inventory
from limosa.units import HostName
from limosa.wire.guests import GuestShown
from limosa.wire.reports import GuestReport, MachineReport, Report, ReportAsk
from limosa.wire.rpc import Handlers

PORT = 17447
CHURN = 0.02
"""Chance, at each report, that one of a host's guests ends and another one starts."""
PROBED = 7
"""Every so many agents tell the benchmark when they report."""


class Probe(NamedTuple):
    """An agent has something new to report: the guest that shows it, its load, and when; seconds since 1970."""

    guest: str
    load: float
    at: float


def address_of(place: int) -> str:
    return f"127.{20 + place // 62_500}.{place // 250 % 250}.{1 + place % 250}"


def entry_of(place: int) -> HostEntry:
    return HostEntry(address=f"{address_of(place)}:{PORT}")


class SimulatedAgent:
    """One agent: its guests, and what controllers know of them."""

    def __init__(self, host: Host, guests: Sequence[Guest], dice: random.Random) -> None:
        self._machine = _machine(host)
        self._guests: dict[str, GuestReport] = {guest.uuid: _report(guest) for guest in guests}
        self._ledger = Ledger(f"{dice.getrandbits(64):x}")
        self._news = asyncio.Condition()
        self._dice = dice
        self._ledger.note(self._machine, self._guests)

    def handlers(self) -> Handlers:
        """What controllers may call."""
        return {"fleet.report": (ReportAsk, self._report)}

    async def _report(self, ask: ReportAsk, _caller: HostName) -> Report:
        async with self._news:
            try:
                async with asyncio.timeout(ask.wait):
                    await self._news.wait_for(lambda: self._ledger.since(ask.known).since != self._ledger.number)
            except TimeoutError:
                return self._ledger.since(ask.known)
        return self._ledger.since(ask.known)

    async def change(self) -> Probe | None:
        """Time has passed: other loads, and sometimes other guests."""
        for key, guest in self._guests.items():
            load = round(self._dice.betavariate(2, 4) * (guest.shown.vcpus or 1), 6)
            self._guests[key] = msgspec.structs.replace(guest, load=load)
        if self._guests and self._dice.random() < CHURN:
            old = self._guests.pop(self._dice.choice(list(self._guests)))
            new = _renamed(old, str(uuid.UUID(int=self._dice.getrandbits(128), version=4)))
            self._guests[new.key] = new
        if self._ledger.note(self._machine, self._guests):
            async with self._news:
                self._news.notify_all()
        shown = next(iter(self._guests.values()), None)
        return Probe(shown.shown.name, shown.load or 0.0, time.time()) if shown else None


def _machine(host: Host) -> MachineReport:
    return MachineReport(
        host=host.name,
        version="0",
        cores=host.cores,
        memory=host.memory,
        memory_free=host.memory,
        disk=host.disk,
        disk_free=host.disk_free,
        link=host.link or 0.0,
        networks=host.networks,
        qemu_versions=("10.0.2",),
        cpu=host.cpu and msgspec.structs.replace(host.cpu, host=host.name),
    )


def _report(guest: Guest) -> GuestReport:
    shown = GuestShown(
        name=guest.name,
        uuid=guest.uuid,
        pid=1,
        host=guest.host,
        state="running",
        memory=guest.memory,
        vcpus=guest.vcpus,
        owner="limosa",
        monitor=None,
        movable="yes",
    )
    return GuestReport(
        key=guest.uuid,
        shown=shown,
        epoch=guest.epoch,
        here=True,
        cpu=guest.cpu and msgspec.structs.replace(guest.cpu, guest=guest.name),
        disk=guest.disk,
        networks=guest.networks,
        load=guest.load,
        blocked=guest.blocked,
    )


def _renamed(old: GuestReport, key: str) -> GuestReport:
    name = f"{old.shown.host}-{key[:8]}"
    return msgspec.structs.replace(old, key=key, shown=msgspec.structs.replace(old.shown, name=name, uuid=key))


def run(fleet: Inventory, directory: Path, every: float, told: Connection) -> None:
    """A process of agents, until it is ended; tells `None` when all ports are open, and then probes.

    Args:
        fleet: their hosts and guests.
        directory: holds `ca`, and gets the agents' certificates.
        every: seconds between two reports of one agent.
        told: the benchmark's end of the pipe is the other one.
    """
    logging.disable()  # links that end while they begin, on a machine that is too busy, are the other end's to tell
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(_run(fleet, directory, every, told))


async def _run(fleet: Inventory, directory: Path, every: float, told: Connection) -> None:
    base = load(directory / "agents", overrides={"host": "agent"})
    agents, servers = [], []
    for place, host in enumerate(fleet.hosts):
        home = directory / "agents" / host.name
        pki.issue_host(directory / "ca", host.name, [address_of(place)], home)
        config = replace(base, host=host.name, listen=Endpoint(address_of(place), PORT), pki_dir=home)
        agent = SimulatedAgent(host, fleet.on(host.name), random.Random(place))
        servers.append(await serve(config, {}, for_controllers=agent.handlers()))
        agents.append(agent)
    told.send(None)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for place, agent in enumerate(agents):
            first = loop.time() + every * place / len(agents)
            group.create_task(_live(agent, first, every, told if place % PROBED == 0 else None))


async def _live(agent: SimulatedAgent, first: float, every: float, told: Connection | None) -> None:
    loop, due = asyncio.get_running_loop(), first
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        probe = await agent.change()
        if told is not None and probe is not None:
            told.send(probe)
        due += every
