"""`limosa watch`, `abort` and `speed`: a move that is in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from limosa.cli.options import client_command, either_command, example
from limosa.cli.output import say
from limosa.errors import Blocked, LimosaError, MoveAborted, NotFound, UsageError
from limosa.units import Side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limosa.cli.client import AgentClient
    from limosa.wire.moves import MoveStatus


@click.command(epilog=example("limosa watch", "limosa watch web1", "limosa watch web1 --json"))
@click.argument("move", required=False)
@either_command("limosa.cli.fleet_moves:watch")
def watch(agent: AgentClient, move: str | None, as_json: bool) -> int:
    """Watch a move until it is over, and report what it came to.

    MOVE is a move's id or its guest; by default the one in flight, or the last one. Ctrl-C ends the watching,
    not the move. With --json each change is one line.
    """
    chosen = choose(agent.moves(), move, finished=True)
    return finish(agent, chosen.id, as_json=as_json, every=True, abort_on_interrupt=False)


@click.command(epilog=example("limosa abort", "limosa abort web1"))
@click.argument("move", required=False)
@either_command("limosa.cli.fleet_moves:abort")
def abort(agent: AgentClient, move: str | None, as_json: bool) -> int:
    """Abort a move, wait until it is rolled back, and say what was undone.

    MOVE is a move's id or its guest; by default the one in flight. A move that has committed cannot be
    aborted: its guest is about to run at the destination. Exit status 0 says that it was aborted.
    """
    chosen = choose(agent.moves(), move, finished=False)
    agent.abort(chosen.id)
    exit_status = finish(agent, chosen.id, as_json=as_json, abort_on_interrupt=False)
    if exit_status == 0:
        raise Blocked(
            f"the abort came too late: {chosen.guest} had committed to {chosen.destination}",
            guest_runs=Side.DESTINATION,
        )
    return 0 if exit_status == MoveAborted.exit_status else exit_status


@click.command(epilog=example("limosa speed 50M", "limosa speed web1 200M"))
@click.argument("words", nargs=-1, required=True, metavar="[MOVE] RATE")
@client_command
def speed(agent: AgentClient, words: tuple[str, ...], as_json: bool) -> None:
    """Change the bandwidth of a move in flight, in bytes per second such as 50M; 0 lifts the cap."""
    import msgspec

    from limosa.units import format_rate, parse_size

    if len(words) > 2:
        raise UsageError("speed takes a move and a rate", remedy="limosa speed web1 200M")
    try:
        rate = parse_size(words[-1])
    except ValueError as error:
        raise UsageError(str(error), remedy="limosa speed 50M") from error
    chosen = choose(agent.moves(), words[0] if len(words) == 2 else None, finished=False)
    status = agent.speed(chosen.id, rate)
    cap = f"may now take {format_rate(rate)}" if rate else "may now take what the link gives"
    click.echo(msgspec.json.encode(status) if as_json else f"{status.guest}: move {status.id} {cap}")


def choose(moves: Sequence[MoveStatus], wanted: str | None, *, finished: bool) -> MoveStatus:
    """The move that somebody means.

    Args:
        moves: what the agent knows, oldest first.
        wanted: an id, the beginning of one, or a guest's name or uuid; None for the only one in flight.
        finished: whether a move that is over will do, where none is in flight.

    Raises:
        NotFound: there is none.
        UsageError: several could be meant.
    """
    if wanted is not None:
        exact = [move for move in moves if move.id == wanted]
        moves = exact or [m for m in moves if m.id.startswith(wanted) or wanted in {m.guest, m.uuid}]
    flying = [move for move in moves if not move.state.over]
    if len(flying) == 1:
        return flying[0]
    if flying:
        names = ", ".join(f"{move.guest} ({move.id})" for move in flying)
        raise UsageError(f"{len(flying)} moves are in flight: {names}", remedy="name the one you mean")
    if finished and moves:
        return moves[-1]
    what = f"no move {wanted!r}" if wanted else "no move"
    raise NotFound(f"{what} is in flight" if not finished else f"{what} is known", remedy="limosa ls shows what moves")


def finish(agent: AgentClient, move: str, *, as_json: bool, abort_on_interrupt: bool, every: bool = False) -> int:
    """Follow a move to its end and print its report; the exit status it gives."""
    from limosa.cli.failure import say_failure
    from limosa.cli.live import follow, screen_for
    from limosa.cli.report import failure_of, report
    from limosa.history.words import place_of

    with screen_for(as_json=as_json, every=every) as screen:
        status = follow(agent, move, screen, abort_on_interrupt=abort_on_interrupt)
    failure: LimosaError | None = failure_of(status)
    if failure is None:
        if not as_json:
            say(report(status))
        return 0
    if as_json:
        return say_failure(failure, as_json=True, place=place_of(status))
    say(report(status), err=True)
    return failure.exit_status
