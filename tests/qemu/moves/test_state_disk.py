"""A state disk that is full or read-only: no new move, every look still answers, a move in flight goes on."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from limosa.lab.commands import limosa, migrate
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.provision import start_agent
from limosa.lab.trouble import Flight, copying_disks, refused
from limosa.units import Side
from limosa.wire.moves import MoveState

from .conftest import options

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

STATE = "/var/lib/limosa"
FILL = f"cat /dev/zero >{STATE}/filler 2>/dev/null; :"


async def restart(host: Host, *first: str) -> None:
    """Stop a host's agent, do something, and start it again."""
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(20)
    for command in first:
        await host.run(["sh", "-c", command])
    await start_agent(host)


@pytest_asyncio.fixture(loop_scope="module")
async def small(lab: Lab) -> AsyncIterator[Lab]:
    """Both hosts with a state disk of 4 MiB."""
    for host in lab.hosts.values():
        await restart(host, f"mount -t tmpfs -o size=4m,mode=700 none {STATE}")
    yield lab
    for host in lab.hosts.values():
        await restart(host, f"umount -l {STATE}")


async def running(lab: Lab, *devices: str) -> GuestSpec:
    spec = GuestSpec("web1", options(), memory=192, devices=devices)
    await start(lab.host("a"), spec)
    async with await control(lab.host("a"), spec):
        return spec


async def looks_work(host: Host, name: str) -> None:
    """`ls`, `show` and `doctor` answer, and doctor names the disk."""
    for words in (("ls",), ("show", name)):
        answer = await limosa(host, *words)
        assert (answer.status, name in answer.out) == (0, True), answer.err
    answer = await limosa(host, "doctor")
    assert answer.status == 40
    assert f"the journal {STATE}/journal.db cannot be written" in answer.out


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("anew", [False, True], ids=["agent runs", "agent starts"])
@pytest.mark.parametrize("how", [FILL, f"mount -o remount,ro {STATE}"], ids=["full", "read-only"])
async def test_a_new_move_is_refused_in_three_lines(small: Lab, how: str, anew: bool) -> None:
    a = small.host("a")
    await running(small)
    if anew or "remount" in how:  # a file that is open for writing keeps its disk writable
        await restart(a, how)
    else:
        await a.run(["sh", "-c", how])
    refusal = await refused(a, "migrate", "web1", "--to", "b")
    assert refusal.status == 75, refusal.text
    assert f"the journal {STATE}/journal.db cannot be written" in refusal.what
    assert "make room" in refusal.remedy
    await looks_work(a, "web1")
    await a.run(["sh", "-c", f"mount -o remount,rw {STATE}; rm -f {STATE}/filler"])
    assert (await limosa(a, "doctor")).status == 0
    answer = await migrate(a, "web1", small.host("b"))
    assert answer.status == 0, answer.err
    assert (await limosa(small.host("b"), "ls")).out.count("running") == 1


@pytest.mark.usefixtures("clean")
async def test_a_move_in_flight_goes_on_when_both_disks_fill(small: Lab) -> None:
    a, b = small.host("a"), small.host("b")
    a.path("/srv/full.raw").write_bytes(os.urandom(16 << 20))
    spec = await running(small, *blockdev("full", "/srv/full.raw", "raw", serial="full"))
    flight = await Flight.depart(a, "web1", "b", "--bandwidth", "4M")
    await flight.until(copying_disks)
    for host in (a, b):
        await host.run(["sh", "-c", FILL])
    assert (await limosa(a, "speed", "web1", "0")).status == 0
    report = await flight.landed()
    assert (report.state, report.guest_runs) == (MoveState.COMPLETED, Side.DESTINATION), report.error
    async with await control(b, spec) as agent:
        assert (await agent.check_pages()).intact
    for host in (a, b):
        await host.run(["rm", f"{STATE}/filler"])
    answer = await limosa(a, "doctor")
    assert answer.status == 0, answer.out
