"""Which hosts consolidations have emptied, and for how long. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from limosa.history.weeks import Freed
from limosa.wire.fleet import Change, HostSettings, ItemState, Operation, OperationKind, Phase
from limosa.wire.history import PastMove
from limosa.wire.moves import MoveState


def freed(
    operations: Sequence[Operation],
    changes: Iterable[Change],
    moves: Iterable[PastMove],
    settings: Mapping[str, HostSettings],
) -> tuple[Freed, ...]:
    """Hosts that were emptied by a consolidation, and when each was put to use again.

    A host is free from the end of the consolidation to whatever comes first: somebody sets its state, a restoration
    or any other operation on it begins, or a guest arrives on it.

    Args:
        operations: all that are known.
        changes: of the audit log, those that set hosts' states at least.
        moves: finished moves.
        settings: watts and prices of hosts, as they are now.
    """
    uses = _uses(operations, changes, moves)
    return tuple(
        Freed(
            host=host,
            operation=operation.id,
            since=operation.ended,
            until=min((at for at in uses.get(host, ()) if at > operation.ended), default=None),
            watts=settings[host].watts if host in settings else 0.0,
            price_per_hour=settings[host].price_per_hour if host in settings else 0.0,
        )
        for operation in operations
        if operation.kind is OperationKind.CONSOLIDATE
        and operation.ended is not None
        and operation.phase is not Phase.CANCELLED
        for host in emptied(operation)
    )


def emptied(operation: Operation) -> tuple[str, ...]:
    """The hosts that an operation which is over has left without guests."""
    occupied = {left.host for left in operation.left}
    occupied |= {item.source for item in operation.items if item.state is not ItemState.DONE}
    return tuple(host for host in operation.hosts if host not in occupied)


def _uses(
    operations: Iterable[Operation], changes: Iterable[Change], moves: Iterable[PastMove]
) -> dict[str, list[float]]:
    uses: dict[str, list[float]] = {}
    for operation in operations:
        if operation.began is not None:
            for host in operation.hosts:
                uses.setdefault(host, []).append(operation.began)
    for change in changes:
        if change.what.startswith("set state "):
            uses.setdefault(change.subject, []).append(change.at)
    for move in moves:
        if move.state is MoveState.COMPLETED:
            uses.setdefault(move.destination, []).append(move.ended)
    return uses
