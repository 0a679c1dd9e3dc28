"""The dashboard of a controller, plugged into its API's application."""

from copy import copy

from litestar import Response, Router, get
from litestar.config.app import AppConfig
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.plugins import InitPlugin

from limosa.api.app import Extension
from limosa.api.auth import NO_TOKEN
from limosa.fleet.controller import Controller
from limosa.web.controller import actions, answers, assets, pages, pictures, show, signin
from limosa.web.controller.looks import Looks
from limosa.web.controller.visit import Asked, Site


def extension(*, secure: bool = True) -> Extension:
    """For `limosa.api.app.app`.

    Args:
        secure: whether it is served over TLS; without, on loopback only.
    """
    return Extension(plugins=(_Dashboard(secure=secure),))


class _Dashboard(InitPlugin):
    def __init__(self, *, secure: bool) -> None:
        self._secure = secure

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        controller: Controller = app_config.state["controller"]
        app_config.route_handlers.append(_routes(Site(controller, Looks(controller), self._secure)))
        if (described := app_config.openapi_config) is not None:
            # Litestar shows an API's description at the root of its path too, and there is the map of the fleet.
            app_config.route_handlers.append(_description(described.render_plugins[0]))
            app_config.openapi_config = copy(described)
            app_config.openapi_config.path = "/schema"
        return app_config


def _routes(site: Site) -> Router:
    handlers = [assets.static, *signin.handlers(site), *pictures.handlers(site), *pages.handlers(site, show.PAGES)]
    handlers += [*actions.handlers(site, actions.ACTIONS), _nowhere()]
    return Router(path="/", route_handlers=handlers, exception_handlers=answers.handlers(site), include_in_schema=False)


def _nowhere() -> HTTPRouteHandler:
    @get("/{rest:path}", opt={NO_TOKEN: True}, include_in_schema=False, sync_to_thread=False)
    def nowhere(request: Asked) -> None:
        raise NotFoundException(f"there is no page {request.url.path}")

    return nowhere


def _description(described: OpenAPIRenderPlugin) -> HTTPRouteHandler:
    @get("/openapi.json", opt={NO_TOKEN: True}, include_in_schema=False, sync_to_thread=False)
    def openapi(request: Asked) -> Response[bytes]:
        content = described.render(request, request.app.openapi_schema.to_schema())
        return Response(content, media_type=str(described.media_type))

    return openapi
