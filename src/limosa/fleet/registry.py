"""The inventory as the database keeps it: what agents reported, and what operators set."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from limosa.errors import NotFound
from limosa.fleet.census import Census, GuestText, KeptGuest, KeptHost, Said
from limosa.fleet.chronicle import tell
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import counters, guests, hosts, rules
from limosa.fleet.inventory import HostState
from limosa.wire.fleet import GuestRules, HostSettings
from limosa.wire.reports import GuestReport, Report


class _Counted(NamedTuple):
    """Up to which changes a census has been read: those of hosts, guests and rules, and those of who speaks."""

    fleet: int = 0
    signs: int = 0


class Registry:
    """Hosts and guests in a database, and in memory as they were when somebody last asked.

    Other controllers write into the same database: whoever asks has what changed read first. A change takes a number
    from a row that stays locked until the change is committed; so who sees a number sees all changes up to it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._census = Census()
        self._counted = _Counted()
        self._reading = asyncio.Lock()

    # -- what agents say --------------------------------------------------------------------------------------

    async def list_hosts(self, names: Iterable[str]) -> None:
        """Have a row for each of these hosts."""
        wanted = tuple(names)
        if wanted:
            async with self._database.write() as connection:
                number = await counted(connection)
                rows = [{"name": name, "number": number} for name in wanted]
                await connection.execute(upsert(connection, hosts, rows, update=()))

    async def take(self, host: str, report: Report, now: float) -> None:
        """Take in a report; one that is everything replaces all that was known."""
        await self.take_all([(host, report)], now)

    async def take_all(self, reports: Sequence[tuple[str, Report]], now: float) -> None:
        """Take in reports of different hosts at once: a commit costs as much as all of them."""
        async with self._database.write() as connection:
            number = await counted(connection)
            # One statement for many rows: it is compiled once and for all, unlike one that holds the rows.
            for told in (True, False):
                rows = [_host_row(h, r, now, number) for h, r in reports if (r.machine is not None) is told]
                if rows:
                    await connection.execute(_TAKE_HOST[connection.dialect.name, told], rows)
            emptied = [{"on": host} for host, report in reports if report.since == 0]
            if emptied:
                await connection.execute(_EMPTY, emptied)
            gone = [{"on": host, "key": key} for host, report in reports if report.since for key in report.gone]
            if gone:
                await connection.execute(_GONE, gone)
            there = [_guest_row(host, guest, now) for host, report in reports for guest in report.guests]
            if there:
                await connection.execute(_TAKE_GUEST[connection.dialect.name], there)

    async def seen(self, when: Mapping[str, float]) -> None:
        """Hosts whose agents gave a sign of life, and when."""
        if when:
            async with self._database.write() as connection:
                await counted(connection, counters.c.signs)
                statement = sa.update(hosts).where(hosts.c.name == sa.bindparam("host"))
                values = {"seen": sa.bindparam("at"), "trouble": ""}
                await connection.execute(
                    statement.values(values), [{"host": name, "at": at} for name, at in when.items()]
                )

    async def silent(self, why: Mapping[str, str]) -> None:
        """Hosts whose agents cannot be reached, and why."""
        if why:
            async with self._database.write() as connection:
                await counted(connection, counters.c.signs)
                statement = sa.update(hosts).where(hosts.c.name == sa.bindparam("host"))
                rows = [{"host": host, "said": said} for host, said in why.items()]
                await connection.execute(statement.values(trouble=sa.bindparam("said")), rows)

    # -- what is known ----------------------------------------------------------------------------------------

    async def census(self) -> Census:
        """The fleet as it is now. Look at it before you wait for anything else: it changes."""
        async with self._reading, self._database.read() as connection:
            now = _Counted(*(await connection.execute(sa.select(counters.c.fleet, counters.c.signs))).one())
            if now.fleet != self._counted.fleet:
                await self._read_rules(connection)
                await self._read_hosts(connection)
            if now.signs != self._counted.signs:
                for row in await connection.execute(sa.select(hosts.c.name, hosts.c.seen, hosts.c.trouble)):
                    self._census.put_sign(row.name, row.seen, row.trouble)
            self._counted = now
        return self._census

    async def _read_rules(self, connection: AsyncConnection) -> None:
        wanted = sa.select(rules).where(rules.c.number > self._counted.fleet)
        for row in (await connection.execute(wanted)).mappings():
            said = Said(msgspec.json.decode(row["rules"], type=GuestRules), row["home"], row["moved_at"])
            self._census.put_said(row["guest"], said)

    async def _read_hosts(self, connection: AsyncConnection) -> None:
        changed = hosts.c.number > self._counted.fleet
        rows = (await connection.execute(sa.select(hosts).where(changed))).mappings().all()
        there = guests.c.host.in_(sa.select(hosts.c.name).where(changed))
        wanted = sa.select(guests.c.host, guests.c.id, guests.c.report, guests.c.seen).where(there)
        found: dict[str, list[GuestText]] = defaultdict(list)
        for row in await connection.execute(wanted):
            found[row.host].append(GuestText(row.id, row.report, row.seen))
        for each in rows:
            self._census.put_host(_host(each), each["machine"], found[each["name"]])

    async def hosts(self) -> tuple[KeptHost, ...]:
        """Every host, by name."""
        return (await self.census()).hosts()

    async def host(self, name: str) -> KeptHost:
        """One host.

        Raises:
            NotFound: there is none of this name.
        """
        found = (await self.census()).host(name)
        if found is None:
            raise NotFound(f"the fleet has no host {name}", remedy="limosa hosts lists them")
        return found

    async def guests(self) -> tuple[KeptGuest, ...]:
        """Every guest, by id; one that two hosts report comes twice."""
        return (await self.census()).guests()

    async def guest(self, wanted: str) -> KeptGuest:
        """One guest, by id or name; where two hosts report it, as the one does that it runs on.

        Raises:
            NotFound: there is none, or several have this name.
        """
        census = await self.census()
        keys = census.called(wanted)
        if len(keys) > 1:
            raise NotFound(f"several guests are called {wanted}", remedy="name it by its UUID: limosa ls --json")
        found = [guest for key in keys for guest in census.reports_of(key)]
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
            values = {"settings": _json(settings), "number": await counted(connection)}
            await connection.execute(sa.update(hosts).where(hosts.c.name == name).values(values))

    async def set_rules(self, guest: str, wanted: GuestRules) -> None:
        """What operators say of a guest, by its id."""
        async with self._database.write() as connection:
            row = {"guest": guest, "rules": _json(wanted), "number": await counted(connection)}
            await connection.execute(upsert(connection, rules, [row], update=("rules", "number")))


async def counted(connection: AsyncConnection, counter: sa.Column[int] = counters.c.fleet) -> int:
    """Within a transaction, before it changes hosts, guests or rules: the number to be written with what changes."""
    own = sa.update(counters).values({counter: counter + 1}).returning(counter)
    return int((await connection.execute(own)).scalar_one())


async def require_hosts(connection: AsyncConnection, names: Iterable[str]) -> None:
    """Raises NotFound where one of these hosts is unknown."""
    wanted = set(names)
    rows = await connection.execute(sa.select(hosts.c.name).where(hosts.c.name.in_(wanted)))
    if missing := wanted - set(rows.scalars()):
        raise NotFound(f"the fleet has no host {', '.join(sorted(missing))}", remedy="limosa hosts lists them")


async def set_state(connection: AsyncConnection, names: Iterable[str], state: HostState, why: str) -> None:
    """Within a transaction: what hosts are used for. Raises NotFound."""
    await require_hosts(connection, names)
    values = {"state": state, "reason": why, "number": await counted(connection)}
    await connection.execute(sa.update(hosts).where(hosts.c.name.in_(set(names))).values(values))
    for name in sorted(set(names)):
        await tell(connection, "host", name, {"state": state, "why": why})


async def moved(connection: AsyncConnection, guest: str, *, away_from: str | None, now: float) -> None:
    """Within a transaction: a guest was moved.

    Args:
        connection: the transaction.
        guest: its id.
        away_from: where it belongs from now on, unless it belongs elsewhere already; None: where it is.
        now: seconds since 1970.
    """
    row = {"guest": guest, "rules": "{}", "home": away_from, "moved_at": now, "number": await counted(connection)}
    statement = upsert(connection, rules, [row], update=("home", "moved_at", "number"))
    if away_from is not None:
        home = sa.func.coalesce(rules.c.home, away_from)
        statement = upsert(connection, rules, [row], update=("moved_at", "number"), values={"home": home})
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
    statement = _DIALECTS[connection.dialect.name].insert(table).values(rows)
    return _or_update(statement, table, update, where, values)


_DIALECTS: Mapping[str, Any] = {"sqlite": sqlite, "postgresql": postgresql}


def _or_update(
    statement: sqlite.Insert,
    table: sa.Table,
    update: Iterable[str],
    where: sa.ColumnElement[bool] | None = None,
    values: Mapping[str, sa.ColumnElement[Any]] | None = None,
) -> sqlite.Insert:
    keys = list(table.primary_key.columns)
    if changed := {name: statement.excluded[name] for name in update} | dict(values or {}):
        return statement.on_conflict_do_update(index_elements=keys, set_=changed, where=where)
    return statement.on_conflict_do_nothing(index_elements=keys)


_HOST_COLUMNS = ("seen", "trouble", "number")
_TAKE_HOST = {
    (name, told): _or_update(dialect.insert(hosts), hosts, (*_HOST_COLUMNS, *(("machine",) if told else ())))
    for name, dialect in _DIALECTS.items()
    for told in (True, False)
}
_TAKE_GUEST = {
    name: _or_update(dialect.insert(guests), guests, ("name", "report", "seen")) for name, dialect in _DIALECTS.items()
}
_EMPTY = sa.delete(guests).where(guests.c.host == sa.bindparam("on"))
_GONE = sa.delete(guests).where((guests.c.host == sa.bindparam("on")) & (guests.c.id == sa.bindparam("key")))


def _host_row(host: str, report: Report, now: float, number: int) -> dict[str, Any]:
    machine = {} if report.machine is None else {"machine": _json(report.machine)}
    return {"name": host, "seen": now, "trouble": "", "number": number, **machine}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _guest_row(host: str, guest: GuestReport, now: float) -> dict[str, Any]:
    return {"id": guest.key, "host": host, "name": guest.shown.name, "report": _json(guest), "seen": now}


def _host(row: Mapping[Any, Any]) -> KeptHost:
    """A row, without what the host reported of itself: the census keeps that."""
    return KeptHost(
        name=row["name"],
        state=HostState(row["state"]),
        reason=row["reason"],
        settings=msgspec.json.decode(row["settings"], type=HostSettings),
        machine=None,
        seen=row["seen"],
        trouble=row["trouble"],
    )
