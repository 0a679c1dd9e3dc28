"""`limosa hooks`: who is told where guests live, and whether they hear it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from limosa.cli.options import either_command, example
from limosa.cli.output import answer
from limosa.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limosa.cli.client import AgentClient
    from limosa.cli.fleet_client import FleetClient
    from limosa.wire.hooks import HookShown, HookTried

FAILED = 40
LONGEST = 330.0
"""Seconds for the answer to a test: a hook may take 300."""
NONE = "no hooks: `[[hooks]]` in agent.toml, or controller.toml, makes one"


@click.group(epilog=example("limosa hooks ls", "limosa hooks test dns", "limosa -H https://fleet-1:8447 hooks ls"))
def hooks() -> None:
    """See and try what is told where guests live: URLs, programs and files of `[[hooks]]` in agent.toml.

    With -H https://… those that a controller tells of operations, hosts and owners: `[[hooks]]` in controller.toml.
    """


@hooks.command(epilog=example("limosa hooks ls", "limosa hooks ls --json | jq '.[] | select(.waiting > 0)'"))
@either_command("limosa.cli.hooks:fleet_ls")
def ls(agent: AgentClient, as_json: bool) -> None:
    """List hooks: what waits for each, when it was told last, and what failed last."""
    from limosa.cli.rest import decoded
    from limosa.wire.hooks import HookShown

    told = agent.ask("GET", "/v1/hooks")
    _tell(decoded(told, tuple[HookShown, ...]), as_json=as_json)


def fleet_ls(fleet: FleetClient, as_json: bool) -> None:
    """`limosa hooks ls` at a controller."""
    _tell(fleet.hooks(), as_json=as_json)


def _tell(shown: tuple[HookShown, ...], *, as_json: bool) -> None:
    answer(shown, lambda: hook_table(shown, time.time()), as_json=as_json)


@hooks.command(epilog=example("limosa hooks test", "limosa hooks test https://ipam.example/limosa"))
@click.argument("hook", default="")
@either_command("limosa.cli.hooks:fleet_test")
def test(agent: AgentClient, hook: str, as_json: bool) -> int:
    """Send a test event to HOOK, or to every hook, and say what each answered.

    Exit status 0 says that all took it, 40 that one did not.
    """
    from limosa.cli.rest import decoded
    from limosa.wire.hooks import HookTried

    told = agent.ask("POST", "/v1/hooks/test", {"hook": hook}, seconds=LONGEST)
    return _told_of(decoded(told, tuple[HookTried, ...]), as_json=as_json)


def fleet_test(fleet: FleetClient, hook: str, as_json: bool) -> int:
    """`limosa hooks test` at a controller."""
    return _told_of(fleet.test_hooks(hook, LONGEST), as_json=as_json)


def _told_of(tried: tuple[HookTried, ...], *, as_json: bool) -> int:
    answer(tried, lambda: tried_table(tried), as_json=as_json)
    return 0 if all(each.delivered for each in tried) else FAILED


def hook_table(shown: Iterable[HookShown], now: float) -> str:
    """What `limosa hooks ls` prints."""
    rows = [
        (
            hook.name,
            hook.kind,
            ", ".join(hook.events) or "all",
            str(hook.waiting),
            str(hook.delivered),
            str(hook.given_up),
            "never" if hook.last_delivery is None else f"{_age(now - hook.last_delivery)} ago",
            hook.last_error,
        )
        for hook in shown
    ]
    if not rows:
        return NONE
    heads = ("HOOK", "KIND", "EVENTS", "WAITING", "DELIVERED", "GIVEN UP", "LAST DELIVERY", "LAST ERROR")
    return table(heads, rows, right=("WAITING", "DELIVERED", "GIVEN UP"))


def tried_table(tried: Iterable[HookTried]) -> str:
    """What `limosa hooks test` prints."""
    rows = [
        (each.name, "yes" if each.delivered else "no", f"{each.seconds * 1000:.0f} ms", each.answer) for each in tried
    ]
    if not rows:
        return NONE
    return table(("HOOK", "DELIVERED", "TOOK", "ANSWER"), rows, right=("TOOK",))


def _age(seconds: float) -> str:
    """`90` -> `1 min`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
