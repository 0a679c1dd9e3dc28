"""Thin: parse, call, render.

The group lists the commands without importing them: a command's file, and all that it needs, is imported when
it runs, so that `limosa --help` answers at once (bench/cli.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from limosa.cli.lazy import Lazy, LazyGroup, run
from limosa.cli.options import agent_options, example

COMMANDS = (
    Lazy("ls", "limosa.cli.guests:ls", "List the guests of a host, or of the fleet."),
    Lazy("show", "limosa.cli.guests:show", "Show a guest's profile: all that a move carries."),
    Lazy("plan", "limosa.cli.plan:plan", "Check and rehearse a move; change nothing."),
    Lazy("migrate", "limosa.cli.migrate:migrate", "Move a running guest to another host."),
    Lazy("watch", "limosa.cli.moves:watch", "Watch a move in flight."),
    Lazy("abort", "limosa.cli.moves:abort", "Abort a move and roll it back."),
    Lazy("report", "limosa.cli.reports:report", "Say what became of a move, an operation, a week."),
    Lazy("doctor", "limosa.cli.doctor:doctor", "Find out what is wrong, and tidy up."),
    Lazy("resolve", "limosa.cli.resolve:resolve", "Take back a guest in doubt, once the other host is fenced."),
    Lazy("speed", "limosa.cli.moves:speed", "Change the bandwidth of a move in flight."),
    Lazy("hosts", "limosa.cli.hosts:hosts", "List hosts: those an agent knows, or the fleet's."),
    Lazy("drain", "limosa.cli.fleet_commands:drain", "Empty hosts, for repair."),
    Lazy("restore", "limosa.cli.fleet_commands:restore", "Bring guests home to drained hosts."),
    Lazy("rebalance", "limosa.cli.fleet_commands:rebalance", "Even out load over the fleet."),
    Lazy("consolidate", "limosa.cli.fleet_commands:consolidate", "Pack guests, so that hosts can be switched off."),
    Lazy("operations", "limosa.cli.operations:operations", "Look at drains and the like, and steer them."),
    Lazy("host", "limosa.cli.settings:host", "Say what a host is used for: maintenance, rack, labels, price."),
    Lazy("guest", "limosa.cli.settings:guest", "Say with whom and where a guest may run."),
    Lazy("hooks", "limosa.cli.hooks:hooks", "See and try what is told where guests live."),
    Lazy("cpu", "limosa.cli.cpu:cpu", "CPU flags: which guest can run where, and why not."),
    Lazy("fleet", "limosa.cli.fleet:fleet", "Try drains and packing on a fleet in a file."),
    Lazy("agent", "limosa.cli.agent:agent", "Run this host's agent."),
    Lazy("controller", "limosa.cli.controller:controller", "Run a controller, and make tokens for its API."),
    Lazy("agent-stdio", "limosa.cli.agent_stdio:agent_stdio", "Connect standard input and output to the agent."),
    Lazy("pki", "limosa.cli.pki:pki", "Certificates: make a CA, let hosts join, check, renew."),
    Lazy("lab", "limosa.cli.lab:lab_group", "A virtual fleet on this machine."),
    Lazy("demo", "limosa.cli.demo:demo", "Two lab hosts, a guest, real moves, the numbers."),
)


def _print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"limosa {version('limosa')}")
        context.exit()


@click.group(
    cls=LazyGroup,
    commands_to_load=COMMANDS,
    name="limosa",
    epilog=example("limosa ls", "limosa plan web1 --to host-b", "limosa migrate web1 --to host-b"),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show limosa's version.",
)
@agent_options
def limosa(**_options: Any) -> None:
    """Move running QEMU guests between hosts without stopping them.

    Every command takes --json, and its --help shows an example.
    """


def main(words: Sequence[str] | None = None) -> NoReturn:
    """The `limosa` program; `words` are its arguments, by default the process's own."""
    sys.exit(run(limosa, list(sys.argv[1:] if words is None else words)))
