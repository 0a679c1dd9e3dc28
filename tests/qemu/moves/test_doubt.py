"""A move in doubt: every command says so and what to do, and it ends when the other host answers or is fenced."""

import os
import re
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import pytest_asyncio

from limosa.lab.commands import limosa, migrate
from limosa.lab.faults_bench import Points
from limosa.lab.faults_matrix import Point
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.provision import start_agent
from limosa.lab.trouble import Flight, kill_twin, owners, refused, with_owner
from limosa.migration.fault_points import AFTER, BEFORE, VARIABLE
from limosa.units import Side
from limosa.wire.moves import MoveState, MoveStatus

from .conftest import options

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

HANDED_OVER = "hand over"
GRANT = Point(-1, "grant", BEFORE)
"""The source has given the guest up, and the destination does not know it yet."""
TAKEN = Point(-1, "grant", AFTER)
"""The destination has recorded that it owns the guest, and has not answered yet."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def points() -> AsyncIterator[Points]:
    made = Points()
    with tempfile.TemporaryDirectory(prefix="lm-") as place, pytest.MonkeyPatch.context() as patch:
        await made.open(Path(place) / "points")
        patch.setenv(VARIABLE, f"{place}/points")
        yield made
        await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(points: Points) -> AsyncIterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    async with Lab.up(hosts=2, name=f"t-doubt-{os.getpid()}") as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def web(lab: Lab) -> GuestSpec:
    a = lab.host("a")
    a.path("/srv/data.raw").touch()
    os.truncate(a.path("/srv/data.raw"), 8 << 20)
    disk = blockdev("data", "/srv/data.raw", "raw", serial="data")
    spec = with_owner(GuestSpec("web1", options(), memory=192, devices=disk))
    await start(a, spec)
    async with await control(a, spec):
        return spec


@asynccontextmanager
async def at_the_grant(lab: Lab, points: Points, point: Point = GRANT) -> AsyncIterator[Flight]:
    """A move that is held, while the context lasts, where the source has given up and cannot know who has the guest."""
    points.arm(point)
    flight = await Flight.depart(lab.host("a"), "web1", "b")
    await points.reached.wait()
    yield flight
    points.release()


def doubtful(status: MoveStatus) -> bool:
    return status.state is MoveState.IN_DOUBT


async def at_home(lab: Lab, spec: GuestSpec) -> None:
    """The guest runs at a as if nothing had been, its disk takes writes, and no trace is anywhere."""
    a = lab.host("a")
    async with await control(a, spec) as agent:
        assert (await agent.check_pages()).intact
        before = (await agent.status()).disk("data").acknowledged
        while (now := (await agent.status()).disk("data")).acknowledged == before:
            pass
        assert now.errors == 0
    (line,) = (await limosa(a, "ls", "--json")).json()
    assert (line["name"], line["state"], line["move"]) == ("web1", "running", None)


async def restart(host: Host) -> None:
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(20)
    await start_agent(host)


@pytest.mark.usefixtures("clean")
async def test_a_doubt_is_told_by_every_command_and_ends_when_the_other_agent_is_back(
    lab: Lab, points: Points, web: GuestSpec
) -> None:
    a, b = lab.host("a"), lab.host("b")
    assert b.agent is not None
    async with at_the_grant(lab, points) as flight:
        b.agent.kill()
        await b.agent.wait(20)
    doubt = await flight.until(doubtful)
    assert doubt.guest_runs is Side.UNKNOWN
    remedy = doubt.error["remedy"] if doubt.error else ""
    assert "bring b back" in remedy

    told = await limosa(a, "ls")
    assert f"in doubt ({flight.move})" in told.out
    assert f"to do: {remedy}" in told.out
    (line,) = (await limosa(a, "ls", "--json")).json()
    assert (line["state"], line["run_state"], line["remedy"]) == ("in doubt", "postmigrate", remedy)
    for words in (("show", "web1"), ("plan", "web1", "--to", "b"), ("migrate", "web1", "--to", "b"), ("abort",)):
        refusal = await refused(a, *words)
        assert (refusal.status, refusal.remedy) == (21, remedy), (words, refusal.text)
        assert "start it nowhere by hand" in refusal.where
    examined = await limosa(a, "doctor")
    assert examined.status == 40
    assert f"error: a: web1 is in doubt (move {flight.move})" in examined.out
    assert "b could not be asked" in examined.out
    assert (await refused(a, "resolve", "web1", "--fence-evidence", "it is off")).status == 2
    assert (await refused(a, "resolve", "web1")).status == 2

    await start_agent(b)
    report = await flight.landed()
    assert (report.state, report.guest_runs) == (MoveState.FAILED, Side.SOURCE)
    await at_home(lab, web)
    examined = await limosa(a, "doctor")
    assert examined.status == 0, examined.out
    refusal = await refused(a, "resolve", "web1", "--fence-evidence", "b was switched off by me")
    assert refusal.status == 10
    assert "nothing is in doubt" in refusal.what


@pytest.mark.usefixtures("clean")
async def test_a_guest_is_taken_back_from_a_fenced_host_also_after_a_restart(
    lab: Lab, points: Points, web: GuestSpec
) -> None:
    a = lab.host("a")
    async with at_the_grant(lab, points) as flight:
        await lab.unplug("b")
    await flight.until(doubtful)
    await restart(a)
    flight = await Flight.join(a, flight.move)
    await flight.until(doubtful)

    evidence = "b was switched off at its power supply by me"
    answer = await limosa(a, "resolve", "web1", "--fence-evidence", evidence)
    assert answer.status == 0, answer.err + answer.out
    assert "b must stay fenced" in answer.err
    assert "web1 runs on a" in answer.out
    report = await flight.landed()
    assert (report.state, report.guest_runs) == (MoveState.FAILED, Side.SOURCE)
    with closing(sqlite3.connect(a.path("/var/lib/limosa/journal.db"))) as journal:
        assert journal.execute("SELECT who, what FROM said").fetchall() == [("root (uid 0)", evidence)]
    await at_home(lab, web)

    await lab.plug("b")
    examined = await limosa(a, "doctor")
    assert examined.status == 0, examined.out
    assert (await limosa(lab.host("b"), "ls", "--json")).json() == []


@pytest.mark.usefixtures("clean")
async def test_a_fenced_host_that_had_taken_the_guest_over_comes_back_outranked(
    lab: Lab, points: Points, web: GuestSpec
) -> None:
    a, b = lab.host("a"), lab.host("b")
    async with at_the_grant(lab, points, TAKEN) as flight:
        await lab.unplug("b")
    await flight.until(doubtful)
    answer = await limosa(a, "resolve", "web1", "--fence-evidence", "b was switched off at its power supply by me")
    assert answer.status == 0, answer.err + answer.out
    await flight.landed()
    await at_home(lab, web)

    await lab.plug("b")
    examined = await limosa(a, "doctor")
    assert examined.status == 40
    epochs = re.search(r"a at epoch (\d+), b at epoch (\d+)", examined.out)
    assert epochs is not None, examined.out
    assert int(epochs[1]) == int(epochs[2]) + 1
    assert (await limosa(a, "doctor", "--fix")).status == 40  # b's journal is b's to correct
    fixed = await limosa(b, "doctor", "--fix")
    assert fixed.status == 0, fixed.out
    assert f"a owns it since epoch {epochs[1]}" in fixed.out
    assert (await limosa(a, "doctor")).status == 0
    await at_home(lab, web)
    b.path("/srv/data.raw").unlink()  # the disk of the life that was fenced; limosa deletes no image
    assert (await migrate(a, "web1", b)).status == 0


@pytest.mark.usefixtures("clean")
async def test_a_paused_guest_that_was_handed_over_in_vain_stays_paused_and_has_its_disks(
    lab: Lab, points: Points, web: GuestSpec
) -> None:
    a, b = lab.host("a"), lab.host("b")
    b.path("/srv/data.raw").unlink(missing_ok=True)
    owner = await owners(a, web)
    try:
        await owner.execute("stop")
        plan = (await limosa(a, "plan", "web1", "--to", "b", "--json")).plan()
        names = [step.name for step in plan.steps]
        async with at_the_grant(lab, points, Point(names.index(HANDED_OVER), HANDED_OVER, AFTER)) as flight:
            await kill_twin(b)
        report = await flight.landed()
        assert (report.state, report.guest_runs) == (MoveState.FAILED, Side.SOURCE)
        nodes = await owner.execute("query-named-block-nodes", {"flat": True})
        assert {node["active"] for node in nodes} == {True}
        assert (await owner.execute("query-status"))["running"] is False
        await owner.execute("cont")
    finally:
        await owner.close()
    await at_home(lab, web)
