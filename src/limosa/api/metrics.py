"""GET /metrics for Prometheus, with a viewer's token; and what is measured of every request."""

import time

from litestar import Response, Router, get
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from limosa.api.auth import SECURED
from limosa.api.errors import READS, refusals
from limosa.api.fleet import Asked, controller_of
from limosa.api.understood import understood
from limosa.fleet.exposition import Exposition
from limosa.fleet.meters import Meters

_STREAM = b"text/event-stream"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Whoever asks chooses the word, and each makes a series: the others are one."""


@get("/metrics", media_type=CONTENT_TYPE_LATEST, responses=refusals(*READS), summary="Metrics for Prometheus")
async def scrape(request: Asked) -> Response[bytes]:
    """Everything that docs/metrics.md lists, in the text format."""
    state = request.app.state
    if "exposition" not in state:
        state["exposition"] = Exposition(controller_of(request))
    exposition: Exposition = state["exposition"]
    return Response(await exposition.text(), media_type=CONTENT_TYPE_LATEST)


routes = Router(path="/", route_handlers=[scrape], security=SECURED, before_request=understood, tags=["controller"])


class Measured:
    """An ASGI application whose requests are counted and timed, and whose event streams are counted while they last."""

    def __init__(self, inner: ASGIApp, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            await self._inner(scope, receive, send)
            return
        method = str(scope["method"]) if scope["method"] in _METHODS else "other"
        began, streams = time.perf_counter(), False

        async def tell(message: Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start":
                self._meters.requests.labels(method, str(message["status"])).inc()
                streams = any(k == b"content-type" and v.startswith(_STREAM) for k, v in message["headers"])
                if streams:
                    self._meters.streams.inc()
                else:
                    self._meters.answers.observe(time.perf_counter() - began)
            await send(message)

        try:
            await self._inner(scope, receive, tell)
        finally:
            if streams:
                self._meters.streams.dec()
