"""What became of moves: told by agents, kept in the database, and asked of agents while a move is in flight."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from limosa.errors import LimosaError, NotFound, PeerError
from limosa.fleet.agents import Links
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import archives, changes, moves, operations
from limosa.fleet.freed import freed
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.registry import Registry, upsert
from limosa.history.select import Wanted
from limosa.history.weeks import Freed, week_begins, weeks
from limosa.migration.archive import past_move
from limosa.units import HostName
from limosa.wire.fleet import Change, Operation
from limosa.wire.history import (
    HistoryAsk,
    HistoryPage,
    HistoryTold,
    LogLine,
    Mark,
    MoveLog,
    MoveRecord,
    PastMove,
    RecordAsk,
    Week,
)

ANSWER_SECONDS = 20.0
WAIT = 4.0
"""Seconds that an agent may keep the question for a move that does not change."""
RECENT = 50
"""Operations in which the move of an unknown id is looked for."""
LONGEST_ID = 64
"""Letters of a move's id, and of a guest's UUID."""

_ID = re.compile(rf"[\w-]{{1,{LONGEST_ID}}}", re.ASCII)
_log = structlog.get_logger()


class History:
    """Moves, finished and in flight.

    Args:
        database: where finished ones are kept.
        store: the operations that moves are part of.
        registry: which host has which guest.
        peers: the links to agents.
        seconds: for how long after its end a move is kept.
    """

    def __init__(
        self, database: Database, store: OperationStore, registry: Registry, peers: Links, seconds: float
    ) -> None:
        self._database = database
        self._store = store
        self._registry = registry
        self._peers = peers
        self._seconds = seconds

    # -- what agents tell -------------------------------------------------------------------------------------

    async def mark(self, host: str) -> Mark:
        """How far an agent's archive is known."""
        async with self._database.read() as connection:
            row = (await connection.execute(sa.select(archives).where(archives.c.host == host))).first()
        return Mark(row.name, row.number) if row else Mark("", 0)

    async def catch_up(self, host: HostName) -> None:
        """Take in all that an agent keeps of finished moves, and that is not known here.

        Raises:
            PeerError: it cannot be asked.
        """
        known = await self.mark(host)
        while True:
            link = await self._peers.link(host)
            told = await link.call("fleet.history", HistoryAsk(after=known), HistoryTold, timeout=ANSWER_SECONDS)
            await self.take(host, told)
            if not told.records:
                return
            known = told.mark

    async def take(self, host: str, told: HistoryTold) -> None:
        """Take in what an agent told; what it tells twice changes nothing."""
        rows = [_row(record) for record in told.records if _credible(host, record)]
        async with self._database.write() as connection:
            for row in rows:
                await connection.execute(upsert(connection, moves, [row], update=row.keys() - {"id", "source"}))
            mark = {"host": host, "name": told.mark.archive, "number": told.mark.number}
            await connection.execute(upsert(connection, archives, [mark], update=("name", "number")))
            await connection.execute(sa.delete(moves).where(moves.c.ended < time.time() - self._seconds))

    # -- what is kept -----------------------------------------------------------------------------------------

    async def page(self, wanted: Wanted) -> HistoryPage:
        """Finished moves, latest first."""
        query = sa.select(moves.c.past).where(*_conditions(wanted)).order_by(moves.c.ended.desc(), moves.c.id)
        async with self._database.read() as connection:
            if wanted.after:
                last = (await connection.execute(sa.select(moves.c.ended).where(moves.c.id == wanted.after))).scalar()
                if last is None:
                    raise NotFound(f"there is no finished move {wanted.after} to go on after")
                behind = (moves.c.ended < last) | ((moves.c.ended == last) & (moves.c.id > wanted.after))
                query = query.where(behind)
            found = (await connection.execute(query.limit(wanted.limit + 1))).scalars().all()
        chosen = tuple(_past(text) for text in found[: wanted.limit])
        return HistoryPage(chosen, chosen[-1].id if len(found) > wanted.limit else None)

    async def weeks(self, names: Sequence[str], now: float) -> tuple[Week, ...]:
        """Moves added up by week. Raises UsageError where a name is no week's."""
        since = min((week_begins(name) for name in names), default=now)
        query = sa.select(moves.c.past).where(moves.c.ended >= since)
        async with self._database.read() as connection:
            told = (await connection.execute(query)).scalars().all()
        freed_hosts = await self._freed()
        # A busy fleet's year is a second of work: others are answered meanwhile.
        return await asyncio.to_thread(lambda: weeks(map(_past, told), freed_hosts, names, now))

    async def _freed(self) -> tuple[Freed, ...]:
        """What consolidations have freed; their operations have their kind at the head of their id."""
        first = sa.select(sa.func.min(operations.c.created)).where(operations.c.id.like("consolidate-%"))
        async with self._database.read() as connection:
            since = (await connection.execute(first)).scalar()
            if since is None:
                return ()
            bodies = sa.select(operations.c.body).where(operations.c.created >= since)
            known = [msgspec.json.decode(text, type=Operation) for text in (await connection.execute(bodies)).scalars()]
            states = sa.select(changes).where(changes.c.at >= since, changes.c.what.like("set state %"))
            changed = [
                Change(**{str(name): row[name] for name in row})
                for row in (await connection.execute(states)).mappings()
            ]
            arrived = sa.select(moves.c.past).where(moves.c.ended >= since)
            past = [_past(text) for text in (await connection.execute(arrived)).scalars()]
        settings = {host.name: host.settings for host in await self._registry.hosts()}
        return freed(known, changed, past, settings)

    # -- one move ---------------------------------------------------------------------------------------------

    async def record(self, move: str) -> MoveRecord:
        """A move as it stands: of its agent while it is in flight, kept when it is over.

        Raises:
            NotFound: nobody knows it.
            PeerError: it may be in flight on a host whose agent is silent.
        """
        return await self._kept(move) or (await self._live(move))[1]

    async def changes(self, move: str) -> AsyncIterator[MoveRecord | None]:
        """A move at each change, its final record last; None where nothing changed, or its agent is silent.

        Whoever reads this decides how often; without a pause, a silent agent is asked again at once.

        Raises:
            NotFound, PeerError: as `record` does, before the first.
        """
        if (kept := await self._kept(move)) is not None:
            yield kept
            return
        host, record = await self._live(move)
        yield record
        while not record.status.state.over:
            seen = record.number
            try:
                record = await self._ask(host, RecordAsk(move=move, seen=seen, wait=WAIT))
            except PeerError:
                yield None
                continue
            yield record if record.number != seen else None

    async def log(self, move: str) -> MoveLog:
        """What both hosts logged of a move, by time. Raises as `record`."""
        status = (await self.record(move)).status
        hosts = (HostName(status.source), HostName(status.destination))
        told = dict(zip(hosts, await asyncio.gather(*(self._log_of(host, move) for host in hosts)), strict=True))
        logs = [each for each in told.values() if isinstance(each, MoveLog)]
        lines: list[LogLine] = sorted((line for log in logs for line in log.lines), key=lambda line: line.at)
        return MoveLog(
            lines=tuple(lines),
            dropped=sum(log.dropped for log in logs),
            silent={host: each.what for host, each in told.items() if isinstance(each, LimosaError)},
        )

    async def _log_of(self, host: HostName, move: str) -> MoveLog | LimosaError:
        try:
            link = await self._peers.link(host)
            return await link.call("fleet.log", RecordAsk(move=move), MoveLog, timeout=ANSWER_SECONDS)
        except LimosaError as error:
            return error

    async def _kept(self, move: str) -> MoveRecord | None:
        if not _ID.fullmatch(move):
            return None
        query = sa.select(moves.c.record).where(moves.c.id == move).order_by(moves.c.ended.desc()).limit(1)
        async with self._database.read() as connection:
            text = (await connection.execute(query)).scalar()
        return None if text is None else msgspec.json.decode(text, type=MoveRecord)

    async def _live(self, move: str) -> tuple[HostName, MoveRecord]:
        missing: LimosaError = NotFound(f"nobody knows a move {move}", remedy="GET /v1/history lists finished moves")
        for host in await self._candidates(move):
            try:
                return host, await self._ask(host, RecordAsk(move=move))
            except NotFound:
                continue  # it is the destination: the source drives the move, and tells of it
            except PeerError as error:
                missing = error
        raise missing

    async def _ask(self, host: HostName, ask: RecordAsk) -> MoveRecord:
        link = await self._peers.link(host)
        return await link.call("fleet.move", ask, MoveRecord, timeout=ANSWER_SECONDS)

    async def _candidates(self, move: str) -> tuple[HostName, ...]:
        """Hosts that may drive a move: those of operations first, then those that report a guest in it."""
        recent = await self._store.before(None, RECENT)
        ordered = [item.source for operation in recent for item in operation.items if item.move == move]
        reported = [guest.host for guest in await self._registry.guests() if guest.report.shown.move == move]
        return tuple(HostName(host) for host in dict.fromkeys((*ordered, *reported)))


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    """The same choice as `Wanted.fits` makes."""
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.guest is not None:
        conditions.append((moves.c.guest == wanted.guest) | (moves.c.uuid == wanted.guest))
    if wanted.host is not None:
        conditions.append((moves.c.source == wanted.host) | (moves.c.destination == wanted.host))
    if wanted.outcome is not None:
        conditions.append(moves.c.state == wanted.outcome)
    if wanted.operation is not None:
        conditions.append(moves.c.operation == wanted.operation)
    if wanted.since is not None:
        conditions.append(moves.c.ended >= wanted.since)
    if wanted.until is not None:
        conditions.append(moves.c.ended < wanted.until)
    return conditions


def _credible(host: str, record: MoveRecord) -> bool:
    """Whether an agent may tell this: of a move from its own host, that is over."""
    status = record.status
    fits = max(len(status.uuid), len(status.operation)) <= LONGEST_ID
    credible = fits and bool(_ID.fullmatch(status.id)) and status.source == host and record.ended is not None
    if not credible:
        _log.warning("an agent tells of a move that is not its own", host=host, move=status.id[:LONGEST_ID])
    return credible


def _row(record: MoveRecord) -> dict[str, Any]:
    past = past_move(record)
    columns = ("id", "source", "destination", "guest", "uuid", "began", "ended", "state", "operation")
    return {
        **{name: getattr(past, name) for name in columns},
        "past": msgspec.json.encode(past).decode(),
        "record": msgspec.json.encode(record).decode(),
    }


def _past(text: str) -> PastMove:
    return msgspec.json.decode(text, type=PastMove)
