"""`limosa fleet`: planners on a fleet in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limosa.cli.lazy import Lazy, LazyGroup
from limosa.cli.options import example, json_option
from limosa.cli.output import say

if TYPE_CHECKING:
    from limosa.fleet.inventory import Inventory
    from limosa.fleet.plan import Plan
    from limosa.fleet.scenario import Generated, Scenario
    from limosa.fleet.simulate import Outcome

PARTLY_DONE = 40

COMMANDS = (
    Lazy("simulate", "limosa.cli.fleet:simulate", "Plan an operation on a fleet in a file, and play it through."),
    Lazy("serve", "limosa.cli.fleet_serve:serve", "Run a controller with its dashboard on a fleet in memory."),
)


@click.group(cls=LazyGroup, commands_to_load=COMMANDS, epilog=example("limosa fleet simulate drain-50.toml"))
def fleet() -> None:
    """Try operations on a fleet that is a file: nothing that runs is touched."""


@click.command(epilog=example("limosa fleet simulate drain-50.toml", "limosa fleet simulate drain-50.toml --json"))
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def simulate(file: Path, as_json: bool) -> int:
    """Plan an operation on a fleet in FILE (TOML or JSON) and play it through, some moves failing.

    FILE holds a fleet, or says how to generate one from CPUID dumps, and an operation; docs/fleet-planning.md shows
    one. Exit status 40 says that guests are left.
    """
    import msgspec

    from limosa.cli.fleet_page import simulation_page

    asked = read_scenario(file)
    there = fleet_of(asked, file.parent)
    try:
        plans, outcome = _played(asked, there)
    except ValueError as error:
        raise _wrong(file, str(error)) from error
    if as_json:
        shown = msgspec.to_builtins(outcome)
        del shown["ends"]  # the fleet itself: as large as it went in
        click.echo(msgspec.json.encode({"plans": plans, "outcome": shown}))
    else:
        say(simulation_page(there, plans, outcome))
    return PARTLY_DONE if outcome.unmoved or any(plan.left for plan in plans) else 0


def _played(asked: Scenario, there: Inventory) -> tuple[tuple[Plan, ...], Outcome]:
    from limosa.fleet.scenario import hosts_of, plan_for
    from limosa.fleet.simulate import carry_out, carry_out_rolling

    operation = asked.operation
    if operation.rolling:
        return carry_out_rolling(there, hosts_of(operation, there), operation.largest, asked.trouble)
    plan = plan_for(operation, there, asked.now)
    return (plan,), carry_out(there, plan, asked.trouble)


def read_scenario(file: Path) -> Scenario:
    """What a file asks.

    Raises:
        UsageError: it cannot be read, or asks nothing that makes sense.
    """
    import json
    import tomllib

    from limosa.fleet.scenario import scenario

    try:
        text = file.read_text()
        return scenario(json.loads(text) if file.suffix == ".json" else tomllib.loads(text))
    except OSError as error:
        raise _wrong(file, error.strerror or "cannot be read") from error
    except ValueError as error:  # of every kind: not UTF-8, not TOML, not JSON, not a scenario
        raise _wrong(file, str(error)) from error


def fleet_of(asked: Scenario, directory: Path) -> Inventory:
    """The fleet that a scenario is about; files it names are searched from its own directory on. Raises UsageError."""
    import msgspec

    from limosa.fleet.inventory import Inventory

    if asked.generated is not None:
        there = _generated(asked.generated, directory)
    else:
        file = directory / asked.inventory
        try:
            there = msgspec.json.decode(file.read_bytes(), type=Inventory)
        except OSError as error:
            raise _wrong(file, error.strerror or "cannot be read") from error
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise _wrong(file, str(error)) from error
    return there if asked.limits is None else msgspec.structs.replace(there, limits=asked.limits)


def _generated(wanted: Generated, directory: Path) -> Inventory:
    from limosa.fleet.dumps import processors
    from limosa.fleet.generate import generate

    dumps = directory / wanted.cpuid
    try:
        return generate(processors(dumps), wanted)
    except OSError as error:
        raise _wrong(dumps, error.strerror or "cannot be read") from error
    except ValueError as error:
        raise _wrong(dumps, str(error)) from error


def _wrong(file: Path, why: str) -> Exception:
    from limosa.errors import UsageError

    return UsageError(f"{file}: {why}", remedy="docs/fleet-planning.md shows a scenario")
