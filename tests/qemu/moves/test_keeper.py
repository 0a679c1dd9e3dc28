"""What limosa made for a guest that came by a move goes when the guest's QEMU ends, and not before."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from limosa.lab.commands import limosa, migrate
from limosa.lab.guestctl import GuestControl, GuestOptions
from limosa.lab.guests import GuestSpec
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.provision import start_agent
from limosa.lab.trouble import pids_of

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module")]

Starter = Callable[..., Awaitable[tuple[GuestSpec, GuestControl]]]


async def ours(host: Host) -> list[str]:
    """Taps that limosa made, and directories of guests that came by a move."""
    links = (await host.run(["ip", "-o", "link"])).stdout.splitlines()
    taps = [line.split()[1].strip(":") for line in links if "alias limosa:" in line]
    return [*taps, *(path.name for path in host.path("/run/limosa/guests").glob("m*"))]


async def soon(wanted: Callable[[], Awaitable[bool]]) -> bool:
    """Whether something is so within ten seconds (polled: who tidies up, or opens a tap, announces it to nobody)."""
    deadline = time.monotonic() + 10
    while not await wanted():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True


async def none_left(host: Host) -> bool:
    """Whether the host soon has nothing of the kind."""

    async def nothing() -> bool:
        return not await ours(host)

    return await soon(nothing)


async def arrived(lab: Lab, guest: Starter) -> Host:
    """Host b, with a guest that came there by a move."""
    _, agent = await guest(GuestSpec("web1", GuestOptions(addresses=("10.66.0.100/24",))))
    await agent.close()
    answer = await migrate(lab.host("a"), "web1", lab.host("b"))
    assert answer.status == 0, answer.err
    assert len(await ours(lab.host("b"))) == 2
    return lab.host("b")


def held_taps(pid: int) -> set[str]:
    """Taps that a process has open."""
    found = set()
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed while they were read
            found |= {line.split()[1] for line in path.read_text().splitlines() if line.startswith("iff:")}
    return found


async def kill(host: Host) -> None:
    (pid,) = await pids_of(host, "web1")
    await host.run(["kill", "-KILL", str(pid)])


async def test_the_agent_tidies_up_as_soon_as_the_guest_ends(lab: Lab, guest: Starter) -> None:
    host = await arrived(lab, guest)
    await kill(host)
    assert await none_left(host)
    assert (await limosa(host, "doctor")).status == 0


async def test_an_agent_that_was_away_meanwhile_tidies_up_when_it_starts(lab: Lab, guest: Starter) -> None:
    host = await arrived(lab, guest)
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(20)
    await start_agent(host)
    assert len(await ours(host)) == 2  # the guest lives, and so does what it uses
    host.agent.kill()
    await host.agent.wait(20)
    await kill(host)
    await start_agent(host)
    assert await none_left(host)


async def test_a_tap_that_somebody_has_taken_into_use_stays(lab: Lab, guest: Starter) -> None:
    host = await arrived(lab, guest)
    tap, directory = await ours(host)
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(20)
    await kill(host)
    user = await host.spawn(
        [
            "qemu-system-x86_64",
            "-S",
            "-nodefaults",
            "-display",
            "none",
            "-nic",
            f"tap,ifname={tap},script=no,downscript=no,model=virtio",
        ]
    )

    async def opened() -> bool:
        return tap in held_taps(user.pid)

    async def tidied_up() -> bool:
        return directory not in await ours(host)

    assert await soon(opened)
    await start_agent(host)
    assert await soon(tidied_up)
    assert await ours(host) == [tap]
    user.kill()
    await user.wait(10)
