"""What `plan` and `migrate` have in common: the flags of a move, and the request made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limosa.cli.options import Rate
from limosa.errors import UsageError

if TYPE_CHECKING:
    from limosa.wire.moves import MoveRequest

F = TypeVar("F", bound=Callable[..., Any])


_OPTIONS = (
    click.argument("guest"),
    click.option("--to", required=True, metavar="HOST", help="The destination, a name that `limosa hosts` lists."),
    click.option(
        "--map",
        "maps",
        multiple=True,
        metavar="OLD=NEW",
        help="A host-side name that is another one there: a path, a bridge, a tap. Repeatable.",
    ),
    click.option(
        "--allow", multiple=True, metavar="WORD", help="Allow what would block; the plan names the word. Repeatable."
    ),
    click.option(
        "--bandwidth", "--bwlimit", type=Rate(), help="Bytes per second for all streams together, such as 100M."
    ),
    click.option(
        "--downtime-limit", type=click.FloatRange(min=0, min_open=True), metavar="MS", help="Longest pause to aim for."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="S",
        help="Abort a move that has not committed by then.",
    ),
    click.option(
        "--delete-source-disks", is_flag=True, help="Delete copied disks at the source once the guest runs there."
    ),
    click.option(
        "--mode", type=click.Choice(["live"]), default="live", show_default=True, help="How the guest travels."
    ),
    click.option(
        "--parallel-connections",
        "channels",
        type=click.IntRange(0, 255),
        metavar="N",
        help="Connections for RAM; 0 sends one stream. Default: as pays.",
    ),
    click.option("--insecure-plaintext", is_flag=True, help="Send RAM and disks unencrypted. The report says so."),
)


def move_options(command: F) -> F:
    """The guest, the destination, and all that a MoveRequest can say."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_of(asked: dict[str, Any]) -> MoveRequest:
    """The request that these options make.

    Raises:
        UsageError: a `--map` is not OLD=NEW, or names the same old name twice.
    """
    from limosa.wire.moves import Mode, MoveRequest

    return MoveRequest(
        guest=asked["guest"],
        to=asked["to"],
        mode=Mode(asked["mode"]),
        maps=maps_of(asked["maps"]),
        allow=tuple(asked["allow"]),
        bandwidth=asked["bandwidth"],
        downtime_limit=asked["downtime_limit"],
        timeout=asked["timeout"],
        keep_source_disks=not asked["delete_source_disks"],
        insecure_plaintext=asked["insecure_plaintext"],
        channels=asked["channels"],
    )


def maps_of(words: Sequence[str]) -> dict[str, str]:
    """`OLD=NEW` words as a mapping.

    Raises:
        UsageError: a word is not of that form, or an old name comes twice.
    """
    maps: dict[str, str] = {}
    for word in words:
        old, equals, new = word.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--map {word!r} is not OLD=NEW", remedy="write --map /old/path=/new/path")
        if old in maps:
            raise UsageError(f"--map names {old!r} twice", remedy="give each old name one new name")
        maps[old] = new
    return maps
