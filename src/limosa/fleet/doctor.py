"""What is wrong in a whole fleet: every agent is asked for its facts, and what they add up to is told."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from limosa.agent import pki_check
from limosa.errors import LimosaError
from limosa.fleet.inventory import HostState
from limosa.fleet.kept import Kept
from limosa.migration.diagnosis import diagnose
from limosa.units import HostName, format_count, format_duration
from limosa.wire.doctor import Facts, FleetDiagnosis, Trouble, Weight
from limosa.wire.findings import Severity
from limosa.wire.fleet import FleetHost, TwoOwners

AT_ONCE = 50
"""Agents that are asked at the same time."""
AGENT_SECONDS = 10.0
ALL_SECONDS = 20.0
"""For all agents together; who has not answered by then is told of as such."""
FRESH = 10.0
"""Seconds for which a diagnosis is given again: each costs every agent a look at its host."""

_AT_WORK = frozenset({HostState.ACTIVE, HostState.DRAINING})
"""States in which an agent is missed when it is silent."""
_WEIGHTS = {Severity.BLOCKS: Weight.ERROR, Severity.WARNING: Weight.WARNING, Severity.NOTE: Weight.NOTE}
_WORST_FIRST = (Weight.ERROR, Weight.WARNING, Weight.NOTE)

Hosts = Callable[[], Awaitable[Sequence[FleetHost]]]
Owners = Callable[[], Awaitable[Sequence[TwoOwners]]]


class Agent(Protocol):
    """An agent that can be asked."""

    async def call(self, method: str, params: None, result: type[Facts], *, timeout: float | None = None) -> Facts:
        """Ask it. Raises LimosaError."""


class FleetDoctor:
    """`limosa doctor` over a fleet.

    Args:
        link: gives the link to a host's agent.
        hosts: gives the hosts of the fleet.
        owners: gives the guests that more than one of them claims.
        pki_dir: the controller's own certificates.
        name: the controller's name.
    """

    def __init__(
        self,
        link: Callable[[HostName], Awaitable[Agent]],
        hosts: Hosts,
        owners: Owners,
        pki_dir: Path,
        name: HostName,
    ) -> None:
        self._link = link
        self._hosts = hosts
        self._owners = owners
        self._pki_dir = pki_dir
        self._name = name
        self._diagnosis = Kept(self._look, FRESH)

    async def examine(self) -> FleetDiagnosis:
        """Look at every host whose agent talks; who asks while somebody looks gets the same answer."""
        return await self._diagnosis.get()

    async def close(self) -> None:
        """Look no further."""
        await self._diagnosis.close()

    async def _look(self) -> FleetDiagnosis:
        known = await self._hosts()
        facts, missing = await self._ask([host for host in known if not host.silent_for])
        own = [*_two_owners(await self._owners()), *_silent(known), *self._certificates()]
        troubles = await asyncio.to_thread(diagnose, facts, missing)
        worst_first = sorted((*own, *troubles), key=lambda trouble: _WORST_FIRST.index(trouble.weight))
        return FleetDiagnosis(at=time.time(), hosts=len(known), asked=len(facts), troubles=tuple(worst_first))

    def _certificates(self) -> Iterator[Trouble]:
        for found in pki_check.check(self._pki_dir, host=self._name):
            what = f"controller {self._name}: {found.what}"
            yield Trouble(weight=_WEIGHTS[found.severity], host=self._name, what=what, remedy=found.remedy)

    async def _ask(self, hosts: Sequence[FleetHost]) -> tuple[list[Facts], dict[str, str]]:
        """Facts of those that answer; of the others, why they did not."""
        some = asyncio.Semaphore(AT_ONCE)
        asked = {host.name: asyncio.create_task(self._facts(HostName(host.name), some)) for host in hosts}
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=ALL_SECONDS)
        finally:
            for task in asked.values():
                task.cancel()
        answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        late = f"not asked within {ALL_SECONDS:g} s: too many others are slow"
        facts: list[Facts] = []
        missing: dict[str, str] = {}
        for name, answer in zip(asked, answers, strict=True):
            match answer:
                case Facts():
                    facts.append(answer)
                case LimosaError():
                    missing[name] = answer.what
                case asyncio.CancelledError():
                    missing[name] = late
                case _:
                    raise answer
        return facts, missing

    async def _facts(self, host: HostName, some: asyncio.Semaphore) -> Facts:
        async with some:
            link = await self._link(host)
            return await link.call("fleet.doctor", None, Facts, timeout=AGENT_SECONDS)


def _two_owners(found: Sequence[TwoOwners]) -> Iterator[Trouble]:
    for each in found:
        hosts = ", ".join(each.hosts)
        yield Trouble(
            weight=Weight.ERROR,
            host=each.hosts[0],
            what=f"{each.name} ({each.id}) is claimed by {hosts}",
            guest_runs=f"not known: {hosts} each report it as their own",
            remedy="limosa doctor on these hosts says what each journal knows; end no QEMU before that is clear",
        )


def _silent(hosts: Sequence[FleetHost]) -> Iterator[Trouble]:
    for host in hosts:
        if not host.silent_for:
            continue
        missed = host.state in _AT_WORK
        guests = f", with {format_count(host.guests, 'guest')} as last seen" if host.guests else ""
        silence = f"has been silent for {format_duration(host.silent_for)}{guests}: {host.trouble}"
        yield Trouble(
            weight=Weight.ERROR if missed else Weight.NOTE,
            host=host.name,
            what=f"the agent of {host.name} ({host.state}) {silence}",
            guest_runs=f"{host.name}, as last seen; guests go on without their agent" if host.guests else "",
            remedy=f"see whether limosa-agent runs on {host.name}; if the host is gone, set it to lost",
        )
