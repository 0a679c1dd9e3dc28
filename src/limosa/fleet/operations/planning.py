"""From what is asked to an operation with a plan, by the planners. Pure."""

from collections.abc import Iterable, Sequence

import msgspec

from limosa.errors import NotFound, UsageError
from limosa.fleet.consolidate import consolidate
from limosa.fleet.constraints import Left, refusals
from limosa.fleet.drain import drain
from limosa.fleet.home import move_set, return_home
from limosa.fleet.inventory import Guest, GuestId, HostState, Inventory
from limosa.fleet.plan import Plan
from limosa.fleet.rebalance import rebalance
from limosa.units import HostName, Seconds
from limosa.wire.fleet import (
    Fit,
    Forecast,
    Item,
    ItemState,
    LeftGuest,
    MoveAsked,
    Operation,
    OperationAsked,
    OperationKind,
    Phase,
)

EMPTIES = frozenset({OperationKind.DRAIN, OperationKind.CONSOLIDATE})
"""Kinds that close hosts, and leave them drained."""


def plan(asked: OperationAsked, fleet: Inventory, *, name: str, who: str, now: float) -> Operation:
    """An operation as it would be carried out now.

    Raises:
        NotFound: a host or guest that was named is unknown.
        UsageError: what is asked makes no sense.
    """
    made = _planned(asked, fleet, now)
    return Operation(
        id=name,
        kind=asked.kind,
        hosts=made.freed if asked.kind is OperationKind.CONSOLIDATE else asked.hosts,
        who=who,
        why=asked.why,
        created=now,
        phase=Phase.PLANNED,
        items=_items(made),
        left=_left(made.left),
        forecast=_forecast(made),
        limits=asked.limits,
    )


def _planned(asked: OperationAsked, fleet: Inventory, now: float) -> Plan:
    hosts = _known(fleet, asked.hosts)
    match asked.kind:
        case OperationKind.DRAIN:
            _require(hosts, "limosa drain HOST")
            return drain(fleet, hosts)
        case OperationKind.RESTORE:
            _require(hosts, "limosa restore HOST")
            return return_home(fleet, hosts)
        case OperationKind.REBALANCE:
            return rebalance(_among(fleet, hosts), now=Seconds(now))
        case OperationKind.CONSOLIDATE:
            return consolidate(_among(fleet, hosts))
        case OperationKind.MOVE:
            _require(asked.moves, "name guests and where they go")
            return move_set(fleet, {_guest(fleet, move.guest).uuid: _host(fleet, move) for move in asked.moves})


def _require(named: Sequence[object], remedy: str) -> None:
    if not named:
        raise UsageError("nothing was named", remedy=remedy)


def _among(fleet: Inventory, hosts: Sequence[HostName]) -> Inventory:
    """The fleet in which only these hosts give and take guests; all of them where none is named."""
    others = [host.name for host in fleet.hosts if host.state is HostState.ACTIVE and host.name not in hosts]
    return fleet.in_state(HostState.MAINTENANCE, others) if hosts else fleet


def _known(fleet: Inventory, names: Iterable[str]) -> tuple[HostName, ...]:
    wanted = tuple(dict.fromkeys(map(HostName, names)))
    if missing := [name for name in wanted if name not in fleet.by_name]:
        raise NotFound(
            f"no agent has reported {', '.join(missing)}",
            remedy="limosa hosts lists the fleet; hosts.toml of the controller names its hosts",
        )
    return wanted


def _host(fleet: Inventory, move: MoveAsked) -> HostName:
    return _known(fleet, [move.to])[0]


def _guest(fleet: Inventory, wanted: str) -> Guest:
    """By id or name. Raises NotFound where it is unknown, or several are called so."""
    if (by_id := fleet.by_uuid.get(GuestId(wanted))) is not None:
        return by_id
    found = [guest for guest in fleet.guests if guest.name == wanted]
    if len(found) != 1:
        what = f"{len(found)} guests are called {wanted}" if found else f"the fleet has no guest {wanted}"
        raise NotFound(what, remedy="limosa ls lists them; a UUID names one for certain")
    return found[0]


def _items(made: Plan) -> tuple[Item, ...]:
    return tuple(
        Item(
            guest=planned.move.guest,
            name=planned.move.name,
            source=planned.move.source,
            destination=planned.move.destination,
            after=planned.after,
            role=planned.role,
            expected_bytes=timed.bytes,
            expected_end=timed.end,
        )
        for planned, timed in zip(made.moves, made.prediction.moves, strict=True)
    )


def _left(left: Iterable[Left]) -> tuple[LeftGuest, ...]:
    return tuple(
        LeftGuest(
            guest=each.guest,
            name=each.name,
            host=each.host,
            why=each.refusals[0].why if each.refusals else "",
            hosts=_host_by_host(each),
        )
        for each in left
    )


def _host_by_host(left: Left) -> dict[str, str]:
    said: dict[str, list[str]] = {}
    for refusal in left.refusals:
        for host in refusal.hosts:
            said.setdefault(host, []).append(refusal.why)
    return {host: "; ".join(words) for host, words in sorted(said.items())}


def _forecast(made: Plan) -> Forecast:
    return Forecast(
        bytes=made.prediction.bytes,
        seconds=made.prediction.seconds,
        hosts_freed=made.freed,
        watts=made.price.watts,
        per_hour=made.price.money_per_hour,
        notes=(*made.notes, *made.prediction.assumed, *made.prediction.doubtful),
    )


def newcomers(operation: Operation, fleet: Inventory) -> tuple[tuple[Item, ...], tuple[LeftGuest, ...]]:
    """Moves of guests that came to an emptied host since, and the guests that stay. Nobody is moved twice."""
    if operation.kind not in EMPTIES:
        return (), operation.left
    hosts = [host for host in map(HostName, operation.hosts) if host in fleet.by_name]
    touched = {item.guest for item in operation.items}
    there = [guest for host in hosts for guest in fleet.on(host)]
    made = drain(fleet, hosts) if any(guest.uuid not in touched for guest in there) else None
    fresh = [] if made is None else [item for item in _items(made) if item.guest not in touched]
    if made is None or len(fresh) != len(made.moves):
        # A move of a guest that was moved before would be in the way of the others' order; without it they are none.
        fresh = []
    shift = len(operation.items)
    moved = tuple(_shifted(item, shift) for item in fresh)
    stay = {item.guest for item in operation.items if item.state is not ItemState.DONE}
    kept = [left for left in operation.left if fleet.by_uuid.get(GuestId(left.guest)) in there]
    told = {left.guest for left in kept} | stay
    new = [left for left in (_left(made.left) if made else ()) if left.guest not in told]
    return moved, (*kept, *new)


def _shifted(item: Item, by: int) -> Item:
    return msgspec.structs.replace(item, after=tuple(place + by for place in item.after))


def fits(fleet: Inventory, wanted: str) -> tuple[Fit, ...]:
    """For every host but its own whether a guest could go there now, and why not.

    Raises:
        NotFound: there is no such guest, or there are several.
    """
    guest = _guest(fleet, wanted)
    told = ((host, refusals(fleet, guest, host)) for host in fleet.hosts if host.name != guest.host)
    return tuple(Fit(host=host.name, fits=not why, reasons=tuple(each.why for each in why)) for host, why in told)
