"""`limosa cpu matrix`, `pools`, `baseline` and `cost`: a fleet's CPUs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limosa.cli.cpu_hosts import Sources, source_options
from limosa.cli.options import example
from limosa.cli.output import say
from limosa.errors import Blocked, LimosaError, NotFound, UsageError

if TYPE_CHECKING:
    from limosa.cpu.baseline import CpuValue
    from limosa.cpu.facts import HostCpu
    from limosa.cpu.flags import CpuFlags

SVG = click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file too; - is standard output."
)


@click.command(epilog=example("limosa cpu matrix", "limosa cpu matrix --from dumps/ --svg matrix.svg"))
@click.argument("names", nargs=-1, metavar="[HOST]...")
@SVG
@source_options
def matrix(names: tuple[str, ...], svg: Path | None, sources: Sources, as_json: bool) -> None:
    """Show which host can take the guests of which: all hosts, or those named.

    The guests meant are those that see all that their host can give. Hosts that are the same stand in one line.
    """
    from limosa.cli import cpu_fleet_page as pages
    from limosa.cli.cpu_hosts import hosts
    from limosa.cpu.compared import compared, matrix_picture
    from limosa.cpu.sides import side_by_side

    sides = side_by_side(hosts(sources, names))
    shown = compared(sides)
    _write(svg, lambda: matrix_picture(shown))
    _answer(svg, lambda: pages.matrix_page(shown), lambda: pages.matrix_value(shown), as_json)


@click.command(epilog=example("limosa cpu pools", "limosa cpu pools --from dumps/ --svg pools.svg"))
@click.argument("names", nargs=-1, metavar="[HOST]...")
@SVG
@source_options
def pools(names: tuple[str, ...], svg: Path | None, sources: Sources, as_json: bool) -> None:
    """Group hosts that are interchangeable, and say which group's guests can go to which other group.

    Only neighbours are listed: guests of pool 1 that may go to pool 2, and from there to pool 3, may go to pool 3.
    """
    from limosa.cli import cpu_fleet_page as pages
    from limosa.cli.cpu_hosts import hosts
    from limosa.cpu.fleet import fold
    from limosa.cpu.pools import order
    from limosa.cpu.pools import pools as find
    from limosa.cpu.sides import side_by_side
    from limosa.cpu.svg_pools import pools_picture

    sides = side_by_side(hosts(sources, names))
    found = find(fold(sides.hosts))
    try:
        lines = order(found)
    except ValueError as error:
        raise UsageError(str(error), remedy="name fewer hosts") from error
    _write(svg, lambda: pools_picture(found, lines))
    _answer(
        svg,
        lambda: pages.pools_page(found, lines, sides.untold),
        lambda: pages.pools_value(found, lines, sides.untold),
        as_json,
    )


@click.command(
    epilog=example(
        "limosa cpu baseline host-a host-b",
        "limosa cpu baseline --from dumps/ --without vmx",
        "qemu-system-x86_64 -accel kvm -cpu $(limosa cpu baseline host-a host-b --json | jq -r .value),enforce …",
    )
)
@click.argument("names", nargs=-1, metavar="[HOST]...")
@click.option("--without", multiple=True, metavar="FLAG", help="Leave this flag out, and what needs it. Repeatable.")
@click.option("--model", help="Say it with this model of QEMU's, not with the nearest.")
@source_options
def baseline(
    names: tuple[str, ...],
    without: tuple[str, ...],
    model: str | None,
    sources: Sources,
    as_json: bool,
) -> None:
    """Print a value for -cpu with which a guest runs on every HOST, and sees all that they have in common.

    It is the nearest of QEMU's named models, plus and minus flags. Its first line is ready to be copied.
    """
    from limosa.cli import cpu_group_page as pages
    from limosa.cli.cpu_hosts import hosts
    from limosa.cpu.baseline import nearest
    from limosa.cpu.sides import shared

    group = hosts(sources, names)
    vendor = one_vendor(group)
    common = shared(group)
    values = nearest(common.flags - _flags(without), vendor=vendor, known=common.known)
    chosen = values[0] if model is None else _named(model, values)
    told = pages.Baseline(group, common, chosen, tuple(one for one in values[:4] if one is not chosen))
    _answer(None, lambda: pages.baseline_page(told), lambda: pages.baseline_value(told), as_json)


@click.command(
    epilog=example(
        "limosa cpu cost host-c --group host-a --group host-b",
        "limosa cpu cost old-1 --group new-1,new-2 --from dumps/",
        "limosa cpu cost --group host-a,host-b",
    )
)
@click.argument("name", metavar="[HOST]", required=False)
@click.option("--group", "groups", multiple=True, metavar="HOST[,HOST]", help="A host of the group. Repeatable.")
@source_options
def cost(name: str | None, groups: tuple[str, ...], sources: Sources, as_json: bool) -> None:
    """Say what admitting HOST takes from the baseline of a group, by default all other hosts of its vendor.

    Then, for the group as it is: what each of its hosts holds back, which of the agent's guests pin it to its newer
    hosts, and which hosts no guest can leave.
    """
    from limosa.cli import cpu_group_page as pages
    from limosa.cli.cpu_hosts import guests, hosts
    from limosa.cpu.sides import hard

    members = [word for words in groups for word in words.split(",") if word]
    if name in members:
        raise UsageError(f"{name} is in the group already", remedy="limosa cpu cost --help")
    known = hosts(sources, [*members, *([name] if name else [])] if members else ())
    newcomer = _one(known, name) if name else None
    group = [
        cpu
        for cpu in known
        if cpu is not newcomer and (members or newcomer is None or hard(cpu).vendor == hard(newcomer).vendor)
    ]
    if not group:
        raise UsageError(f"nothing is known but {name}", remedy="name the group with --group")
    one_vendor([*group, *([newcomer] if newcomer else [])])
    told = pages.costs(group, newcomer, guests(sources))
    _answer(None, lambda: pages.cost_page(told), lambda: pages.cost_value(told), as_json)


def one_vendor(group: Sequence[HostCpu]) -> str:
    """The vendor of a group.

    Raises:
        Blocked: there are several: a guest does not move between them, whatever their flags are.
    """
    from limosa.cpu.sides import hard

    vendors: dict[str, list[str]] = {}
    for cpu in group:
        vendors.setdefault(hard(cpu).vendor, []).append(cpu.host)
    if len(vendors) == 1:
        return next(iter(vendors))
    told = "; ".join(f"{vendor or 'no vendor told'}: {_some(names)}" for vendor, names in sorted(vendors.items()))
    raise Blocked(
        f"guests do not move between processors of different vendors, and these are of {len(vendors)}: {told}",
        remedy="name the hosts of one vendor",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one(known: Sequence[HostCpu], name: str) -> HostCpu:
    for cpu in known:
        if cpu.host == name:
            return cpu
    raise NotFound(f"no host {name} is known", remedy="limosa cpu import FILE…, or limosa hosts")


def _flags(names: Sequence[str]) -> CpuFlags:
    from limosa.cpu.flags import CpuFlags
    from limosa.cpu.registry import UnknownFlag

    try:
        return CpuFlags.of(*names)
    except UnknownFlag as error:
        raise UsageError(str(error), remedy="limosa cpu flags") from error


def _named(model: str, values: Sequence[CpuValue]) -> CpuValue:
    for value in values:
        if model in (value.model.name, *value.model.also):
            return value
    near = ", ".join(value.model.name for value in values[:5])
    raise UsageError(f"QEMU has no model {model} of this vendor", remedy=f"one of {near}, …")


def _write(svg: Path | None, picture: Any) -> None:
    """Draw into a file; `-` is standard output."""
    if svg is None:
        return
    if str(svg) == "-":
        click.echo(picture(), nl=False)
        return
    try:
        svg.write_text(picture(), encoding="utf-8")
    except OSError as error:
        raise LimosaError(
            f"{svg} cannot be written: {error.strerror}", remedy="name another file with --svg"
        ) from error


def _answer(svg: Path | None, text: Any, value: Any, as_json: bool) -> None:
    """Print the answer, unless a picture has taken standard output."""
    if str(svg) == "-":
        return
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(value()))
    else:
        say(text())
