"""`limosa agent`."""

from __future__ import annotations

from pathlib import Path

import click

from limosa.cli.options import config_dir_option, example


@click.command(
    epilog=example("limosa agent", "systemd-run -u limosa-agent -p KillMode=process limosa agent"),
)
@config_dir_option
@click.option("--state-dir", metavar="DIR", help="Default: /var/lib/limosa. [$LIMOSA_STATE_DIR]")
@click.option("--run-dir", metavar="DIR", help="Default: /run/limosa. [$LIMOSA_RUN_DIR]")
@click.option("--listen", metavar="ADDRESS[:PORT]", help="Where other hosts' agents reach this one.")
@click.option("--debug", is_flag=True, help="Log more.")
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line; the default where no terminal is.")
def agent(
    config_dir: Path | None, state_dir: str | None, run_dir: str | None, listen: str | None, debug: bool, as_json: bool
) -> None:
    """Run this host's agent in the foreground, as root.

    It finds every QEMU by itself. When it stops, guests go on; moves that have not committed are rolled back.
    SIGHUP makes it use new certificates. Settings: agent.toml in the configuration directory.
    """
    import asyncio

    from limosa.agent.config import load
    from limosa.agent.daemon import configure_logging, run

    config = load(config_dir, overrides={"state_dir": state_dir, "run_dir": run_dir, "listen": listen})
    configure_logging(json=as_json or None, debug=debug)
    asyncio.run(run(config))
