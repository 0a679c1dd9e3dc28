"""`limosa fleet serve`: a controller and its dashboard on a fleet in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limosa.cli.options import example, json_option

if TYPE_CHECKING:
    from limosa.fleet.inventory import Inventory
    from limosa.web.controller.simulated import Serving

PORT = 8480
FILL, UNEVEN, OVERCOMMIT = 0.75, 0.4, 2.0
"""Of a fleet that is no file: busy, unevenly, with two vCPUs for each logical processor."""


@click.command(epilog=example("limosa fleet serve --hosts 1000", "limosa fleet serve drain-50.toml"))
@click.argument("file", metavar="[FILE]", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--hosts", type=click.IntRange(0, 20000), default=100, show_default=True, help="Without FILE: how many.")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, another fleet.")
@click.option("--listen", metavar="HOST:PORT", default=f"127.0.0.1:{PORT}", show_default=True, help="On loopback.")
@click.option("--hurry", type=click.FloatRange(min=0.01), default=4.0, show_default=True, help="Times as fast.")
@click.option(
    "--trouble", type=click.FloatRange(0, 1), default=0.03, show_default=True, help="Share of moves that fail."
)
@click.option(
    "--drift", type=click.IntRange(0), default=8, show_default=True, help="Hosts whose load changes, each second."
)
@click.option("--days", type=click.IntRange(0, 90), default=42, show_default=True, help="Of moves before it begins.")
@json_option
def serve(
    file: Path | None,
    hosts: int,
    seed: int,
    listen: str,
    hurry: float,
    trouble: float,
    drift: int,
    days: int,
    as_json: bool,
) -> None:
    """Run a controller with its API and its dashboard on a fleet in memory, to try both without a host.

    Its agents are simulated: loads drift, guests that are moved take their time and arrive, and some weeks of moves
    are behind them. FILE holds a fleet as for `limosa fleet simulate`. There is no TLS, so it listens on loopback only.
    """
    import asyncio
    import time

    from limosa.agent.config import parse_endpoint
    from limosa.agent.daemon import configure_logging
    from limosa.errors import UsageError
    from limosa.fleet.simulated.agents import SimulatedAgents
    from limosa.fleet.simulated.past import past_moves
    from limosa.web.controller.simulated import serve as run

    try:
        endpoint = parse_endpoint(listen, PORT)
    except ValueError as error:
        raise UsageError(f"--listen: {error}", remedy="write 127.0.0.1:8480") from error
    configure_logging(json=None, debug=False)
    fleet = _fleet(file, hosts, seed)
    past = past_moves(fleet, time.time(), days=days, trouble=trouble, seed=seed)
    agents = SimulatedAgents(fleet, hurry=hurry, trouble=trouble, past=past, drift=drift, seed=seed)
    asyncio.run(run(fleet, agents, endpoint, lambda told: _say(told, as_json=as_json)))


def _fleet(file: Path | None, hosts: int, seed: int) -> Inventory:
    from limosa.cli.fleet import fleet_of, read_scenario
    from limosa.fleet.generate import Shape, generate
    from limosa.fleet.simulated.processors import processors

    if file is not None:
        return fleet_of(read_scenario(file), file.parent)
    return generate(processors(), Shape(hosts=hosts, seed=seed, fill=FILL, unevenness=UNEVEN, overcommit=OVERCOMMIT))


def _say(told: Serving, *, as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(told))
        return
    click.echo(f"dashboard  {told.url}")
    click.echo("\n".join(f"{role:<10} {word}" for role, word in told.tokens.items()))
