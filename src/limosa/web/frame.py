"""What is in and around every page: what it shows, who looks, where he is, and where he can go. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from limosa.errors import LimosaError, where_it_runs
from limosa.web.links import Query, address


class Theme(StrEnum):
    """Colours of pages."""

    AUTO = "auto"
    """As the browser says."""
    LIGHT = "light"
    DARK = "dark"


class Shown(NamedTuple):
    """What a page shows."""

    title: str
    view: object
    moving: bool = False
    """Whether it changes by itself, without a word of that from who keeps it."""
    onward: str = ""
    """Where to go instead; empty to stay."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks, and what he may."""

    name: str
    role: str
    may_operate: bool
    may_administer: bool
    form: str
    """What his forms have to carry."""
    leaves: bool = True
    """Whether he has a session to end."""


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the navigation."""

    title: str
    href: str
    key: str = ""
    """Pressed after `g`; empty for one that is in the menu only."""


PLACES = (
    Place("Fleet", "/", "f"),
    Place("Hosts", "/hosts", "h"),
    Place("Guests", "/guests", "g"),
    Place("Operations", "/operations", "o"),
    Place("History", "/history", "y"),
    Place("CPU", "/cpu", "c"),
    Place("Audit", "/audit", "a"),
    Place("Doctor", "/doctor", "d"),
)


MENU = (Place("Hooks", "/hooks"),)
"""Further pages, beside what concerns who looks."""

_BELONGS = {"/plan": "/operations", "/moves": "/operations"}
"""Pages that the navigation has under another name."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is around a page."""

    title: str
    where: str
    """The page's path."""
    query: Query
    visitor: Visitor | None
    theme: Theme
    server: str
    """Who answers: the controller, or the host of the agent."""
    places: tuple[Place, ...] = PLACES
    menu: tuple[Place, ...] = MENU
    live: bool = False
    """Whether the page follows what happens."""

    @property
    def addresses(self) -> frozenset[str]:
        """Of the pages that the navigation and the menu lead to."""
        return frozenset(place.href for place in (*self.places, *self.menu))

    @property
    def here(self) -> str:
        """The page's own address."""
        return address(self.where, self.query)

    def stream(self, seen: str) -> str:
        """Where the news come from of a page that shows what `seen` names."""
        return address(f"/live{self.where}", self.query, seen=seen)

    @property
    def plots(self) -> bool:
        """Whether the page may have plots: their library is larger than all else, so others do without."""
        return self.section == "/history" or self.where.startswith("/moves/")

    @property
    def section(self) -> str:
        """The entry of the navigation that it belongs to."""
        first = "/" + self.where.split("/")[1]
        known = any(place.href == first for place in self.places)
        return first if known else _BELONGS.get(first, first)


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as the command line says it: what happened, where the guest runs, what to do."""

    what: str
    where: str
    remedy: str
    detail: str
    status: int


def failure(error: LimosaError, status: int) -> Failure:
    """An error for a page."""
    remedy = error.remedy or "look again; if it stays, report it"
    return Failure(error.what, where_it_runs(error), remedy, error.detail, status)
