"""`limosa lab`: a virtual fleet on this machine. Thin: parse, call the lab, render."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limosa.cli.options import example, json_option
from limosa.units import format_count

if TYPE_CHECKING:
    from limosa.lab.lab import Lab

F = TypeVar("F", bound=Callable[..., Any])

LINKS = ("migration", "guest", "peer")


def name_option(command: F) -> F:
    """`--name`: which lab."""
    return click.option("--name", metavar="LAB", envvar="LIMOSA_LAB", help="Which lab; default $LIMOSA_LAB, or lab.")(
        command
    )


def opened(name: str | None) -> Lab:
    """A lab that is up."""
    from limosa.lab.lab import Lab

    return Lab.open(name)


def say(as_json: bool, value: Any, text: str) -> None:
    """Print the answer for programs or for people."""
    click.echo(json.dumps(value) if as_json else text)


@click.group(name="lab", epilog=example("limosa lab up --hosts 2", "limosa lab exec a -- limosa ls", "limosa lab down"))
def lab_group() -> None:
    """A virtual fleet on this machine: hosts of network, PID, mount and UTS namespaces. Needs root."""


@lab_group.command(epilog=example("limosa lab up --hosts 3 --link-mbit 1000 --name blue"))
@click.option("--hosts", type=int, default=2, show_default=True, metavar="N", help="How many; called a, b, c …")
@click.option("--link-mbit", type=click.FloatRange(min=1), metavar="M", help="Rate of each migration link, each way.")
@click.option("--agents/--no-agents", default=True, help="Start an agent on each host.  [default: agents]")
@name_option
@json_option
def up(hosts: int, link_mbit: float | None, agents: bool, name: str | None, as_json: bool) -> None:
    """Build a lab and leave it standing."""
    from limosa.lab import Lab

    async def build() -> Lab:
        return await Lab.up(hosts=hosts, link_mbit=link_mbit, name=name, agents=agents)

    status = asyncio.run(status_of(asyncio.run(build())))
    say(as_json, status, f"{status_text(status)}\n\nlimosa lab exec {status['hosts'][0]['name']} -- bash")


@lab_group.command(epilog=example("limosa lab down", "limosa lab down --all"))
@click.option("--all", "every", is_flag=True, help="Every lab on this machine.")
@name_option
@json_option
def down(every: bool, name: str | None, as_json: bool) -> None:
    """Take a lab down with all its disks, also one whose `up` or `down` was killed. Does no harm when there is none."""
    from limosa.lab.lab import take_down
    from limosa.lab.state import lab_name, lab_names, require_root

    require_root()
    names = lab_names() if every else (lab_name(name),)
    gone = [each for each in names if asyncio.run(take_down(each))]
    say(as_json, {"down": gone}, "\n".join(f"{each}: down" for each in gone) or "there was nothing to take down")


@lab_group.command(
    name="exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=example("limosa lab exec a -- limosa ls", "limosa lab exec observer -- ping 10.66.0.11"),
)
@name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str | None, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST, in this terminal; ends with its exit status. HOST is a host, `fabric` or `observer`."""
    from limosa.lab.inside import enter_argv, environment

    words = command[1:] if command[0] == "--" else command
    argv = enter_argv(opened(name).role(host).pid, words, cwd=str(Path.cwd()))
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment())  # noqa: S606 # the command takes this process's place


@lab_group.command(epilog=example("limosa lab cut a", "limosa lab cut a --link guest --drop"))
@click.argument("host")
@click.option("--link", type=click.Choice(LINKS), default="migration", show_default=True)
@click.option("--peer", "link", flag_value="peer", help="The same as --link peer.")
@click.option("--drop/--down", "drop", default=False, help="Swallow packets silently, or take the carrier away.")
@name_option
@json_option
def cut(host: str, link: str, drop: bool, name: str | None, as_json: bool) -> None:
    """Cut one of a host's links."""
    from limosa.lab.network import Link

    asyncio.run(opened(name).cut(host, Link(link), drop=drop))
    state = "dropping" if drop else "down"
    say(as_json, {"host": host, "link": link, "state": state}, f"{host}: {link} link {state}")


@lab_group.command(epilog=example("limosa lab heal a", "limosa lab heal a --link guest"))
@click.argument("host")
@click.option("--link", type=click.Choice(LINKS), help="Default: all of them.")
@name_option
@json_option
def heal(host: str, link: str | None, name: str | None, as_json: bool) -> None:
    """Mend a host's links."""
    from limosa.lab.network import Link

    asyncio.run(opened(name).heal(host, Link(link) if link else None))
    healed = [link] if link else list(LINKS)
    say(as_json, {"host": host, "links": healed, "state": "up"}, f"{host}: {', '.join(healed)} up")


@lab_group.command(epilog=example("limosa lab unplug b"))
@click.argument("host")
@name_option
@json_option
def unplug(host: str, name: str | None, as_json: bool) -> None:
    """Pull a host's plug: everything on it dies at once; /srv, /etc/limosa and /var/lib/limosa stay."""
    asyncio.run(opened(name).unplug(host))
    say(as_json, {"host": host, "plugged": False}, f"{host}: unplugged")


@lab_group.command(epilog=example("limosa lab plug b"))
@click.argument("host")
@name_option
@json_option
def plug(host: str, name: str | None, as_json: bool) -> None:
    """Give a host its power back, with the disks and the journal it had."""
    asyncio.run(opened(name).plug(host))
    say(as_json, {"host": host, "plugged": True}, f"{host}: plugged in")


@lab_group.command(epilog=example("limosa lab status --json"))
@name_option
@json_option
def status(name: str | None, as_json: bool) -> None:
    """A lab's hosts, addresses, links and processes."""
    value = asyncio.run(status_of(opened(name)))
    say(as_json, value, status_text(value))


@lab_group.command(name="ls", epilog=example("limosa lab ls"))
@json_option
def list_labs(as_json: bool) -> None:
    """The labs on this machine, also those that were never finished."""
    from limosa.errors import LimosaError
    from limosa.lab.state import Store, lab_names

    labs: list[dict[str, Any]] = []
    for name in lab_names():
        try:
            record = Store(name).load()
            labs.append({"name": name, "hosts": list(record.hosts), "complete": record.complete})
        except LimosaError:
            labs.append({"name": name, "hosts": [], "complete": False})
    lines = [f"{lab['name']}: {' '.join(lab['hosts']) if lab['complete'] else 'never finished'}" for lab in labs]
    say(as_json, labs, "\n".join(lines) or "no lab; limosa lab up makes one")


async def status_of(lab: Lab) -> dict[str, Any]:
    """A lab as plain values."""
    from limosa.lab.faults import links
    from limosa.lab.provision import answers

    hosts = [
        {
            "name": host.name,
            "plugged": host.plugged,
            "init": record.pid if (record := host.init) else None,
            "agent": host.plugged and answers(host),
            "addresses": {
                "guest": host.addresses.guest,
                "migration": host.addresses.migration,
                "peer": host.addresses.peer,
            },
            "links": {str(link): str(state) for link, state in (await links(lab.fabric, host)).items()},
            "directory": str(host.directory),
        }
        for host in lab.hosts.values()
    ]
    return {"name": lab.name, "link_mbit": lab.record.link_mbit, "agents": lab.record.agents, "hosts": hosts}


def status_text(status: dict[str, Any]) -> str:
    """A lab for people, a line for each host."""
    rate = f", migration links of {status['link_mbit']:g} Mbit/s" if status["link_mbit"] else ""
    lines = [f"lab {status['name']}: {format_count(len(status['hosts']), 'host')}{rate}"]
    for host in status["hosts"]:
        addresses = "  ".join(f"{link} {address}" for link, address in host["addresses"].items())
        power = "on" if host["plugged"] else "off"
        cut = [f"{link} {state}" for link, state in host["links"].items() if state != "up"] if host["plugged"] else []
        agent = "agent" if host["agent"] else "no agent"
        lines.append("  ".join([f"  {host['name']:3} {power:3} {agent:8}", addresses, *cut]))
    return "\n".join(lines)


if __name__ == "__main__":
    from limosa.cli.lazy import run

    sys.exit(run(lab_group, sys.argv[1:]))
