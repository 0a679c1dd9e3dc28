"""Operations: planned, approved, watched, steered. Long work answers 202 with the operation; its id is the job's."""

import hashlib
from typing import Annotated

import msgspec
from litestar import Response, Router, get, post
from litestar.params import HeaderParameter, JSONBody
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.auth import SECURED, operator
from limosa.api.errors import READS, WRITES, refusals
from limosa.api.fleet import After, Asked, Limit, controller_of
from limosa.api.streams import EVENTS, News, stream
from limosa.api.understood import Named, understood
from limosa.fleet.controller import Controller
from limosa.fleet.operations.advance import Wish
from limosa.wire.fleet import (
    Item,
    ItemState,
    MoveAsked,
    Operation,
    OperationAsked,
    OperationKind,
    Words,
)

Key = Annotated[str, HeaderParameter(name="Idempotency-Key", max_length=200, pattern=r"^[\x20-\x7e]*$")]

LOOK_EVERY = 0.5
"""Seconds between two looks at an operation that somebody watches."""


class OperationPage(msgspec.Struct, frozen=True):
    """Some operations, latest first."""

    items: tuple[Operation, ...]
    next: str | None


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a request that steers an operation."""

    why: Words = ""


class MoveShown(msgspec.Struct, frozen=True):
    """A move, and the operation it is part of."""

    operation: str
    item: Item


@post(
    "/plans",
    status_code=200,
    responses=refusals(*WRITES, 404, 422),
    guards=[operator],
    summary="What an operation would do",
)
async def make_plan(request: Asked, data: JSONBody[OperationAsked]) -> Operation:
    """Plan, and keep nothing."""
    return await controller_of(request).plan(data, request.user.name)


@post(
    "/operations",
    status_code=202,
    responses=refusals(*WRITES, 404, 409, 422),
    guards=[operator],
    summary="Begin an operation",
)
async def begin(request: Asked, data: JSONBody[OperationAsked], key: Key = "") -> Response[Operation]:
    """Plan an operation; approved already, or to be approved. With a key, repeating the request begins nothing new."""
    return await _begin(request, data, key)


async def _begin(request: Asked, asked: OperationAsked, key: str) -> Response[Operation]:
    fingerprint = hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
    operation = await controller_of(request).submit(asked, request.user.name, key, fingerprint)
    return Response(operation, status_code=202, headers={"Location": f"/v1/operations/{operation.id}"})


@post(
    "/moves", status_code=202, responses=refusals(*WRITES, 404, 409, 422), guards=[operator], summary="Move one guest"
)
async def begin_move(request: Asked, data: JSONBody[MoveAsked], key: Key = "") -> Response[Operation]:
    """An operation with this one move, approved."""
    asked = OperationAsked(kind=OperationKind.MOVE, moves=(data,), approved=True)
    return await _begin(request, asked, key)


@get("/moves", responses=refusals(*READS), summary="Moves in flight")
async def list_moves(request: Asked) -> tuple[MoveShown, ...]:
    """Moves of operations that are in flight now."""
    controller = controller_of(request)
    opened = [await controller.store.get(each.id) for each in await controller.store.open()]
    return tuple(
        MoveShown(operation.id, item)
        for operation in opened
        for item in operation.items
        if item.state is ItemState.MOVING
    )


@get("/operations", responses=refusals(*READS, 404), summary="Operations")
async def list_operations(request: Asked, after: After = "", limit: Limit = 50) -> OperationPage:
    """Operations, latest first."""
    controller = controller_of(request)
    before = (await controller.store.get(after)).created if after else None
    found = tuple(await controller.operations(before, limit))
    return OperationPage(found, found[-1].id if len(found) == limit else None)


@get("/operations/{operation:str}", responses=refusals(*READS, 404), summary="One operation")
async def show(request: Asked, operation: Named) -> Operation:
    """How far it is, and what is left and why."""
    return await controller_of(request).store.get(operation)


@get(
    "/operations/{operation:str}/events",
    media_type=EVENTS,
    responses=refusals(*READS, 404),
    summary="Watch an operation",
)
async def watch(request: Asked, operation: Named) -> ServerSentEvent:
    """Server-sent events, each an Operation, at each change; the stream ends after the final one."""
    controller = controller_of(request)
    await controller.store.get(operation)
    return stream(request, _changes(controller, operation), LOOK_EVERY)


async def _changes(controller: Controller, operation: str) -> News:
    told = -1
    while True:
        now = await controller.store.get(operation)
        fresh, told = now.number != told, now.number
        yield [ServerSentEventMessage(data=msgspec.json.encode(now).decode(), id=now.number)] if fresh else []
        if now.phase.over:
            return


@post(
    "/operations/{operation:str}/approve",
    status_code=202,
    responses=refusals(*WRITES, 404, 409),
    guards=[operator],
    summary="Let it run",
)
async def approve(request: Asked, operation: Named, data: JSONBody[Why]) -> Operation:
    """Let a planned operation run."""
    return await controller_of(request).approve(operation, request.user.name, data.why)


@post(
    "/operations/{operation:str}/pause",
    status_code=202,
    responses=refusals(*WRITES, 404, 409),
    guards=[operator],
    summary="Start no more moves",
)
async def pause(request: Asked, operation: Named, data: JSONBody[Why]) -> Operation:
    """Moves in flight go on."""
    return await controller_of(request).wish(operation, Wish.PAUSE, request.user.name, data.why)


@post(
    "/operations/{operation:str}/resume",
    status_code=202,
    responses=refusals(*WRITES, 404, 409),
    guards=[operator],
    summary="Go on",
)
async def resume(request: Asked, operation: Named, data: JSONBody[Why]) -> Operation:
    """Go on after a pause."""
    return await controller_of(request).wish(operation, Wish.RUN, request.user.name, data.why)


@post(
    "/operations/{operation:str}/cancel",
    status_code=202,
    responses=refusals(*WRITES, 404, 409),
    guards=[operator],
    summary="End it",
)
async def cancel(request: Asked, operation: Named, data: JSONBody[Why]) -> Operation:
    """Start nothing more, and roll back the moves in flight that have not committed."""
    return await controller_of(request).wish(operation, Wish.CANCEL, request.user.name, data.why)


routes = Router(
    path="/v1",
    route_handlers=[
        make_plan,
        begin,
        begin_move,
        list_moves,
        list_operations,
        show,
        watch,
        approve,
        pause,
        resume,
        cancel,
    ],
    security=SECURED,
    before_request=understood,
    tags=["operations"],
)
