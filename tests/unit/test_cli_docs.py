from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from limosa.cli import limosa

COMMANDS_PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
DAEMONS = {"agent-stdio"}
"""Speaks the agent's own protocol on its standard output: there is nothing to say in JSON."""
FOREGROUND = {"exec"}
"""Runs somebody else's command in this terminal."""


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name), command


ALL = [pytest.param(path, command, id="-".join(path)) for path, command in every_command(limosa)]


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_command_shows_an_example_and_speaks_json(path: tuple[str, ...], command: click.Command) -> None:
    assert "limosa" in (command.epilog or "")
    if path[-1] not in DAEMONS | FOREGROUND:
        assert any("--json" in parameter.opts for parameter in command.params)


def test_the_page_of_commands_names_each_of_them() -> None:
    page = COMMANDS_PAGE.read_text()
    for name in limosa.list_commands(click.Context(limosa)):
        assert f"limosa {name}" in page
