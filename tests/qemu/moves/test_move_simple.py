"""The thinnest whole move: one guest, one local disk, one NIC, from a to b and back; and what is kept of it."""

import asyncio
import html
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import pytest

from limosa.history.documents import MoveDocument
from limosa.lab.commands import limosa, migrate
from limosa.lab.guestctl import GuestControl, GuestOptions
from limosa.lab.guests import GuestSpec, blockdev, control
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.provision import SOCKET, start_agent
from limosa.lab.records import verify_image
from limosa.units import Side
from limosa.web import words
from limosa.wire.moves import MoveState, MoveStatus

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module")]

Starter = Callable[..., Awaitable[tuple[GuestSpec, GuestControl]]]


async def test_a_guest_goes_there_and_back_and_notices_nothing(lab: Lab, guest: Starter) -> None:
    a, b = lab.host("a"), lab.host("b")
    await a.run(["truncate", "-s", "64M", "/srv/data.raw"])
    options = GuestOptions(addresses=("10.66.0.100/24",), pages=32, records="auto", records_size=4096)
    spec, agent = await guest(
        GuestSpec("web1", options, devices=blockdev("data", "/srv/data.raw", "raw", serial="data"))
    )
    before = await agent.status()
    await agent.close()
    kept: list[MoveDocument] = []
    for source, destination in ((a, b), (b, a)):
        await destination.run(["rm", "-f", "/srv/data.raw"])
        flight = asyncio.create_task(migrate(source, "web1", destination))
        followed = await followed_on_its_page(source)
        answer = await flight
        assert answer.status == 0, answer.err + answer.out
        report = answer.move()
        assert (report.state, report.guest_runs) == (MoveState.COMPLETED, Side.DESTINATION)
        assert report.measured is not None
        assert report.measured.compared > 100
        async with await control(destination, spec) as agent:
            now = await agent.status()
            assert (await agent.check_pages()).intact
        assert now.boot_id == before.boot_id
        assert now.uptime_ns > before.uptime_ns
        assert not now.oopsed
        assert now.disk("data").errors == 0
        before = now
        assert f"/moves/{report.id}/abort" in followed[0]
        assert 'class="now"' in "".join(followed)
        kept.append(await told(source, report.id))
        assert kept[-1].record.status == report
        await its_page_says_the_same(source, kept[-1])
    await restarted(a)
    for document, source in zip(kept, (a, b), strict=True):
        assert whole(document)
        assert await told(source, document.record.status.id) == document
    verdict = verify_image(a.path("/srv/data.raw"), "raw", before.disk("data").acknowledged)
    assert verdict.intact, verdict


async def told(host: Host, move: str) -> MoveDocument:
    """What the agent of a move's source keeps of it."""
    answer = await limosa(host, "report", move, "--json")
    assert answer.status == 0, answer.err
    return msgspec.json.decode(answer.out, type=MoveDocument)


def browser(host: Host) -> aiohttp.ClientSession:
    """What comes over the agent's socket, as through `ssh -L`."""
    return aiohttp.ClientSession("http://localhost:8448", connector=aiohttp.UnixConnector(str(host.path(SOCKET))))


async def followed_on_its_page(host: Host) -> list[str]:
    """All that the page of a move that begins now shows until it is over, in order."""
    async with asyncio.timeout(120), browser(host) as web:
        while not (move := await in_flight(web)):  # noqa: ASYNC110  (nothing tells of moves that have not begun)
            await asyncio.sleep(0.05)
        async with web.get(f"/moves/{move}") as page:
            seen = [await page.text()]
        async with web.get(f"/live/moves/{move}") as stream:
            while ">completed" not in seen[-1].replace("</span> ", ">"):
                seen.append((await stream.content.readuntil(b"\n\n")).decode())
        return seen


async def in_flight(web: aiohttp.ClientSession) -> str:
    """The id of the move that is not over; empty where there is none."""
    async with web.get("/v1/moves") as answer:
        moves = msgspec.json.decode(await answer.read(), type=list[MoveStatus])
    return next((move.id for move in moves if not move.state.over), "")


async def its_page_says_the_same(host: Host, document: MoveDocument) -> None:
    """The page of a finished move has the figures of its report, and the lines of both hosts' logs."""
    status = document.record.status
    async with browser(host) as web, web.get(f"/moves/{status.id}") as answer:
        page = html.unescape(await answer.text())
    assert status.measured is not None
    assert status.prediction is not None
    figures = (
        words.lasting(status.measured.total_seconds),
        words.milliseconds(status.measured.blackout_ms),
        words.size(status.measured.ram_bytes + status.measured.disk_bytes),
        words.milliseconds(status.prediction.blackout_ms),
        f"{status.measured.compared:,}",
    )
    for figure in figures:
        assert f'<td class="number">{figure}</td>' in page, figure
    for line in document.log.lines:
        assert line.event in page
    assert f'<td class="there">{status.destination}</td>' in page  # asked of the other host's agent
    assert "Abort the move" not in page


async def restarted(host: Host) -> None:
    """The agent dies, and another one starts."""
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(20)
    host.path(SOCKET).unlink(missing_ok=True)
    await start_agent(host)


def whole(document: MoveDocument) -> bool:
    """Whether a finished move's record has all that a time axis needs, and adds up."""
    record, measured = document.record, document.record.status.measured
    assert measured is not None
    assert sum(measured.stage_seconds.values()) == pytest.approx(measured.total_seconds, rel=0.1, abs=0.3)
    assert record.stages[0].started == 0
    assert record.stages[-1].ended == pytest.approx(measured.total_seconds, abs=0.05)
    assert record.pause is not None
    assert record.pause.blackout_ms == measured.blackout_ms
    parts = sum(part.ended_ms - part.started_ms for part in record.pause.parts)
    assert parts == pytest.approx(record.pause.blackout_ms, rel=0.2, abs=5)
    series = {each.item: each for each in record.series}
    assert {"ram", "disk-data"} <= series.keys(), series.keys()
    for each in record.series:
        assert 0 <= each.at[0] <= each.at[-1] <= measured.total_seconds
        assert each.done[-1] <= each.total
    assert series["ram"].sent[-1] <= measured.ram_bytes
    assert {line.event for line in document.log.lines} >= {"move begins", "step made", "move completed"}
    return True
