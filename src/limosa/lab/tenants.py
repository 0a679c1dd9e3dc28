"""Guests that live through many moves: made, found again on whichever host they are, looked at from top to bottom."""

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from limosa.errors import LimosaError
from limosa.lab import guests, records
from limosa.lab.faults_bench import open_moves, qemus_of
from limosa.lab.guestctl import GuestOptions, Status
from limosa.lab.guests import GuestSpec, blockdev, control
from limosa.lab.hosts import Host
from limosa.units import MIB

REST_LIMIT = 90.0
DISK = 16 * MIB


class NotWhole(LimosaError):
    """A guest is not where and what it should be."""

    code = "not-whole"


@dataclass(slots=True)
class Tenant:
    """One guest: where it was last, and what it was when it booted."""

    spec: GuestSpec
    home: str
    boot: Status
    known: Status
    """As it was seen last; its records until then must be on its disk, whatever happens."""
    records_hz: int
    moves: int = 0
    """How often it was found elsewhere than before."""
    lives: int = 1
    mortal: bool = False
    """Whether something that was broken on purpose may have killed it."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def disk(self) -> str:
        """Its image, on whichever host it is."""
        return f"/srv/{self.name}/disk.raw"

    @property
    def address(self) -> str:
        """Of its one NIC, on the guests' network."""
        return self.spec.options.addresses[0].partition("/")[0]


def spec_of(name: str, number: int, *, records_hz: int = 10, cpu: str = "max") -> GuestSpec:
    """A small guest with one disk and one NIC.

    Args:
        name: of the guest.
        number: 0 to 99: its address ends in 120 and more.
        records_hz: records per second on its disk.
        cpu: as QEMU's `-cpu` takes it.
    """
    options = GuestOptions(
        addresses=(f"10.66.0.{120 + number}/24",), pages=8, pages_rate=2, records="magic", records_hz=records_hz
    )
    return GuestSpec(
        name=name,
        options=options,
        memory=160,
        cpu=cpu,
        taps=(f"tap{number}",),
        uuid=str(uuid.uuid4()),
        devices=blockdev("disk", f"/srv/{name}/disk.raw", "raw"),
    )


async def settle(spec: GuestSpec, home: Host, hosts: Iterable[Host], *, seed: int = 0) -> Tenant:
    """Make a guest's disk and start it; every host gets the directories that its owner keeps for it."""
    for host in hosts:
        host.path(f"/srv/{spec.name}").mkdir()
        host.path(spec.directory).mkdir(parents=True, exist_ok=True)
    image = home.path(f"/srv/{spec.name}/disk.raw")
    records.create(image, "raw", DISK, records.Layout("disk", slots=1024), content=MIB, seed=seed)
    status = await boot(home, spec)
    return Tenant(spec, home.name, status, status, spec.options.records_hz)


async def boot(host: Host, spec: GuestSpec) -> Status:
    """Start a guest, wait until it is up, and see what it is."""
    for tap in spec.taps:
        await host.run(["ip", "link", "del", tap], check=False)  # left by an earlier life of the guest
    await guests.start(host, spec)
    async with await control(host, spec) as agent:
        return await agent.status()


async def at_rest(hosts: Iterable[Host], limit: float = REST_LIMIT) -> None:
    """Wait until no journal has an open move (polled: agents tell each other, not us).

    Raises:
        NotWhole: some are open after `limit` seconds.
    """
    hosts = tuple(hosts)
    deadline = time.monotonic() + limit
    while left := [f"{host.name}: {move}" for host in hosts for move in open_moves(host)]:
        if time.monotonic() > deadline:
            raise NotWhole(f"not at rest after {limit:g} s: {', '.join(left)}")
        await asyncio.sleep(0.05)


def homes_of(tenant: Tenant, hosts: Iterable[Host]) -> list[Host]:
    """The hosts that run a QEMU of it, each as often as it runs one."""
    return [host for host in hosts for _ in qemus_of(host, tenant.spec.uuid)]


async def look(tenant: Tenant, hosts: Iterable[Host]) -> Host:
    """See that a guest executes on exactly one host, and never stopped. Returns the host.

    Raises:
        NotWhole: it has no QEMU, or several, or it was booted anew, lost memory, records or sectors.
    """
    homes = homes_of(tenant, hosts)
    if len(homes) != 1:
        raise NotWhole(f"{tenant.name} has QEMUs on: {', '.join(host.name for host in homes) or 'no host'}")
    (home,) = homes
    tenant.moves += home.name != tenant.home
    tenant.home = home.name
    async with await control(home, tenant.spec) as agent:
        await agent.set_records_rate(0)
        now, pages = await agent.status(), await agent.check_pages()
        verdict = records.verify_image(home.path(tenant.disk), "raw", now.disk("disk").acknowledged)
        await agent.set_records_rate(tenant.records_hz)
    same = now.boot_id == tenant.boot.boot_id and now.uptime_ns > tenant.known.uptime_ns
    if not (same and pages.intact and verdict.intact and not now.oopsed and not now.disk("disk").errors):
        raise NotWhole(f"{tenant.name} on {tenant.home} is not whole", detail=f"{now} {verdict.faults[:2]}")
    tenant.known = now
    return home
