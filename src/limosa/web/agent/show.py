"""What each page shows: the agent asked, and the answer made ready by a view."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from limosa.errors import NotFound
from limosa.history.select import Wanted, page
from limosa.history.weeks import weeks, weeks_back
from limosa.web.agent import views
from limosa.web.agent.visit import Visit
from limosa.web.frame import Shown
from limosa.web.look import Look
from limosa.web.views import doctor, guests, history, move, search
from limosa.wire.history import PastMove
from limosa.wire.moves import MoveState
from limosa.wire.reports import GuestReport

PAST = 50
"""Moves of a guest that its page shows."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its path, its template, and what it shows."""

    where: str
    template: str
    view: Callable[[Visit], Awaitable[Shown]]
    live: bool = True


def found(where: str, path: str) -> dict[str, str] | None:
    """What a path names: `/guests/{guest}`, `/guests/a%2Fb` -> `{"guest": "a/b"}`; None where it is of another kind."""
    pattern, parts = where.split("/"), path.split("/")
    if len(pattern) != len(parts):
        return None
    named = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            named[wanted.strip("{}")] = unquote(part)
        elif wanted != part:
            return None
    return named


async def _look(visit: Visit) -> Look:
    return views.look_at(visit.asked.host, await visit.asked.guests.get(), time.time())


async def show_first(_visit: Visit) -> Shown:
    """Where to begin."""
    return Shown("", None, onward="/guests")


async def show_guests(visit: Visit) -> Shown:
    """The table of guests."""
    return Shown("Guests", guests.guests(await _look(visit), visit.query))


async def show_guest(visit: Visit) -> Shown:
    """One guest, by its UUID, or a name that only one has. Raises NotFound."""
    asked, now = visit.asked, time.time()
    report = _guest(await asked.guests.get(), visit.named["guest"], asked.past())
    hosts = [host for host in await asked.hosts.get() if host.name != asked.host]
    reached = [host.name for host in hosts if host.reachable]
    cpus = await asked.cpus(report.cpu, reached) if report.cpu else {}
    of_it = page(asked.past(), Wanted(guest=report.key, limit=PAST)).items
    flying = [each for each in asked.agent.moves.flying() if report.key in {each.uuid, each.guest}]
    shown = views.local_guest(asked.host, report, views.fits_of(report, hosts, cpus), (flying, of_it), visit.query, now)
    return Shown(shown.name, shown)


def _guest(known: Sequence[GuestReport], wanted: str, past: Sequence[PastMove]) -> GuestReport:
    hits = [each for each in known if wanted == each.key] or [each for each in known if wanted == each.shown.name]
    if len(hits) != 1:
        what = f"{len(hits)} guests are called {wanted}" if hits else f"no guest here is called {wanted}"
        raise NotFound(what, remedy=_went(wanted, past) or "limosa ls lists them; a UUID names one for certain")
    return hits[0]


def _went(wanted: str, past: Sequence[PastMove]) -> str:
    """Where to look for a guest that left; empty where it did not."""
    left = (move for move in past if wanted in {move.guest, move.uuid} and move.state is MoveState.COMPLETED)
    last = next(left, None)
    return f"it went to {last.destination} by move {last.id}: look there, or search for the move here" if last else ""


async def show_moves(visit: Visit) -> Shown:
    """Moves out of this host."""
    return Shown("Moves", views.moves(visit.asked.host, visit.asked.agent.moves.all(), time.time()))


async def show_move(visit: Visit) -> Shown:
    """One move, in flight or over, by its id, or the latest one of a guest. Raises NotFound."""
    record = visit.asked.agent.moves.record(visit.named["move"])
    shown = move.move_page(record, await visit.asked.log(record), time.time())
    shown = replace(shown, steered=not record.status.state.over)
    return Shown(f"{shown.guest}: {shown.sign.word}", shown)


async def show_history(visit: Visit) -> Shown:
    """Finished moves that left this host. Raises UsageError."""
    now, query = time.time(), visit.query
    past = visit.asked.past()
    latest = await asyncio.to_thread(weeks, past, (), weeks_back(now, history.WEEKS), now)
    wanted = query.get("week", "") or latest[0].week
    chosen = next((week for week in latest if week.week == wanted), None)
    if chosen is None:
        (chosen,) = weeks(past, (), weeks_back(now, 1, wanted), now)
    asked = Wanted(
        guest=query.get("guest") or None,
        host=query.get("host") or None,
        operation=query.get("operation") or None,
        outcome=history.outcome_asked(query),
        after=query.get("after", ""),
        limit=history.PAGE,
    )
    return Shown("History", history.past(latest, chosen, page(past, asked), query, now))


async def show_hosts(visit: Visit) -> Shown:
    """Hosts that this one knows."""
    return Shown("Hosts", views.peers(visit.asked.host, await visit.asked.hosts.get()))


async def show_host(visit: Visit) -> Shown:
    """One of them. Raises NotFound."""
    name = visit.named["name"]
    known = [host for host in await visit.asked.hosts.get() if host.name == name]
    if not known:
        raise NotFound(f"{visit.asked.host} knows no host {name}", remedy="limosa hosts lists them")
    return Shown(name, views.one_peer(visit.asked.host, known[0]))


async def show_doctor(visit: Visit) -> Shown:
    """What is wrong here, and on the hosts that answer."""
    return Shown("Doctor", doctor.doctor(await visit.asked.diagnosis.get(), time.time()))


async def show_search(visit: Visit) -> Shown:
    """What was searched."""
    moves, past = visit.asked.agent.moves, visit.asked.past()
    hosts = [host.name for host in await visit.asked.hosts.get()]
    hits = views.local_search(await _look(visit), hosts, moves.all(), past, visit.query.get("q", ""))
    return Shown(f"Search: {hits.q}", hits, onward=search.the_one(hits))


PAGES = (
    Page("/", "guests.html", show_first, live=False),
    Page("/guests", "guests.html", show_guests),
    Page("/guests/{guest}", "guest.html", show_guest),
    Page("/moves", "moves.html", show_moves),
    Page("/moves/{move}", "move.html", show_move),
    Page("/history", "history.html", show_history),
    Page("/hosts", "peers.html", show_hosts),
    Page("/hosts/{name}", "peers.html", show_host),
    Page("/doctor", "doctor.html", show_doctor),
    Page("/search", "search.html", show_search, live=False),
)
