"""`limosa plan`, `migrate`, `watch` and `abort` where a controller is named: a move is an operation of one guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limosa.cli import operate, operations
from limosa.errors import UsageError
from limosa.wire.fleet import LimitsAsked, MoveAsked, OperationAsked, OperationKind

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient

_AGENTS_ONLY = {
    "maps": "--map",
    "allow": "--allow",
    "downtime_limit": "--downtime-limit",
    "timeout": "--timeout",
    "delete_source_disks": "--delete-source-disks",
    "channels": "--parallel-connections",
    "insecure_plaintext": "--insecure-plaintext",
}
"""Options that a controller's orders do not carry: by parameter, as they are written."""


def plan(fleet: FleetClient, as_json: bool, **asked: Any) -> int:
    """Whether a guest could go to a host now, by what their agents reported; no twin is started."""
    return operate.show_plan(fleet, wanted(asked), as_json=as_json)


def migrate(fleet: FleetClient, as_json: bool, detach: bool, dry_run: bool, **asked: Any) -> int:
    """Move a guest, by an operation of this one move; there is nothing to ask about."""
    if dry_run:
        return plan(fleet, as_json, **asked)
    return operate.operate(fleet, wanted(asked), operate.How(ask=False, detach=detach, as_json=as_json))


def watch(fleet: FleetClient, move: str | None, as_json: bool) -> int:
    """Watch an operation."""
    return operations.follow(fleet, move, as_json=as_json)


def abort(fleet: FleetClient, move: str | None, as_json: bool) -> int:
    """Cancel an operation, and wait until what it had in flight is rolled back or committed."""
    chosen = operations.choose(fleet, move)
    fleet.cancel(chosen.id)
    operate.watch(fleet, chosen, as_json=as_json)
    return 0


def wanted(asked: dict[str, Any]) -> OperationAsked:
    """The operation that the options of `plan` and `migrate` ask for.

    Raises:
        UsageError: one of them is for agents only.
    """
    for parameter, option in _AGENTS_ONLY.items():
        if asked[parameter] not in (None, False, ()):
            raise UsageError(
                f"{option} cannot be given through a controller",
                remedy="leave it out, or order the move from the guest's own host: -H ssh://root@HOST",
            )
    return OperationAsked(
        kind=OperationKind.MOVE,
        moves=(MoveAsked(guest=asked["guest"], to=asked["to"]),),
        limits=LimitsAsked(moves=1, bandwidth=asked["bandwidth"]),
    )
