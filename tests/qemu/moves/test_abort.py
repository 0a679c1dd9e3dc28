"""A move ended early, in every stage and in every way: rolled back, said so, and the guest moves all the same later."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from limosa.lab.commands import Answer, limosa, migrate
from limosa.lab.faults_bench import Points
from limosa.lab.faults_matrix import Point
from limosa.lab.guestctl import GuestOptions
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.inside import Process
from limosa.lab.lab import Lab
from limosa.lab.records import verify_image
from limosa.lab.trouble import Flight, Watched, copying_disks, copying_ram, with_owner
from limosa.migration.fault_points import AFTER, BEFORE, VARIABLE
from limosa.units import Side
from limosa.wire.moves import MoveState, MoveStatus

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SLOW = ("--bandwidth", "3M")
"""So slow that each part of the copy lasts for seconds."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def points() -> AsyncIterator[Points]:
    """Where agents say at which step they stand, and wait for us."""
    holder = Points()
    with tempfile.TemporaryDirectory(prefix="lm-") as place, pytest.MonkeyPatch.context() as patch:
        await holder.open(Path(place, "points"))
        patch.setenv(VARIABLE, str(Path(place, "points")))
        yield holder
        await holder.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(points: Points) -> AsyncIterator[Lab]:  # agents inherit its variable
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    async with Lab.up(hosts=2, name=f"t-abort-{os.getpid()}") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(lab: Lab) -> AsyncIterator[Watched]:
    """One guest for all aborts: each must leave it as it was."""
    a, b = lab.host("a"), lab.host("b")
    a.path("/srv/data.raw").touch()
    os.truncate(a.path("/srv/data.raw"), 16 << 20)
    a.path("/srv/full.raw").write_bytes(os.urandom(16 << 20))
    options = GuestOptions(addresses=("10.66.0.100/24",), pages=8, pages_rate=1, records="auto")
    disks = (
        *blockdev("data", "/srv/data.raw", "raw", serial="data"),
        *blockdev("full", "/srv/full.raw", "raw", serial="full"),
    )
    spec = with_owner(GuestSpec("web1", options, memory=192, devices=disks))
    await start(a, spec)
    async with await control(a, spec):
        pass
    async with Watched.over(spec, a, b) as watched:
        yield watched


MOMENTS = {
    "check": lambda status: status.state is MoveState.PLANNING,
    "copy of disks": copying_disks,
    "copy of memory": copying_ram,
}


async def abort_at(web: Watched, moment: str) -> tuple[Flight, Answer]:
    """Start a move, abort it at a moment, and return what the abort said."""
    agent = web.destination.agent
    assert agent is not None
    if moment == "check":
        agent.send_signal(signal.SIGSTOP)  # so that the checks are not over before they are seen
    flight = await Flight.depart(web.source, "web1", "b", *SLOW)
    now = await flight.until(MOMENTS[moment])
    assert not now.state.over, flight.story()
    answer = await limosa(web.source, "abort", "web1")
    agent.send_signal(signal.SIGCONT)
    return flight, answer


@pytest.mark.parametrize("moment", list(MOMENTS))
async def test_an_abort_rolls_back_and_lists_what_was_undone(web: Watched, moment: str) -> None:
    flight, answer = await abort_at(web, moment)
    report = await flight.landed()
    assert await flight.exit_status() == 30
    assert_rolled_back(report, answer)
    if moment.startswith("copy"):
        assert {"reserve", "start twin", "disks: mirror"} <= set(report.undone)
    assert await web.changes() == []


def assert_rolled_back(report: MoveStatus, answer: Answer) -> None:
    """The abort succeeded, and lists as undone whatever was begun."""
    assert answer.status == 0, answer.err + answer.out
    assert (report.state, report.guest_runs) == (MoveState.ABORTED, Side.SOURCE), report.error
    assert report.warnings == ()
    begun = [step.name for step in report.steps if step.started is not None]
    assert sorted(report.undone) == sorted(begun)
    assert [step for step in report.undone if step not in answer.out + answer.err] == []


async def held_at(web: Watched, points: Points, point: Point) -> Flight:
    """A move that stands at a point."""
    points.arm(point)
    flight = await Flight.depart(web.source, "web1", "b")
    async with asyncio.timeout(60):
        await points.reached.wait()
    return flight


@pytest.mark.timeout(300)
async def test_an_abort_is_good_at_every_step_before_the_commit_and_too_late_after(
    web: Watched, points: Points
) -> None:
    steps = [step.name for step in (await limosa(web.source, "plan", "web1", "--to", "b", "--json")).plan().steps]
    commit = steps.index("commit")
    before = [Point(number, name, BEFORE) for number, name in enumerate(steps[:commit])]
    for point in (*before, Point(commit - 1, steps[commit - 1], AFTER)):
        flight = await held_at(web, points, point)
        answer = await limosa(web.source, "abort", "web1")
        points.release()
        assert_rolled_back(await flight.landed(), answer)
        assert (point.name, await web.changes()) == (point.name, [])
    flight = await held_at(web, points, Point(commit, "commit", AFTER))
    answer = await limosa(web.source, "abort", "web1")
    points.release()
    assert answer.status == 10, answer.err
    assert "too late" in answer.err
    report = await flight.landed()
    assert (report.state, report.guest_runs) == (MoveState.COMPLETED, Side.DESTINATION)
    async with await control(web.destination, web.spec) as agent:
        assert (await agent.status()).boot_id == web.status.boot_id
    await web.bring_home()


async def test_a_timeout_ends_a_move_that_takes_too_long(web: Watched) -> None:
    answer = await migrate(web.source, "web1", web.destination, *SLOW, "--timeout", "3")
    assert answer.status == 30, answer.err
    assert "3" in answer.err
    report = answer.move()
    assert report.state is MoveState.ABORTED
    assert "disks: mirror" in report.undone
    assert await web.changes() == []


async def begin(web: Watched) -> tuple[Process, Flight]:
    """`limosa migrate` as a person runs it, and a second look at its move."""
    command = [sys.executable, "-m", "limosa", "migrate", "web1", "--to", "b", *SLOW]
    cli = await web.source.spawn(command, name="cli")
    async with asyncio.timeout(30):
        while True:
            guests = (await limosa(web.source, "ls", "--json")).json()
            if move := next(guest["move"] for guest in guests if guest["name"] == "web1"):
                return cli, await Flight.join(web.source, move)
            await asyncio.sleep(0.1)  # a program that just started tells nobody its move's id


async def test_ctrl_c_asks_for_an_abort_and_waits_for_its_answer(web: Watched) -> None:
    cli, flight = await begin(web)
    await flight.until(lambda status: copying_disks(status) or copying_ram(status))
    cli.send_signal(signal.SIGINT)
    ended = await cli.wait(60)
    assert cli.stderr_path is not None
    words = cli.stderr_path.read_text()
    assert ended == 30, words
    report = await flight.landed()
    assert report.state is MoveState.ABORTED
    assert [step for step in report.undone if step not in words] == []
    assert "disks: mirror" in report.undone
    assert await web.changes() == []


async def test_a_move_whose_command_line_is_gone_is_aborted_from_another_one(web: Watched) -> None:
    cli, flight = await begin(web)
    await flight.until(lambda status: copying_disks(status) or copying_ram(status))
    cli.kill()
    await cli.wait(20)
    assert (await limosa(web.source, "abort", "web1")).status == 0
    assert (await flight.landed()).state is MoveState.ABORTED
    assert await web.changes() == []


async def test_a_killed_command_line_leaves_its_move_to_go_on(web: Watched) -> None:
    """Last of all: the guest, whose moves were aborted so often, ends at the other host."""
    cli, flight = await begin(web)
    await flight.until(copying_ram)
    cli.kill()
    assert await cli.wait(20) == -signal.SIGKILL
    assert (await limosa(web.source, "speed", "web1", "0")).status == 0
    report = await flight.landed()
    assert (report.state, report.guest_runs) == (MoveState.COMPLETED, Side.DESTINATION), report.error
    async with await control(web.destination, web.spec) as agent:
        now = await agent.status()
        assert (await agent.check_pages()).intact
    assert now.boot_id == web.status.boot_id
    assert not now.oopsed
    assert now.disk("data").errors == 0
    verdict = verify_image(web.destination.path("/srv/data.raw"), "raw", now.disk("data").acknowledged)
    assert verdict.intact, verdict
