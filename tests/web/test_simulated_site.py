"""A whole controller on a fleet in memory: a drain from its plan to its end, by forms alone."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from limosa.agent.config import Endpoint
from limosa.api.app import app
from limosa.errors import UsageError
from limosa.fleet.generate import Shape, generate
from limosa.fleet.inventory import Inventory
from limosa.fleet.simulated.agents import SimulatedAgents
from limosa.fleet.simulated.processors import processors
from limosa.testing.browser import signed_in
from limosa.web.controller.dashboard import extension
from limosa.web.controller.simulated import serve, simulated


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what comes from agents and operations, two minutes at most."""
    for _ in range(1200):
        if await true():
            return
        await asyncio.sleep(0.1)
    raise TimeoutError


async def test_a_drain_from_its_plan_to_its_end(tmp_path: Path) -> None:
    fleet = generate(processors(), Shape(hosts=6, guests_per_host=3, kinds=1, grouped=0.0, pinned=0.0, blocked=0.0))
    agents = SimulatedAgents(fleet, hurry=5000.0)
    name = fleet.hosts[0].name
    async with simulated(fleet, agents, tmp_path) as (controller, tokens):
        assert len(tokens) == 3
        web = await signed_in(app(controller, [extension()]), controller)

        async def reported() -> bool:
            return sum(host.guests for host in await controller.hosts()) == len(fleet.guests)

        await until(reported)
        plan = await web.operator.get(f"/plan?kind=drain&hosts={name}")
        mark = re.search(r'name="plan" value="(\w+)"', plan.text)
        assert mark
        begun = await web.operator.send("/operations", kind="drain", hosts=name, plan=mark[1])
        operation = begun.headers["location"]

        async def over() -> bool:
            return (await controller.store.get(operation.rpartition("/")[2])).phase.over

        await until(over)
        shown = (await web.viewer.get(operation)).text
        assert "3 of 3 done" in shown
        moves = re.findall(r'href="(/moves/m\w+)"', shown)
        assert len(moves) == 3
        assert "completed" in (await web.viewer.get(moves[0])).text
        assert "drained" in (await web.viewer.get(f"/hosts/{name}")).text

        async def told() -> bool:
            return moves[0] in (await web.viewer.get("/history")).text

        await until(told)


async def test_without_tls_it_listens_on_loopback_only() -> None:
    empty = Inventory(hosts=(), guests=())
    with pytest.raises(UsageError, match="not loopback"):
        await serve(empty, SimulatedAgents(empty), Endpoint("0.0.0.0", 0), lambda _: None)
