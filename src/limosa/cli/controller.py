"""`limosa controller`, and the tokens of its API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limosa.cli.options import example, json_option

if TYPE_CHECKING:
    from limosa.wire.fleet import Role, TokenShown

DIRECTORY = click.option(
    "--config-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of controller.toml, hosts.toml and pki/. Default: /etc/limosa/controller. [$LIMOSA_CONTROLLER_DIR]",
)


@click.group(
    invoke_without_command=True,
    epilog=example("limosa controller", "limosa controller token night-shift --role operator"),
)
@DIRECTORY
@click.option("--debug", is_flag=True, help="Log more.")
@click.option("--json", "as_json", is_flag=True, help="Log one JSON object a line; the default where no terminal is.")
@click.pass_context
def controller(context: click.Context, config_dir: Path | None, debug: bool, as_json: bool) -> None:
    """Run a controller in the foreground: it follows the fleet, carries its operations, and shows both as pages.

    When it stops, moves in flight go on, and operations are carried on after its next start.
    Its certificate comes from `limosa pki issue NAME --controller`, its hosts from hosts.toml.
    """
    if context.invoked_subcommand is not None:
        return
    from limosa.agent.daemon import configure_logging
    from limosa.api.serve import run
    from limosa.fleet.config import load
    from limosa.web.controller.dashboard import extension

    config = load(config_dir)
    configure_logging(json=as_json or None, debug=debug)
    run(config, [extension()])


@controller.command(
    short_help="Make a token for the API.", epilog=example("limosa controller token night-shift --role operator")
)
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), default="viewer", show_default=True)
@DIRECTORY
@json_option
def token(name: str, role: str, config_dir: Path | None, as_json: bool) -> None:
    """Make a token for the API on the controller's host, and print its word, once."""
    import asyncio

    import msgspec

    from limosa.fleet.config import load
    from limosa.wire.fleet import Role

    made = asyncio.run(_make(load(config_dir).database, name, Role(role)))
    click.echo(msgspec.json.encode(made) if as_json else made.word)


async def _make(database: str, name: str, role: Role) -> TokenShown:
    from limosa.fleet.db.engine import Database
    from limosa.fleet.tokens import Tokens

    async with Database.opened(database) as opened:
        return await Tokens(opened).make(name, role, "command line")
