"""From moves on a board to a plan: waits, prediction, price, and what is said of those who stay. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from limosa.fleet.board import Board
from limosa.fleet.constraints import Left, left, refusals
from limosa.fleet.inventory import Host, HostState, Inventory
from limosa.fleet.plan import Operation, Plan, Price, Role
from limosa.fleet.schedule import predict
from limosa.fleet.sequence import sequenced
from limosa.units import HostName


def finished(
    board: Board,
    operation: Operation,
    roles: Sequence[Role],
    *,
    empty: Iterable[HostName] = (),
    stay: Iterable[int] = (),
    targets: Mapping[int, HostName] | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """The plan of all moves on a board.

    Args:
        board: its inventory is the fleet before the first move.
        operation: what was asked for.
        roles: why each move is there, in the board's order.
        empty: hosts that were to be emptied.
        stay: guests that were to move and did not.
        targets: the one host that each of them was to go to; where it is not given, any host would have done.
        notes: more that the operator should know.
    """
    before, moves = board.inventory, board.moves()
    planned = sequenced(before, moves, roles)
    after = before.replayed(moves)
    wanted = tuple(empty)
    freed = tuple(name for name in wanted if not after.on(name) and not after.arriving_at(name))
    # Refusals are those at the end, when a host that is being emptied takes nobody.
    closed = after.in_state(HostState.DRAINING, [n for n in wanted if after.by_name[n].state is HostState.ACTIVE])
    return Plan(
        operation=operation,
        moves=planned,
        left=_left(closed, sorted(stay), targets),
        freed=freed,
        prediction=predict(before, planned, wanted),
        price=price(before, freed),
        notes=notes,
    )


def _left(after: Inventory, stay: Sequence[int], targets: Mapping[int, HostName] | None) -> tuple[Left, ...]:
    guests = [after.guests[guest] for guest in stay]
    if targets is None:
        return left(after, guests)
    homes = [after.by_name[targets[guest]] for guest in stay]
    return tuple(
        Left(guest.uuid, guest.name, guest.host, refusals(after, guest, home))
        for guest, home in zip(guests, homes, strict=True)
    )


def price(inventory: Inventory, names: Iterable[HostName]) -> Price:
    """What these hosts cost and draw: what is saved while they are off, or not bought."""
    hosts: list[Host] = [inventory.by_name[name] for name in names]
    return Price(
        hosts=len(hosts),
        watts=sum(host.watts for host in hosts),
        money_per_hour=sum(host.price_per_hour for host in hosts),
        unpriced=sum(not host.price_per_hour for host in hosts),
        unmetered=sum(not host.watts for host in hosts),
    )
