"""`limosa resolve`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from limosa.cli.options import client_command, example
from limosa.cli.output import say
from limosa.units import Side

if TYPE_CHECKING:
    from limosa.cli.client import AgentClient
    from limosa.wire.moves import MoveStatus


@click.command(epilog=example("limosa resolve web1 --fence-evidence 'b was switched off at its power supply at 14:05'"))
@click.argument("guest")
@click.option(
    "--fence-evidence",
    "evidence",
    metavar="TEXT",
    required=True,
    help="How you know that the other host does not run the guest, and never will. It is recorded with your name.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@client_command
def resolve(agent: AgentClient, guest: str, evidence: str, as_json: bool, yes: bool) -> int:
    """Take back a guest whose move is in doubt, on your word that the other host is fenced.

    A move is in doubt when the source gave the guest up and the destination does not say whether it took it
    over: both are paused until it answers. Where it never will, switch it off for good, and say so here. If it
    runs the guest all the same, the guest executes twice. Exit status 0 says that the guest runs here again.
    """
    import msgspec

    from limosa.cli.live import follow, screen_for
    from limosa.cli.report import failure_of, report

    doubted = next((m for m in agent.moves() if not m.state.over and guest in {m.id, m.guest, m.uuid}), None)
    if doubted is not None and not yes and sys.stdin.isatty():
        click.confirm(question(doubted), abort=True, err=True)
    taken = agent.resolve(guest, evidence)
    if as_json:
        status = [*agent.events(taken.id)][-1]
        click.echo(msgspec.json.encode(status))
    else:
        say(recorded(taken, evidence), err=True)
        with screen_for(as_json=False) as screen:
            status = follow(agent, taken.id, screen, abort_on_interrupt=False)
        say(report(status))
    failure = failure_of(status)
    return 0 if failure is None or status.guest_runs is Side.SOURCE else failure.exit_status


def question(move: MoveStatus) -> str:
    """What must be true before a doubt is ended."""
    return (
        f"{move.guest} was given up by {move.source} in favour of {move.destination}.\n"
        f"{move.destination} must be fenced: switched off, or its {move.guest} destroyed; "
        f"if it runs {move.guest}, there will be two.\n"
        f"Is {move.destination} fenced?"
    )


def recorded(move: MoveStatus, evidence: str) -> str:
    """What was written into the journal."""
    return (
        f"recorded for {move.guest}, with your name and the time: {evidence}\n"
        f"{move.destination} must stay fenced until its copy of {move.guest} is gone; {move.source} takes it back"
    )
