"""Errors as three lines: what happened; where the guest runs; what to do."""

from __future__ import annotations

from typing import Any

import click

from limosa.errors import LimosaError, where_it_runs


def three_lines(failure: LimosaError, place: str | None = None) -> str:
    """The error for people; QEMU's own words, where there are any, follow indented.

    Args:
        failure: the error.
        place: the second line, where the caller can name the host; else it is told from `guest_runs`.
    """
    lines = [f"limosa: {failure.what}", f"  where: {place or where_it_runs(failure)}"]
    lines.append(f"  to do: {failure.remedy or 'run it again with --json for all that is known'}")
    lines.extend(f"    | {line}" for line in failure.detail.splitlines())
    return "\n".join(lines)


def as_value(failure: LimosaError, place: str | None = None) -> dict[str, Any]:
    """The error for programs."""
    told = {**failure.to_wire(), "where": place or where_it_runs(failure)}
    return {"error": told, "exit_status": failure.exit_status}


def say_failure(failure: LimosaError, *, as_json: bool, place: str | None = None) -> int:
    """Print the error on standard error and return its exit status."""
    if as_json:
        import json

        click.echo(json.dumps(as_value(failure, place)), err=True)
    else:
        click.echo(three_lines(failure, place), err=True)
    return failure.exit_status
