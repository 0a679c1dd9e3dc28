"""`limosa hosts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from limosa.cli.options import either_command, example
from limosa.cli.output import answer
from limosa.cli.table import table
from limosa.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limosa.cli.client import AgentClient
    from limosa.wire.guests import HostShown
    from limosa.wire.moves import PlanShown


@click.command(epilog=example("limosa hosts", "limosa hosts --fits web1"))
@click.option("--fits", metavar="GUEST", help="Plan a move of GUEST to each host, and say why it could not go there.")
@either_command("limosa.cli.fleet_lists:hosts")
def hosts(agent: AgentClient, fits: str | None, as_json: bool) -> None:
    """List the hosts an agent knows, and whether it reaches them.

    With --fits each host is asked for a full plan, its real twin included; nothing is changed.
    """
    known = agent.hosts()
    if fits is None:
        answer(known, lambda: host_table(known), as_json=as_json)
        return
    here = agent.hello().host
    answers = [(host, _fit(agent, fits, host)) for host in known if host.name != here]
    told = [{"host": host.name, "fits": not reasons, "reasons": reasons} for host, reasons in answers]
    answer(told, lambda: fit_table(answers), as_json=as_json)


def _fit(agent: AgentClient, guest: str, host: HostShown) -> list[str]:
    from limosa.errors import LimosaError, NotFound, UsageError
    from limosa.wire.moves import MoveRequest

    if not host.reachable:
        return [host.why_not or "unreachable"]
    try:
        return reasons(agent.plan(MoveRequest(guest=guest, to=host.name)))
    except (NotFound, UsageError):
        raise  # about the guest, not about this host
    except LimosaError as refusal:
        return [refusal.what]


def reasons(plan: PlanShown) -> list[str]:
    """Why a plan is not possible; empty where it is."""
    from limosa.wire.findings import blocking

    if plan.possible:
        return []
    return [finding.what for finding in blocking(plan.findings)] or list(plan.differences) or ["the plan is blocked"]


def host_table(known: Iterable[HostShown]) -> str:
    """What `limosa hosts` prints."""
    rows = [
        (
            host.name,
            host.address,
            host.migration_address,
            "yes" if host.reachable else f"no: {host.why_not}",
            "-" if host.round_trip is None else f"{host.round_trip * 1000:.1f} ms",
            "-" if host.memory_free is None else format_size(host.memory_free),
            "-" if host.cpus is None else str(host.cpus),
            ", ".join(host.qemu_versions) or "-",
        )
        for host in known
    ]
    heads = ("HOST", "ADDRESS", "MIGRATION", "REACHABLE", "ROUND TRIP", "FREE MEMORY", "CPUS", "QEMU")
    return table(heads, rows, right=("ROUND TRIP", "FREE MEMORY", "CPUS"))


def fit_table(answers: Iterable[tuple[HostShown, list[str]]]) -> str:
    """What `limosa hosts --fits` prints: one line for each reason."""
    rows = []
    for host, why in answers:
        rows.append((host.name, "no" if why else "yes", why[0] if why else ""))
        rows.extend(("", "", more) for more in why[1:])
    return table(("HOST", "FITS", "WHY NOT"), rows)
