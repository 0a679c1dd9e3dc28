"""Moves one by one, in flight and finished, and finished ones by week."""

import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.fleet import After, Asked, Limit, controller_of
from limosa.history.select import Wanted
from limosa.history.weeks import weeks_back
from limosa.wire.history import HistoryPage, MoveLog, MoveRecord, Week
from limosa.wire.moves import MoveState

Last = Annotated[int, QueryParameter(ge=1, le=520)]
LatestWeek = Annotated[str, QueryParameter(max_length=8)]


@get("/moves/{move:str}", summary="One move")
async def show_move(request: Asked, move: FromPath[str]) -> MoveRecord:
    """A move as it stands: told by its source's agent while it is in flight, kept when it is over."""
    return await controller_of(request).history.record(move)


@get("/moves/{move:str}/events", summary="Watch a move")
async def watch_move(request: Asked, move: FromPath[str]) -> ServerSentEvent:
    """Server-sent events, each a MoveRecord, at most one a second; the stream ends after the final one."""
    history = controller_of(request).history
    await history.record(move)  # an error must come before the stream begins
    return ServerSentEvent(_told(history.changes(move)))


async def _told(records: AsyncIterator[MoveRecord | None]) -> AsyncIterator[ServerSentEventMessage]:
    async for record in records:
        if record is None:
            yield ServerSentEventMessage(comment="alive")
        else:
            yield ServerSentEventMessage(data=msgspec.json.encode(record).decode(), id=record.number)


@get("/moves/{move:str}/log", summary="What both hosts logged of a move")
async def show_log(request: Asked, move: FromPath[str]) -> MoveLog:
    """The lines of both hosts by time; hosts that do not answer are named."""
    return await controller_of(request).history.log(move)


@get("/history", summary="Finished moves")
async def list_history(
    request: Asked,
    guest: FromQuery[str | None] = None,
    host: FromQuery[str | None] = None,
    outcome: FromQuery[MoveState | None] = None,
    operation: FromQuery[str | None] = None,
    since: FromQuery[float | None] = None,
    until: FromQuery[float | None] = None,
    after: After = "",
    limit: Limit = 100,
) -> HistoryPage:
    """Finished moves, latest first; times are of their end, in seconds since 1970."""
    wanted = Wanted(
        guest=guest,
        host=host,
        outcome=outcome,
        operation=operation,
        since=since,
        until=until,
        after=after,
        limit=limit,
    )
    return await controller_of(request).history.page(wanted)


@get("/history/weeks", summary="Finished moves by week")
async def list_weeks(request: Asked, last: Last = 12, week: LatestWeek = "") -> tuple[Week, ...]:
    """ISO weeks, UTC: outcomes and causes, pauses, bytes, hosts freed and what that saves.

    `last` of them, latest first; the latest is `week`, such as 2026-W48, or this week.
    """
    now = time.time()
    return await controller_of(request).history.weeks(weeks_back(now, last, week), now)


routes = Router(
    path="/v1",
    route_handlers=[show_move, watch_move, show_log, list_history, list_weeks],
    tags=["history"],
)
