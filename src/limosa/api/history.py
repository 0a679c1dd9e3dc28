"""Moves one by one, in flight and finished, and finished ones by week."""

import time
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.params import QueryParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.errors import READS, refusals
from limosa.api.fleet import After, Asked, Limit, OnHost, controller_of
from limosa.api.streams import EVENTS, News, stream
from limosa.api.understood import Named, understood
from limosa.history.select import Wanted
from limosa.history.weeks import weeks_back
from limosa.wire.history import HistoryPage, MoveLog, MoveRecord, Week
from limosa.wire.moves import MoveState

SPACING = 1.0
"""Seconds between two events of one move, at the least."""
ONE = (404, 502)
"""Nobody knows the move; or its host's agent, who would, is silent."""
Last = Annotated[int, QueryParameter(ge=1, le=520)]
Outcome = Annotated[MoveState | None, QueryParameter()]
Moment = Annotated[float | None, QueryParameter()]
LatestWeek = Annotated[str, QueryParameter(max_length=8)]


@get("/moves/{move:str}", responses=refusals(*READS, *ONE), summary="One move")
async def show_move(request: Asked, move: Named) -> MoveRecord:
    """A move as it stands: told by its source's agent while it is in flight, kept when it is over."""
    return await controller_of(request).history.record(move)


@get("/moves/{move:str}/events", media_type=EVENTS, responses=refusals(*READS, *ONE), summary="Watch a move")
async def watch_move(request: Asked, move: Named) -> ServerSentEvent:
    """Server-sent events, each a MoveRecord, at most one a second; the stream ends after the final one."""
    history = controller_of(request).history
    await history.record(move)  # an error must come before the stream begins
    return stream(request, _told(history.changes(move)), SPACING)


async def _told(records: AsyncIterator[MoveRecord | None]) -> News:
    async for record in records:
        data = None if record is None else msgspec.json.encode(record).decode()
        yield [] if record is None else [ServerSentEventMessage(data=data, id=record.number)]


@get("/moves/{move:str}/log", responses=refusals(*READS, *ONE), summary="What both hosts logged of a move")
async def show_log(request: Asked, move: Named) -> MoveLog:
    """The lines of both hosts by time; hosts that do not answer are named."""
    return await controller_of(request).history.log(move)


@get("/history", responses=refusals(*READS, 404), summary="Finished moves")
async def list_history(
    request: Asked,
    guest: OnHost = None,
    host: OnHost = None,
    outcome: Outcome = None,
    operation: OnHost = None,
    since: Moment = None,
    until: Moment = None,
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


@get("/history/weeks", responses=refusals(*READS, 422), summary="Finished moves by week")
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
    before_request=understood,
)
