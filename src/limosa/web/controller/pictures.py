"""Pictures of the fleet's processors, as files of their own."""

import asyncio
from collections.abc import Callable, Mapping

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from limosa.api.auth import NO_TOKEN
from limosa.cpu.compared import between, matrix_picture
from limosa.cpu.pools import order
from limosa.cpu.svg_pools import pools_picture
from limosa.errors import NotFound
from limosa.web.controller.visit import Asked, Site, visit
from limosa.web.look import Look
from limosa.web.render import HEADERS, packed

POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
"""A picture carries its own style, and nothing else."""


def handlers(site: Site) -> list[HTTPRouteHandler]:
    """The handler of all of them."""

    @get("/cpu/{name:str}", opt={NO_TOKEN: True}, include_in_schema=False)
    async def picture(request: Asked) -> Response[bytes]:
        await visit(site, request)
        draw = _PICTURES.get(str(request.path_params["name"]))
        if draw is None:
            raise NotFound("there is no such picture", remedy="/cpu has them")
        drawn = await asyncio.to_thread(draw, await site.looks.look())
        body, encoding = packed(drawn.encode(), request.headers.get("accept-encoding", ""))
        headers = {**HEADERS, **POLICY, "Vary": "Accept-Encoding, Cookie", **encoding}
        return Response(body, media_type="image/svg+xml", headers=headers)

    return [picture]


def _pools(look: Look) -> str:
    return pools_picture(look.pools, order(look.pools))


def _matrix(look: Look) -> str:
    return matrix_picture(between(look.pools))


_PICTURES: Mapping[str, Callable[[Look], str]] = {"pools.svg": _pools, "matrix.svg": _matrix}
