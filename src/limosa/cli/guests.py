"""`limosa ls` and `limosa show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from limosa.cli.options import either_command, example
from limosa.cli.output import answer, say
from limosa.cli.table import table
from limosa.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limosa.cli.client import AgentClient
    from limosa.wire.guests import GuestShown


@click.command(epilog=example("limosa ls", "limosa -H ssh://root@host-b ls --json"))
@either_command("limosa.cli.fleet_lists:ls")
def ls(agent: AgentClient, as_json: bool) -> None:
    """List the guests of a host, whoever started them.

    MOVABLE is yes, or the first reason why not; `limosa plan` gives all of them.
    """
    guests = agent.guests()
    answer(guests, lambda: guest_table(guests), as_json=as_json)


def guest_table(guests: Iterable[GuestShown]) -> str:
    """What `limosa ls` prints."""
    shown = sorted(guests, key=lambda guest: (guest.name, guest.pid))
    rows = [
        (
            guest.name,
            f"{guest.state} ({guest.move})" if guest.move else guest.state,
            str(guest.pid) if guest.pid else "gone",
            "-" if guest.vcpus is None else str(guest.vcpus),
            "-" if guest.memory is None else format_size(guest.memory),
            (guest.uuid or "-")[:8],
            "no, see below" if guest.remedy else guest.movable,
            guest.owner,
        )
        for guest in shown
    ]
    heads = ("NAME", "STATE", "PID", "VCPUS", "MEMORY", "UUID", "MOVABLE", "OWNER")
    troubled = (f"\n\n{g.name} is {g.state}: {g.movable}\n  to do: {g.remedy}" for g in shown if g.remedy)
    return table(heads, rows, right=("PID", "VCPUS", "MEMORY")) + "".join(troubled)


@click.command(epilog=example("limosa show web1", "limosa show web1 --json | jq .devices"))
@click.argument("guest")
@either_command("limosa.cli.fleet_lists:show")
def show(agent: AgentClient, guest: str, as_json: bool) -> None:
    """Show a guest's profile: all that a move carries, and what could not be told.

    GUEST is a name, a uuid or a pid, as `limosa ls` shows them. With -H https://… what the controller knows of it.
    """
    told = agent.profile(guest)
    if as_json:
        click.echo(told)
        return
    from limosa.cli.profile_page import profile_page
    from limosa.cli.rest import decoded
    from limosa.guest.profile import Profile

    say(profile_page(decoded(told, Profile)))
