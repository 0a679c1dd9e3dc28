"""`limosa demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from limosa.cli.options import example, json_option
from limosa.units import format_count

if TYPE_CHECKING:
    from limosa.lab.demo_report import Moved

FAILED = 20


@click.command(epilog=example("sudo limosa demo", "sudo limosa demo --html /tmp/demo.html"))
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("demo.html"),
    show_default=True,
    help="Where to write the page with the pictures.",
)
@click.option("--name", default="demo", show_default=True, metavar="LAB", help="The lab's name.")
@click.option("--keep", is_flag=True, help="Leave the lab standing afterwards.")
@json_option
def demo(html: Path, name: str, keep: bool, as_json: bool) -> int:
    """Two lab hosts, a guest under load, real moves there and back, the numbers. Needs root.

    The guest has two local disks; a shared volume, a NIC, memory and a vCPU are plugged in while it runs. An
    observer pings it every 5 ms, a process in it counts in 128 MiB of memory, others write numbered records to each
    disk. Exit status 20 says that a promise was not kept.
    """
    import asyncio

    from limosa.lab import demo as the_demo
    from limosa.lab.demo_report import html_page

    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:6.1f} s  {line}", err=True)

    moves = asyncio.run(the_demo.run(say, name=name, keep=keep))
    seconds = time.monotonic() - began
    told = f"Two hosts, {format_count(len(moves), 'move')}, {seconds:.0f} s in all."
    heading = f"{told} The line is the time since the last ping reply."
    html.write_text(html_page(moves, heading), encoding="utf-8")
    holds = all(moved.holds for moved in moves)
    _print(moves, seconds, html, holds, as_json)
    return 0 if holds else FAILED


def _print(moves: tuple[Moved, ...], seconds: float, html: Path, holds: bool, as_json: bool) -> None:
    import msgspec

    from limosa.lab.demo_report import RULER, move_page

    if as_json:
        told = {"holds": holds, "seconds": seconds, "html": str(html), "moves": msgspec.to_builtins(moves)}
        click.echo(msgspec.json.encode(told))
        return
    click.echo("\n\n\n".join(move_page(moved) for moved in moves))
    click.echo(f"\n  {RULER}\n")
    verdict = "every promise was kept" if holds else "NOT every promise was kept: see WRONG above"
    click.echo(f"{verdict}; {seconds:.0f} s in all; pictures in {html}")
