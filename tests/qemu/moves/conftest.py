"""Two lab hosts with agents for a whole file of tests, and guests that are gone after each."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from limosa.lab.guestctl import GuestControl, GuestOptions
from limosa.lab.guests import GuestSpec, control, start
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab

Starter = Callable[..., Awaitable[GuestControl]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    name = request.module.__name__.rpartition("_")[2][:8]
    # With the pid, because the same tests may run from another checkout at the same time.
    async with Lab.up(hosts=2, name=f"t-{name}-{os.getpid()}") as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def guest(lab: Lab) -> AsyncIterator[Callable[..., Awaitable[tuple[GuestSpec, GuestControl]]]]:
    """Start guests on host a; whatever of them still runs anywhere afterwards is ended by its host."""
    started: list[str] = []

    async def begin(spec: GuestSpec, host: Host | None = None) -> tuple[GuestSpec, GuestControl]:
        started.append(spec.name)
        await start(host or lab.host("a"), spec)
        return spec, await control(host or lab.host("a"), spec)

    yield begin
    for host in lab.hosts.values():
        if host.plugged:
            for name in started:
                # The guest's name is on its QEMU's command line, in the host's own process list.
                await host.run(["pkill", "-9", "-f", f"[q]emu-system.*-name (guest=)?{name}"], check=False)
            await host.run(["sh", "-c", "rm -rf /srv/* /run/limosa/guests/*"], check=False)
            for number in range(4):
                await host.run(["ip", "link", "del", f"tap{number}"], check=False)


@pytest_asyncio.fixture(loop_scope="module")
async def clean(lab: Lab) -> AsyncIterator[None]:
    """Whatever guests a test leaves on the hosts, with their disks and taps, is gone after it."""
    yield
    for host in lab.hosts.values():
        if host.plugged:
            # The host's own process list: no QEMU of anybody else is in it.
            await host.run(["pkill", "-9", "-x", "qemu-system-x86"], check=False)
            await host.run(["sh", "-c", "rm -rf /srv/* /run/limosa/guests/*"])
            taps = (await host.run(["ip", "tuntap", "list"])).stdout.splitlines()
            for tap in taps:
                await host.run(["ip", "link", "del", tap.partition(":")[0]], check=False)


def options(**more: object) -> GuestOptions:
    """The usual programs in a guest: 32 MiB of counted pages, records on blank disks, a heartbeat."""
    settings: dict[str, object] = {
        "addresses": ("10.66.0.100/24",),
        "pages": 32,
        "records": "auto",
        "heartbeat": "10.66.0.2:7777",
        "heartbeat_ms": 5,
    }
    return GuestOptions(**{**settings, **more})  # type: ignore[arg-type]
