"""The site: each request answered by a page, a stream of what changes on it, a file, or what a form does."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from urllib.parse import quote

import structlog
from aiohttp import web

from limosa.agent.api import status_of
from limosa.agent.daemon import Agent
from limosa.agent.front import Caller
from limosa.errors import Forbidden, LimosaError, NotFound
from limosa.web.agent.asked import Asked
from limosa.web.agent.forms import ACTIONS
from limosa.web.agent.show import PAGES, Page, found
from limosa.web.agent.visit import SEEN, THEME, Visit, form_of, frame, require_form, require_own_page
from limosa.web.frame import Theme, failure
from limosa.web.links import within
from limosa.web.parts import News, Parts, Recent, news, taken_apart
from limosa.web.render import HEADERS, assets, content, environment, packed, whole

LOOK_EVERY = 1.0
"""Seconds between two looks at what somebody looks at."""
SIGN_EVERY = 10
"""Looks after which a stream without news says that it lives."""
RECENT = 2 * 1024**2
"""Letters of what was shown lately that are kept."""
AROUND = ("page.html", "failure.html", "again.html")
"""Templates beside those of pages."""
YEAR = 365 * 86400
KEPT = {**HEADERS, "Cache-Control": f"public, max-age={YEAR}, immutable"}

_log = structlog.get_logger()


class Site:
    """One agent's pages. Made when somebody asks for the first one, with everything that takes its time to load."""

    def __init__(self, agent: Agent) -> None:
        self._asked = Asked(agent)
        self._recent = Recent(RECENT)
        for template in {*AROUND, *(page.template for page in PAGES)}:
            environment().get_template(template)
        assets()

    async def answer(self, request: web.Request, caller: Caller | None) -> web.StreamResponse:
        """Answer a browser; `caller` is None for somebody who was not let in. Whatever goes wrong is a page too."""
        try:
            return await self._answer(request, caller)
        except LimosaError as error:
            return self._failed(request, error, caller, status_of(error))
        except web.HTTPException:
            raise
        except Exception as error:  # noqa: BLE001  (whoever looks is told, and the agent lives on)
            _log.exception("a page failed", path=request.path)
            told = LimosaError(f"the agent failed: {type(error).__name__}", remedy="see its log, and report it")
            return self._failed(request, told, caller, 500)

    async def _answer(self, request: web.Request, caller: Caller | None) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path.startswith("/static/"):
            return _file(request, path.removeprefix("/static/"))
        if request.method == "POST" and path == "/theme":
            return await _choose(request)
        if caller is None:
            return self._stranger(request)
        if request.method == "POST":
            return await self._obey(request, caller, path)
        if path.startswith("/live/"):
            return await self._follow(request, caller, path.removeprefix("/live"))
        page, visit = self._page(request, caller, path)
        return await _show(page, visit, self._recent)

    def _page(self, request: web.Request, caller: Caller, path: str) -> tuple[Page, Visit]:
        for page in PAGES:
            if (named := found(page.where, path)) is not None:
                return page, Visit(self._asked, request, caller, path, named)
        raise NotFound(f"the agent has no page {request.path}", remedy="follow a link")

    # -- what changes -------------------------------------------------------------------------------------------

    async def _obey(self, request: web.Request, caller: Caller, path: str) -> web.StreamResponse:
        for action in ACTIONS:
            if (named := found(action.where, path)) is not None:
                require_own_page(request)
                form = await form_of(request)
                require_form(caller, form)
                return _onward(await action.does(Visit(self._asked, request, caller, path, named), form))
        raise NotFound(f"no form leads to {request.path}", remedy="follow a link")

    # -- live ---------------------------------------------------------------------------------------------------

    async def _follow(self, request: web.Request, caller: Caller, path: str) -> web.StreamResponse:
        page, visit = self._page(request, caller, path)
        if not page.live:
            raise NotFound(f"{path} does not change by itself", remedy="follow a link")
        await page.view(visit)  # raises here, where it can still be answered, what it would raise in the stream
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        response.force_close()
        await response.prepare(request)
        with suppress(ConnectionError):  # whoever looked has left
            async for event in _events(page, visit, self._recent):
                await response.write(event)
            await response.write_eof()
        return response

    # -- who is not let in, and what goes wrong -----------------------------------------------------------------

    def _stranger(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            # Somebody followed a link from elsewhere: the browser keeps the session's cookie back (SameSite=Strict)
            # until the page loads itself again.
            return _html(request, environment().get_template("again.html").render())
        error = Forbidden(
            "nobody has let this browser in, or its session is over",
            remedy=f"limosa agent web-link, as root on {self._asked.host}, prints a link that does, once",
        )
        return self._failed(request, error, None, 401)

    def _failed(
        self, request: web.Request, error: LimosaError, caller: Caller | None, status: int
    ) -> web.StreamResponse:
        around = frame(self._asked.host, request, "Not done", caller, where=request.rel_url.raw_path)
        return _html(request, whole(around, content("failure.html", around, failure(error, status))), status)


async def _show(page: Page, visit: Visit, recent: Recent) -> web.StreamResponse:
    shown = await page.view(visit)
    if shown.onward:
        return _onward(shown.onward)
    around = visit.frame(shown.title, live=page.live)
    region = content(page.template, around, shown.view)
    if not page.live:
        return _html(visit.request, whole(around, region))
    parts = taken_apart(region)
    recent.keep(parts)
    return _html(visit.request, whole(around, region, parts.digest))


async def _events(page: Page, visit: Visit, recent: Recent) -> AsyncIterator[bytes]:
    """News of a page until its session is over; each is named after the state that it leads to.

    A page begins with what it showed at first, and after a lost connection with what it was told last: where that is
    how things are, nothing is sent, and where it is still remembered, only what differs.
    """
    looks = 0
    told = visit.request.headers.get("Last-Event-ID", "") or visit.request.query.get(SEEN, "")
    known = recent.find(told)
    while visit.caller.inside():
        after = await _region(page, visit)
        if after.digest != told:
            recent.keep(after)
            yield event(after.digest, news(known, after))
        elif looks % SIGN_EVERY == 0:
            yield b": alive\n\n"
        known, told = after, after.digest
        looks += 1
        await asyncio.sleep(LOOK_EVERY)


async def _region(page: Page, visit: Visit) -> Parts:
    try:
        shown = await page.view(visit)
    except LimosaError as error:
        return taken_apart(content("failure.html", visit.frame(""), failure(error, status_of(error))))
    return taken_apart(content(page.template, visit.frame(shown.title, live=True), shown.view))


def event(name: str, told: News) -> bytes:
    """A server-sent event. A carriage return, too, would end a line of it, whatever a guest is called."""
    lines = told.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    kind = f"event: {told.event}\n" if told.event else ""
    data = "".join(f"data: {line}\n" for line in lines)
    return f"id: {name}\n{kind}{data}\n".encode(errors="replace")


def _html(request: web.Request, page: str, status: int = 200) -> web.Response:
    body, encoding = packed(page.encode(errors="replace"), request.headers.get("Accept-Encoding", ""))
    kind = {"Content-Type": "text/html; charset=utf-8", "Vary": "Accept-Encoding, Cookie"}
    return web.Response(body=body, status=status, headers={**HEADERS, **kind, **encoding})


def _onward(address: str, more: Mapping[str, str] | None = None) -> web.Response:
    location = quote(address, safe="/?&=%+:,;@!$'()*~.-_#")
    return web.Response(status=303, headers={**HEADERS, "Location": location, **(more or {})})


async def _choose(request: web.Request) -> web.StreamResponse:
    require_own_page(request)
    form = await form_of(request)
    theme = Theme(form["theme"]) if form.get("theme") in list(Theme) else Theme.AUTO
    answer = _onward(within(form.get("next", "/")))
    answer.set_cookie(THEME, theme, path="/", max_age=YEAR, samesite="Strict")
    return answer


def _file(request: web.Request, name: str) -> web.StreamResponse:
    known = assets().get(name)
    if known is None:
        return web.Response(status=404, headers=dict(HEADERS))
    body, encoding = packed(known.content, request.headers.get("Accept-Encoding", ""))
    return web.Response(body=body, headers={**KEPT, "Content-Type": known.kind, "Vary": "Accept-Encoding", **encoding})
