"""Who is told of what happens to the fleet, and whether they hear it."""

from litestar import Router, get, post
from litestar.params import JSONBody

from limosa.api.auth import SECURED, admin
from limosa.api.errors import READS, WRITES, refusals
from limosa.api.fleet import Asked, controller_of
from limosa.api.understood import understood
from limosa.wire.hooks import HookMeant, HookShown, HookTried


@get("/hooks", responses=refusals(*READS), summary="How hooks fare")
async def list_hooks(request: Asked) -> tuple[HookShown, ...]:
    """The controllers' own hooks: what waits, what was delivered, what failed last. Those of agents are told there."""
    return await controller_of(request).hooks.shown()


@post("/hooks/test", status_code=200, guards=[admin], responses=refusals(*WRITES, 404), summary="Try hooks")
async def test_hooks(request: Asked, data: JSONBody[HookMeant]) -> tuple[HookTried, ...]:
    """A test event goes to one hook, or to all of them; the answer comes when each has answered or taken too long."""
    return await controller_of(request).test_hooks(data.hook, request.user.name)


routes = Router(
    path="/v1",
    route_handlers=[list_hooks, test_hooks],
    security=SECURED,
    before_request=understood,
    tags=["controller"],
)
