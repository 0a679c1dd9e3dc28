"""`make soak`: four guests moved around three lab hosts, with something breaking at random, from a printed seed."""

import argparse
import asyncio
import contextlib
import os
import random
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from limosa.cli.client import AgentClient
from limosa.cli.transport import Unix
from limosa.errors import LimosaError
from limosa.lab import guests, records
from limosa.lab.faults_bench import SILENCE, open_moves, qemus_of
from limosa.lab.guestctl import GuestOptions, Status
from limosa.lab.guests import GuestSpec, blockdev, control
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.network import Link
from limosa.lab.provision import SOCKET, provision, start_agent
from limosa.units import MIB
from limosa.wire.moves import MoveRequest

GUESTS, HOSTS = 4, 3
REST_LIMIT = 90.0
LONGEST_FAULT = 5.0


@dataclass(slots=True)
class Tenant:
    """One guest: where it was last, and what it was when it booted."""

    spec: GuestSpec
    home: str
    boot: Status
    moves: int = 0


class SoakFailed(LimosaError):
    """A guest is not where and what it should be."""

    code = "soak"


def spec_of(number: int) -> GuestSpec:
    """A small guest with one disk and one NIC."""
    name = f"soak{number}"
    options = GuestOptions(
        addresses=(f"10.66.0.{120 + number}/24",), pages=8, pages_rate=2, records="magic", records_hz=10
    )
    return GuestSpec(
        name=name,
        options=options,
        memory=160,
        taps=(f"tap{number}",),
        uuid=str(uuid.uuid4()),
        devices=blockdev("disk", f"/srv/{name}/disk.raw", "raw"),
    )


def ask_for_move(host: Host, request: MoveRequest) -> None:
    """Begin a move; blocks until the host's agent has answered."""
    with AgentClient(Unix(str(host.path(SOCKET)))) as agent:
        agent.start(request)


class Soak:
    """One run. `chance` decides everything that is left to chance."""

    def __init__(self, lab: Lab, chance: random.Random, say: Callable[[str], None]) -> None:
        self.lab = lab
        self.chance = chance
        self.say = say
        self.tenants: list[Tenant] = []

    async def settle_in(self) -> None:
        """Start agents and guests."""
        for host in self.lab.hosts.values():
            provision(self.lab, host)
            setting = host.path("/etc/limosa/conf.d/soak.toml")
            setting.parent.mkdir(exist_ok=True)
            setting.write_text(f"silence = {SILENCE}\n")
            await start_agent(host)
        for number in range(GUESTS):
            self.tenants.append(await self._start(number))

    async def _start(self, number: int) -> Tenant:
        spec = spec_of(number)
        home = list(self.lab.hosts)[number % HOSTS]
        for host in self.lab.hosts.values():
            host.path(spec.directory).mkdir(parents=True, exist_ok=True)
            host.path(f"/srv/{spec.name}").mkdir()
        path = self.lab.host(home).path(f"/srv/{spec.name}/disk.raw")
        records.create(path, "raw", 16 * MIB, records.Layout("disk", slots=1024), content=MIB, seed=number)
        await guests.start(self.lab.host(home), spec)
        async with await control(self.lab.host(home), spec) as agent:
            return Tenant(spec, home, await agent.status())

    async def round(self) -> None:
        """Move some guests at once, break something, mend it, and look at every guest."""
        moving = self.chance.sample(self.tenants, self.chance.randint(1, 2))
        pairs = [(t, self.chance.choice([h for h in self.lab.hosts if h != t.home])) for t in moving]
        for tenant, to in pairs:
            with contextlib.suppress(LimosaError):  # no room for it there just now
                request = MoveRequest(guest=tenant.spec.name, to=to, keep_source_disks=False)
                await asyncio.to_thread(ask_for_move, self.lab.host(tenant.home), request)
        await asyncio.sleep(self.chance.uniform(0, 4))
        name, victim = self.chance.choice(list(FAULTS)), self.lab.host(self.chance.choice(list(self.lab.hosts)))
        moves = ", ".join(f"{t.spec.name} {t.home}→{to}" for t, to in pairs)
        self.say(f"{moves}; {name} on {victim.name}")
        mend = await FAULTS[name](self.lab, victim)
        await asyncio.sleep(self.chance.uniform(0, LONGEST_FAULT))
        await mend()
        await self._rest()
        for tenant in self.tenants:
            await self._look(tenant)

    async def _rest(self) -> None:
        """Wait until no journal has an open move (polled: agents tell each other, not us)."""
        deadline = time.monotonic() + REST_LIMIT
        while left := [f"{h.name}: {move}" for h in self.lab.hosts.values() for move in open_moves(h)]:
            if time.monotonic() > deadline:
                raise SoakFailed(f"not at rest after {REST_LIMIT:g} s: {', '.join(left)}")
            await asyncio.sleep(0.05)

    async def _look(self, tenant: Tenant) -> None:
        homes = [host for host in self.lab.hosts.values() for _ in qemus_of(host, tenant.spec.uuid)]
        if len(homes) != 1:
            raise SoakFailed(f"{tenant.spec.name} has QEMUs on: {', '.join(h.name for h in homes) or 'no host'}")
        tenant.moves += homes[0].name != tenant.home
        tenant.home = homes[0].name
        async with await control(homes[0], tenant.spec, timeout=30) as agent:
            await agent.set_records_rate(0)
            now, pages = await agent.status(), await agent.check_pages()
            path = homes[0].path(f"/srv/{tenant.spec.name}/disk.raw")
            verdict = records.verify_image(path, "raw", now.disk("disk").acknowledged)
            await agent.set_records_rate(10)
        same = now.boot_id == tenant.boot.boot_id and now.uptime_ns > tenant.boot.uptime_ns
        if not (same and pages.intact and verdict.intact and not now.oopsed and not now.disk("disk").errors):
            raise SoakFailed(f"{tenant.spec.name} on {tenant.home} is not whole", detail=f"{now} {verdict.faults[:2]}")


Mend = Callable[[], Awaitable[None]]


async def _agent_killed(_lab: Lab, host: Host) -> Mend:
    assert host.agent is not None
    os.kill(host.agent.pid, signal.SIGKILL)
    await host.agent.wait(10)

    async def mend() -> None:
        host.path(SOCKET).unlink(missing_ok=True)
        await start_agent(host)

    return mend


def _cut(*links: Link, drop: bool = False) -> Callable[[Lab, Host], Awaitable[Mend]]:
    async def cut(lab: Lab, host: Host) -> Mend:
        for link in links:
            await lab.cut(host.name, link, drop=drop)

        async def mend() -> None:
            await lab.heal(host.name)

        return mend

    return cut


async def _frozen(_lab: Lab, host: Host) -> Mend:
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)

    async def mend() -> None:
        assert host.agent is not None
        host.agent.send_signal(signal.SIGCONT)

    return mend


async def _nothing(_lab: Lab, _host: Host) -> Mend:
    async def mend() -> None:
        return

    return mend


FAULTS: dict[str, Callable[[Lab, Host], Awaitable[Mend]]] = {
    "nothing": _nothing,
    "agent killed": _agent_killed,
    "agent frozen": _frozen,
    "peer link cut": _cut(Link.PEER),
    "migration link cut": _cut(Link.MIGRATION),
    "both links cut": _cut(Link.PEER, Link.MIGRATION),
    "packets dropped": _cut(Link.PEER, Link.MIGRATION, drop=True),
}


async def run(minutes: float, seed: int) -> int:
    """Soak for a while. Returns 1 where a guest came to harm."""
    print(f"seed {seed}", flush=True)
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    async with Lab.up(hosts=HOSTS, name=f"soak-{os.getpid()}", agents=False) as lab:
        soak = Soak(lab, random.Random(seed), say)  # noqa: S311 -- repeatable is the point
        await soak.settle_in()
        rounds = 0
        try:
            while time.monotonic() - began < 60 * minutes:
                await soak.round()
                rounds += 1
        except LimosaError as failed:
            say(f"FAILED in round {rounds + 1} of seed {seed}: {failed.what} {failed.detail}")
            return 1
        say(f"{rounds} rounds, {sum(t.moves for t in soak.tenants)} moves, every guest whole")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args(words)
    return asyncio.run(run(asked.minutes, asked.seed if asked.seed is not None else secrets.randbelow(2**32)))


if __name__ == "__main__":
    sys.exit(main())
