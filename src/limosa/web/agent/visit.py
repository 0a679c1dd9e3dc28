"""One request: who makes it, what it asks for, and what is around the page that answers it."""

from collections.abc import Mapping
from dataclasses import dataclass
from hmac import compare_digest

from aiohttp import web

from limosa.agent.browsers import from_own_page
from limosa.agent.front import Caller
from limosa.errors import Forbidden
from limosa.web.agent.asked import Asked
from limosa.web.frame import Frame, Place, Theme, Visitor
from limosa.web.links import Query

PLACES = (
    Place("Guests", "/guests", "g"),
    Place("Moves", "/moves", "m"),
    Place("History", "/history", "y"),
    Place("Hosts", "/hosts", "h"),
    Place("Doctor", "/doctor", "d"),
)
THEME = "limosa-theme"
SEEN = "seen"
ROLE = "let in on this host"


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who was let in.

    Attributes:
        asked: what is asked of the agent.
        request: the request.
        caller: who it is.
        where: the page's path, as it stands in addresses.
        named: what the path names.
    """

    asked: Asked
    request: web.Request
    caller: Caller
    where: str
    named: Mapping[str, str]

    @property
    def query(self) -> Query:
        """What the address asks for."""
        return query_of(self.request)

    def frame(self, title: str, *, live: bool = False) -> Frame:
        """What is around a page."""
        return frame(self.asked.host, self.request, title, self.caller, where=self.where, live=live)


def frame(
    host: str, request: web.Request, title: str, caller: Caller | None, *, where: str = "/", live: bool = False
) -> Frame:
    """What is around a page; `caller` is None for somebody who was not let in."""
    return Frame(
        title=title,
        where=where,
        query=query_of(request),
        visitor=_visitor(caller) if caller else None,
        theme=theme_of(request),
        server=host,
        places=PLACES,
        menu=(),
        live=live,
    )


def _visitor(caller: Caller) -> Visitor:
    leaves = caller.leave is not None
    return Visitor(caller.who, ROLE, may_operate=False, may_administer=False, form=caller.form, leaves=leaves)


def query_of(request: web.Request) -> dict[str, str]:
    """Its query; of what is said twice the last. What a stream is told in it is not the page's."""
    return {name: value for name, value in request.query.items() if name != SEEN}


def theme_of(request: web.Request) -> Theme:
    """The colours that the browser keeps."""
    kept = request.cookies.get(THEME, "")
    return Theme(kept) if kept in list(Theme) else Theme.AUTO


def require_own_page(request: web.Request) -> None:
    """Raises Forbidden where a change does not come from a page of this agent, or the browser does not say so."""
    if not from_own_page(request.headers):
        raise Forbidden(
            "the request does not come from a page of this agent",
            remedy="open the page here and press its button; programs use limosa, or its API",
        )


def require_form(caller: Caller, form: Mapping[str, str]) -> None:
    """Raises Forbidden where a change does not come out of a form that this caller was shown."""
    if not compare_digest(form.get("form", "").encode(errors="replace"), caller.form.encode()):
        raise Forbidden("the form is not of this session", remedy="go back, load the page again, and press it again")


async def form_of(request: web.Request) -> dict[str, str]:
    """A form's fields; of what is said twice the last."""
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
