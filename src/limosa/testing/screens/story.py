"""What has happened and is happening in the fleet that pictures are taken of, and the names of what to look at."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from msgspec import convert

from limosa.history.documents import Document, MoveDocument, OperationDocument, WeekDocument
from limosa.history.weeks import MILLISECONDS, causes, distribution
from limosa.testing.screens.fleets import DOUBLED_AT, HOSTILE_AT, SILENT, Fleet, inventory_of
from limosa.testing.simulation import Api
from limosa.wire.fleet import FleetHost, ItemState, Operation
from limosa.wire.history import MoveLog, MoveRecord, PastMove, Week
from limosa.wire.moves import MoveState

T = TypeVar("T")

PATIENCE = 180.0
"""Seconds until a fleet is known, or a drain of one host is over."""
LOOK_EVERY = 0.5
DRAINED = 8
"""Hosts that are emptied while pictures are taken: as many as that takes time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Names of what is worth a look.

    Attributes:
        host: a busy one, whose plan of a drain is shown.
        draining: one that is being emptied.
        silent: one whose agent tells nothing.
        guest: one with a history.
        hostile: the id of the guest whose name is markup.
        doubled: the id of the guest with two owners.
        running, over, waiting: ids of operations.
        moved, failed: ids of moves that are over.
    """

    host: str
    draining: str
    silent: str
    guest: str
    hostile: str
    doubled: str
    running: str
    over: str
    waiting: str
    moved: str
    failed: str


def begun(api: Api, fleet: Fleet) -> Story:
    """Let things happen in a fleet of odd ones, and name them.

    Raises:
        TimeoutError: what should have happened did not.
    """
    inventory = inventory_of(fleet)
    hosts = _until("every host is known", lambda: _complete(api.all("hosts"), fleet.hosts))
    usable = sorted((host for host in hosts if host.state == "active" and not host.silent_for), key=_load)
    over = _begin(api, kind="drain", hosts=[usable[0].name], why="a fan is loud (ticket 4711)", approved=True)
    drained = [host.name for host in usable[-DRAINED:]]
    running = _begin(
        api,
        kind="drain",
        hosts=drained,
        why="new firmware (change 1207)",
        limits={"moves": 3},
        approved=True,
    )
    waiting = _begin(api, kind="rebalance", why="after the weekend")
    _until("a drain is over", lambda: _operation(api, over.id).phase.over)
    past = _until("failed moves are known", lambda: _told(_past(api)))
    completed = [move for move in past if move.state is MoveState.COMPLETED]
    return Story(
        host=usable[len(usable) // 2].name,
        draining=drained[0],
        silent=inventory.hosts[-1].name,
        guest=next(move.uuid for move in completed if move.operation),
        hostile=inventory.guests[HOSTILE_AT].uuid,
        doubled=inventory.guests[DOUBLED_AT].uuid,
        running=running.id,
        over=over.id,
        waiting=waiting.id,
        moved=next(move.id for move in completed if move.disk_bytes),
        failed=next(move.id for move in past if move.state is MoveState.FAILED),
    )


def _load(host: FleetHost) -> int:
    return host.guests


def _complete(told: list[object], wanted: int) -> list[FleetHost]:
    hosts = convert(told, list[FleetHost])
    silent = [host for host in hosts if host.silent_for]
    return hosts if len(hosts) == wanted and all(host.cores for host in hosts) and len(silent) >= SILENT else []


def _told(past: list[PastMove]) -> list[PastMove]:
    states = {move.state for move in past if move.operation}
    return past if MoveState.COMPLETED in states else []


def flying(api: Api, story: Story) -> str:
    """A move that is in flight now. Raises TimeoutError."""
    return _until("a move is in flight", lambda: _flying(_operation(api, story.running)))


def _flying(operation: Operation) -> str:
    return next((item.move for item in operation.items if item.state is ItemState.MOVING and item.move), "")


def _until(what: str, look: Callable[[], T]) -> T:
    """What `look` finds, as soon as it is something. Raises TimeoutError."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(LOOK_EVERY)  # the API is asked as a browser without scripts would
    raise TimeoutError(f"not within {PATIENCE:.0f} s: {what}")


def documents(api: Api, story: Story) -> dict[str, Document]:
    """What reports are made of, by the name of the report."""
    operation, finished = _operation(api, story.over), _past(api)
    past = [move for move in finished if move.operation == story.over]
    pauses = [move.blackout_ms for move in past if move.blackout_ms is not None]
    (week,) = convert(api.get("history/weeks?last=1"), tuple[Week, ...])
    return {
        "move": _move(api, story.moved),
        "failed-move": _move(api, story.failed),
        "operation": OperationDocument(
            operation=operation,
            records=tuple(_record(api, move.id) for move in past),
            causes=causes(past),
            blackout_ms=distribution(pauses, MILLISECONDS),
        ),
        "week": WeekDocument(week=week, moves=tuple(each for each in finished if each.ended >= week.begins)),
    }


def _move(api: Api, name: str) -> MoveDocument:
    return MoveDocument(record=_record(api, name), log=convert(api.get(f"moves/{name}/log"), MoveLog))


def _record(api: Api, move: str) -> MoveRecord:
    return convert(api.get(f"moves/{move}"), MoveRecord)


def _operation(api: Api, name: str) -> Operation:
    return convert(api.get(f"operations/{name}"), Operation)


def _begin(api: Api, **asked: object) -> Operation:
    return convert(api.post("operations", asked), Operation)


def _past(api: Api) -> list[PastMove]:
    return convert(api.all("history"), list[PastMove])
