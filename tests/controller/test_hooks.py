"""A controller tells hooks what happens to the fleet, and the next controller that leads goes on where it was."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from limosa.agent import pki
from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.courier import Courier
from limosa.errors import NotFound, UsageError
from limosa.fleet.chronicle import tell
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import events
from limosa.fleet.exposition import Exposition
from limosa.fleet.hooks import GRACE, TELLER, FleetEvents, FleetHooks, HookTable, posted_of
from limosa.fleet.inventory import HostState
from limosa.fleet.registry import Registry
from limosa.testing.fleet import report
from limosa.wire.hooks import HookEvent


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another task, and is told to nobody."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  (see above)
            await asyncio.sleep(0.01)


async def happen(database: Database, kind: str, subject: str, **body: str | int) -> None:
    """Something, long enough ago that every controller's transactions have ended."""
    async with database.write() as connection:
        await tell(connection, kind, subject, body)
        latest = sa.select(sa.func.max(events.c.number)).scalar_subquery()
        early = sa.update(events).where(events.c.number == latest).values(at=time.time() - 2 * GRACE)
        await connection.execute(early)


@pytest.fixture
async def courier(database: Database, tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    """Starts the courier of one controller after another; what the one before had in hand is broken off."""
    running: list[Courier] = []

    async def begin() -> Courier:
        for each in running:
            await each.close()
        hook = HookConfig(name="log", file=str(tmp_path / "log" / "events"))
        made = Courier((hook,), TELLER, FleetEvents(database), HookTable(database))
        running[:] = [made]
        await made.open()
        made.start()
        return made

    yield begin
    for each in running:
        await each.close()


def heard(place: Path) -> list[HookEvent]:
    lines = (place / "events").read_bytes().splitlines()
    return [msgspec.json.decode(line, type=HookEvent) for line in lines]


async def test_the_next_controller_that_leads_tells_what_the_last_one_could_not(
    database: Database, courier: Callable[[], Any], tmp_path: Path
) -> None:
    await happen(database, "operation", "drain-0", phase="done", over=1, of=1)
    first = await courier()
    await happen(database, "operation", "drain-1", phase="running", over=1, of=2)
    await happen(database, "operation", "drain-1", phase="partly done", over=2, of=2)
    first.wake()
    await until(lambda: first.shown()[0].delivered == 1)
    (tmp_path / "log").rename(tmp_path / "before")
    (tmp_path / "log").touch()
    await happen(database, "audit", "u-1", **{"name": "web1", "two owners": "a, b"})
    first.wake()
    await until(lambda: first.shown()[0].failed == 1)
    second = await courier()
    (tmp_path / "log").unlink()
    assert (second.shown()[0].waiting, second.shown()[0].delivered) == (1, 1)
    await until(lambda: second.shown()[0].delivered == 2)
    (owners,) = heard(tmp_path / "log")
    assert (owners.type, owners.teller) == ("guest.two-owners", TELLER)
    assert owners.data == {"guest": "u-1", "name": "web1", "hosts": ["a", "b"]}
    (ended,) = heard(tmp_path / "before")
    assert (ended.type, ended.data["operation"], ended.data["phase"]) == ("operation.ended", "drain-1", "partly done")


async def test_hooks_hear_what_hosts_are_used_for(database: Database) -> None:
    registry = Registry(database)
    await registry.take("a", report("a"), time.time())
    await registry.set_state(["a"], HostState.DRAINED, "drain-1: disk")
    async with database.read() as connection:
        (row,) = (await connection.execute(sa.select(events).where(events.c.kind == "host"))).mappings()
    posted = posted_of(row)
    assert posted is not None
    event = msgspec.json.decode(posted.body, type=HookEvent)
    assert (event.type, event.data) == ("host.state", {"host": "a", "state": "drained", "why": "drain-1: disk"})
    assert posted_of(row) == posted  # the same id at every attempt, by whichever controller


async def test_an_event_rests_while_another_controllers_earlier_one_may_not_be_committed_yet(
    database: Database,
) -> None:
    async with database.write() as connection:
        await tell(connection, "host", "a", {"state": "lost"})
    told = await FleetEvents(database).after(0)
    assert [posted.kind for posted in told] == ([] if database.shared else ["host.state"])


async def test_a_controller_that_leads_tells_its_hooks(tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    (tmp_path / "controller.toml").write_text(
        f'state_dir = "{tmp_path}/state"\n[[hooks]]\nfile = "{tmp_path}/events"\n'
    )
    async with Controller.running(load(tmp_path)) as controller:
        await until(lambda: len(controller.hooks.told) == 1)
        await controller.registry.take("a", report("a"), time.time())
        await controller.set_state("a", HostState.LOST, "root", "fire")
        await until(lambda: controller.hooks.told[0].delivered == 1)
        seen = (await Exposition(controller).text()).decode().splitlines()
        assert f'limosa_hook_deliveries_total{{hook="{tmp_path}/events",outcome="delivered"}} 1.0' in seen
        assert f'limosa_hook_waiting{{hook="{tmp_path}/events"}} 0.0' in seen
    (event,) = heard(tmp_path)
    assert event.data == {"host": "a", "state": "lost", "why": "fire"}


async def test_a_controller_that_does_not_lead_shows_what_the_one_that_leads_has_saved(
    database: Database, courier: Callable[[], Any], tmp_path: Path
) -> None:
    first = await courier()
    await happen(database, "operation", "drain-1", phase="done", over=1, of=1)
    first.wake()
    await until(lambda: first.shown()[0].delivered == 1)
    await first.close()
    hooks = HookConfig(name="log", file=str(tmp_path / "log" / "events")), HookConfig(name="new", file="/new")
    follower = FleetHooks(hooks, database)
    assert [(hook.name, hook.delivered) for hook in await follower.shown()] == [("log", 1), ("new", 0)]
    assert follower.told == ()


async def test_any_controller_tries_a_hook_and_changes_no_record(database: Database, tmp_path: Path) -> None:
    hooks = FleetHooks([HookConfig(name="log", file=str(tmp_path / "log" / "events"))], database)
    before = await hooks.shown()
    (tried,) = await hooks.test("log")
    assert (tried.name, tried.delivered) == ("log", True)
    assert heard(tmp_path / "log")[0].type == "hooks.test"
    assert await hooks.shown() == before
    with pytest.raises(NotFound, match="there is no hook dns here; there are: log"):
        await hooks.test("dns")


def test_a_controllers_hooks_are_set_in_its_own_file(tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    file = tmp_path / "controller.toml"
    file.write_text('[[hooks]]\nfile = "/var/log/fleet"\nevents = ["host.*"]\n')
    assert [hook.called for hook in load(tmp_path).hooks] == ["/var/log/fleet"]
    file.write_text('overcommit = 2\n[[hooks]]\nfile = "/var/log/fleet"\nevents = ["guest.moved"]\n')
    with pytest.raises(UsageError, match=r"controller.toml, line 2: hooks: /var/log/fleet: there is no event 'guest.m"):
        load(tmp_path)
