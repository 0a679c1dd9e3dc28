"""Options that many commands share, and what they leave for the command: where the agent is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Where:
    """The agent that commands talk to, as options and environment gave it."""

    host: str | None = None
    socket: str | None = None


def where(context: click.Context) -> Where:
    """The one `Where` of this invocation; made on first use."""
    return context.find_root().ensure_object(Where)


def _keep(attribute: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(where(context), attribute, value)

    return callback


def agent_options(command: F) -> F:
    """`-H` and `--socket`: valid before and after the command's name; after it wins."""
    for option in (
        click.option(
            "--socket",
            metavar="PATH",
            expose_value=False,
            callback=_keep("socket"),
            help="The agent's unix socket, where it is not in its usual place. [$LIMOSA_SOCKET]",
        ),
        click.option(
            "-H",
            "--host",
            metavar="URL",
            expose_value=False,
            callback=_keep("host"),
            help="Agent to talk to: ssh://root@host, or unix:///path. Default: this host's. [$LIMOSA_HOST]",
        ),
    ):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """`--json`: the answer as one JSON value on standard output; errors as JSON on standard error."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)


def client_command(command: F) -> F:
    """Pass the agent's client as the first argument, and close it afterwards."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from limosa.cli.client import AgentClient
        from limosa.cli.transport import way_to

        place = where(click.get_current_context())
        with AgentClient(way_to(place.host, place.socket)) as agent:
            return command(agent, *args, **kwargs)

    return agent_options(json_option(wrapped))  # type: ignore[return-value]


def config_dir_option(command: F) -> F:
    """`--config-dir`, for whatever works on this host's files rather than with its agent."""
    from pathlib import Path

    return click.option(
        "--config-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Directory of agent.toml, hosts.toml and pki/. Default: /etc/limosa. [$LIMOSA_CONFIG_DIR]",
    )(command)


def example(*lines: str) -> str:
    """The end of a command's help: commands to try, kept line by line."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
