"""Options that many commands share, and what they leave for the command: where the agent or the controller is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from limosa.cli.lazy import load
from limosa.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


class Rate(click.ParamType[float]):
    """Bytes per second, written as people write sizes: `100M`."""

    name = "RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The rate in bytes per second."""
        from limosa.units import parse_size

        try:
            rate = float(parse_size(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if rate <= 0:
            self.fail("a rate must be more than 0", param, ctx)
        return rate


@dataclass(slots=True)
class Where:
    """The agent or controller that commands talk to, as options gave it."""

    host: str | None = None
    socket: str | None = None
    ca: str | None = None

    @property
    def controller(self) -> str | None:
        """The URL of the controller that is named; None where an agent is meant."""
        from limosa.cli.transport import is_controller, place_named

        url = place_named(self.host, self.socket)
        return url if url is not None and is_controller(url) else None


def where(context: click.Context) -> Where:
    """The one `Where` of this invocation; made on first use."""
    return context.find_root().ensure_object(Where)


def _keep(attribute: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(where(context), attribute, value)

    return callback


def agent_options(command: F) -> F:
    """`-H`, `--socket` and `--ca`: valid before and after the command's name; after it wins."""
    for option in (
        click.option(
            "--ca",
            metavar="FILE",
            expose_value=False,
            callback=_keep("ca"),
            help="Whom to trust for https. Default: /etc/limosa/pki/ca-cert.pem, else the system. [$LIMOSA_CA]",
        ),
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
            help="Talk to ssh://root@host, unix:///path, or a controller, https://host:8447. Default: this host's "
            "agent. [$LIMOSA_HOST]",
        ),
    ):
        command = option(command)
    return command


def json_option(command: F) -> F:
    """`--json`: the answer as one JSON value on standard output; errors as JSON on standard error."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)


def client_command(command: F) -> F:
    """Pass the agent's client as the first argument, and close it afterwards."""
    return _connected(command, fleet=None)


def either_command(fleet: str) -> Callable[[F], F]:
    """As `client_command`; where a controller is named, `fleet` is called in the command's stead.

    Args:
        fleet: `module:function`, imported when it is wanted. It takes a FleetClient, and the command's own parameters.
    """
    return lambda command: _connected(command, fleet=fleet)


def fleet_command(command: F) -> F:
    """Pass the controller's client as the first argument, and close it afterwards."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        context = click.get_current_context()
        url = where(context).controller
        if url is None:
            raise UsageError(
                f"`{context.command_path}` needs a controller",
                remedy="name it: -H https://controller:8447, or LIMOSA_HOST in the environment",
            )
        return _with_fleet(url, command, args, kwargs)

    return agent_options(json_option(wrapped))  # type: ignore[return-value]


def _connected(command: F, *, fleet: str | None) -> F:
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        place = where(click.get_current_context())
        if fleet is not None and (url := place.controller) is not None:
            return _with_fleet(url, load(fleet), args, kwargs)
        from limosa.cli.client import AgentClient
        from limosa.cli.transport import way_to

        with AgentClient(way_to(place.host, place.socket)) as agent:
            return command(agent, *args, **kwargs)

    return agent_options(json_option(wrapped))  # type: ignore[return-value]


def _with_fleet(url: str, command: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    from limosa.cli.fleet_client import FleetClient
    from limosa.cli.https import way_to_controller

    with FleetClient(way_to_controller(url, where(click.get_current_context()).ca)) as fleet:
        return command(fleet, *args, **kwargs)


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
