"""The fleet as all pages see it, read once for all of them and again only when something has changed."""

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from limosa.fleet import picture
from limosa.fleet.controller import Controller
from limosa.fleet.db.tables import changes, counters, events
from limosa.web.look import Look
from limosa.web.views.host import TakesIn, takes_in
from limosa.wire.fleet import About

FRESH = 1.0
"""Seconds for which what agents report need not be read again; what operators did is read at once."""
SHARE = 5.0
"""Reading the fleet again may take one part in so many of the time, however large it is."""
KEPT = 20.0
"""Seconds for which it is remembered what a host could take in."""
MOST_ABOUT = 2000
"""Operations of which it is remembered what they are about: that never changes."""
AGAIN = 10.0
"""Seconds after which it is read again although nothing has changed: agents that are silent are so for longer."""


class Stamp(NamedTuple):
    """Changes when something has changed: by operators and operations, and by what agents report."""

    done: tuple[int, int]
    reported: tuple[int, int]


class Looks:
    """Looks at one controller's fleet."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._lock = asyncio.Lock()
        self._stamp: Stamp | None = None
        self._look: Look | None = None
        self._drawn = picture.Drawn()
        self._takes: dict[str, TakesIn] = {}
        self._about: dict[str, About] = {}
        self._took = 0.0
        """Seconds of the last reading."""
        self.behind = False
        """Whether who asked last was told of the fleet as it was: what has changed meanwhile is yet to be seen."""

    async def stamp(self) -> Stamp:
        """Equal stamps: nothing has changed."""
        wanted = sa.select(
            _scalar(sa.func.max(events.c.number)),
            _scalar(sa.func.max(changes.c.number)),
            counters.c.fleet,
            counters.c.signs,
        )
        async with self._controller.database.read() as connection:
            event, change, fleet, signs = (await connection.execute(wanted)).one()
        return Stamp((event or 0, change or 0), (fleet, signs))

    async def look(self) -> Look:
        """The fleet now."""
        async with self._lock:
            stamp, now = await self.stamp(), time.time()
            if self._look is None or self._stale(self._look, stamp, now):
                began = time.monotonic()
                self._look = await self._read(now)
                self._stamp, self._took = stamp, time.monotonic() - began
            self.behind = stamp != self._stamp
            return self._look

    async def takes_in(self, host: str) -> TakesIn:
        """What a host could take in, asked again after a while: it takes long in a large fleet."""
        look, known = await self.look(), self._takes.get(host)
        if known is None or look.at - known.at > KEPT:
            known = self._takes[host] = await asyncio.to_thread(takes_in, look.inventory, host, look.at)
        return known

    async def about(self, operations: Collection[str]) -> Mapping[str, About]:
        """What operations are about, by id; of those that are no operations nothing."""
        if missing := [each for each in operations if each not in self._about]:
            if len(self._about) > MOST_ABOUT:
                self._about.clear()
                missing = list(operations)
            self._about |= {each.id: each for each in await self._controller.store.about(missing)}
        return self._about

    def _stale(self, known: Look, stamp: Stamp, now: float) -> bool:
        age = now - known.at
        if self._stamp is None or stamp.done != self._stamp.done or age > AGAIN:
            return True
        return stamp != self._stamp and age > max(FRESH, SHARE * self._took)

    async def _read(self, now: float) -> Look:
        census = await self._controller.registry.census()
        return Look(
            hosts=picture.shown_hosts(census, now),
            guests=picture.shown_guests(census, now),
            inventory=picture.inventory(census, self._controller.config.limits, now, self._drawn),
            at=now,
        )


def _scalar(column: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    return sa.select(column).scalar_subquery()
