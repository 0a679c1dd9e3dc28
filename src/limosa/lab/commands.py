"""The command line as an operator on a lab host uses it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from limosa.lab.hosts import Host
from limosa.wire.moves import MoveStatus, PlanShown


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said: exit status, and both streams as text."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """The last line of its output as JSON; ValueError where it is none."""
        return msgspec.json.decode(self.out.strip().splitlines()[-1])

    def move(self) -> MoveStatus:
        """Its output as a move's report; ValueError where it is none."""
        return msgspec.json.decode(self.out.strip().splitlines()[-1], type=MoveStatus)

    def plan(self) -> PlanShown:
        """Its output as a plan; ValueError where it is none."""
        return msgspec.json.decode(self.out.strip().splitlines()[-1], type=PlanShown)


async def limosa(host: Host, *words: str, timeout: float = 180, env: Mapping[str, str] | None = None) -> Answer:
    """Run `limosa WORDS` on a lab host, talking to that host's agent, or to whom `env` names."""
    done = await host.run([sys.executable, "-m", "limosa", *words], check=False, timeout=timeout, env=env)
    return Answer(done.status, done.stdout, done.stderr)


async def migrate(host: Host, guest: str, to: Host, *flags: str, timeout: float = 180) -> Answer:
    """`limosa migrate GUEST --to HOST --json`, with further flags."""
    return await limosa(host, "migrate", guest, "--to", to.name, "--json", *flags, timeout=timeout)
