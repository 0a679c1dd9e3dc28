"""Hosts and guests: seen by everybody, set by admins.

Lists come in pages: `limit` of them after the name, or id, `after`; `next` is what to ask with for more.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, Router, get, put
from litestar.datastructures import State
from litestar.params import JSONBody, QueryParameter

from limosa.api.auth import SECURED, Caller, admin
from limosa.api.errors import READS, WRITES, refusals
from limosa.api.understood import LARGEST_NUMBER, Named, understood
from limosa.fleet.chronicle import changes_before
from limosa.fleet.controller import Controller
from limosa.fleet.inventory import HostState
from limosa.fleet.picture import cursor_of
from limosa.wire.fleet import (
    NAME,
    NO_NUL,
    Change,
    Fit,
    FleetGuest,
    FleetHost,
    GuestRules,
    HostSettings,
    StateAsked,
    TwoOwners,
)

T = TypeVar("T")
Asked = Request[Caller, str, State]
Limit = Annotated[int, QueryParameter(ge=1, le=500)]
After = Annotated[str, QueryParameter(max_length=600, pattern=NO_NUL)]
Line = Annotated[int, QueryParameter(gt=-1, le=LARGEST_NUMBER)]  # ge=0 gets lost in Litestar's description
OnHost = Annotated[str | None, QueryParameter(min_length=1, max_length=253, pattern=NAME)]


class HostPage(msgspec.Struct, frozen=True):
    """Some hosts."""

    items: tuple[FleetHost, ...]
    next: str | None


class GuestPage(msgspec.Struct, frozen=True):
    """Some guests."""

    items: tuple[FleetGuest, ...]
    next: str | None


class ChangePage(msgspec.Struct, frozen=True):
    """Some lines of the audit log, latest first."""

    items: tuple[Change, ...]
    next: str | None


def page(items: Iterable[T], name: Callable[[T], str], after: str, limit: int) -> tuple[tuple[T, ...], str | None]:
    """The items behind `after` in the order of their names, and where the next page begins."""
    behind = sorted((item for item in items if name(item) > after), key=name)
    chosen = tuple(behind[:limit])
    return chosen, name(chosen[-1]) if len(behind) > limit else None


def controller_of(request: Request[Any, Any, State]) -> Controller:
    """The controller that answers."""
    controller: Controller = request.app.state.controller
    return controller


@get("/hosts", responses=refusals(*READS), summary="The hosts of the fleet")
async def list_hosts(request: Asked, after: After = "", limit: Limit = 100) -> HostPage:
    """Every host, with its state and what its agent reported last."""
    return HostPage(*page(await controller_of(request).hosts(), lambda host: host.name, after, limit))


@get("/hosts/{name:str}", responses=refusals(*READS, 404), summary="One host")
async def show_host(request: Asked, name: Named) -> FleetHost:
    """A host by its name."""
    return await controller_of(request).host(name)


@put("/hosts/{name:str}/state", responses=refusals(*WRITES, 404), guards=[admin], summary="What a host is used for")
async def set_state(request: Asked, name: Named, data: JSONBody[StateAsked]) -> FleetHost:
    """Active again, in maintenance, or lost; draining is an operation."""
    await controller_of(request).set_state(name, HostState(data.state), request.user.name, data.why)
    return await controller_of(request).host(name)


@put("/hosts/{name:str}/settings", responses=refusals(*WRITES, 404), guards=[admin], summary="What is said of a host")
async def set_settings(request: Asked, name: Named, data: JSONBody[HostSettings]) -> FleetHost:
    """Rack, labels, storages, watts, price, limits: all of them are replaced."""
    await controller_of(request).set_settings(name, data, request.user.name)
    return await controller_of(request).host(name)


@get("/guests", responses=refusals(*READS), summary="The guests of the fleet")
async def list_guests(request: Asked, after: After = "", limit: Limit = 100, host: OnHost = None) -> GuestPage:
    """Every guest where it was last seen, or those of one host."""
    controller = controller_of(request)
    one_more = await (controller.guests_from(after, limit + 1) if host is None else controller.guests_on(host))
    return GuestPage(*page(one_more, cursor_of, after, limit))


@get("/guests/{guest:str}", responses=refusals(*READS, 404), summary="One guest")
async def show_guest(request: Asked, guest: Named) -> FleetGuest:
    """A guest by its id, or by a name that only one has."""
    return await controller_of(request).guest(guest)


@get("/guests/{guest:str}/fits", responses=refusals(*READS, 404), summary="Where a guest could go")
async def guest_fits(request: Asked, guest: Named) -> tuple[Fit, ...]:
    """For every other host whether the guest could go there now, and why not: the quick answer, from reports."""
    return await controller_of(request).fits(guest)


@put("/guests/{guest:str}/rules", responses=refusals(*WRITES, 404), guards=[admin], summary="What is said of a guest")
async def set_rules(request: Asked, guest: Named, data: JSONBody[GuestRules]) -> FleetGuest:
    """Anti-affinity groups, pins, priority: all of them are replaced."""
    key = await controller_of(request).set_rules(guest, data, request.user.name)
    return await controller_of(request).guest(key)


@get("/audit/owners", responses=refusals(*READS), summary="Guests with two owners")
async def show_owners(request: Asked) -> tuple[TwoOwners, ...]:
    """Guests that more than one host claims; there should be none."""
    return await controller_of(request).owners()


@get("/audit/changes", responses=refusals(*READS), summary="Who changed what")
async def list_changes(request: Asked, after: Line = LARGEST_NUMBER, limit: Limit = 100) -> ChangePage:
    """The audit log, latest first; `after` is the number of the last line that is known."""
    found = await changes_before(controller_of(request).database, after, limit)
    return ChangePage(found, str(found[-1].number) if len(found) == limit else None)


routes = Router(
    path="/v1",
    route_handlers=[
        list_hosts,
        show_host,
        set_state,
        set_settings,
        list_guests,
        show_guest,
        guest_fits,
        set_rules,
        show_owners,
        list_changes,
    ],
    security=SECURED,
    before_request=understood,
    tags=["fleet"],
)
