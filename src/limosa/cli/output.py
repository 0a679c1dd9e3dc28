"""What commands print: a page for people, or one JSON value for programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from limosa.cli.printable import printable


def say(page: str, *, err: bool = False) -> None:
    """Print a page; what would steer a terminal is written out."""
    click.echo(printable(page, keep="\n"), err=err)


def answer(value: Any, page: Callable[[], str], *, as_json: bool) -> None:
    """Print a command's answer on standard output.

    Args:
        value: the answer itself, of any type that msgspec encodes.
        page: it for people; made only where it is wanted.
        as_json: whether `--json` was given.
    """
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(value))
    else:
        say(page())
