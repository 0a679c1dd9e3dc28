"""The hosts and guests that the fleet's CPU commands speak of: out of files, imported, or asked through an agent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limosa.cli.cpu import STATE_DIR, profile_of, store
from limosa.cli.cpu_files import read_host
from limosa.cli.options import agent_options, json_option, where
from limosa.errors import AgentUnreachable, LimosaError, NotFound, UsageError

if TYPE_CHECKING:
    from limosa.cli.client import AgentClient
    from limosa.cpu.facts import GuestCpu, HostCpu

F = TypeVar("F", bound=Callable[..., Any])

ENDINGS = (".cpuid", ".cpuinfo", ".txt")
"""Files of a directory that are taken for hosts."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a command's hosts come from: these files and directories, or else imported and live ones."""

    paths: tuple[Path, ...]
    state_dir: Path | None
    accel: str = ""
    """Accelerator to ask live hosts about; empty for each host's own."""


def source_options(command: F) -> F:
    """For commands over many hosts: `--from`, `--accel`, `--state-dir` as `sources`; the agent's options, `--json`."""
    from_files = click.option(
        "--from",
        "paths",
        multiple=True,
        type=click.Path(exists=True, path_type=Path),
        help=f"Take hosts from this file or directory ({', '.join(ENDINGS)}) and from nowhere else. Repeatable.",
    )
    accel = click.option(
        "--accel", type=click.Choice(["kvm", "tcg"]), help="Accelerator to ask live hosts about. Default: each host's."
    )

    @functools.wraps(command)
    def wrapped(*, paths: tuple[Path, ...], state_dir: Path | None, accel: str | None, **others: Any) -> Any:
        return command(sources=Sources(paths, state_dir, accel or ""), **others)

    return agent_options(from_files(accel(STATE_DIR(json_option(wrapped)))))  # type: ignore[return-value]


def hosts(sources: Sources, wanted: Sequence[str] = ()) -> tuple[HostCpu, ...]:
    """The hosts of these names, in their order; all that there are, by name, where none is named.

    Raises:
        NotFound: nothing is known of a host, or there is none at all.
        UsageError: a file is not what it should be.
        LimosaError: a host that was named cannot be asked.
    """
    known = _files(sources.paths) if sources.paths else _imported_and_live(sources, wanted)
    if not known:
        raise NotFound("no hosts are known", remedy="limosa cpu import FILE…, or name files with --from")
    for name in wanted:
        if name not in known:
            raise _no_such(name, known)
    return tuple(known[name] for name in dict.fromkeys(wanted or sorted(known)))


def guests(sources: Sources) -> tuple[tuple[str, GuestCpu], ...]:
    """The guests on the agent's own host, with its name; none where hosts come from files, or no agent answers."""
    from limosa.guest.cpu import guest_cpu

    if sources.paths:
        return ()
    try:
        with _agent() as agent:
            here = agent.hello().host
            return tuple((here, guest_cpu(profile_of(agent, shown.name))) for shown in agent.guests())
    except AgentUnreachable:
        return ()


def _files(paths: Sequence[Path]) -> dict[str, HostCpu]:
    found: dict[str, HostCpu] = {}
    for file in (file for path in paths for file in _inside(path)):
        cpu = read_host(file)
        if cpu.host in found:
            raise UsageError(f"{file}: there is a second host {cpu.host}", remedy="give the files different names")
        found[cpu.host] = cpu
    return found


def _inside(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file())
    if not files:
        raise UsageError(f"{path} holds no file that ends in {', '.join(ENDINGS)}", remedy="name the files themselves")
    yield from files


def _imported_and_live(sources: Sources, wanted: Sequence[str]) -> dict[str, HostCpu]:
    """Imported hosts, and live ones in front of them: a QEMU's own answer is worth more than a dump."""
    from limosa.cpu.store import StoreError

    try:
        found = {cpu.host: cpu for cpu in store(sources.state_dir).all()}
    except StoreError as error:
        raise UsageError(str(error), remedy="import that host again") from error
    try:
        with _agent() as agent:
            return found | _live(agent, sources.accel, wanted, found)
    except AgentUnreachable as error:
        if not found or set(wanted) - set(found):
            raise
        click.echo(f"limosa: {error.what}; imported hosts only", err=True)
        return found


def _live(agent: AgentClient, accel: str, wanted: Sequence[str], imported: Mapping[str, HostCpu]) -> dict[str, HostCpu]:
    found = {}
    for shown in agent.hosts():
        if wanted and shown.name not in wanted:
            continue
        try:
            found[shown.name] = agent.cpu(shown.name, accel=accel)
        except LimosaError as error:
            if shown.name in wanted and shown.name not in imported:
                raise
            instead = "its import is taken" if shown.name in imported else "it is left out"
            click.echo(f"limosa: {shown.name}: {error.what}; {instead}", err=True)
    return found


@contextmanager
def _agent() -> Iterator[AgentClient]:
    from limosa.cli.client import AgentClient
    from limosa.cli.transport import way_to

    place = where(click.get_current_context())
    with AgentClient(way_to(place.host, place.socket)) as agent:
        yield agent


def _no_such(name: str, known: Mapping[str, HostCpu]) -> NotFound:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3, cutoff=0.6)
    remedy = f"did you mean {' or '.join(near)}?" if near else "limosa cpu import FILE…, or limosa hosts"
    return NotFound(f"no host {name} is known", remedy=remedy)
