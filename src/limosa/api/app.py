"""The controller's REST API on Litestar. Its description is at /openapi.json; every error has the same parts."""

from importlib.metadata import version

from litestar import Litestar
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from limosa.api import fleet, history, house, operations
from limosa.api.auth import Authentication
from limosa.api.errors import failed, refused, told
from limosa.errors import LimosaError
from limosa.fleet.controller import Controller

LARGEST_REQUEST = 1024 * 1024
NO_TOKEN = "no_token"  # noqa: S105  (the name of an option)


def app(controller: Controller) -> Litestar:
    """The application that answers for this controller."""
    return Litestar(
        route_handlers=[house.health, house.routes, fleet.routes, operations.routes, history.routes],
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
