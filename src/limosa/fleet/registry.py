"""The inventory as the database keeps it: what agents reported, and what operators set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from limosa.errors import NotFound
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import guests, hosts, rules
from limosa.fleet.inventory import HostState
from limosa.wire.fleet import GuestRules, HostSettings
from limosa.wire.reports import GuestReport, MachineReport, Report

NEVER = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHost:
    """One row; `seen` is when its agent last spoke, seconds since 1970, or NEVER."""

    name: str
    state: HostState
    reason: str
    settings: HostSettings
    machine: MachineReport | None
    seen: float
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGuest:
    """A guest on a host as it was last seen, and what operators say of it."""

    host: str
    report: GuestReport
    seen: float
    rules: GuestRules
    home: str | None
    moved_at: float | None


class Registry:
    """Hosts and guests in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- what agents say --------------------------------------------------------------------------------------

    async def list_hosts(self, names: Iterable[str]) -> None:
        """Have a row for each of these hosts."""
        rows = [{"name": name} for name in names]
        if rows:
            async with self._database.write() as connection:
                await connection.execute(upsert(connection, hosts, rows, update=()))

    async def take(self, host: str, report: Report, now: float) -> None:
        """Take in a report; one that is everything replaces all that was known."""
        async with self._database.write() as connection:
            machine = {} if report.machine is None else {"machine": _json(report.machine)}
            row = {"name": host, "seen": now, "trouble": "", **machine}
            await connection.execute(upsert(connection, hosts, [row], update=row.keys() - {"name"}))
            told = {guest.key for guest in report.guests}
            leave = guests.c.id.notin_(told) if report.since == 0 else guests.c.id.in_(report.gone)
            await connection.execute(sa.delete(guests).where(guests.c.host == host, leave))
            rows = [_guest_row(host, guest, now) for guest in report.guests]
            if rows:
                await connection.execute(upsert(connection, guests, rows, update=("name", "report", "seen")))

    async def seen(self, when: Mapping[str, float]) -> None:
        """Hosts whose agents gave a sign of life, and when."""
        if when:
            async with self._database.write() as connection:
                statement = sa.update(hosts).where(hosts.c.name == sa.bindparam("host"))
                values = {"seen": sa.bindparam("at"), "trouble": ""}
                await connection.execute(
                    statement.values(values), [{"host": name, "at": at} for name, at in when.items()]
                )

    async def silent(self, host: str, why: str) -> None:
        """A host's agent cannot be reached."""
        async with self._database.write() as connection:
            changed = (hosts.c.name == host) & (hosts.c.trouble != why)
            await connection.execute(sa.update(hosts).where(changed).values(trouble=why))

    # -- what is known ----------------------------------------------------------------------------------------

    async def hosts(self) -> tuple[KeptHost, ...]:
        """Every host, by name."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(hosts).order_by(hosts.c.name))
            return tuple(_host(row) for row in rows.mappings())

    async def host(self, name: str) -> KeptHost:
        """One host.

        Raises:
            NotFound: there is none of this name.
        """
        for host in await self.hosts():
            if host.name == name:
                return host
        raise NotFound(f"the fleet has no host {name}", remedy="limosa hosts lists them")

    async def guests(self) -> tuple[KeptGuest, ...]:
        """Every guest, by id; one that two hosts report comes twice."""
        joined = sa.select(guests, rules.c.rules, rules.c.home, rules.c.moved_at)
        joined = joined.join_from(guests, rules, guests.c.id == rules.c.guest, isouter=True)
        async with self._database.read() as connection:
            rows = await connection.execute(joined.order_by(guests.c.id, guests.c.host))
            return tuple(_guest(row) for row in rows.mappings())

    async def guest(self, wanted: str) -> KeptGuest:
        """One guest, by id or name; where two hosts report it, as the one does that it runs on.

        Raises:
            NotFound: there is none, or several have this name.
        """
        found = [g for g in await self.guests() if wanted in {g.report.key, g.report.shown.name}]
        if len({guest.report.key for guest in found}) > 1:
            raise NotFound(f"several guests are called {wanted}", remedy="name it by its UUID: limosa ls --json")
        if not found:
            raise NotFound(f"the fleet has no guest {wanted}", remedy="limosa ls lists them")
        return max(found, key=lambda guest: (guest.report.here, guest.report.epoch, guest.seen))

    # -- what operators set -----------------------------------------------------------------------------------

    async def set_state(self, names: Sequence[str], state: HostState, why: str) -> None:
        """What hosts are used for from now on.

        Raises:
            NotFound: there is no such host.
        """
        async with self._database.write() as connection:
            await set_state(connection, names, state, why)

    async def set_settings(self, name: str, settings: HostSettings) -> None:
        """What operators say of a host.

        Raises:
            NotFound: there is none of this name.
        """
        async with self._database.write() as connection:
            await require_hosts(connection, [name])
            await connection.execute(sa.update(hosts).where(hosts.c.name == name).values(settings=_json(settings)))

    async def set_rules(self, guest: str, wanted: GuestRules) -> None:
        """What operators say of a guest, by its id."""
        async with self._database.write() as connection:
            row = {"guest": guest, "rules": _json(wanted)}
            await connection.execute(upsert(connection, rules, [row], update=("rules",)))


async def require_hosts(connection: AsyncConnection, names: Iterable[str]) -> None:
    """Raises NotFound where one of these hosts is unknown."""
    wanted = set(names)
    rows = await connection.execute(sa.select(hosts.c.name).where(hosts.c.name.in_(wanted)))
    if missing := wanted - set(rows.scalars()):
        raise NotFound(f"the fleet has no host {', '.join(sorted(missing))}", remedy="limosa hosts lists them")


async def set_state(connection: AsyncConnection, names: Iterable[str], state: HostState, why: str) -> None:
    """Within a transaction: what hosts are used for. Raises NotFound."""
    await require_hosts(connection, names)
    await connection.execute(sa.update(hosts).where(hosts.c.name.in_(set(names))).values(state=state, reason=why))


async def moved(connection: AsyncConnection, guest: str, *, away_from: str | None, now: float) -> None:
    """Within a transaction: a guest was moved.

    Args:
        connection: the transaction.
        guest: its id.
        away_from: where it belongs from now on, unless it belongs elsewhere already; None: where it is.
        now: seconds since 1970.
    """
    row = {"guest": guest, "rules": "{}", "home": away_from, "moved_at": now}
    statement = upsert(connection, rules, [row], update=("home", "moved_at"))
    if away_from is not None:
        home = sa.func.coalesce(rules.c.home, away_from)
        statement = upsert(connection, rules, [row], update=("moved_at",), values={"home": home})
    await connection.execute(statement)


def upsert(
    connection: AsyncConnection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    update: Iterable[str],
    where: sa.ColumnElement[bool] | None = None,
    values: Mapping[str, sa.ColumnElement[Any]] | None = None,
) -> sqlite.Insert:
    """Insert rows; of those that are there by their primary key, change these columns, and only `where` that is so.

    `values` are columns that are changed to something else than the new row's.
    """
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement: sqlite.Insert = dialect.insert(table).values(rows)
    keys = list(table.primary_key.columns)
    if changed := {name: statement.excluded[name] for name in update} | dict(values or {}):
        return statement.on_conflict_do_update(index_elements=keys, set_=changed, where=where)
    return statement.on_conflict_do_nothing(index_elements=keys)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# Between two looks at a fleet most rows are as they were, and decoding them is most of the work.


@lru_cache(maxsize=1 << 17)
def _report(text: str) -> GuestReport:
    return msgspec.json.decode(text, type=GuestReport)


@lru_cache(maxsize=1 << 14)
def _machine(text: str) -> MachineReport:
    return msgspec.json.decode(text, type=MachineReport)


@lru_cache(maxsize=1 << 14)
def _rules(text: str) -> GuestRules:
    return msgspec.json.decode(text, type=GuestRules)


def _guest_row(host: str, guest: GuestReport, now: float) -> dict[str, Any]:
    return {"id": guest.key, "host": host, "name": guest.shown.name, "report": _json(guest), "seen": now}


def _host(row: Mapping[Any, Any]) -> KeptHost:
    return KeptHost(
        name=row["name"],
        state=HostState(row["state"]),
        reason=row["reason"],
        settings=msgspec.json.decode(row["settings"], type=HostSettings),
        machine=_machine(row["machine"]) if row["machine"] else None,
        seen=row["seen"],
        trouble=row["trouble"],
    )


def _guest(row: Mapping[Any, Any]) -> KeptGuest:
    return KeptGuest(
        host=row["host"],
        report=_report(row["report"]),
        seen=row["seen"],
        rules=_rules(row["rules"] or "{}"),
        home=row["home"],
        moved_at=row["moved_at"],
    )
