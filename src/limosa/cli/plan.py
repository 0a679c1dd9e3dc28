"""`limosa plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from limosa.cli.asked import move_options, request_of
from limosa.cli.options import either_command, example
from limosa.cli.output import answer

if TYPE_CHECKING:
    from limosa.cli.client import AgentClient
    from limosa.wire.moves import MoveRequest

BLOCKED = 10


@click.command(epilog=example("limosa plan web1 --to host-b", "limosa plan web1 --to host-b --map br0=br-lan"))
@move_options
@either_command("limosa.cli.fleet_moves:plan")
def plan(agent: AgentClient, as_json: bool, **asked: Any) -> int:
    """Check and rehearse a move with the real twin; change nothing.

    Exit status 10 says that the move is blocked.
    """
    return show_plan(agent, request_of(asked), as_json)


def show_plan(agent: AgentClient, request: MoveRequest, as_json: bool) -> int:
    """Print the plan; the exit status it gives."""
    from limosa.cli.report import plan_page

    planned = agent.plan(request)
    answer(planned, lambda: plan_page(planned, request.allow), as_json=as_json)
    return 0 if planned.possible else BLOCKED
