"""`make kills`: controllers killed, frozen and taken over in the middle of drains; the end is always the same.

Three hosts and eight guests, one of which can go nowhere else. Host a is drained and restored again and again;
meanwhile whoever carries the operation dies at a random moment, or is stopped, replaced, and continued.
"""

import argparse
import asyncio
import contextlib
import random
import secrets
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from limosa.fleet.lease import SECONDS as LEASE
from limosa.lab.ending import run_to_the_end
from limosa.lab.fleet import STUCK, Desk, LabFleet, guests_on_three_hosts, lab_name
from limosa.lab.hosts import Host
from limosa.lab.tenants import NotWhole, at_rest
from limosa.testing import postgres

OPERATION_LIMIT = 300.0
TAKEOVER_LIMIT = 3 * LEASE


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which controllers are set up."""

    name: str
    postgres: bool
    controllers: int


WAYS = (
    Way("one controller on SQLite", postgres=False, controllers=1),
    Way("one controller on PostgreSQL", postgres=True, controllers=1),
    Way("two controllers on PostgreSQL", postgres=True, controllers=2),
)


Strike = Callable[[str], Awaitable[None]]
"""What befalls the controller that carries an operation, by its id."""


class Kills:
    """Drains and restores of host a under strikes. `chance` decides when a strike falls, and which."""

    def __init__(self, fleet: LabFleet, url: str | None, chance: random.Random, say: Callable[[str], None]) -> None:
        self.fleet = fleet
        self.url = url
        self.chance = chance
        self.say = say
        self.kills = 0
        self.freezes = 0
        self.takeovers = 0

    async def round(self, strikes: int) -> None:
        """Drain a and bring its guests home, with so many strikes in each of the two, if they last. Raises NotWhole."""
        await self.drained(self._some(strikes))
        await self.restored(self._some(strikes))

    def _some(self, number: int) -> list[Strike]:
        if len(self.fleet.desks) == 1:
            return [self.kill] * number
        return self.chance.choices([self.kill, self.replace, self.freeze], k=number)

    async def drained(self, strikes: Sequence[Strike]) -> None:
        """Drain a; all leave it but the one that cannot. Raises NotWhole."""
        before = await self.fleet.look()
        told = await self._carried("drain", strikes)
        self._require(told["phase"] == "partly done", "the drain ended otherwise", told)
        self._require([left["name"] for left in told["left"]] == [STUCK], "others are left", told)
        await self._settled(told, before)

    async def restored(self, strikes: Sequence[Strike]) -> None:
        """Bring the guests of a home. Raises NotWhole."""
        before = await self.fleet.look()
        told = await self._carried("restore", strikes)
        self._require(told["phase"] == "done", "the restore ended otherwise", told)
        await self._settled(told, before)

    async def _carried(self, kind: str, strikes: Sequence[Strike]) -> dict[str, Any]:
        """An operation on host a, struck while it moves guests, when it is over."""
        left = departures(self.fleet.hosts)
        asked = {"kind": kind, "hosts": ["a"], "approved": True}
        status, begun = await self.fleet.ask("POST", "/v1/operations", asked)
        self._require(status == 202, "it was not begun", begun)
        path = f"/v1/operations/{begun['id']}"
        for strike in strikes:
            if (await self.fleet.until(path, _in_flight, OPERATION_LIMIT))["ended"] is not None:
                break
            await asyncio.sleep(self.chance.uniform(0, 2.5))
            await strike(begun["id"])
        over: dict[str, Any] = await self.fleet.until(path, lambda told: told["ended"] is not None, OPERATION_LIMIT)
        gone = departures(self.fleet.hosts) - left
        moved = Counter(item["guest"] for item in over["items"] if item["state"] == "done")
        self._require(gone == moved, "a guest left a host more than once", {"left": gone, "moved": moved})
        self.say(f"{kind}: {over['phase']} after {over['ended'] - over['began']:.1f} s, {self.kills} kills so far")
        return over

    async def kill(self, operation: str) -> None:
        """Kill whoever carries an operation, and start it again at once."""
        carrier = await self._carrier(operation)
        await carrier.kill()
        self.kills += 1
        await carrier.start()

    async def replace(self, operation: str) -> None:
        """Kill whoever carries an operation; it comes back when another one has taken over."""
        carrier = await self._carrier(operation)
        await carrier.kill()
        self.kills += 1
        await self._taken_over(carrier, operation)
        await carrier.start()

    async def freeze(self, operation: str) -> None:
        """Stop whoever carries an operation until another one has taken over; then it goes on, and does not know."""
        carrier = await self._carrier(operation)
        carrier.freeze()
        try:
            await self._taken_over(carrier, operation)
        finally:
            carrier.thaw()
        self.freezes += 1

    async def _taken_over(self, gone: Desk, operation: str) -> None:
        """Wait until another controller carries the operation, or has ended it."""
        deadline = time.monotonic() + TAKEOVER_LIMIT
        (other,) = (desk for desk in self.fleet.desks if desk is not gone)
        while (await self._carrier(operation)) is gone:
            status, told = await other.ask("GET", f"/v1/operations/{operation}")
            if status == 200 and told["ended"] is not None:
                return
            self._require(time.monotonic() < deadline, "nobody took over", told)
            await asyncio.sleep(0.2)
        self.takeovers += 1

    async def _carrier(self, operation: str) -> Desk:
        """The controller that has an operation in hand, as the database says; the first where none has."""
        if self.url is None:
            return self.fleet.desks[0]
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            found = await connection.execute("SELECT holder FROM operations WHERE id = %s", (operation,))
            row = await found.fetchone()
        holder = row[0] if row else ""
        return next((desk for desk in self.fleet.desks if desk.name == holder), self.fleet.desks[0])

    async def _settled(self, operation: Mapping[str, Any], before: Mapping[str, str]) -> dict[str, str]:
        """See that guests are where the operation says, moved once each, and whole."""
        await at_rest(self.fleet.hosts)
        after = await self.fleet.look()
        wanted = {**before, **{item["name"]: item["destination"] for item in operation["items"]}}
        self._require(after == wanted, "guests are elsewhere", {"wanted": wanted, "are": after})
        await self.fleet.knows()
        return after

    @staticmethod
    def _require(holds: bool, what: str, told: Any) -> None:
        if not holds:
            raise NotWhole(f"{what}: {told}")


def _in_flight(operation: Mapping[str, Any]) -> bool:
    return operation["ended"] is not None or any(item["state"] == "moving" for item in operation["items"])


def departures(hosts: Sequence[Host]) -> Counter[str]:
    """How often each guest, by its UUID, has left a host for good, as the journals of the sources have it."""
    counts: Counter[str] = Counter()
    for host in hosts:
        with contextlib.closing(sqlite3.connect(host.path("/var/lib/limosa/journal.db"), timeout=5)) as db:
            rows = db.execute("SELECT identity FROM moves WHERE side = 'source' AND ending = 'completed'")
            counts.update(identity for (identity,) in rows)
    return counts


@contextlib.contextmanager
def database(way: Way) -> Iterator[str | None]:
    """What a way's controllers are told of their database."""
    if not way.postgres:
        yield None
        return
    with postgres.running() as cluster:
        yield cluster.create("fleet")


async def run(wanted: int, seed: int, ways: Sequence[Way]) -> int:
    """Strike until each way has seen so many kills. Returns 1 where something came to harm."""
    print(f"seed {seed}", flush=True)
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {words}", flush=True)

    for way in ways:
        say(way.name)
        with database(way) as url:
            async with guests_on_three_hosts(lab_name("kills"), controllers=way.controllers, database=url) as fleet:
                kills = Kills(fleet, url, random.Random(seed), say)  # noqa: S311 -- repeatable is the point
                try:
                    while kills.kills < wanted:
                        await kills.round(strikes=4)
                except NotWhole as failed:
                    say(f"FAILED with seed {seed}: {failed.what} {failed.detail}")
                    return 1
                say(f"{kills.kills} kills, {kills.freezes} freezes, {kills.takeovers} takeovers: always the same end")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of controllers, for each way of setting them up")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--way", type=int, choices=range(len(WAYS)), default=None)
    asked = parser.parse_args(words)
    seed = asked.seed if asked.seed is not None else secrets.randbelow(2**32)
    return run_to_the_end(run(asked.kills, seed, WAYS if asked.way is None else (WAYS[asked.way],)))


if __name__ == "__main__":
    sys.exit(main())
