"""Pages: for each what it shows, at its address, and as a stream of what changes on it while somebody looks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.auth import NO_TOKEN
from limosa.api.errors import status_of
from limosa.errors import LimosaError
from limosa.web.controller.answers import failed, html, onward
from limosa.web.controller.visit import SEEN, Asked, Site, Visit, frame, visit
from limosa.web.frame import Frame, Shown, failure
from limosa.web.parts import Parts, news, taken_apart
from limosa.web.render import HEADERS, content, whole
from limosa.wire.fleet import Role

T = TypeVar("T")

LOOK_EVERY = 1.0
"""Seconds between two looks at what somebody looks at: all changes in between are sent as one."""
SIGN_EVERY = 10
"""Looks after which a stream without news says that it lives."""
COUNT_ON = 15
"""Looks after which a page is made again although nothing has changed: silences last longer."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its path, its template, and what it shows."""

    where: str
    template: str
    view: Callable[[Visit], Awaitable[Shown]]
    live: bool = True
    role: Role = Role.VIEWER
    shared: bool = False
    """Whether everybody is shown the same: there is no form on it, and nothing of who looks."""


def handlers(site: Site, pages: Sequence[Page]) -> list[HTTPRouteHandler]:
    """Pages, and their streams."""
    return [_shows(site, each) for each in pages] + [_follows(site, each) for each in pages if each.live]


def _shows(site: Site, spec: Page) -> HTTPRouteHandler:
    @get(spec.where, opt={NO_TOKEN: True}, include_in_schema=False, name=f"page {spec.where}")
    async def show(request: Asked) -> Response[bytes]:
        visited = await visit(site, request)
        try:
            visited.require(spec.role)
            shown = await spec.view(visited)
        except LimosaError as error:
            return failed(request, site, error, visited.visitor, status_of(error))
        if shown.onward:
            return onward(shown.onward)
        return html(
            request, _live_page(visited, spec, shown) if spec.live else shown_page(visited, spec.template, shown)
        )

    return show


def shown_page(visited: Visit, template: str, shown: Shown, *, where: str = "") -> str:
    """A whole page that stays as it is; `where` is its path, if that is not the one that was asked for."""
    around = frame(visited.site, visited.request, shown.title, visited.visitor, where=where)
    return whole(around, content(template, around, shown.view))


def _live_page(visited: Visit, spec: Page, shown: Shown) -> str:
    around = frame(visited.site, visited.request, shown.title, visited.visitor, live=True)
    parts = _drawn(visited.site, spec, around, shown.view)
    visited.site.recent.keep(parts)
    return whole(around, parts.whole, parts.digest)


def _drawn(site: Site, spec: Page, around: Frame, view: object) -> Parts:
    def draw() -> Parts:
        return taken_apart(content(spec.template, around, view))

    return site.drawn.region(around.here, view, draw) if spec.shared else draw()


def _follows(site: Site, spec: Page) -> HTTPRouteHandler:
    @get(f"/live{spec.where}", opt={NO_TOKEN: True}, include_in_schema=False, name=f"live {spec.where}")
    async def follow(request: Asked) -> ServerSentEvent:
        visited = await visit(site, request)
        visited.require(spec.role)
        await spec.view(visited)  # raises here, where it can still be answered, what it would raise in the stream
        return ServerSentEvent(_changes(visited, spec), headers=dict(HEADERS))

    return follow


async def _changes(visited: Visit, spec: Page) -> AsyncIterator[ServerSentEventMessage]:
    """News of a page until it is closed or its session is over; each is named after the state that it leads to.

    A page begins with what it showed at first, and after a lost connection with what it was told last: where that is
    how things are, nothing is sent.
    """
    stamp, since, moving = None, 0, False
    told = visited.request.headers.get("last-event-id", "") or visited.request.query_params.get(SEEN, "")
    known = visited.site.recent.find(told)
    while True:
        now = await _unbroken(visited.site.looks.stamp())
        if now != stamp or moving or visited.site.looks.behind or since % COUNT_ON == 0:
            stamp = now
            if await _unbroken(visited.controller.sessions.find(visited.word)) is None:
                return
            after, moving = await _unbroken(_region(visited, spec))
            if after.digest != told:
                visited.site.recent.keep(after)
                change = news(known, after)
                yield ServerSentEventMessage(data=change.data, event=change.event, id=after.digest)
            known, told = after, after.digest
        await asyncio.sleep(LOOK_EVERY)
        since += 1
        if since % SIGN_EVERY == 0:
            yield ServerSentEventMessage(data=None, comment="alive")


_AT_WORK: set[asyncio.Future[Any]] = set()


async def _unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Work that goes on when somebody stops looking: a query that is cut off takes its connection with it."""
    task = asyncio.ensure_future(work)
    _AT_WORK.add(task)
    task.add_done_callback(_AT_WORK.discard)
    return await asyncio.shield(task)


async def _region(visited: Visit, spec: Page) -> tuple[Parts, bool]:
    """What the page shows now, and whether it changes by itself."""
    where = visited.request.url.path.removeprefix("/live") or "/"
    try:
        shown = await spec.view(visited)
    except LimosaError as error:
        around = frame(visited.site, visited.request, "", visited.visitor, where=where)
        return taken_apart(content("failure.html", around, failure(error, status_of(error)))), False
    around = frame(visited.site, visited.request, shown.title, visited.visitor, where=where, live=True)
    return _drawn(visited.site, spec, around, shown.view), shown.moving
