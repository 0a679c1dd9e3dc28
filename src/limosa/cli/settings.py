"""`limosa host set` and `limosa guest set`: what hosts and guests are for, as their operators say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from limosa.cli.lazy import Lazy, LazyGroup
from limosa.cli.options import Rate, example, fleet_command
from limosa.cli.output import answer
from limosa.cli.table import pairs
from limosa.errors import UsageError

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient
    from limosa.wire.fleet import FleetGuest, FleetHost

State = Literal["active", "maintenance", "lost"]
"""What an operator may say that a host is; draining and drained are what operations make of it."""

_SETTINGS = ("rack", "labels", "storages", "watts", "price_per_hour", "max_in", "max_out", "link")
_RULES = ("groups", "pin_hosts", "pin_labels", "priority")


@click.group(
    cls=LazyGroup,
    commands_to_load=(Lazy("set", "limosa.cli.settings:set_host", "Set what a host is used for, and what it is."),),
    epilog=example("limosa host set host-a --state maintenance --why 'fans, ticket 4711'"),
)
def host() -> None:
    """Say what a host of the fleet is used for; `limosa hosts` lists them."""


@click.group(
    cls=LazyGroup,
    commands_to_load=(Lazy("set", "limosa.cli.settings:set_guest", "Set with whom and where a guest may run."),),
    epilog=example("limosa guest set db1 --group databases"),
)
def guest() -> None:
    """Say with whom and where a guest of the fleet may run; `limosa ls` lists them."""


@click.command(
    name="set",
    epilog=example(
        "limosa host set host-a --state maintenance --why 'fans, ticket 4711'",
        "limosa host set host-a --rack r4 --label ssd --label gpu --watts 320 --price 0.21",
        "limosa host set host-a --label '' --max-in 1",
    ),
)
@click.argument("name")
@click.option(
    "--state", type=click.Choice(get_args(State)), help="Whether it takes guests; to empty it first use `limosa drain`."
)
@click.option("--why", default="", metavar="TEXT", help="Of its state, for whoever asks later.")
@click.option("--rack", metavar="NAME", help="Where it stands; moves of a rack share its bandwidth.")
@click.option("--label", "labels", multiple=True, metavar="NAME", help="What guests can be pinned to. Repeatable.")
@click.option("--storage", "storages", multiple=True, metavar="NAME", help="Shared storage it reaches. Repeatable.")
@click.option("--watts", type=click.FloatRange(min=0), metavar="W", help="What it takes while it is on.")
@click.option("--price", "price_per_hour", type=click.FloatRange(min=0), metavar="N", help="What it costs an hour.")
@click.option("--max-in", type=click.IntRange(min=0), metavar="N", help="Moves into it at once; 0 closes it.")
@click.option("--max-out", type=click.IntRange(min=0), metavar="N", help="Moves out of it at once.")
@click.option("--link", type=Rate(), help="Rate of its migration link, where it reports none, or too much.")
@fleet_command
def set_host(fleet: FleetClient, name: str, state: State | None, why: str, as_json: bool, **asked: Any) -> None:
    """Set what a host is used for, and what planners should know of it; what is not named stays as it is.

    A repeatable option replaces all that was set before; an empty value clears it.
    """
    import msgspec

    from limosa.wire.fleet import StateAsked

    settings = _given(asked, _SETTINGS)
    if state is None and not settings:
        raise UsageError("nothing to set was named", remedy="limosa host set --help")
    shown = fleet.host(name)
    if settings:
        shown = fleet.set_settings(name, msgspec.structs.replace(shown.settings, **settings))
    if state is not None:
        shown = fleet.set_state(name, StateAsked(state=state, why=why))
    answer(shown, lambda: _page(shown), as_json=as_json)


@click.command(
    name="set",
    epilog=example(
        "limosa guest set db1 --group databases",
        "limosa guest set web1 --pin-label ssd --priority 10",
        "limosa guest set web1 --pin-label ''",
    ),
)
@click.argument("name", metavar="GUEST")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="No two of a group share a host. Repeatable.")
@click.option("--pin", "pin_hosts", multiple=True, metavar="HOST", help="It runs on such hosts only. Repeatable.")
@click.option("--pin-label", "pin_labels", multiple=True, metavar="NAME", help="Its host has this label. Repeatable.")
@click.option("--priority", type=click.IntRange(-1000, 1000), metavar="N", help="Higher ones leave first.")
@fleet_command
def set_guest(fleet: FleetClient, name: str, as_json: bool, **asked: Any) -> None:
    """Set with whom and where a guest may run; what is not named stays as it is.

    A repeatable option replaces all that was set before; an empty value clears it.
    """
    import msgspec

    rules = _given(asked, _RULES)
    if not rules:
        raise UsageError("nothing to set was named", remedy="limosa guest set --help")
    found = fleet.guest(name)
    shown = fleet.set_rules(found.id, msgspec.structs.replace(found.rules, **rules))
    answer(shown, lambda: _page(shown), as_json=as_json)


def _given(asked: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """What was named on the command line, as the API takes it; `''` alone empties a list."""
    given = {name: asked[name] for name in names if asked[name] not in (None, ())}
    return {name: tuple(filter(None, value)) if isinstance(value, tuple) else value for name, value in given.items()}


def _page(shown: FleetHost | FleetGuest) -> str:
    import msgspec

    told = msgspec.to_builtins(shown)
    nested = told["settings"] if "settings" in told else told["rules"]
    rows = [("name", told["name"]), ("state", told["state"]), ("why", told.get("reason", ""))]
    rows += [(key.replace("_", " "), _words(value)) for key, value in nested.items()]
    return pairs([(name, value) for name, value in rows if value], indent="")


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "" if value is None else str(value)
