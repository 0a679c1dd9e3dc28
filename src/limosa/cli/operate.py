"""An operation from the question to its end: planned, shown, approved, watched."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from limosa.cli.failure import LookLater, say_failure
from limosa.cli.live import JsonScreen, LiveScreen, PlainScreen, Screen
from limosa.cli.operation_page import NOUNS, failure_of, final_page, place_of, plan_page, stuck, title
from limosa.cli.operation_view import OperationView, PlainOperationView
from limosa.cli.output import answer, say
from limosa.errors import Blocked, ControllerUnreachable, PartlyDone, UsageError
from limosa.wire.fleet import Operation, OperationAsked, OperationKind

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient

_OF_HOSTS = frozenset({OperationKind.DRAIN, OperationKind.RESTORE, OperationKind.CONSOLIDATE})
"""Kinds that close or open hosts, and so do something without a guest, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How an operation is to be carried out."""

    ask: bool = True
    """Ask before anything moves."""
    detach: bool = False
    as_json: bool = False


def operate(fleet: FleetClient, asked: OperationAsked, how: How) -> int:
    """Carry an operation out; the exit status it gives.

    The controller keeps the plan while it is asked about: what is approved is what was shown.

    Raises:
        UsageError: it would have to ask, and nobody is there.
        Blocked: no guest can move.
        LookLater: somebody stopped watching.
    """
    if how.ask and not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask whether the plan may be carried out",
            remedy="--dry-run shows the plan; --yes carries it out without a question",
        )
    planned = fleet.begin(asked)
    try:
        if not _agreed(planned, how):
            fleet.cancel(planned.id, "nothing to do")
            _print(planned, how)
            return 0
        fleet.approve(planned.id, asked.why)
    except (Blocked, click.Abort, KeyboardInterrupt):
        fleet.cancel(planned.id, "not approved")  # nothing is left to wait for an approval that nobody will give
        raise
    except ControllerUnreachable as error:
        remedy = f"limosa operations show {planned.id} tells whether it began"
        raise ControllerUnreachable(error.what, remedy=remedy, detail=error.detail) from error
    if how.detach:
        _print(fleet.operation(planned.id), how, f"{planned.id}\nfollow it with: limosa operations watch {planned.id}")
        return 0
    return watch(fleet, planned, as_json=how.as_json)


def _agreed(planned: Operation, how: How) -> bool:
    """Whether there is something to do, and it may be done. Raises Blocked, click.Abort."""
    if not how.as_json:
        say(plan_page(planned, time.time()))
    elif how.ask:
        say(plan_page(planned, time.time()), err=True)
    if (why := stuck(planned)) is not None:
        _print(planned, how)
        raise why
    if not planned.items and not (planned.kind in _OF_HOSTS and planned.hosts):
        return False
    if how.ask:
        click.confirm(f"\nCarry out this {NOUNS[planned.kind]}?", abort=True, err=True)
    return True


def _print(operation: Operation, how: How, words: str = "") -> None:
    if how.as_json or words:
        answer(operation, lambda: words, as_json=how.as_json)


def show_plan(fleet: FleetClient, asked: OperationAsked, *, as_json: bool) -> int:
    """Print what an operation would do; the exit status that it would end with at best."""
    planned = fleet.plan(asked)
    answer(planned, lambda: plan_page(planned, time.time()), as_json=as_json)
    if stuck(planned) is not None:
        return Blocked.exit_status
    return PartlyDone.exit_status if planned.left else 0


def watch(fleet: FleetClient, operation: Operation, *, as_json: bool, every: bool = False) -> int:
    """Draw an operation until it is over, and print what it came to; the exit status it gives.

    Raises:
        LookLater: somebody stopped watching.
    """
    while True:
        try:
            last = _to_the_end(fleet, operation, as_json=as_json, every=every)
            return conclude(last, as_json=as_json)
        except KeyboardInterrupt:
            _ask_what_now(fleet, operation, as_json=as_json)


def _to_the_end(fleet: FleetClient, operation: Operation, *, as_json: bool, every: bool) -> Operation:
    last = operation
    with _screen(as_json=as_json, every=every) as screen:
        for last in fleet.events(operation.id):
            screen.draw(last)
    return last


@contextmanager
def _screen(*, as_json: bool, every: bool) -> Iterator[Screen[Operation]]:
    if as_json:
        yield JsonScreen(lambda told: told.phase.over, every=every)
    elif sys.stderr.isatty():
        with LiveScreen(OperationView(time.time)) as live:
            yield live
    else:
        yield PlainScreen(PlainOperationView())


def _ask_what_now(fleet: FleetClient, operation: Operation, *, as_json: bool) -> None:
    """After Ctrl-C: stop watching, or steer. Returns where it is to be watched on. Raises LookLater."""
    what, remedy = f"the {title(operation)} goes on without being watched", f"limosa operations watch {operation.id}"
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise LookLater(what, remedy=remedy)
    question = "\nleave it running, pause it, cancel it, or watch on?"
    try:
        word = click.prompt(
            question, type=click.Choice(["leave", "pause", "cancel", "watch"]), default="leave", err=True
        )
    except (click.Abort, KeyboardInterrupt):
        word = "leave"
    match word:
        case "leave":
            raise LookLater(what, remedy=remedy)
        case "pause":
            fleet.pause(operation.id)
            raise LookLater(
                f"the {title(operation)} is paused: moves in flight go on, no other one starts",
                remedy=f"limosa operations resume {operation.id}",
            )
        case "cancel":
            fleet.cancel(operation.id)
        case _:
            pass  # its view is drawn anew


def conclude(operation: Operation, *, as_json: bool) -> int:
    """Print what an operation came to, and what is left and why; the exit status it gives."""
    failure = failure_of(operation)
    if not as_json:
        say(final_page(operation))
    if failure is None:
        return 0
    return say_failure(failure, as_json=as_json, place=place_of(operation))
