"""What each page shows: the controller asked as the API asks it, and the answer made ready by a view."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from limosa.errors import NotFound
from limosa.fleet.chronicle import changes_before, events_about
from limosa.fleet.controller import Controller
from limosa.fleet.operations.carry_out import limits_of
from limosa.fleet.operations.planning import fits
from limosa.history.select import Wanted
from limosa.history.weeks import weeks_back
from limosa.web.controller.asked import operation_asked, plan_mark
from limosa.web.controller.pages import Page
from limosa.web.controller.visit import Visit
from limosa.web.frame import Shown
from limosa.web.views import (
    audit,
    cpu,
    doctor,
    fleet,
    guest,
    guests,
    history,
    hooks,
    host,
    hosts,
    move,
    operations,
    search,
    tokens,
)
from limosa.web.views.plan import PlanPage
from limosa.wire.fleet import FleetGuest, Operation, OperationAsked, Role, TokenShown
from limosa.wire.hooks import HookTried

PAST = 50
"""Events of a guest that its page shows."""
SEARCHED = 200
"""Operations, the latest ones, in which a search looks."""
TOKENS = "tokens.html"
HOOKS = "hooks.html"


async def _open(controller: Controller) -> tuple[Operation, ...]:
    return tuple([await controller.store.get(each.id) for each in await controller.store.open()])


async def show_fleet(visit: Visit) -> Shown:
    """The map."""
    look = await visit.site.looks.look()
    return Shown("Fleet", fleet.fleet_map(look, await _open(visit.controller), visit.query))


async def show_hosts(visit: Visit) -> Shown:
    """The table of hosts."""
    return Shown("Hosts", hosts.hosts(await visit.site.looks.look(), visit.query))


async def show_host(visit: Visit) -> Shown:
    """One host. Raises NotFound."""
    look, name = await visit.site.looks.look(), visit.named["name"]
    if name not in look.host:
        raise NotFound(f"the fleet has no host {name}", remedy="limosa hosts lists them")
    could = await visit.site.looks.takes_in(name)
    opened = await _open(visit.controller)
    return Shown(name, host.host_page(look, look.host[name], could, opened, visit.query))


async def show_guests(visit: Visit) -> Shown:
    """The table of guests."""
    return Shown("Guests", guests.guests(await visit.site.looks.look(), visit.query))


async def show_guest(visit: Visit) -> Shown:
    """One guest, by its id or a name that only one has. Raises NotFound."""
    look, wanted = await visit.site.looks.look(), visit.named["guest"]
    found = _guest(look.guests, wanted)
    known = found.host in look.inventory.by_name
    answers = await asyncio.to_thread(fits, look.inventory, found.id) if known else ()
    past = await events_about(visit.controller.database, found.id, PAST)
    return Shown(found.name, guest.guest_page(found, answers, past, visit.query, look.at))


def _guest(known: tuple[FleetGuest, ...], wanted: str) -> FleetGuest:
    found = [each for each in known if wanted == each.id] or [each for each in known if wanted == each.name]
    if len(found) != 1:
        what = f"{len(found)} guests are called {wanted}" if found else f"the fleet has no guest {wanted}"
        raise NotFound(what, remedy="limosa ls lists them; a UUID names one for certain")
    return found[0]


async def show_operations(visit: Visit) -> Shown:
    """The latest operations."""
    after = visit.query.get("after", "")
    before = (await visit.controller.store.get(after)).created if after else None
    found = await visit.controller.operations(before, operations.LIST)
    return Shown("Operations", operations.operations(found, visit.query, time.time()))


async def show_operation(visit: Visit) -> Shown:
    """One operation. Raises NotFound."""
    found = await visit.controller.store.get(visit.named["operation"])
    shown = _operation(visit, found)
    return Shown(f"{shown.title}: {found.phase}", shown)


def _operation(visit: Visit, found: Operation) -> operations.OperationPage:
    config = visit.controller.config
    retries = config.retries if found.limits.retries is None else found.limits.retries
    return operations.operation_page(found, limits_of(found, config.limits), retries, visit.query, time.time())


async def show_plan(visit: Visit) -> Shown:
    """What an operation would do now; nothing is kept. Raises NotFound, UsageError."""
    return await plan_shown(visit, operation_asked(visit.query), visit.query)


async def plan_shown(visit: Visit, asked: OperationAsked, fields: Mapping[str, str], *, changed: bool = False) -> Shown:
    """The same for what a form asked; `changed`: the plan that was shown before is another one."""
    made = await visit.controller.plan(asked, visit.session.name)
    shown = _operation(visit, made)
    kept = {name: value for name, value in fields.items() if name in _ASKED and value}
    return Shown(f"Plan: {shown.title}", PlanPage(shown, kept, plan_mark(made.items), asked.why, changed=changed))


_ASKED = frozenset({"kind", "hosts", "guest", "to", "moves_in", "moves_out", "moves", "retries"})


async def show_cpu(visit: Visit) -> Shown:
    """Processors."""
    look = await visit.site.looks.look()
    return Shown("CPU", await asyncio.to_thread(cpu.cpu, look, visit.query))


async def show_move(visit: Visit) -> Shown:
    """One move, in flight or over. Raises NotFound, PeerError."""
    name, kept = visit.named["move"], visit.controller.history
    record, log = await asyncio.gather(kept.record(name), kept.log(name))
    shown = move.move_page(record, log, time.time())
    return Shown(f"{shown.guest}: {shown.sign.word}", shown, moving=shown.moving)


async def show_history(visit: Visit) -> Shown:
    """Finished moves. Raises UsageError, NotFound."""
    now, query, kept = time.time(), visit.query, visit.controller.history
    wanted = query.get("week", "")
    names = weeks_back(now, history.WEEKS)
    weeks = await kept.weeks(names, now)
    chosen = next((week for week in weeks if week.week == (wanted or names[0])), None)
    if chosen is None:
        (chosen,) = await kept.weeks([wanted], now)
    page = await kept.page(
        Wanted(
            guest=query.get("guest") or None,
            host=query.get("host") or None,
            operation=query.get("operation") or None,
            outcome=history.outcome_asked(query),
            after=query.get("after", ""),
            limit=history.PAGE,
        )
    )
    return Shown("History", history.past(weeks, chosen, page, query, now))


async def show_audit(visit: Visit) -> Shown:
    """The audit log."""
    after, q = visit.query.get("after", ""), visit.query.get("q", "").strip()
    number = int(after) if after.isascii() and after.isdigit() else None
    found = await changes_before(visit.controller.database, number, audit.PAGE, q)
    named = await visit.site.looks.about(audit.operations_of(found))
    return Shown("Audit", audit.audit(await visit.site.looks.look(), named, found, visit.query))


async def show_doctor(visit: Visit) -> Shown:
    """What is wrong."""
    return Shown("Doctor", doctor.doctor(await visit.controller.doctor(), time.time()))


async def show_search(visit: Visit) -> Shown:
    """What was searched."""
    latest = await visit.controller.operations(None, SEARCHED)
    found = search.search(await visit.site.looks.look(), latest, visit.query.get("q", ""))
    return Shown(f"Search: {found.q}", found, onward=search.the_one(found))


async def show_hooks(visit: Visit) -> Shown:
    """Hooks of the controllers."""
    return await hooks_shown(visit)


async def hooks_shown(visit: Visit, tried: Sequence[HookTried] = ()) -> Shown:
    """The same, with what was answered to a test just now."""
    found = await visit.controller.hooks.shown()
    # That an event was delivered, or not, is no change of the fleet, of which pages hear.
    return Shown("Hooks", hooks.hooks(found, time.time(), tried), moving=any(each.waiting for each in found))


async def show_tokens(visit: Visit) -> Shown:
    """Tokens."""
    return await tokens_shown(visit)


async def tokens_shown(visit: Visit, made: TokenShown | None = None) -> Shown:
    """The same, with one that was made just now."""
    return Shown("Tokens", tokens.tokens(await visit.controller.tokens.all(), time.time(), made))


PAGES = (
    Page("/", "fleet.html", show_fleet, shared=True),
    Page("/hosts", "hosts.html", show_hosts, shared=True),
    Page("/hosts/{name:str}", "host.html", show_host),
    Page("/guests", "guests.html", show_guests, shared=True),
    Page("/guests/{guest:str}", "guest.html", show_guest),
    Page("/operations", "operations.html", show_operations),
    Page("/operations/{operation:str}", "operation.html", show_operation),
    Page("/cpu", "cpu.html", show_cpu),
    Page("/moves/{move:str}", "move.html", show_move),
    Page("/history", "history.html", show_history),
    Page("/plan", "plan.html", show_plan, live=False, role=Role.OPERATOR),
    Page("/audit", "audit.html", show_audit),
    Page("/doctor", "doctor.html", show_doctor),
    Page("/search", "search.html", show_search, live=False),
    Page("/hooks", HOOKS, show_hooks),
    Page("/tokens", TOKENS, show_tokens, live=False, role=Role.ADMIN),
)
