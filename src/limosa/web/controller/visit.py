"""One request: who makes it, from where, and whether he may.

Reading takes a session. Changing something takes three things more: that the browser says the request comes from this
site (`Sec-Fetch-Site`, or else `Origin`), that the form carries the session's own word, and the role.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from litestar import Request
from litestar.datastructures import Cookie, State

from limosa.agent.browsers import from_own_page
from limosa.errors import Forbidden
from limosa.fleet.controller import Controller
from limosa.fleet.sessions import LASTS, Session, form_word
from limosa.fleet.tokens import allows
from limosa.web.controller.looks import Looks
from limosa.web.frame import Frame, Theme, Visitor
from limosa.web.parts import Drawn, Recent
from limosa.wire.fleet import Role

Asked = Request[Any, Any, State]
FORM_WORD = "form"
THEME = "limosa-theme"
SEEN = "seen"
YEAR = 365 * 86400


class SignedOut(Exception):
    """Nobody is signed in; he is asked to."""


@dataclass(frozen=True, slots=True)
class Site:
    """One controller's dashboard.

    Attributes:
        controller: it is asked.
        looks: the fleet, for all pages.
        secure: whether it is served over TLS; without, on loopback only, cookies cannot say so.
        recent: what pages and streams have shown lately.
        drawn: pages that are the same for everybody, as they are now.
    """

    controller: Controller
    looks: Looks
    secure: bool
    recent: Recent = field(default_factory=Recent)
    drawn: Drawn = field(default_factory=Drawn)

    @property
    def cookie(self) -> str:
        """The session's; a browser takes one of this prefix from no other host, and over TLS only."""
        return "__Host-limosa" if self.secure else "limosa"

    def session_cookie(self, word: str, lasts: float = LASTS) -> Cookie:
        """One that keeps a session; no script can read it, and no other site makes a browser send it."""
        return Cookie(
            self.cookie, path="/", value=word, max_age=int(lasts), httponly=True, secure=self.secure, samesite="strict"
        )

    def theme_cookie(self, theme: Theme) -> Cookie:
        """One that keeps a choice of colours."""
        return Cookie(THEME, path="/", value=theme, max_age=YEAR, secure=self.secure, samesite="strict")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of somebody who is signed in."""

    site: Site
    request: Asked
    session: Session
    word: str

    @property
    def controller(self) -> Controller:
        """Whom he asks."""
        return self.site.controller

    @property
    def query(self) -> Mapping[str, str]:
        """What the address asks for."""
        return query_of(self.request)

    @property
    def named(self) -> Mapping[str, str]:
        """What the path names."""
        return {name: str(value) for name, value in self.request.path_params.items()}

    @property
    def visitor(self) -> Visitor:
        """He, as pages know him."""
        return Visitor(
            name=self.session.name,
            role=self.session.role,
            may_operate=allows(self.session.role, Role.OPERATOR),
            may_administer=allows(self.session.role, Role.ADMIN),
            form=form_word(self.word),
        )

    def require(self, role: Role) -> None:
        """Raises Forbidden where he may not."""
        if not allows(self.session.role, role):
            raise Forbidden(
                f"{self.session.name} is a {self.session.role}; this takes an {role}",
                remedy="sign in with another token, or ask an admin for one",
            )


async def visit(site: Site, request: Asked) -> Visit:
    """Who is it? Raises SignedOut."""
    word = request.cookies.get(site.cookie, "")
    session = await site.controller.sessions.find(word) if word else None
    if session is None:
        raise SignedOut
    return Visit(site, request, session, word)


def frame(
    site: Site, request: Asked, title: str, visitor: Visitor | None, *, where: str = "", live: bool = False
) -> Frame:
    """What is around a page."""
    return Frame(
        title=title,
        where=where or request.url.path,
        query=query_of(request),
        visitor=visitor,
        theme=theme_of(request),
        server=site.controller.config.host,
        live=live,
    )


def query_of(request: Asked) -> dict[str, str]:
    """Its query; of what is said twice the last. What a stream is told in it is not the page's."""
    return {name: values[-1] for name, values in request.query_params.dict().items() if values and name != SEEN}


def theme_of(request: Asked) -> Theme:
    """The colours that the browser keeps."""
    kept = request.cookies.get(THEME, "")
    return Theme(kept) if kept in list(Theme) else Theme.AUTO


def require_own_site(request: Asked) -> None:
    """A change has to come from a page of this site.

    Raises:
        Forbidden: it comes from another one, or the browser does not say where from.
    """
    if not from_own_page(request.headers):
        raise Forbidden(
            "the request does not come from a page of this dashboard",
            remedy="open the page here and press its button; programs use the API, with a token",
        )


def require_form(word: str, form: Mapping[str, str]) -> None:
    """A change has to come out of a form of this session. Raises Forbidden."""
    if form.get(FORM_WORD) != form_word(word):
        raise Forbidden("the form is not of this session", remedy="go back, load the page again, and press it again")
