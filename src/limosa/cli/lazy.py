"""A click group that imports a command when it runs, suggests near names, and speaks limosa's errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import click

from limosa.cli.failure import say_failure
from limosa.errors import LimosaError, UsageError


class Lazy(NamedTuple):
    """A command that is known by name until it is wanted; `target` is `module:attribute`."""

    name: str
    target: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        command: click.Command = load(self.target)
        return command


def load(target: str) -> Any:
    """What `module:attribute` names; imports the module."""
    from importlib import import_module

    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


class LazyGroup(click.Group):
    """The `limosa` command.

    Args:
        commands_to_load: the commands, in the order in which help lists them.
    """

    def __init__(self, *args: Any, commands_to_load: Sequence[Lazy] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = {lazy.name: lazy for lazy in commands_to_load}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names in the order of the table, which is the order of use."""
        return list(self._lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's own object; imports its file."""
        lazy = self._lazy.get(cmd_name)
        return lazy.load() if lazy else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown name comes with the nearest known ones."""
        if args and not args[0].startswith("-") and args[0] not in self._lazy:
            raise unknown_command(args[0], self._lazy, ctx.command_path)
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table: help must not import them all."""
        with formatter.section("Commands"):
            formatter.write_dl([(lazy.name, lazy.help) for lazy in self._lazy.values()])


def run(command: click.Command, words: list[str]) -> int:
    """Carry out one command line; whatever it raises becomes three lines and an exit status.

    Exit statuses are those of design section 9; 130 and 141 are the shell's for SIGINT and SIGPIPE.
    """
    ours = words[: words.index("--")] if "--" in words else words
    as_json = "--json" in ours
    try:
        outcome = command.main(args=words, prog_name="limosa", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as asked:
        asked.show()
        return asked.exit_code
    except click.ClickException as wrong:
        return say_failure(translated(wrong), as_json=as_json)
    except LimosaError as failure:
        return say_failure(failure, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo("", err=True)
        return 130
    except BrokenPipeError:
        # `limosa ls | head -1`: the reader has gone, and the interpreter must not write to it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return outcome if isinstance(outcome, int) else 0


def translated(wrong: click.ClickException) -> LimosaError:
    """A usage mistake in limosa's own form."""
    context = getattr(wrong, "ctx", None)
    remedy = f"{context.command_path} --help" if context else "limosa --help"
    message = wrong.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], remedy=remedy)


def unknown_command(name: str, known: Iterable[str], group: str = "limosa") -> UsageError:
    """What to say to a name that no command of a group has."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=3, cutoff=0.5)
    what = f"there is no command {name!r}"
    if near:
        return UsageError(what, remedy="did you mean " + " or ".join(f"`{group} {word}`" for word in near) + "?")
    return UsageError(what, remedy=f"{group} --help lists the commands")
