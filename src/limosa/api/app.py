"""The controller's REST API on Litestar. Its description is at /openapi.json; every error has the same parts.

What is served beside it, such as pages and metrics, is plugged in from above as an `Extension`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.plugins import PluginProtocol
from litestar.types import ControllerRouterHandler

from limosa.api import fleet, history, house, operations
from limosa.api.auth import Authentication
from limosa.api.errors import failed, refused, told
from limosa.errors import LimosaError
from limosa.fleet.controller import Controller

LARGEST_REQUEST = 1024 * 1024
NO_TOKEN = "no_token"  # noqa: S105  (the name of an option)


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
    api = (house.health, house.routes, fleet.routes, operations.routes, history.routes)
    return Litestar(
        route_handlers=[*api, *(handler for each in extensions for handler in each.route_handlers)],
        plugins=[plugin for each in extensions for plugin in each.plugins],
        state=State({"controller": controller}),
        middleware=[DefineMiddleware(Authentication, exclude_from_auth_key=NO_TOKEN, exclude=["^/openapi.json$"])],
        exception_handlers={LimosaError: told, HTTPException: refused, Exception: failed},
        request_max_body_size=LARGEST_REQUEST,
        openapi_config=_description(),
        logging_config=None,
    )


def _description() -> OpenAPIConfig:
    bearer = SecurityScheme(type="http", scheme="bearer", description="limosa controller token makes one")
    return OpenAPIConfig(
        title="limosa controller",
        version=version("limosa"),
        path="/",
        render_plugins=[JsonRenderPlugin()],
        use_handler_docstrings=True,
        components=Components(security_schemes={"token": bearer}),
        security=[{"token": []}],
    )
