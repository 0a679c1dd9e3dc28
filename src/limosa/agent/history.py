"""Finished moves, and those in flight over their time, as this agent tells of them.

On its unix socket:

    GET /v1/moves/{move}/record    MoveRecord
    GET /v1/moves/{move}/log       MoveLog: what this host logged of it
    GET /v1/history                HistoryPage; ?guest, host, outcome, operation, since, until, after, limit
    GET /v1/history/weeks          [Week], latest first; ?last=12, week=2026-W48 (the latest of them)

to controllers: `fleet.move`, `fleet.log`, `fleet.history`; and to other hosts, for the pages of a move: `move.log`.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from limosa.errors import UsageError
from limosa.history.select import Wanted, page
from limosa.history.weeks import weeks, weeks_back
from limosa.migration.moves import Moves
from limosa.units import HostName
from limosa.wire.history import HistoryAsk, HistoryTold, MoveLog, MoveRecord, RecordAsk
from limosa.wire.rpc import Handlers

T = TypeVar("T")

LONGEST_WAIT = 30.0
MOST_WEEKS = 520


class _WeeksQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of `/v1/history/weeks`."""

    last: int = 12
    week: str = ""


class History:
    """What this host knows of moves, for local callers and for controllers."""

    def __init__(self, moves: Moves) -> None:
        self._moves = moves

    def routes(self) -> list[web.RouteDef]:
        """For the API on the unix socket."""
        return [
            web.get("/v1/moves/{move}/record", self._get_record),
            web.get("/v1/moves/{move}/log", self._get_log),
            web.get("/v1/history", self._get_history),
            web.get("/v1/history/weeks", self._get_weeks),
        ]

    def handlers(self) -> Handlers:
        """For `peer.serve`, as what controllers may call."""
        return {
            "fleet.move": (RecordAsk, self._record),
            "fleet.log": (RecordAsk, self._log),
            "fleet.history": (HistoryAsk, self._history),
        }

    def for_peers(self) -> Handlers:
        """For `peer.serve`, as what other hosts may call: either end of a move shows what both logged."""
        return {"move.log": (RecordAsk, self._log)}

    async def _get_record(self, request: web.Request) -> web.StreamResponse:
        return _json(self._moves.record(request.match_info["move"]))

    async def _get_log(self, request: web.Request) -> web.StreamResponse:
        move = self._moves.record(request.match_info["move"]).status.id
        return _json(self._moves.log(move))

    async def _get_history(self, request: web.Request) -> web.StreamResponse:
        return _json(page(self._moves.archive.past(), _query(request.query, Wanted)))

    async def _get_weeks(self, request: web.Request) -> web.StreamResponse:
        now = time.time()
        asked = _query(request.query, _WeeksQuery)
        names = weeks_back(now, max(1, min(asked.last, MOST_WEEKS)), asked.week)
        return _json(weeks(self._moves.archive.past(), (), names, now))

    async def _record(self, ask: RecordAsk, _caller: HostName) -> MoveRecord:
        try:
            async with asyncio.timeout(max(0.0, min(ask.wait, LONGEST_WAIT))):
                return await self._moves.record_after(ask.move, ask.seen)
        except TimeoutError:
            return self._moves.record(ask.move)  # nothing new: as it is

    async def _log(self, ask: RecordAsk, _caller: HostName) -> MoveLog:
        return self._moves.log(ask.move)

    async def _history(self, ask: HistoryAsk, _caller: HostName) -> HistoryTold:
        return self._moves.archive.after(ask.after)


def _query(query: Mapping[str, str], kind: type[T]) -> T:
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"the question makes no sense: {error}") from error


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
