"""Errors as three lines: what happened; where the guest runs; what to do."""

from __future__ import annotations

from typing import Any

import click

from limosa.cli.printable import printable
from limosa.errors import LimosaError, where_it_runs

UNDER_WAY = "on one host, as ever; which one changes while it goes on"


class LookLater(LimosaError):
    """Somebody stopped watching; the move or operation goes on."""

    code = "look-later"
    exit_status = 75


def three_lines(failure: LimosaError, place: str | None = None) -> str:
    """The error for people; QEMU's own words, where there are any, follow indented.

    Args:
        failure: the error.
        place: the second line, where the caller can name the host; else it is told from `guest_runs`.
    """
    lines = [f"limosa: {failure.what}", f"  where: {place or place_told(failure)}"]
    lines.append(f"  to do: {failure.remedy or 'run it again with --json for all that is known'}")
    lines.extend(f"    | {line}" for line in failure.detail.splitlines())
    return "\n".join(map(printable, lines))


def place_told(failure: LimosaError) -> str:
    """The second line, as far as the error itself tells."""
    return UNDER_WAY if isinstance(failure, LookLater) else where_it_runs(failure)


def as_value(failure: LimosaError, place: str | None = None) -> dict[str, Any]:
    """The error for programs."""
    told = {**failure.to_wire(), "where": place or place_told(failure)}
    return {"error": told, "exit_status": failure.exit_status}


def say_failure(failure: LimosaError, *, as_json: bool, place: str | None = None) -> int:
    """Print the error on standard error and return its exit status."""
    if as_json:
        import json

        click.echo(json.dumps(as_value(failure, place)), err=True)
    else:
        click.echo(three_lines(failure, place), err=True)
    return failure.exit_status
