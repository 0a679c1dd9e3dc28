"""The thinnest whole move: one guest, one local disk, one NIC, from a to b and back."""

from collections.abc import Awaitable, Callable

import pytest

from limosa.lab.commands import migrate
from limosa.lab.guestctl import GuestControl, GuestOptions
from limosa.lab.guests import GuestSpec, blockdev, control
from limosa.lab.lab import Lab
from limosa.lab.records import verify_image
from limosa.units import Side
from limosa.wire.moves import MoveState

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
    for source, destination in ((a, b), (b, a)):
        await destination.run(["rm", "-f", "/srv/data.raw"])
        answer = await migrate(source, "web1", destination)
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
    verdict = verify_image(a.path("/srv/data.raw"), "raw", before.disk("data").acknowledged)
    assert verdict.intact, verdict
