"""The controller's REST API on Litestar. Its description is at /openapi.json; every error has the same parts.

What is served beside it, such as pages and metrics, is plugged in from above as an `Extension`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from litestar import Litestar
from litestar.datastructures import MutableScopeHeaders, State
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.plugins import PluginProtocol
from litestar.types import ControllerRouterHandler, Message, Scope

from limosa.api import diagnosis, fleet, history, hooks, house, metrics, operations
from limosa.api.auth import NO_TOKEN, Authentication
from limosa.api.description import description
from limosa.api.errors import failed, refused, told
from limosa.api.strikes import Strikes
from limosa.errors import LimosaError
from limosa.fleet.controller import Controller

LARGEST_REQUEST = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """Something that the controller serves beside its API.

    Its handlers reach the controller by `controller_of`, and who asks by `request.user`. A handler with
    `opt={NO_TOKEN: True}` is open to everybody, or lets its own middleware and guards say who may come in; one that
    is no part of the API says `include_in_schema=False`.
    """

    route_handlers: Sequence[ControllerRouterHandler] = ()
    plugins: Sequence[PluginProtocol] = ()
    """May change the whole application when it is made: templates, for one."""


def app(controller: Controller, extensions: Sequence[Extension] = ()) -> Litestar:
    """The application that answers for this controller."""
    api = (
        house.health,
        house.routes,
        hooks.routes,
        fleet.routes,
        operations.routes,
        history.routes,
        diagnosis.routes,
        metrics.routes,
    )
    return Litestar(
        route_handlers=[*api, *(handler for each in extensions for handler in each.route_handlers)],
        plugins=[plugin for each in extensions for plugin in each.plugins],
        state=State({"controller": controller, "strikes": Strikes()}),
        middleware=[DefineMiddleware(Authentication, exclude_from_auth_key=NO_TOKEN, exclude=["^/openapi.json$"])],
        exception_handlers={LimosaError: told, HTTPException: refused, Exception: failed},
        request_max_body_size=LARGEST_REQUEST,
        before_send=[_finish],
        openapi_config=description(),
        logging_config=None,
    )


async def _finish(message: Message, scope: Scope) -> None:
    """What is answered is neither kept by caches nor guessed at by browsers; pages may say otherwise of themselves."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if scope.get("method") == "OPTIONS" and "Allow" in headers:
        # Litestar answers with the methods of the handler that was registered first for a path.
        routes = [route for route in scope["litestar_app"].routes if route.path_format == scope.get("path_template")]
        headers["Allow"] = ", ".join(sorted({method for route in routes for method in route.methods}))
