"""Carrying out an operation, to its end, through a port. Safe to begin again at any point, by anybody."""

import asyncio
from collections.abc import Mapping

import msgspec
import structlog

from limosa.errors import Fenced, LimosaError, PeerError
from limosa.fleet.inventory import Limits
from limosa.fleet.operations.advance import Abort, Command, Reading, Start, Wish, advance, finished
from limosa.fleet.operations.planning import newcomers
from limosa.fleet.operations.port import Port
from limosa.wire.fleet import Item, ItemState, Operation, Phase
from limosa.wire.reports import Hand

TICK = 1.0
"""Seconds between two looks at the moves in flight."""

_log = structlog.get_logger()


async def carry_out(operation: str, port: Port) -> Operation:
    """Bring an operation to its end; a pause is waited out.

    Raises:
        NotFound: there is no such operation.
        Fenced: somebody else carries it on.
    """
    hand = await port.claim(operation)
    refused: dict[int, LimosaError] = {}
    while True:
        now, wish = await port.load(operation)
        if now.phase.over:
            return now
        following, commands = await _tick(port, hand, now, wish, refused)
        refused = await _give(port, hand, following, commands)
        if _rests(following):
            grown = await _grown(port, following)
            ended = finished(grown, port.now()) if _rests(grown) else grown
            await port.save(hand, ended)
            if ended.phase.over:
                return ended
        await port.sleep(TICK)


async def _tick(
    port: Port, hand: Hand, operation: Operation, wish: Wish, refused: Mapping[int, LimosaError]
) -> tuple[Operation, tuple[Command, ...]]:
    """Read, decide, save; what is to be ordered comes back."""
    readings = await _readings(port, hand, operation, refused)
    following, commands = advance(
        operation, wish, readings, limits_of(operation, port.limits), _retries(operation, port), port.now()
    )
    if following != operation:
        await port.save(hand, following)
    return following, commands


async def _readings(
    port: Port, hand: Hand, operation: Operation, refused: Mapping[int, LimosaError]
) -> dict[int, Reading]:
    moving = {p: i for p, i in enumerate(operation.items) if i.state is ItemState.MOVING}
    if not moving:
        return {}
    told = {p: Reading(refused=refused[p]) for p in moving if p in refused}
    read = await asyncio.gather(*(_reading(port, hand, moving[p]) for p in moving if p not in told))
    return told | dict(zip((p for p in moving if p not in told), read, strict=True))


async def _reading(port: Port, hand: Hand, item: Item) -> Reading:
    try:
        outcome = await port.status(hand, item)
    except PeerError as error:
        _log.info("an agent does not say what became of a move", host=item.source, why=error.what)
        return Reading()
    # Only the journal's word is left of a move that an agent carried out before it was restarted.
    lost = outcome.status is None and outcome.ending
    return Reading(outcome=outcome, host=await port.host_of(item.guest) if lost else "")


async def _give(port: Port, hand: Hand, operation: Operation, commands: tuple[Command, ...]) -> dict[int, LimosaError]:
    """Give the orders; returns the refusals by place."""
    answers = await asyncio.gather(*(_order(port, hand, operation, command) for command in commands))
    return {place: error for place, error in answers if error is not None}


async def _order(port: Port, hand: Hand, operation: Operation, command: Command) -> tuple[int, LimosaError | None]:
    item = operation.items[command.index]
    try:
        match command:
            case Start():
                await port.start(hand, item)
            case Abort():
                await port.abort(hand, item)
    except Fenced:
        raise
    except PeerError as error:  # it may have heard the order: it is asked in a moment
        _log.info("an agent cannot be ordered", host=item.source, why=error.what)
    except LimosaError as error:
        # A move that has committed cannot be taken back, which is no failure of the move.
        return command.index, error if isinstance(command, Start) else None
    return command.index, None


def _rests(operation: Operation) -> bool:
    return all(item.over for item in operation.items)


async def _grown(port: Port, operation: Operation) -> Operation:
    """With the guests that came to an emptied host after the plan was made: an owner may start one there by hand."""
    if operation.phase is Phase.CANCELLING:
        return operation
    items, left = newcomers(operation, await port.inventory())
    return msgspec.structs.replace(operation, items=(*operation.items, *items), left=left)


def limits_of(operation: Operation, own: Limits) -> Limits:
    """The controller's limits, made tighter where the operation asks for it."""
    asked = operation.limits
    bandwidths = [each for each in (asked.bandwidth, own.bandwidth) if each is not None]
    return msgspec.structs.replace(
        own,
        moves_in=min(own.moves_in, asked.moves_in or own.moves_in),
        moves_out=min(own.moves_out, asked.moves_out or own.moves_out),
        moves=min(own.moves, asked.moves or own.moves),
        bandwidth=min(bandwidths) if bandwidths else None,
    )


def _retries(operation: Operation, port: Port) -> int:
    return port.retries if operation.limits.retries is None else operation.limits.retries
