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
from collections.abc import Awaitable, Callable, Sequence

from limosa.cli.client import AgentClient
from limosa.cli.transport import Unix
from limosa.errors import LimosaError
from limosa.lab import records
from limosa.lab.ending import run_to_the_end
from limosa.lab.faults_bench import SILENCE, qemus_of
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.network import Link
from limosa.lab.provision import SOCKET, provision, start_agent
from limosa.lab.tenants import NotWhole, Tenant, at_rest, boot, homes_of, look, settle, spec_of
from limosa.wire.moves import MoveRequest

GUESTS, HOSTS = 4, 3
LONGEST_FAULT = 5.0


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
        hosts = tuple(self.lab.hosts.values())
        for number in range(GUESTS):
            spec = spec_of(f"soak{number}", number)
            self.tenants.append(await settle(spec, hosts[number % HOSTS], hosts, seed=number))

    async def plug(self, host: Host) -> None:
        """Power back on, with an agent, and with the directories that its guests' owner makes at boot."""
        await host.plug()
        for tenant in self.tenants:
            host.path(tenant.spec.directory).mkdir(parents=True, exist_ok=True)
        await start_agent(host)

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
        mend = await FAULTS[name](self, victim)
        await asyncio.sleep(self.chance.uniform(0, LONGEST_FAULT))
        await mend()
        await at_rest(self.lab.hosts.values())
        for tenant in self.tenants:
            await self._look(tenant)

    async def _look(self, tenant: Tenant) -> None:
        hosts = self.lab.hosts.values()
        if tenant.mortal and not homes_of(tenant, hosts):
            await self._revive(tenant)
            return
        tenant.mortal = False
        await look(tenant, hosts)

    async def _revive(self, tenant: Tenant) -> None:
        """Start a guest again whose own QEMU, or host, was killed: where its one whole disk is."""
        places = [host for host in self.lab.hosts.values() if host.path(tenant.disk).exists()]
        if len(places) != 1:
            raise NotWhole(f"{tenant.spec.name} was killed, and has disks on: {[h.name for h in places]}")
        verdict = records.verify_image(places[0].path(tenant.disk), "raw", tenant.known.disk("disk").acknowledged)
        if not verdict.intact:
            raise NotWhole(f"the disk of {tenant.spec.name} on {places[0].name} lost records", detail=str(verdict))
        self.say(f"{tenant.spec.name} died with its QEMU; started again on {places[0].name}")
        tenant.boot = tenant.known = await boot(places[0], tenant.spec)
        tenant.home, tenant.mortal = places[0].name, False
        tenant.lives += 1


Mend = Callable[[], Awaitable[None]]


async def _agent_killed(_soak: Soak, host: Host) -> Mend:
    assert host.agent is not None
    os.kill(host.agent.pid, signal.SIGKILL)
    await host.agent.wait(10)

    async def mend() -> None:
        host.path(SOCKET).unlink(missing_ok=True)
        await start_agent(host)

    return mend


def _cut(*links: Link, drop: bool = False) -> Callable[[Soak, Host], Awaitable[Mend]]:
    async def cut(soak: Soak, host: Host) -> Mend:
        for link in links:
            await soak.lab.cut(host.name, link, drop=drop)

        async def mend() -> None:
            await soak.lab.heal(host.name)

        return mend

    return cut


async def _frozen(_soak: Soak, host: Host) -> Mend:
    assert host.agent is not None
    host.agent.send_signal(signal.SIGSTOP)

    async def mend() -> None:
        assert host.agent is not None
        host.agent.send_signal(signal.SIGCONT)

    return mend


async def _qemu_killed(soak: Soak, host: Host) -> Mend:
    """The QEMU of one guest, or the twin that waits for it."""
    there = [t for t in soak.tenants if qemus_of(host, t.spec.uuid)]
    for tenant in soak.chance.sample(there, min(1, len(there))):
        tenant.mortal = True
        for pid in qemus_of(host, tenant.spec.uuid):
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)
    return _nothing_to_mend


async def _unplugged(soak: Soak, host: Host) -> Mend:
    for tenant in soak.tenants:
        tenant.mortal |= bool(qemus_of(host, tenant.spec.uuid))
    await soak.lab.unplug(host.name)

    async def mend() -> None:
        await soak.plug(host)

    return mend


async def _nothing_to_mend() -> None:
    return


async def _nothing(_soak: Soak, _host: Host) -> Mend:
    return _nothing_to_mend


FAULTS: dict[str, Callable[[Soak, Host], Awaitable[Mend]]] = {
    "nothing": _nothing,
    "agent killed": _agent_killed,
    "agent frozen": _frozen,
    "QEMU killed": _qemu_killed,
    "host unplugged": _unplugged,
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
        moves, lives = (sum(getattr(t, what) for t in soak.tenants) for what in ("moves", "lives"))
        say(f"{rounds} rounds, {moves} moves, {lives - GUESTS} guests killed and started again, every guest whole")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args(words)
    return run_to_the_end(run(asked.minutes, asked.seed if asked.seed is not None else secrets.randbelow(2**32)))


if __name__ == "__main__":
    sys.exit(main())
