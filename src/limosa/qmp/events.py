"""One ordered log of a monitor's events, which can be awaited from any point in its past."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from limosa.errors import MonitorLost, MonitorSilent

END_OF_STREAM = "END_OF_STREAM"
"""The last event of every log; ours, not QEMU's. Its data has `reason`."""

KEPT = 50_000
"""Events kept at least. A disk that fails under a mirror emits thousands; an agent watches a guest for months."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that QEMU said without being asked.

    `at` is the event loop's clock when it arrived, `qemu_time` the seconds since the epoch that QEMU stamped on it.
    """

    number: int
    name: str
    data: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    qemu_time: float = 0.0


Match = str | Iterable[str] | Callable[[Event], bool]


class EventLog:
    """Events in the order in which they arrived, numbered from 0; nothing can slip between two waits."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._forgotten = 0
        self._end: Event | None = None
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def position(self) -> int:
        """Number of the next event; take it before a command whose events are to be awaited."""
        return self._forgotten + len(self._events)

    @property
    def ended(self) -> bool:
        """Whether END_OF_STREAM is in the log."""
        return self._end is not None

    @property
    def reason(self) -> str:
        """Why the stream ended; empty while it lasts."""
        return str(self._end.data.get("reason", "")) if self._end else ""

    def since(self, position: int) -> tuple[Event, ...]:
        """All events from `position` on that are still kept."""
        return tuple(islice(self._events, max(0, position - self._forgotten), None))

    def add(self, name: str, data: Mapping[str, Any], *, at: float, qemu_time: float) -> None:
        """Append an event and wake whoever waits. After END_OF_STREAM nothing is added."""
        if self._end is not None:
            return
        event = Event(self.position, name, data, at, qemu_time)
        self._events.append(event)
        if name == END_OF_STREAM:
            self._end = event
        if len(self._events) >= 2 * KEPT:
            del self._events[:KEPT]
            self._forgotten += KEPT
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, match: Match, *, since: int, timeout: float | None = None) -> Event:
        """The first event from `since` on that matches; looks at the past first, then waits.

        Args:
            match: a name, several names, or a function of the event.
            since: a `position` taken earlier.
            timeout: seconds; None waits as long as the stream lasts.

        Raises:
            MonitorLost: the stream ended and nothing matched.
            MonitorSilent: nothing matched in time.
        """
        matches = _as_function(match)
        try:
            async with asyncio.timeout(timeout):
                return await self._find(matches, since)
        except TimeoutError as late:
            raise MonitorSilent(f"QEMU did not report {_words(match)} within {timeout} s") from late

    async def _find(self, matches: Callable[[Event], bool], position: int) -> Event:
        while True:
            for event in self.since(position):
                if matches(event):
                    return event
            if self._end is not None:
                raise MonitorLost(f"the monitor's stream ended: {self.reason}")
            position = self.position
            await self._more()

    async def _more(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


def _as_function(match: Match) -> Callable[[Event], bool]:
    if callable(match):
        return match
    names = frozenset((match,) if isinstance(match, str) else match)
    return lambda event: event.name in names


def _words(match: Match) -> str:
    if callable(match):
        return "what was expected"
    return match if isinstance(match, str) else " or ".join(sorted(match))
