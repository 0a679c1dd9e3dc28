"""Fleets to look at, each served by a process of its own: one with all that can be seen at once, and an empty one."""

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import structlog

from limosa.agent.config import Endpoint
from limosa.errors import PeerError
from limosa.fleet.generate import Shape, generate
from limosa.fleet.inventory import HostState, Inventory
from limosa.fleet.simulated.agents import SimulatedAgents
from limosa.fleet.simulated.past import past_moves
from limosa.fleet.simulated.processors import processors
from limosa.units import GuestName, HostName
from limosa.web.controller.simulated import Serving, serve
from limosa.wire.reports import Report, ReportAsk

HOSTILE = "<b>bold</b><script>alert(1)</script> \u202eevil\u202c " + "very-long-" * 8 + "name"
"""Markup, a turn to the right, and more letters than any column has."""
HOSTILE_AT, DOUBLED_AT = 0, 1
"""Places of those guests among all."""
SEED = 7
SILENT = 3
"""Hosts whose agents told what they have, and then nothing more."""
PATIENCE = 120.0
"""Seconds that a process may take to serve."""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What to serve.

    Attributes:
        hosts: how many.
        days: of moves before it begins.
        trouble: share of moves that fail, 0 to 1.
        hurry: how much faster than on real links moves are.
        odd: whether it has a guest with two owners, one with a hostile name, and silent agents.
        drifting: hosts on which the load of a guest changes each second.
    """

    hosts: int
    days: int = 42
    trouble: float = 0.15
    hurry: float = 1.0
    odd: bool = False
    drifting: int = 8


class _FallingSilent(SimulatedAgents):
    """Agents of which some answer once."""

    quiet: frozenset[HostName] = frozenset()

    async def report(self, host: HostName, asked: ReportAsk) -> Report:
        if host in self.quiet and asked.known is not None:
            raise PeerError(f"{host} cannot be reached: no route to host")
        return await super().report(host, asked)


@contextmanager
def served(fleet: Fleet) -> Iterator[Serving]:
    """Serve a fleet until the block is left.

    Raises:
        RuntimeError: its process ended, or did not become ready.
    """
    serving: Serving
    with apart(_run, fleet) as serving:
        yield serving


@contextmanager
def apart(run: Callable[[Any, Connection], None], asked: object) -> Iterator[Any]:
    """What `run` says through its pipe when it serves, in a process that ends with the block. Raises RuntimeError."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=run, args=(asked, there), daemon=True)
    process.start()
    there.close()
    try:
        yield _told(here)
    finally:
        process.terminate()
        process.join()


def _told(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        raise RuntimeError("nothing is served yet")
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError("the process that serves has ended") from error


def _run(fleet: Fleet, pipe: Connection) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    inventory = inventory_of(fleet)
    agents = _FallingSilent(
        _doubled(inventory) if fleet.odd else inventory,
        hurry=fleet.hurry,
        trouble=fleet.trouble,
        past=past_moves(inventory, time.time(), days=fleet.days, trouble=fleet.trouble / 3, seed=SEED),
        drift=fleet.drifting,
        seed=SEED,
    )
    if fleet.odd:
        agents.quiet = frozenset(host.name for host in inventory.hosts[-SILENT:])
    asyncio.run(serve(inventory, agents, Endpoint("127.0.0.1", 0), pipe.send))


def inventory_of(fleet: Fleet) -> Inventory:
    """Its hosts and guests before anything happens."""
    made = generate(processors(), Shape(hosts=fleet.hosts, seed=SEED, fill=0.75, unevenness=0.4, overcommit=2.0))
    return _odd(made) if fleet.odd else made


def _odd(inventory: Inventory) -> Inventory:
    """One host in maintenance, and a guest whose name no page must believe."""
    hosts, guests = list(inventory.hosts), list(inventory.guests)
    hosts[-SILENT - 1] = msgspec.structs.replace(hosts[-SILENT - 1], state=HostState.MAINTENANCE)
    guests[HOSTILE_AT] = msgspec.structs.replace(guests[HOSTILE_AT], name=GuestName(HOSTILE))
    return Inventory(hosts=tuple(hosts), guests=tuple(guests), limits=inventory.limits)


def _doubled(inventory: Inventory) -> Inventory:
    """The same, and two hosts say that they own one guest."""
    first = inventory.guests[DOUBLED_AT]
    other = next(host.name for host in inventory.hosts if host.name != first.host)
    again = msgspec.structs.replace(first, host=other)
    return Inventory(hosts=inventory.hosts, guests=(*inventory.guests, again), limits=inventory.limits)
