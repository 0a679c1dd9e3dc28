"""`limosa migrate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from limosa.cli.asked import move_options, request_of
from limosa.cli.moves import finish
from limosa.cli.options import either_command, example
from limosa.cli.output import answer
from limosa.cli.plan import show_plan

if TYPE_CHECKING:
    from limosa.cli.client import AgentClient


@click.command(
    epilog=example(
        "limosa migrate web1 --to host-b",
        "limosa migrate web1 --to host-b --bandwidth 100M --map br0=br-lan",
        "limosa migrate web1 --to host-b --detach && limosa watch web1",
    )
)
@move_options
@click.option("--detach", "--no-wait", is_flag=True, help="Start the move and return; `limosa watch` follows it.")
@click.option("--dry-run", is_flag=True, help="The same as `limosa plan`.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before deleting anything.")
@either_command("limosa.cli.fleet_moves:migrate")
def migrate(agent: AgentClient, as_json: bool, detach: bool, dry_run: bool, yes: bool, **asked: Any) -> int:
    """Move a running guest to another host, and report what it came to.

    Ctrl-C asks for an abort and waits for its answer. Whatever fails before the commit is undone, and the
    guest goes on at the source.
    """
    request = request_of(asked)
    if dry_run:
        return show_plan(agent, request, as_json)
    if not request.keep_source_disks and not yes and sys.stdin.isatty():
        click.confirm(f"Delete {request.guest}'s copied disks at the source after the move?", abort=True, err=True)
    started = agent.start(request)
    if detach:
        answer(started, lambda: f"{started.id}\nfollow it with: limosa watch {started.id}", as_json=as_json)
        return 0
    return finish(agent, started.id, as_json=as_json, abort_on_interrupt=True)
