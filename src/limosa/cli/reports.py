"""`limosa report`: what became of a move, of an operation, of a week."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from limosa.cli.options import either_command, example
from limosa.cli.output import answer
from limosa.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limosa.cli.client import AgentClient
    from limosa.cli.fleet_client import FleetClient
    from limosa.history.documents import Document, WeekDocument
    from limosa.wire.history import MoveRecord

THIS = "this"
"""A week that is not named."""


@click.command(
    epilog=example(
        "limosa report web1",
        "limosa report m3f2a91c0 --html move.html",
        "limosa report --week 2026-W48",
        "limosa -H https://controller:8447 report drain-5c1d2e3f --html drain.html",
    )
)
@click.argument("what", required=False, metavar="[MOVE|OPERATION]")
@click.option("--week", is_flag=False, flag_value=THIS, metavar="[YYYY-Www]", help="A week, UTC; by default this one.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write one HTML file that stands alone, with plots; - is standard output.",
)
@either_command("limosa.cli.reports:fleet_report")
def report(agent: AgentClient, what: str | None, week: str | None, html: Path | None, as_json: bool) -> None:
    """Say what became of a move, an operation or a week of moves.

    MOVE is a move's id, or its guest for the latest move of it. An agent knows the moves that left its host, for as
    long as it keeps them; a controller knows those of its fleet, and OPERATIONs.
    """
    _one(what, week)
    tell(agent_week(agent, week) if week else agent_move(agent, what or ""), html, as_json=as_json)


def fleet_report(fleet: FleetClient, what: str | None, week: str | None, html: Path | None, as_json: bool) -> None:
    """The same, from a controller."""
    _one(what, week)
    tell(fleet_week(fleet, week) if week else fleet_named(fleet, what or ""), html, as_json=as_json)


def _one(what: str | None, week: str | None) -> None:
    if (what is None) == (week is None):
        raise UsageError(
            "name one move, one operation, or --week", remedy="limosa report web1, or limosa report --week"
        )


def agent_move(agent: AgentClient, what: str) -> Document:
    """One move, and what the agent's host logged of it."""
    from limosa.history.documents import MoveDocument

    try:
        record = agent.record(what)
    except NotFound as error:
        remedy = (
            "limosa report --week lists the moves that this host keeps; a controller knows operations: -H https://…"
        )
        raise NotFound(error.what, remedy=remedy) from error
    return MoveDocument(record=record, log=agent.log(record.status.id))


def agent_week(agent: AgentClient, week: str) -> WeekDocument:
    """A week of the moves that left this host."""
    from limosa.history.documents import WeekDocument

    told = agent.week("" if week == THIS else week)
    return WeekDocument(week=told, moves=tuple(agent.past(since=repr(told.begins), until=repr(told.ends))))


def fleet_week(fleet: FleetClient, week: str) -> WeekDocument:
    """A week of the fleet's moves."""
    from limosa.history.documents import WeekDocument

    told = fleet.week("" if week == THIS else week)
    return WeekDocument(week=told, moves=tuple(fleet.past(since=repr(told.begins), until=repr(told.ends))))


def fleet_named(fleet: FleetClient, what: str) -> Document:
    """An operation, a move, or the latest move of a guest: whatever has this name.

    Raises:
        NotFound: nothing has.
    """
    from limosa.history.documents import MoveDocument

    for find in (_operation, _move):
        try:
            return find(fleet, what)
        except NotFound:
            continue
    for latest in fleet.past(guest=what):
        return MoveDocument(record=fleet.record(latest.id), log=fleet.log(latest.id))
    raise NotFound(
        f"the controller knows no operation, no move and no moved guest {what}",
        remedy="limosa operations lists operations; limosa report --week the moves of a week",
    )


def _move(fleet: FleetClient, what: str) -> Document:
    from limosa.history.documents import MoveDocument

    return MoveDocument(record=fleet.record(what), log=fleet.log(what))


def _operation(fleet: FleetClient, what: str) -> Document:
    from limosa.history.documents import OperationDocument
    from limosa.history.weeks import MILLISECONDS, causes, distribution

    operation = fleet.operation(what)
    past = tuple(fleet.past(operation=operation.id))
    flying = (item.move for item in operation.items if item.move and item.move not in {move.id for move in past})
    names = (*(move.id for move in past), *flying)
    pauses = [move.blackout_ms for move in past if move.blackout_ms is not None]
    return OperationDocument(
        operation=operation,
        records=tuple(_known(fleet, names)),
        causes=causes(past),
        blackout_ms=distribution(pauses, MILLISECONDS),
    )


def _known(fleet: FleetClient, moves: tuple[str, ...]) -> Iterator[MoveRecord]:
    """Records of those moves that are still known; an agent may be silent, or have forgotten one."""
    from limosa.errors import PeerError

    for move in moves:
        try:
            yield fleet.record(move)
        except (NotFound, PeerError):
            continue


def tell(document: Document, html: Path | None, *, as_json: bool) -> None:
    """Print a report, or write its page."""
    if html is not None:
        _write(document, html)
    if as_json or html is None:
        answer(document, lambda: _text(document), as_json=as_json)


def _text(document: Document) -> str:
    from limosa.cli.history_page import text

    return text(document)


def _write(document: Document, file: Path) -> None:
    import time

    from limosa.history.page import html as made

    try:
        with click.open_file(str(file), "w", encoding="utf-8", atomic=str(file) != "-") as out:
            out.write(made(document, made=time.time()))
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}", remedy="name another file") from error
    if str(file) != "-":
        click.echo(f"wrote {file}", err=True)
