"""Answers: pages, redirects, and errors in three lines, all with the headers that keep a page to its own site."""

from typing import Any
from urllib.parse import quote

import structlog
from litestar import Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException

from limosa.api.errors import status_of
from limosa.errors import LimosaError, NotFound
from limosa.web.controller.visit import Asked, SignedOut, Site, frame
from limosa.web.frame import Visitor, failure
from limosa.web.render import HEADERS, content, environment, packed, whole

_log = structlog.get_logger()


def html(request: Asked, whole_page: str, status: int = 200, cookies: list[Cookie] | None = None) -> Response[bytes]:
    """A page, packed where the browser takes it so."""
    body, encoding = packed(whole_page.encode(errors="replace"), request.headers.get("accept-encoding", ""))
    headers = {**HEADERS, "Vary": "Accept-Encoding, Cookie", **encoding}
    return Response(
        body, status_code=status, media_type="text/html; charset=utf-8", headers=headers, cookies=cookies or []
    )


def onward(address: str, cookies: list[Cookie] | None = None) -> Response[bytes]:
    """After a form: look there."""
    headers = {**HEADERS, "Location": quote(address, safe="/?&=%+:,;@!$'()*~.-_#")}
    return Response(b"", status_code=303, headers=headers, cookies=cookies or [])


def failed(request: Asked, site: Site, error: LimosaError, visitor: Visitor | None, status: int) -> Response[bytes]:
    """An error as a page."""
    around = frame(site, request, "Not done", visitor)
    return html(request, whole(around, content("failure.html", around, failure(error, status))), status)


def handlers(site: Site) -> dict[Any, Any]:
    """What Litestar is to answer where something was raised."""

    def signed_out(request: Asked, _error: SignedOut) -> Response[bytes]:
        if request.url.path.startswith("/live"):
            return Response(b"", status_code=401, headers=dict(HEADERS))
        if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
            # Somebody followed a link from elsewhere: the browser keeps the session's cookie back (SameSite=Strict)
            # until the page loads itself again.
            return html(request, environment().get_template("again.html").render())
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return onward(f"/sign-in?next={quote(asked, safe='/')}" if request.method == "GET" else "/sign-in")

    def own(request: Asked, error: LimosaError) -> Response[bytes]:
        return failed(request, site, error, None, status_of(error))

    def refused(request: Asked, error: HTTPException) -> Response[bytes]:
        told = NotFound(error.detail, remedy="go on from the fleet, or search")
        return failed(request, site, told, None, error.status_code)

    def broken(request: Asked, error: Exception) -> Response[bytes]:
        _log.error("a page failed", path=request.url.path, exc_info=error)
        what = f"the controller failed: {type(error).__name__}"
        return failed(request, site, LimosaError(what, remedy="see its log, and report it"), None, 500)

    return {SignedOut: signed_out, LimosaError: own, HTTPException: refused, Exception: broken}
