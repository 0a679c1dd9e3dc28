"""Signing in with a token, signing out, and choosing colours."""

import time
from typing import Any

import structlog
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from limosa.api.auth import NO_TOKEN, refuse
from limosa.api.errors import status_of
from limosa.api.strikes import Strikes
from limosa.errors import Forbidden, LimosaError
from limosa.web.controller.answers import failed, html, onward
from limosa.web.controller.visit import Asked, Site, frame, query_of, require_form, require_own_site, visit
from limosa.web.frame import Theme, failure
from limosa.web.links import within
from limosa.web.render import content, whole
from limosa.web.views.signin import SignIn

LONGEST_TOKEN = 200
_OPT = {NO_TOKEN: True}
_log = structlog.get_logger()


def handlers(site: Site) -> list[HTTPRouteHandler]:
    """Everything that somebody may do who is not signed in."""

    @get("/sign-in", opt=_OPT, include_in_schema=False)
    async def ask(request: Asked) -> Response[bytes]:
        return _asking(site, request, within(query_of(request).get("next", "/")))

    @post("/sign-in", opt=_OPT, include_in_schema=False, status_code=303)
    async def sign_in(request: Asked) -> Response[bytes]:
        form = await form_of(request)
        further = within(form.get("next", "/"))
        try:
            word = await _begun(site, request, form)
        except Forbidden as error:
            return _asking(site, request, further, error)
        return onward(further, [site.session_cookie(word)])

    @post("/sign-out", opt=_OPT, include_in_schema=False, status_code=303)
    async def sign_out(request: Asked) -> Response[bytes]:
        visited = await visit(site, request)
        try:
            require_own_site(request)
            require_form(visited.word, await form_of(request))
        except Forbidden as error:
            return failed(request, site, error, visited.visitor, 403)
        await site.controller.sessions.end(visited.word)
        _log.info("signed out", who=visited.session.name)
        return onward("/sign-in", [site.session_cookie("", 0)])

    @post("/theme", opt=_OPT, include_in_schema=False, status_code=303)
    async def choose(request: Asked) -> Response[bytes]:
        require_own_site(request)
        form = await form_of(request)
        theme = Theme(form["theme"]) if form.get("theme") in list(Theme) else Theme.AUTO
        return onward(within(form.get("next", "/")), [site.theme_cookie(theme)])

    return [ask, sign_in, sign_out, choose]


async def _begun(site: Site, request: Asked, form: dict[str, str]) -> str:
    """A session for the token of a form. Raises Forbidden, TooManyTokens."""
    require_own_site(request)
    word = await site.controller.sessions.begin(form.get("token", "").strip()[:LONGEST_TOKEN])
    if word is None:
        strikes: Strikes = request.app.state.strikes
        refuse(strikes, request.client.host if request.client else "", time.monotonic())
    return word


async def form_of(request: Asked) -> dict[str, str]:
    """A form's fields; of what is said twice the last."""
    fields: Any = await request.form()
    return {name: str(value) for name, value in fields.multi_items() if isinstance(value, str)}


def _asking(site: Site, request: Asked, further: str, error: LimosaError | None = None) -> Response[bytes]:
    status = status_of(error) if error else 200
    around = frame(site, request, "Sign in", None, where="/sign-in")
    view = SignIn(next=further, failure=failure(error, status) if error else None)
    return html(request, whole(around, content("signin.html", around, view)), status)
