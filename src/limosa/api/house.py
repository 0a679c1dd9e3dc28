"""What is about the controller itself: its events, its tokens, and whether it works."""

from typing import Annotated

import msgspec
import sqlalchemy as sa
from litestar import Request, Response, Router, delete, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.auth import NO_TOKEN, SECURED, admin
from limosa.api.errors import READS, WRITES, refusals
from limosa.api.fleet import Asked, controller_of
from limosa.api.streams import EVENTS, News, stream
from limosa.api.understood import LARGEST_NUMBER, Named, understood
from limosa.fleet.chronicle import events_after, last_event
from limosa.fleet.controller import Controller
from limosa.wire.fleet import TokenAsked, TokenShown

LOOK_EVERY = 1.0
"""Seconds between two looks at the events that somebody watches."""
Last = Annotated[int | None, HeaderParameter(name="Last-Event-ID", gt=-1, le=LARGEST_NUMBER)]


class Ready(msgspec.Struct, frozen=True):
    """Answer of /readyz."""

    ready: bool
    controller: str
    leads: bool
    why_not: str = ""


_UNREADY = {503: ResponseSpec(Ready, generate_examples=False, description="The database does not answer")}


@get("/events", media_type=EVENTS, responses=refusals(*READS), summary="What happens in the fleet")
async def watch(request: Asked, last: Last = None) -> ServerSentEvent:
    """Server-sent events, from now on, or from behind `Last-Event-ID`."""
    controller = controller_of(request)
    number = await last_event(controller.database) if last is None else last
    return stream(request, _events(controller, number), LOOK_EVERY)


async def _events(controller: Controller, number: int) -> News:
    while True:
        found = await events_after(controller.database, number)
        number = found[-1].number if found else number
        yield [
            ServerSentEventMessage(data=msgspec.json.encode(event).decode(), id=event.number, event=event.kind)
            for event in found
        ]


@post("/tokens", guards=[admin], responses=refusals(*WRITES, 409), summary="Make a token")
async def make_token(request: Asked, data: JSONBody[TokenAsked]) -> TokenShown:
    """Its word is told this once."""
    return await controller_of(request).tokens.make(data.name, data.role, request.user.name)


@get("/tokens", guards=[admin], responses=refusals(*READS, 403), summary="Tokens")
async def list_tokens(request: Asked) -> tuple[TokenShown, ...]:
    """Every token, without its word."""
    return await controller_of(request).tokens.all()


@delete("/tokens/{name:str}", guards=[admin], responses=refusals(*READS, 403, 404), summary="Remove a token")
async def remove_token(request: Asked, name: Named) -> None:
    """It opens nothing any more."""
    await controller_of(request).tokens.remove(name, request.user.name)


@get("/healthz", responses=refusals(400), summary="Whether the process lives", opt={NO_TOKEN: True})
async def healthz() -> dict[str, bool]:
    """It answers, so it lives."""
    return {"alive": True}


@get("/readyz", responses=refusals(400) | _UNREADY, summary="Whether it can work", opt={NO_TOKEN: True})
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


routes = Router(
    path="/v1",
    route_handlers=[watch, make_token, list_tokens, remove_token],
    security=SECURED,
    before_request=understood,
    tags=["controller"],
)
health = Router(path="/", route_handlers=[healthz, readyz], before_request=understood, tags=["controller"])
