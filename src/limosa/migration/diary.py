"""What one host's agent logs while it works on a move, kept beside the move for whoever asks later.

The agent's log is configured to pass each line through `keep`. Whatever is logged in a task that works on a move, or in
one that such a task began, then carries the move's id and is kept in its diary.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import structlog
from structlog.typing import EventDict, WrappedLogger

from limosa.migration.journal import Journal, Outcome
from limosa.migration.steps import name_of, side_of
from limosa.units import MoveId
from limosa.wire.history import Fact, LogLine, MoveLog

FIRST, LAST = 100, 200
"""Lines of one move that are kept, from its beginning and up to its end."""
LONGEST = 500
"""Letters of one value; the log itself has all of them."""
MOST_FACTS = 20

_log = structlog.get_logger()
_OWN = frozenset({"event", "level", "timestamp", "move"})
_open: ContextVar["Diary | None"] = ContextVar("diary", default=None)


class Diary:
    """The lines of one move on one host."""

    def __init__(self, move: MoveId, host: str) -> None:
        self.move = move
        self.closed = False
        self._host = host
        self._first: list[LogLine] = []
        self._last: deque[LogLine] = deque(maxlen=LAST)
        self._count = 0

    @contextmanager
    def open(self) -> Iterator["Diary"]:
        """Keep what is logged in this block, and in the tasks that it begins."""
        before = _open.set(self)
        try:
            yield self
        finally:
            _open.reset(before)

    def close(self) -> None:
        """The move is over: what its tasks leave behind, such as a peer link, says nothing about it any more."""
        self.closed = True

    def add(self, event: EventDict) -> None:
        """Keep a line."""
        facts = {str(k): _fact(v) for k, v in list(event.items())[:MOST_FACTS] if k not in _OWN}
        line = LogLine(
            at=time.time(),
            host=self._host,
            level=str(event.get("level", "info")),
            event=str(event.get("event", ""))[:LONGEST],
            facts=facts,
        )
        self._count += 1
        if len(self._first) < FIRST:
            self._first.append(line)
        else:
            self._last.append(line)

    def log(self) -> MoveLog:
        """What was kept."""
        lines = (*self._first, *self._last)
        return MoveLog(lines=lines, dropped=self._count - len(lines))


def keep(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep a line in the diary that is open; a processor of structlog."""
    diary = _open.get()
    if diary is not None and not diary.closed:
        event.setdefault("move", diary.move)
        if event["move"] == diary.move:  # two moves to one host share its link
            diary.add(event)
    return event


def write_down(journal: Journal, outcomes: Mapping[int, str]) -> None:
    """Log what became of steps: number of a step -> its outcome."""
    for number, outcome in sorted(outcomes.items()):
        entry = journal.entries[number]
        told: dict[str, Fact] = {"step": name_of(entry.step), "side": str(side_of(entry.step))}
        if entry.started is not None and entry.ended is not None and outcome != Outcome.UNDONE:
            told["seconds"] = round(entry.ended - entry.started, 6)
        if outcome not in {Outcome.PLANNED, Outcome.RUNNING}:
            _log.info(f"step {outcome}", **told)


def _fact(value: object) -> Fact:
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:LONGEST]
