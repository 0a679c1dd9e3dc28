"""`limosa cpu`: which guest can run where, and why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limosa.cli.lazy import Lazy, LazyGroup
from limosa.cli.options import client_command, example, json_option
from limosa.cli.output import say

if TYPE_CHECKING:
    from limosa.cli.client import AgentClient
    from limosa.cpu.facts import GuestCpu, HostCpu
    from limosa.cpu.store import CpuStore
    from limosa.guest.profile import Profile

BLOCKED = 10

COMMANDS = (
    Lazy("flags", "limosa.cli.cpu:flags", "List every CPU flag, its position, and what it is."),
    Lazy("show", "limosa.cli.cpu:show", "Show what a host can give to guests, or what a guest sees."),
    Lazy("explain", "limosa.cli.cpu:explain", "Say whether a guest can run on a host, and why not."),
    Lazy("import", "limosa.cli.cpu:import_", "Read hosts from CPUID dumps and copies of /proc/cpuinfo."),
    Lazy("matrix", "limosa.cli.cpu_fleet:matrix", "Show which host can take the guests of which."),
    Lazy("pools", "limosa.cli.cpu_fleet:pools", "Group hosts that are interchangeable, and order the groups."),
    Lazy("baseline", "limosa.cli.cpu_fleet:baseline", "Print a -cpu value that every host of a group can give."),
    Lazy("cost", "limosa.cli.cpu_fleet:cost", "Say what a host takes from a group's baseline, and who is pinned."),
)

STATE_DIR = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory whose cpu/ holds the imported hosts. Default: /var/lib/limosa. [$LIMOSA_STATE_DIR]",
)


@click.group(
    cls=LazyGroup,
    commands_to_load=COMMANDS,
    epilog=example("limosa cpu show host-b", "limosa cpu explain web1 host-b", "limosa cpu baseline host-a host-b"),
)
def cpu() -> None:
    """CPU flags: which guest can run where, over a whole fleet.

    A program in a guest has loaded code for the flags that it saw at boot; on a host without one of them it crashes.
    """


@click.command(epilog=example("limosa cpu flags", "limosa cpu flags avx2 sse4_1 pclmul"))
@click.argument("names", nargs=-1, metavar="[FLAG]...")
@click.option("--markdown", is_flag=True, help="Print the page docs/cpu-flags.md.")
@json_option
def flags(names: tuple[str, ...], markdown: bool, as_json: bool) -> None:
    """List every CPU flag: its position in a mask, its names, where it lies, and what it is.

    FLAG may be QEMU's name, Linux's or libcpuid's.
    """
    from limosa.cli.cpu_page import flags_markdown, flags_table
    from limosa.cpu.registry import FLAGS, UnknownFlag, flag
    from limosa.errors import UsageError

    try:
        wanted = tuple(map(flag, names)) or FLAGS
    except UnknownFlag as error:
        raise UsageError(str(error), remedy="limosa cpu flags") from error
    if markdown:
        click.echo(flags_markdown(), nl=False)
    else:
        _answer(wanted, "" if as_json else flags_table(wanted), as_json)


@click.command(epilog=example("limosa cpu show host-b", "limosa cpu show web1 --json | jq -r .mask.hex"))
@click.argument("name", metavar="HOST|GUEST")
@click.option(
    "--accel", type=click.Choice(["kvm", "tcg"]), help="Accelerator to ask a host about. Default: the host's."
)
@STATE_DIR
@client_command
def show(agent: AgentClient, name: str, accel: str | None, state_dir: Path | None, as_json: bool) -> None:
    """Show what QEMU on a host can give to guests, or what a guest sees of its processor.

    A host is one that the agent knows, or an imported one. A guest is one of the agent's own host.
    """
    from limosa.cli.cpu_page import guest_page, host_page, shown
    from limosa.cpu.facts import HostCpu

    found = host_or_guest(agent, store(state_dir), name, accel or "")
    if as_json:
        _answer(shown(found), "", as_json)
    else:
        say(host_page(found) if isinstance(found, HostCpu) else guest_page(found))


@click.command(epilog=example("limosa cpu explain web1 host-b", "limosa cpu explain web1 rack4-07 --json"))
@click.argument("guest")
@click.argument("to", metavar="HOST")  # `host` is -H's
@STATE_DIR
@client_command
def explain(agent: AgentClient, guest: str, to: str, state_dir: Path | None, as_json: bool) -> int:
    """Say whether a running guest could go on on a host: missing flags by name, what they are, and what would help.

    The host is asked through the QEMU that would run this guest there. Exit status 10 says that it cannot.
    """
    from limosa.cli.cpu_page import explain_page, explained
    from limosa.cpu.compat import Severity, compatible
    from limosa.guest.cpu import guest_cpu

    profile = profile_of(agent, guest)
    there = host_for(agent, store(state_dir), to, profile)
    sees = guest_cpu(profile)
    found = compatible(sees, there)
    _answer(explained(sees, there, found), explain_page(sees, there, found), as_json)
    return BLOCKED if any(finding.severity is Severity.BLOCKS for finding in found) else 0


@click.command(
    "import",
    epilog=example("limosa cpu import rack4-*.cpuid", "limosa cpu import --name host-c /tmp/cpuinfo-of-c"),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Name of the host, for a single FILE. Default: the file's, without its ending.")
@STATE_DIR
@json_option
def import_(files: tuple[Path, ...], name: str | None, state_dir: Path | None, as_json: bool) -> None:
    """Read hosts from CPUID dumps and copies of /proc/cpuinfo; the fleet's commands know them from then on.

    All files are read before one host is kept. A host that was imported before under the same name is replaced.
    """
    from limosa.cli.cpu_files import read_host
    from limosa.cli.table import table
    from limosa.errors import UsageError

    if name and len(files) > 1:
        raise UsageError("--name names one host, and there are several files", remedy="limosa cpu import --help")
    hosts = [read_host(file, name) for file in files]
    _keep(store(state_dir), hosts)
    rows = [(host.host, host.source.value, host.vendor, host.processor, str(len(host.flags))) for host in hosts]
    text = table(("HOST", "FROM", "VENDOR", "PROCESSOR", "FLAGS"), rows, right=("FLAGS",))
    _answer([{"host": host.host, "flags": len(host.flags), "unknown": host.unknown} for host in hosts], text, as_json)


def store(state_dir: Path | None) -> CpuStore:
    """Where imported hosts are."""
    from limosa.cpu.store import CpuStore, default_directory

    return CpuStore(state_dir / "cpu" if state_dir else default_directory())


def imported(kept: CpuStore, name: str) -> HostCpu | None:
    """An imported host; None where there is none of this name.

    Raises:
        UsageError: its file is damaged.
    """
    from limosa.cpu.store import StoreError
    from limosa.errors import UsageError

    try:
        return kept.load(name)
    except KeyError:
        return None
    except StoreError as error:
        if name not in kept.names():
            return None  # a name that no file could have is somebody else's
        raise UsageError(str(error), remedy=f"import {name} again") from error


def host_or_guest(agent: AgentClient, kept: CpuStore, name: str, accel: str) -> HostCpu | GuestCpu:
    """Whatever has this name: a host that the agent knows, a guest of its own, or an imported host.

    Raises:
        NotFound: nothing has.
        LimosaError: the host cannot be asked.
    """
    from limosa.errors import AgentUnreachable, NotFound
    from limosa.guest.cpu import guest_cpu

    paper = imported(kept, name)
    try:
        return agent.cpu(name, accel=accel)
    except AgentUnreachable:
        if paper is None:
            raise
    except NotFound:
        if paper is None:
            return guest_cpu(profile_of(agent, name))
    return paper


def host_for(agent: AgentClient, kept: CpuStore, host: str, profile: Profile) -> HostCpu:
    """A host through the QEMU that would run this guest, or an imported host.

    Raises:
        NotFound: neither has this name.
    """
    from limosa.errors import NotFound

    machine, version = profile.machine, ".".join(map(str, profile.qemu.version))
    try:
        return agent.cpu(host, machine=machine.type, version=version, accel=machine.accel)
    except NotFound:
        if (paper := imported(kept, host)) is None:
            raise
        return paper


def profile_of(agent: AgentClient, guest: str) -> Profile:
    """A guest's profile."""
    from limosa.cli.rest import decoded
    from limosa.guest.profile import Profile

    return decoded(agent.profile(guest), Profile)


def _keep(kept: CpuStore, hosts: list[HostCpu]) -> None:
    from limosa.cpu.store import StoreError
    from limosa.errors import UsageError

    try:
        for host in hosts:
            kept.save(host)
    except StoreError as error:
        raise UsageError(str(error), remedy="give it one with --name") from error
    except OSError as error:
        raise UsageError(
            f"{kept.directory} cannot be written: {error.strerror}", remedy="run it as root, or give a --state-dir"
        ) from error


def _answer(value: Any, text: str, as_json: bool) -> None:
    import msgspec

    click.echo(msgspec.json.encode(value) if as_json else text)
