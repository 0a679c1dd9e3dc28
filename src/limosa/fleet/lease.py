"""Leases in the database: who leads, and which controllers are alive."""

import time
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import leases
from limosa.fleet.registry import upsert

LEADER = "leader"
SECONDS = 15.0
"""How long a lease lasts; it is renewed three times as often."""


def of_controller(name: str) -> str:
    """The lease that says that a controller is alive."""
    return f"controller {name}"


class Leases:
    """One controller's leases. The database's clock counts, so that controllers' clocks may differ."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    async def take(self, name: str) -> bool:
        """Take a lease, or keep it; False where somebody else holds it."""
        async with self._database.write() as connection:
            now = await clock(connection)
            row = {"name": name, "holder": self._holder, "until": now + SECONDS}
            free = (leases.c.until < now) | (leases.c.holder == self._holder)
            statement = upsert(connection, leases, [row], update=("holder", "until"), where=free)
            held = (await connection.execute(statement.returning(leases.c.holder))).scalar()
            return bool(held == self._holder)

    async def let_go(self, name: str) -> None:
        """Give a lease up, so that others need not wait for its end."""
        async with self._database.write() as connection:
            own = (leases.c.name == name) & (leases.c.holder == self._holder)
            await connection.execute(sa.delete(leases).where(own))

    async def living(self, holders: Iterable[str]) -> frozenset[str]:
        """Those of these controllers that are alive."""
        names = {of_controller(holder): holder for holder in holders}
        async with self._database.read() as connection:
            now = await clock(connection)
            alive = (leases.c.name.in_(names)) & (leases.c.until >= now)
            found = (await connection.execute(sa.select(leases.c.name).where(alive))).scalars()
            return frozenset(names[name] for name in found)


async def count_living(database: Database) -> int:
    """How many controllers are alive."""
    async with database.read() as connection:
        alive = leases.c.name.startswith(of_controller(""), autoescape=True) & (
            leases.c.until >= await clock(connection)
        )
        count = await connection.execute(sa.select(sa.func.count()).select_from(leases).where(alive))
        return int(count.scalar_one())


async def clock(connection: AsyncConnection) -> float:
    """Seconds since 1970, as all controllers agree on them."""
    if connection.dialect.name == "sqlite":
        return time.time()
    told = await connection.execute(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp())))
    return float(told.scalar_one())
