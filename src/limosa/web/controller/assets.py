"""Files that pages load. Their addresses change with their content, so browsers keep them."""

from litestar import Response, get

from limosa.api.auth import NO_TOKEN
from limosa.web.controller.visit import Asked
from limosa.web.render import HEADERS, assets, packed

KEPT = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}


@get("/static/{name:path}", opt={NO_TOKEN: True}, include_in_schema=False)
async def static(request: Asked) -> Response[bytes]:
    """One file."""
    found = assets().get(str(request.path_params["name"]).lstrip("/"))
    if found is None:
        return Response(b"", status_code=404, headers=dict(HEADERS))
    body, encoding = packed(found.content, request.headers.get("accept-encoding", ""))
    return Response(body, media_type=found.kind, headers={**KEPT, "Vary": "Accept-Encoding", **encoding})
