"""Carrying out an operation, to its end, through a port. Safe to begin again at any point, by anybody."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
import structlog

from limosa.errors import Fenced, LimosaError, PeerError
from limosa.fleet.inventory import Limits
from limosa.fleet.operations.advance import Abort, Around, Command, Pace, Reading, Start, Wish, advance, finished
from limosa.fleet.operations.planning import replanned
from limosa.fleet.operations.port import Port
from limosa.wire.fleet import Item, ItemState, Operation, Phase
from limosa.wire.reports import Hand

TICK = 1.0
"""Seconds between two looks at the moves in flight."""

_log = structlog.get_logger()


class _Heard(NamedTuple):
    """What became of the latest orders, by place."""

    refused: Mapping[int, LimosaError] = {}
    """Starts that an agent refused."""
    untold: frozenset[int] | None = frozenset()
    """Moves whose agents may not know their rate; None where somebody else carried the operation on before."""


async def carry_out(operation: str, port: Port) -> Operation:
    """Bring an operation to its end; a pause is waited out.

    Raises:
        NotFound: there is no such operation.
        Fenced: somebody else carries it on.
    """
    hand = await port.claim(operation)
    heard = _Heard(untold=None)
    while True:
        now, wish = await port.load(operation)
        if now.phase.over:
            return now
        following, commands = await _tick(port, hand, now, wish, heard)
        heard = await _give(port, hand, following, commands)
        if _rests(following):
            grown = await _grown(port, following)
            ended = finished(grown, port.now()) if _rests(grown) else grown
            await port.save(hand, ended)
            if ended.phase.over:
                return ended
        await port.sleep(TICK)


async def _tick(
    port: Port, hand: Hand, operation: Operation, wish: Wish, heard: _Heard
) -> tuple[Operation, tuple[Command, ...]]:
    """Read, decide, save; what is to be ordered comes back."""
    readings = await _readings(port, hand, operation, heard.refused)
    around = Around(hosts=await port.hosts(), others=await port.others(operation.id))
    limits = limits_of(operation, port.limits)
    following, commands = advance(operation, wish, readings, limits, _retries(operation, port), port.now(), around)
    if following != operation:
        await port.save(hand, following)
    told = {command.index for command in commands}
    again = (Pace(place) for place in _untold(following, heard) if place not in told)
    return following, (*again, *commands)


def _untold(operation: Operation, heard: _Heard) -> Iterator[int]:
    for place, item in enumerate(operation.items):
        # A move that was never capped here may have a cap that its owner set by hand: it is left alone.
        unsure = item.rate is not None if heard.untold is None else place in heard.untold
        if unsure and item.state is ItemState.MOVING:
            yield place


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


async def _give(port: Port, hand: Hand, operation: Operation, commands: tuple[Command, ...]) -> _Heard:
    """Give the orders: rates first, for what starts takes its share from what runs."""
    paces = [command for command in commands if isinstance(command, Pace)]
    others = [command for command in commands if not isinstance(command, Pace)]
    told = await asyncio.gather(*(_order(port, hand, operation, pace) for pace in paces))
    answers = await asyncio.gather(*(_order(port, hand, operation, command) for command in others))
    return _Heard(
        refused={c.index: e for c, e in zip(others, answers, strict=True) if e is not None and isinstance(c, Start)},
        untold=frozenset(pace.index for pace, error in zip(paces, told, strict=True) if error is not None),
    )


async def _order(port: Port, hand: Hand, operation: Operation, command: Command) -> LimosaError | None:
    """Give an order; what an agent says against it. That nobody answered stands against a rate only."""
    item = operation.items[command.index]
    try:
        match command:
            case Start():
                await port.start(hand, item)
            case Abort():
                await port.abort(hand, item)
            case Pace():
                await port.speed(hand, item)
    except Fenced:
        raise
    except PeerError as error:
        # A start, or an abort, may have been heard: its move is asked for in a moment.
        _log.info("an agent cannot be ordered", host=item.source, why=error.what)
        return error if isinstance(command, Pace) else None
    except LimosaError as error:
        # A move that has committed cannot be taken back, which is no failure of the move.
        return error
    return None


def _rests(operation: Operation) -> bool:
    return all(item.over for item in operation.items)


async def _grown(port: Port, operation: Operation) -> Operation:
    """With what is still to be done, now that all items are over."""
    if operation.phase is Phase.CANCELLING:
        return operation
    items, left = replanned(operation, await port.inventory())
    return msgspec.structs.replace(operation, items=items, left=left)


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
