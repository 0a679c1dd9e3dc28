"""`limosa agent`, and the way into its pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limosa.cli.options import client_command, config_dir_option, example

if TYPE_CHECKING:
    from limosa.agent.daemon import Agent
    from limosa.agent.front import Answer
    from limosa.cli.client import AgentClient


@click.group(
    invoke_without_command=True,
    epilog=example("limosa agent", "systemd-run -u limosa-agent -p KillMode=process limosa agent"),
)
@config_dir_option
@click.option("--state-dir", metavar="DIR", help="Default: /var/lib/limosa. [$LIMOSA_STATE_DIR]")
@click.option("--run-dir", metavar="DIR", help="Default: /run/limosa. [$LIMOSA_RUN_DIR]")
@click.option("--listen", metavar="ADDRESS[:PORT]", help="Where other hosts' agents reach this one.")
@click.option("--debug", is_flag=True, help="Log more.")
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line; the default where no terminal is.")
@click.pass_context
def agent(
    context: click.Context,
    config_dir: Path | None,
    state_dir: str | None,
    run_dir: str | None,
    listen: str | None,
    debug: bool,
    as_json: bool,
) -> None:
    """Run this host's agent in the foreground, as root.

    It finds every QEMU by itself. When it stops, guests go on; moves that have not committed are rolled back.
    SIGHUP makes it use new certificates. Settings: agent.toml in the configuration directory. Browsers see its
    pages through its socket: ssh -L 8448:/run/limosa/agent.sock HOST, then http://localhost:8448/.
    """
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from limosa.agent.config import load
    from limosa.agent.daemon import configure_logging, run

    config = load(config_dir, overrides={"state_dir": state_dir, "run_dir": run_dir, "listen": listen})
    configure_logging(json=as_json or None, debug=debug)
    asyncio.run(run(config, _pages))


def _pages(running: Agent) -> Answer:
    """What answers browsers; imported when the first one asks."""
    from limosa.web.agent.site import Site

    return Site(running).answer


@agent.command("web-link", short_help="Let a browser in.", epilog=example("limosa agent web-link"))
@client_command
def web_link(client: AgentClient, as_json: bool) -> None:
    """Print an address that lets a browser in to the agent's pages, once and within two minutes.

    For an agent whose agent.toml sets `web`. The browser stays in for twelve hours, or until the agent restarts.
    """
    from limosa.cli.output import answer

    made = client.web_link()
    answer(made, lambda: made.url, as_json=as_json)
