"""What is about the controller itself: its events, its tokens, and whether it works."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, Router, delete, get, post
from litestar.datastructures import State
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.auth import admin
from limosa.api.fleet import Asked, controller_of
from limosa.api.operations import SILENCE
from limosa.fleet.chronicle import events_after, last_event
from limosa.fleet.controller import Controller
from limosa.wire.fleet import TokenAsked, TokenShown

LOOK_EVERY = 1.0
Last = Annotated[int | None, HeaderParameter(name="Last-Event-ID", ge=0)]


class Ready(msgspec.Struct, frozen=True):
    """Answer of /readyz."""

    ready: bool
    controller: str
    leads: bool
    why_not: str = ""


@get("/events", summary="What happens in the fleet")
async def watch(request: Asked, last: Last = None) -> ServerSentEvent:
    """Server-sent events, from now on, or from behind `Last-Event-ID`."""
    controller = controller_of(request)
    return ServerSentEvent(_events(controller, await last_event(controller.database) if last is None else last))


async def _events(controller: Controller, number: int) -> AsyncIterator[ServerSentEventMessage]:
    silent = 0.0
    while True:
        for event in await events_after(controller.database, number):
            number, silent = event.number, 0.0
            yield ServerSentEventMessage(data=msgspec.json.encode(event).decode(), id=number, event=event.kind)
        await asyncio.sleep(LOOK_EVERY)
        silent += LOOK_EVERY
        if silent >= SILENCE:
            silent = 0.0
            yield ServerSentEventMessage(comment="alive")


@post("/tokens", guards=[admin], summary="Make a token")
async def make_token(request: Asked, data: JSONBody[TokenAsked]) -> TokenShown:
    """Its word is told this once."""
    return await controller_of(request).tokens.make(data.name, data.role, request.user.name)


@get("/tokens", guards=[admin], summary="Tokens")
async def list_tokens(request: Asked) -> tuple[TokenShown, ...]:
    """Every token, without its word."""
    return await controller_of(request).tokens.all()


@delete("/tokens/{name:str}", guards=[admin], summary="Remove a token")
async def remove_token(request: Asked, name: FromPath[str]) -> None:
    """It opens nothing any more."""
    await controller_of(request).tokens.remove(name, request.user.name)


@get("/healthz", summary="Whether the process lives", opt={"no_token": True})
async def healthz() -> dict[str, bool]:
    """It answers, so it lives."""
    return {"alive": True}


@get("/readyz", summary="Whether it can work", opt={"no_token": True})
async def readyz(request: Request[None, None, State]) -> Response[Ready]:
    """Whether the database answers."""
    controller = controller_of(request)
    try:
        async with controller.database.read() as connection:
            await connection.execute(sa.select(1))
    except (sa.exc.SQLAlchemyError, OSError) as error:
        why = f"the database does not answer: {type(error).__name__}"
        return Response(Ready(False, controller.config.host, controller.leads, why), status_code=503)
    return Response(Ready(True, controller.config.host, controller.leads))


routes = Router(path="/v1", route_handlers=[watch, make_token, list_tokens, remove_token], tags=["controller"])
health = Router(path="/", route_handlers=[healthz, readyz], tags=["controller"])
