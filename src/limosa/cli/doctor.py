"""`limosa doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from limosa.cli.options import either_command, example
from limosa.cli.output import say
from limosa.cli.table import table
from limosa.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limosa.cli.client import AgentClient
    from limosa.wire.doctor import Diagnosis, Trouble

SICK = 40


@click.command(
    epilog=example(
        "limosa doctor",
        "limosa doctor --fix",
        "limosa -H https://fleet-1:8447 doctor",
        "limosa doctor --json | jq .troubles",
    )
)
@click.option("--fix", is_flag=True, help="Remove from this host what is proved unused, and say what was left and why.")
@either_command("limosa.cli.fleet_doctor:doctor")
def doctor(agent: AgentClient, fix: bool, as_json: bool) -> int:
    """Look at this host and every host it knows: owners, open moves, strays, guests that run twice, certificates.

    With -H https://controller:8447 every host of the fleet is looked at.

    Exit status 0 says that all is well, 40 that something was found.
    """
    diagnosis = agent.doctor(fix=fix)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(diagnosis))
    else:
        say(page(diagnosis))
    return 0 if diagnosis.clean else SICK


def page(diagnosis: Diagnosis) -> str:
    """What `limosa doctor` prints."""
    return "\n\n".join(_parts(diagnosis))


def _parts(diagnosis: Diagnosis) -> Iterator[str]:
    owners = [
        (facts.host, owned.identity, str(owned.epoch), "here" if owned.here else f"given up to {owned.peer}")
        for facts in diagnosis.hosts
        for owned in facts.owners
    ]
    if owners:
        yield "owners\n" + table(("HOST", "GUEST", "EPOCH", "OWNER"), owners, right=("EPOCH",), indent="  ")
    moves = [
        (facts.host, move.id, move.guest, move.side, move.peer, move.state)
        for facts in diagnosis.hosts
        for move in facts.moves
    ]
    if moves:
        yield "open moves\n" + table(("HOST", "MOVE", "GUEST", "SIDE", "PEER", "STATE"), moves, indent="  ")
    if diagnosis.fixed:
        yield "\n".join(
            f"removed: {fixed.what}" if fixed.removed else f"left: {fixed.what}: {fixed.why}"
            for fixed in diagnosis.fixed
        )
    for trouble in diagnosis.troubles:
        yield trouble_told(trouble)
    count = len(diagnosis.hosts)
    asked = f"{format_count(count, 'host')} looked at"
    yield f"{asked}: all is well" if diagnosis.clean else f"{asked}: something is wrong"


def trouble_told(trouble: Trouble) -> str:
    """A trouble in its lines: what is wrong, where the guest runs if it is about one, what to do."""
    lines = [f"{trouble.weight}: {trouble.host}: {trouble.what}"]
    if trouble.guest_runs:
        lines.append(f"  the guest runs: {trouble.guest_runs}")
    if trouble.remedy:
        lines.append(f"  to do: {trouble.remedy}")
    return "\n".join(lines)
