"""`limosa drain`, `restore`, `rebalance` and `consolidate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limosa.cli.options import Rate, example, fleet_command

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient
    from limosa.wire.fleet import LimitsAsked

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--dry-run", is_flag=True, help="Show the plan; change nothing."),
    click.option("--yes", "-y", is_flag=True, help="Carry the plan out without a question."),
    click.option("--why", default="", metavar="TEXT", help="For the audit log, and for whoever asks later."),
    click.option("--limit-in", type=click.IntRange(1, 100), metavar="N", help="Moves into one host at once."),
    click.option("--limit-out", type=click.IntRange(1, 100), metavar="N", help="Moves out of one host at once."),
    click.option("--moves", type=click.IntRange(1, 10000), metavar="N", help="Moves at once in all."),
    click.option(
        "--bandwidth", "--bwlimit", type=Rate(), help="Bytes per second of all its moves together, such as 1G."
    ),
    click.option("--retries", type=click.IntRange(0, 20), metavar="N", help="Attempts at one guest after its first."),
    click.option("--detach", "--no-wait", is_flag=True, help="Begin and return; `limosa operations watch` follows it."),
)


def operation_options(command: F) -> F:
    """How an operation is carried out: asked about or not, under which limits, watched or not."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def limits_of(asked: dict[str, Any]) -> LimitsAsked:
    """The limits that these options ask for; where none is given the controller's own hold."""
    from limosa.wire.fleet import LimitsAsked

    return LimitsAsked(
        moves_in=asked["limit_in"],
        moves_out=asked["limit_out"],
        moves=asked["moves"],
        bandwidth=asked["bandwidth"],
        retries=asked["retries"],
    )


@click.command(
    epilog=example(
        "limosa drain host-a --dry-run",
        "limosa drain host-a --why 'fans, ticket 4711'",
        "limosa drain rack4-01 rack4-02 --limit-out 4 --bandwidth 1G --yes --detach",
    )
)
@click.argument("hosts", nargs=-1, required=True, metavar="HOST…")
@operation_options
@fleet_command
def drain(fleet: FleetClient, hosts: tuple[str, ...], **asked: Any) -> int:
    """Empty hosts, for repair: their guests move to others, and nobody comes to them any more.

    The plan is shown and asked about first. What fails is tried again, what cannot leave is listed with the reasons.
    Exit status 0: empty. 40: guests are left. 10: no guest can leave; nothing was changed.
    """
    return _operate(fleet, "drain", hosts, asked)


@click.command(epilog=example("limosa restore host-a", "limosa restore host-a --yes"))
@click.argument("hosts", nargs=-1, required=True, metavar="HOST…")
@operation_options
@fleet_command
def restore(fleet: FleetClient, hosts: tuple[str, ...], **asked: Any) -> int:
    """Take drained hosts into use again, and bring the guests home that a drain moved away."""
    return _operate(fleet, "restore", hosts, asked)


@click.command(epilog=example("limosa rebalance --dry-run", "limosa rebalance rack4-01 rack4-02 rack4-03 --yes"))
@click.argument("hosts", nargs=-1, metavar="[HOST…]")
@operation_options
@fleet_command
def rebalance(fleet: FleetClient, hosts: tuple[str, ...], **asked: Any) -> int:
    """Even out load with few moves: over the whole fleet, or among the named hosts."""
    return _operate(fleet, "rebalance", hosts, asked)


@click.command(epilog=example("limosa consolidate --dry-run", "limosa consolidate --why 'weekend' --yes --detach"))
@click.argument("hosts", nargs=-1, metavar="[HOST…]")
@operation_options
@fleet_command
def consolidate(fleet: FleetClient, hosts: tuple[str, ...], **asked: Any) -> int:
    """Pack guests onto few hosts, so that others can be switched off; the plan says what that saves."""
    return _operate(fleet, "consolidate", hosts, asked)


def _operate(fleet: FleetClient, kind: str, hosts: tuple[str, ...], asked: dict[str, Any]) -> int:
    from limosa.cli.operate import How, operate, show_plan
    from limosa.wire.fleet import OperationAsked, OperationKind

    wanted = OperationAsked(kind=OperationKind(kind), hosts=hosts, why=asked["why"], limits=limits_of(asked))
    if asked["dry_run"]:
        return show_plan(fleet, wanted, as_json=asked["as_json"])
    return operate(fleet, wanted, How(ask=not asked["yes"], detach=asked["detach"], as_json=asked["as_json"]))
