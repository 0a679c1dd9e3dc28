"""From what is asked to an operation with a plan, by the planners. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from limosa.errors import NotFound, UsageError
from limosa.fleet.consolidate import consolidate
from limosa.fleet.constraints import Heard, Left, refusals
from limosa.fleet.drain import drain
from limosa.fleet.home import move_set, return_home
from limosa.fleet.inventory import Guest, GuestId, HostState, Inventory
from limosa.fleet.operations.advance import NOT_KNOWN
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

DESTINATIONS = 3
"""To which moves of one guest are tried in one operation."""

STAYS = frozenset({"not-found", "usage", "guest-powered-off", "guest-lost", "aborted", NOT_KNOWN})
"""Codes of failed moves that no other destination would mend."""

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
        items=_items(made, fleet),
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


def _items(made: Plan, fleet: Inventory) -> tuple[Item, ...]:
    return tuple(
        Item(
            guest=planned.move.guest,
            name=planned.move.name,
            source=planned.move.source,
            destination=planned.move.destination,
            epoch=fleet.by_uuid[planned.move.guest].epoch,
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


def replanned(operation: Operation, fleet: Inventory) -> tuple[tuple[Item, ...], tuple[LeftGuest, ...]]:
    """What is still to be done where all items are over: moves to come are behind the others, and waiting.

    Guests that came to an emptied host since the plan was made leave it too: an owner may start one there by hand. A
    guest whose move failed, or waited for one that did, goes to another destination, of which `DESTINATIONS` are tried.
    Nobody who was moved is moved again.

    Args:
        operation: at rest.
        fleet: as it was last seen, maybe from before the latest moves ended.

    Returns:
        All items, and the guests that stay without ever having been an item.
    """
    if operation.kind not in EMPTIES:
        return operation.items, operation.left
    latest = {GuestId(item.guest): item for item in operation.items}
    now = _as_left(fleet, latest)
    hosts = [host for host in map(HostName, operation.hosts) if host in now.by_name]
    failed = {guest for guest, item in latest.items() if item.state is not ItemState.DONE}
    if {guest.uuid for host in hosts for guest in now.on(host)} <= {g for g in failed if not _other_way(latest[g])}:
        return operation.items, ()
    made = drain(now, hosts)
    left = tuple(each for each in _left(made.left) if each.guest not in failed)
    return _rerouted(operation.items, _items(made, now)), left


def _other_way(item: Item) -> bool:
    """Whether it makes sense to try another destination."""
    if item.state is not ItemState.FAILED or item.code in STAYS:
        return False
    return item.attempts == item.before or len(item.tried) + 1 < DESTINATIONS


def _tried(item: Item) -> tuple[str, ...]:
    """Destinations to which moves of its guest were tried."""
    return item.tried if item.attempts == item.before else (*item.tried, item.destination)


def _as_left(fleet: Inventory, latest: Mapping[GuestId, Item]) -> Inventory:
    """The fleet in which guests are where this operation left them, and shun what it tried in vain."""

    def seen(guest: Guest) -> Guest:
        item = latest.get(guest.uuid)
        if item is None:
            return guest
        if _other_way(item):
            return msgspec.structs.replace(guest, shuns=tuple(map(HostName, _tried(item))))
        # A move's end is known before its old host reports it; a guest that somebody brought back has a higher epoch.
        late = item.state is ItemState.DONE and guest.host == item.source and guest.epoch <= item.epoch
        host = item.destination if late else guest.host
        why = ("this operation has moved it, or given it up",)
        return msgspec.structs.replace(guest, host=HostName(host), arriving=None, blocked=(*guest.blocked, *why))

    return msgspec.structs.replace(fleet, guests=tuple(map(seen, fleet.guests)))


def _rerouted(items: Sequence[Item], fresh: Sequence[Item]) -> tuple[Item, ...]:
    """Items with new moves behind them; those of the same guests are given up for them."""
    again, shift = {item.guest for item in fresh}, len(items)
    old = {item.guest: item for item in items}
    past = (
        msgspec.structs.replace(item, state=ItemState.REROUTED)
        if item.guest in again and item.state is ItemState.FAILED
        else item
        for item in items
    )
    return (*past, *(_behind(item, old.get(item.guest), shift) for item in fresh))


def _behind(item: Item, before: Item | None, shift: int) -> Item:
    """A new item `shift` places further back, which goes on counting the attempts of the one before."""
    item = msgspec.structs.replace(item, after=tuple(place + shift for place in item.after))
    if before is None:
        return item
    return msgspec.structs.replace(item, attempts=before.attempts, before=before.attempts, tried=_tried(before))


def fits(fleet: Inventory, wanted: str) -> tuple[Fit, ...]:
    """For every host but its own whether a guest could go there now, and why not.

    Raises:
        NotFound: there is no such guest, or there are several.
    """
    guest = _guest(fleet, wanted)
    heard: Heard = {}
    told = ((host, refusals(fleet, guest, host, heard)) for host in fleet.hosts if host.name != guest.host)
    return tuple(Fit(host=host.name, fits=not why, reasons=tuple(each.why for each in why)) for host, why in told)
