"""What /openapi.json says: routes as Litestar knows them, types as msgspec checks them.

Litestar's own description of a msgspec type leaves out what a list's items must be, and that unknown keys are refused.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, get_args

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from limosa.api.auth import BEARER

PATH = "/openapi.json"


def description() -> OpenAPIConfig:
    """How /openapi.json is made."""
    bearer = SecurityScheme(type="http", scheme="bearer", description="limosa controller token makes one")
    return OpenAPIConfig(
        title="limosa controller",
        version=version("limosa"),
        path=PATH,
        render_plugins=[_Exact(path="/")],
        use_handler_docstrings=True,
        components=Components(security_schemes={BEARER: bearer}),
    )


class _Exact(JsonRenderPlugin):
    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        handlers = [
            each for route in request.app.routes if isinstance(route, HTTPRoute) for each in route.route_handlers
        ]
        types = {kind for handler in handlers if handler.resolve_include_in_schema() for kind in _types(handler)}
        _, exact = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        components = openapi_schema["components"]["schemas"]
        described = openapi_schema | {
            "components": openapi_schema["components"] | {"schemas": components | dict(exact)},
        }
        return super().render(request, described)


def _types(handler: HTTPRouteHandler) -> Iterator[Any]:
    """The types of a route's bodies."""
    signature = handler.parsed_fn_signature
    fields = [signature.return_type, *(f for name, f in signature.parameters.items() if name == "data")]
    for field in fields:
        yield from (kind for kind in (field.annotation, *get_args(field.annotation)) if _is_struct(kind))
    for spec in (handler.responses or {}).values():
        yield from (kind for kind in (spec.data_container,) if _is_struct(kind))


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
