"""What an operation does next. Pure: readings and time come in, the next state and orders come out.

An item is marked as moving, and the operation saved, before the order goes out; so whoever carries it on after a crash
asks the agent what became of that order, and repeats it where the agent never heard of it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from limosa.errors import LimosaError
from limosa.fleet.bandwidth import Way, shares
from limosa.fleet.inventory import Host, Limits
from limosa.wire.fleet import Item, ItemState, Operation, Phase
from limosa.wire.moves import MoveState, MoveStatus
from limosa.wire.reports import Outcome

BACK_OFF = 10.0
LONGEST_BACK_OFF = 600.0
"""Seconds before the second attempt, doubled with each further one, up to so many."""

SILENCE_LIMIT = 600.0
"""Seconds that an operation waits for a silent agent to say what became of a move."""

FINAL_CODES = frozenset({"blocked", "twin-differs", "not-found", "usage", "guest-powered-off", "guest-lost", "aborted"})
"""Errors that a second attempt would meet again, and the wish of an operator who aborted this one move."""


NOT_KNOWN = "not-known"
"""Code of an item that was given up without knowing what became of its move."""


class Wish(StrEnum):
    """What operators want of an operation."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one ordered move.

    `outcome` is what its agent says; `refused` the error with which it refused the order, where it did; neither where
    the agent is silent. `host` is where the guest was last reported, if only the agent's journal knows of the move.
    """

    outcome: Outcome | None = None
    refused: LimosaError | None = None
    host: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """Order an item's move (again)."""

    index: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Take an ordered move back, if it has not committed."""

    index: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Tell an ordered move its rate, which has changed."""

    index: int


Command = Start | Abort | Pace


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What else there is: hosts by name, and the moves of other operations that are in flight."""

    hosts: Mapping[str, Host]
    others: tuple[Way, ...] = ()


def deed_of(item: Item) -> str:
    """Names an item's latest attempt within its operation."""
    return f"{item.guest}#{item.attempts}"


def advance(
    operation: Operation,
    wish: Wish,
    readings: Mapping[int, Reading],
    limits: Limits,
    retries: int,
    now: float,
    around: Around,
) -> tuple[Operation, tuple[Command, ...]]:
    """The operation's next state, and what is to be ordered once it is saved.

    Args:
        operation: as it is.
        wish: what operators want of it.
        readings: by place, of items that are moving.
        limits: moves in and out of one host, and at all; bandwidth.
        retries: attempts at one guest after its first.
        now: seconds since 1970.
        around: what its moves share the fleet with.
    """
    phase = _phase(operation.phase, wish)
    items = list(operation.items)
    commands: list[Command] = []
    for place, reading in readings.items():
        items[place], again = _read(items[place], reading, retries, now)
        if again and phase is not Phase.CANCELLING:
            commands.append(Start(place))
    if phase is Phase.CANCELLING:
        items = [_cancelled(item) for item in items]
        commands += [Abort(place) for place, item in enumerate(items) if item.state is ItemState.MOVING]
    items = _without_hope(items)
    if phase is Phase.RUNNING:
        for place in _startable(items, limits, now, around):
            items[place] = _started(items[place], now)
            commands.append(Start(place))
    started = {command.index for command in commands if isinstance(command, Start)}
    paces = tuple(Pace(place) for place in _paced(items, limits, around) if place not in started)
    return msgspec.structs.replace(operation, phase=phase, items=tuple(items), began=operation.began or now), (
        *paces,
        *commands,
    )


def _phase(phase: Phase, wish: Wish) -> Phase:
    if phase is Phase.CANCELLING or wish is Wish.CANCEL:
        return Phase.CANCELLING
    return Phase.PAUSED if wish is Wish.PAUSE else Phase.RUNNING


def _read(item: Item, reading: Reading, retries: int, now: float) -> tuple[Item, bool]:
    """An item after a reading, and whether its order must be repeated."""
    if reading.refused is not None:
        error = reading.refused
        return _failed(item, error.what, error.remedy, error.code, retries, now), False
    if reading.outcome is None:
        return _silent(item, now), False
    if (status := reading.outcome.status) is not None:
        return _judged(msgspec.structs.replace(item, move=reading.outcome.move), status, retries, now), False
    if reading.outcome.ending == "":
        return item, True  # the order never reached it, or it forgot: the same deed is ordered again
    if reading.outcome.ending == "open":
        return item, False
    if reading.host == item.destination:
        return _done(item, now), False
    return _failed(item, f"its agent was restarted, and the move {reading.outcome.ending}", "", "", retries, now), False


def _judged(item: Item, status: MoveStatus, retries: int, now: float) -> Item:
    item = msgspec.structs.replace(item, move_state=status.state)
    match status.state:
        case MoveState.COMPLETED:
            return _done(item, now, status)
        case MoveState.FAILED | MoveState.ABORTED | MoveState.BLOCKED:
            error = status.error or {}
            what = str(error.get("what") or f"the move was {status.state}")
            return _failed(item, what, str(error.get("remedy", "")), str(error.get("code", "")), retries, now)
        case MoveState.IN_DOUBT:
            error = status.error or {}
            said, remedy = str(error.get("what", "the move is in doubt")), str(error.get("remedy", ""))
            return msgspec.structs.replace(item, said=said, remedy=remedy)
        case _:
            return msgspec.structs.replace(item, said="", remedy="")


def _done(item: Item, now: float, status: MoveStatus | None = None) -> Item:
    measured = status.measured if status else None
    return msgspec.structs.replace(
        item,
        state=ItemState.DONE,
        move_state=MoveState.COMPLETED,
        ended=now,
        said="",
        code="",
        remedy="",
        blackout_ms=measured.blackout_ms if measured else None,
        bytes=measured.ram_bytes + measured.disk_bytes if measured else 0,
    )


def _failed(item: Item, what: str, remedy: str, code: str, retries: int, now: float) -> Item:
    attempts = item.attempts - item.before
    final = code in FINAL_CODES or attempts > retries
    pause = min(BACK_OFF * 2 ** max(0, attempts - 1), LONGEST_BACK_OFF)
    return msgspec.structs.replace(
        item,
        state=ItemState.FAILED if final else ItemState.WAITING,
        said=what,
        code=code,
        remedy=remedy,
        not_before=now + pause,
        ended=now if final else None,
    )


def _silent(item: Item, now: float) -> Item:
    said = f"the agent of {item.source} is silent"
    if not item.said.startswith(said):
        return msgspec.structs.replace(item, said=said, not_before=now + SILENCE_LIMIT)
    if now < item.not_before:
        return item
    what = f"{said}: what became of the move is not known"
    return msgspec.structs.replace(
        item, state=ItemState.FAILED, said=what, code=NOT_KNOWN, remedy=f"limosa doctor, on {item.source}", ended=now
    )


def _cancelled(item: Item) -> Item:
    waits = item.state is ItemState.WAITING or (item.state is ItemState.FAILED and item.move_state is MoveState.ABORTED)
    return msgspec.structs.replace(item, state=ItemState.CANCELLED) if waits else item


def _without_hope(items: list[Item]) -> list[Item]:
    """Items that wait for one that will never end well fail too; plans are in order, so one pass finds all."""
    for place, item in enumerate(items):
        if item.state is not ItemState.WAITING:
            continue
        lost = [items[i] for i in item.after if items[i].state in {ItemState.FAILED, ItemState.CANCELLED}]
        if lost:
            said = f"it waits for {lost[0].name}, which stays on {lost[0].source}"
            items[place] = msgspec.structs.replace(item, state=ItemState.FAILED, said=said)
    return items


def _startable(items: list[Item], limits: Limits, now: float, around: Around) -> list[int]:
    """Places of waiting items that may start together, in the plan's order."""
    moving = [*(_way(item) for item in items if item.state is ItemState.MOVING), *around.others]
    out, into = Counter(way.source for way in moving), Counter(way.destination for way in moving)
    found: list[int] = []
    for place, item in enumerate(items):
        if len(moving) + len(found) >= limits.moves:
            break
        ready = all(items[i].state is ItemState.DONE for i in item.after)
        if item.state is not ItemState.WAITING or item.not_before > now or not ready:
            continue
        source, destination = around.hosts.get(item.source), around.hosts.get(item.destination)
        # One at least, as in schedule.py: an operation ends, also where a host was closed to moves since.
        most_out = max(1, limits.out_of(source)) if source else limits.moves_out
        most_in = max(1, limits.into(destination)) if destination else limits.moves_in
        if out[item.source] < most_out and into[item.destination] < most_in:
            out[item.source] += 1
            into[item.destination] += 1
            found.append(place)
    return found


def _paced(items: list[Item], limits: Limits, around: Around) -> list[int]:
    """Give every item that moves its share of bandwidth; places of those whose share is another one now."""
    moving = [place for place, item in enumerate(items) if item.state is ItemState.MOVING]
    rates = shares(limits, around.hosts, [*(_way(items[place]) for place in moving), *around.others])
    changed = [place for place, rate in zip(moving, rates, strict=False) if items[place].rate != rate]
    for place, rate in zip(moving, rates, strict=False):
        items[place] = msgspec.structs.replace(items[place], rate=rate)
    return changed


def _way(item: Item) -> Way:
    return Way(item.source, item.destination)


def _started(item: Item, now: float) -> Item:
    return msgspec.structs.replace(
        item,
        state=ItemState.MOVING,
        attempts=item.attempts + 1,
        move="",
        move_state=None,
        said="",
        code="",
        remedy="",
        began=item.began or now,
    )


def finished(operation: Operation, now: float) -> Operation:
    """The operation in its last phase; every item of it is over."""
    if operation.phase is Phase.CANCELLING:
        phase = Phase.CANCELLED
    else:
        well = {ItemState.DONE, ItemState.REROUTED}
        incomplete = bool(operation.left) or any(item.state not in well for item in operation.items)
        phase = Phase.PARTLY if incomplete else Phase.DONE
    return msgspec.structs.replace(operation, phase=phase, ended=now)
