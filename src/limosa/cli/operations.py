"""`limosa operations`: what a controller has in hand and had, and how it is steered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limosa.cli.lazy import Lazy, LazyGroup
from limosa.cli.options import agent_options, example, fleet_command, json_option
from limosa.cli.output import answer

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient
    from limosa.wire.fleet import Operation

F = TypeVar("F", bound=Callable[..., Any])

_HERE = "limosa.cli.operations"

COMMANDS = (
    Lazy("ls", f"{_HERE}:list_operations", "List operations, latest first."),
    Lazy("show", f"{_HERE}:show", "Show one: its moves, how far each is, what is left and why."),
    Lazy("watch", f"{_HERE}:watch", "Watch one until it is over."),
    Lazy("approve", f"{_HERE}:approve", "Let a planned one run."),
    Lazy("pause", f"{_HERE}:pause", "Start no more of its moves; those in flight go on."),
    Lazy("resume", f"{_HERE}:resume", "Go on after a pause."),
    Lazy("cancel", f"{_HERE}:cancel", "End it; moves in flight that have not committed are rolled back."),
)


class _Operations(LazyGroup):
    """A group whose `show` may go without saying: ids have a hyphen, commands have none."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        named = bool(args) and "-" in args[0] and not args[0].startswith("-")
        return super().resolve_command(ctx, ["show", *args] if named else args)


@click.group(
    cls=_Operations,
    commands_to_load=COMMANDS,
    invoke_without_command=True,
    epilog=example("limosa operations", "limosa operations watch drain-1f0c9a2b", "limosa operations pause drain-1f0c"),
)
@agent_options
@json_option
@click.pass_context
def operations(context: click.Context, as_json: bool) -> Any:
    """Look at drains and other operations, and steer them; alone it lists the latest.

    OPERATION is an id, the beginning of one, or left out: the only one that is not over. An id alone shows it.
    """
    if context.invoked_subcommand is None:
        return context.invoke(list_operations, as_json=as_json, number=20)
    return None


@click.command(name="ls", epilog=example("limosa operations ls", "limosa operations ls --number 200 --json"))
@click.option("--number", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@fleet_command
def list_operations(fleet: FleetClient, as_json: bool, number: int) -> None:
    """List operations, latest first."""
    from itertools import islice

    from limosa.cli.operation_page import operations_table

    found = tuple(islice(fleet.operations(), number))
    answer(found, lambda: operations_table(found, time.time()), as_json=as_json)


@click.command(epilog=example("limosa operations show", "limosa operations show drain-1f0c9a2b --json"))
@click.argument("operation", required=False)
@fleet_command
def show(fleet: FleetClient, operation: str | None, as_json: bool) -> None:
    """Show an operation: its moves, how far each is, what is left and why."""
    from limosa.cli.operation_page import operation_page

    found = choose(fleet, operation)
    answer(found, lambda: operation_page(found, time.time()), as_json=as_json)


@click.command(epilog=example("limosa operations watch", "limosa operations watch drain-1f0c9a2b --json"))
@click.argument("operation", required=False)
@fleet_command
def watch(fleet: FleetClient, operation: str | None, as_json: bool) -> int:
    """Watch an operation until it is over; its exit status is the operation's.

    Ctrl-C ends the watching, or steers; with --json each change is one line.
    """
    return follow(fleet, operation, as_json=as_json)


def follow(fleet: FleetClient, operation: str | None, *, as_json: bool) -> int:
    """Watch the operation that somebody means."""
    from limosa.cli import operate

    return operate.watch(fleet, choose(fleet, operation), as_json=as_json, every=True)


def _steering(command: F) -> F:
    """Which operation, and why it is steered."""
    command = click.option("--why", default="", metavar="TEXT", help="For the audit log.")(command)
    return click.argument("operation", required=False)(command)


@click.command(epilog=example("limosa operations approve drain-1f0c9a2b"))
@_steering
@fleet_command
def approve(fleet: FleetClient, operation: str | None, why: str, as_json: bool) -> None:
    """Let a planned operation run."""
    _told(fleet.approve(choose(fleet, operation).id, why), "runs", as_json)


@click.command(epilog=example("limosa operations pause drain-1f0c9a2b --why 'backup window'"))
@_steering
@fleet_command
def pause(fleet: FleetClient, operation: str | None, why: str, as_json: bool) -> None:
    """Start no more moves of an operation; those in flight go on."""
    _told(fleet.pause(choose(fleet, operation).id, why), "starts no more moves", as_json)


@click.command(epilog=example("limosa operations resume drain-1f0c9a2b"))
@_steering
@fleet_command
def resume(fleet: FleetClient, operation: str | None, why: str, as_json: bool) -> None:
    """Go on with a paused operation."""
    _told(fleet.resume(choose(fleet, operation).id, why), "goes on", as_json)


@click.command(epilog=example("limosa operations cancel drain-1f0c9a2b --why 'the part did not come'"))
@_steering
@fleet_command
def cancel(fleet: FleetClient, operation: str | None, why: str, as_json: bool) -> None:
    """End an operation. Guests that moved stay where they are; moves that have not committed are rolled back."""
    _told(fleet.cancel(choose(fleet, operation).id, why), "ends", as_json)


def _told(operation: Operation, what: str, as_json: bool) -> None:
    answer(operation, lambda: f"{operation.id} {what}; see limosa operations watch {operation.id}", as_json=as_json)


def choose(fleet: FleetClient, wanted: str | None) -> Operation:
    """The operation that somebody means: by its id, by the beginning of one, or the only one that is not over.

    Raises:
        NotFound: there is none.
        UsageError: several could be meant.
    """
    from limosa.errors import NotFound, UsageError

    if wanted is not None:
        try:
            return fleet.operation(wanted)
        except NotFound:
            found = [each for each in fleet.operations() if each.id.startswith(wanted)]
    else:
        found = [each for each in fleet.operations() if not each.phase.over]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(each.id for each in found)
        raise UsageError(f"{len(found)} operations could be meant: {names}", remedy="name the one you mean")
    what = f"there is no operation {wanted}" if wanted else "no operation is under way"
    raise NotFound(what, remedy="limosa operations lists them")
