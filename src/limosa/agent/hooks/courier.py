"""Delivers events to hooks: each hook by itself, so that one that hangs keeps nobody else waiting.

Nothing waits for the courier: not a move, not the journal, not the agent's end. What it has not delivered when it
stops, or is killed, it delivers after the next start; an event may so arrive twice, under the same id.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from limosa.agent.hooks import file, program, webhook
from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.progress import Answer, Progress, Waiting, after, due, next_due, shown, take_in
from limosa.errors import NotFound
from limosa.migration.news import new_id
from limosa.migration.outbox import Posted
from limosa.wire.hooks import EventKind, HookEvent, HookShown, HookTried, stamp

_log = structlog.get_logger()

AGAIN = 5.0
"""Seconds until events are read again that could not be read."""


class Events(Protocol):
    """Where events are kept."""

    async def after(self, number: int) -> Sequence[Posted]:
        """Events with higher numbers, oldest first."""

    async def get(self, number: int) -> Posted | None:
        """One event; None where it is not kept any more."""

    async def last(self) -> int:
        """Number of the latest event; 0 before the first."""


class Memory(Protocol):
    """Where the courier keeps how far each hook is."""

    async def load(self) -> Mapping[str, Progress]:
        """What was saved last, by the hook's name."""

    async def save(self, progress: Mapping[str, Progress]) -> None:
        """Keep this from now on; where that is impossible it is logged, not raised."""


@dataclass(slots=True)
class _Round:
    """One hook, and what wakes it."""

    hook: HookConfig
    news: asyncio.Event


class Courier:
    """Delivers. `open` it before events are made, `start` it, `close` it.

    Args:
        hooks: who wants to be told.
        teller: this host's, or controller's, name.
        events: where events are kept.
        memory: where progress is kept.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        hooks: Sequence[HookConfig],
        teller: str,
        events: Events,
        memory: Memory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rounds = {hook.called: _Round(hook, asyncio.Event()) for hook in hooks}
        self._teller = teller
        self._events = events
        self._memory = memory
        self._clock = clock
        self._progress: dict[str, Progress] = {}
        self._unsaved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Read how far each hook is. One that is new hears of what happens from now on."""
        known, last = await self._memory.load(), await self._events.last()
        self._progress = {name: known.get(name, Progress(seen=last)) for name in self._rounds}
        await self._memory.save(self._progress)

    def start(self) -> None:
        """Begin to deliver."""
        self._tasks = [asyncio.create_task(self._serve(each), name=f"hook {n}") for n, each in self._rounds.items()]
        self._tasks.append(asyncio.create_task(self._keep_saved(), name="hooks' records"))

    def wake(self) -> None:
        """There are new events."""
        for each in self._rounds.values():
            each.news.set()

    async def close(self) -> None:
        """Stop; attempts in flight are broken off, and made again after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._unsaved.is_set():
            await self._memory.save(self._progress)

    def shown(self) -> tuple[HookShown, ...]:
        """How each hook fares."""
        return tuple(shown(each.hook, self._progress[name]) for name, each in self._rounds.items() if self._progress)

    async def test(self, name: str = "") -> tuple[HookTried, ...]:
        """Send one event to try it, to one hook or to all; no record is changed.

        Raises:
            NotFound: no such hook.
        """
        if name and name not in self._rounds:
            known = ", ".join(self._rounds) or "none"
            raise NotFound(f"there is no hook {name} here; there are: {known}", remedy="see `limosa hooks ls`")
        wanted = [each.hook for known, each in self._rounds.items() if name in {"", known}]
        return tuple(await asyncio.gather(*(self._try(hook) for hook in wanted)))

    # -- delivering -------------------------------------------------------------------------------------------

    async def _serve(self, each: _Round) -> None:
        name = each.hook.called
        while True:
            each.news.clear()
            try:
                fresh = await self._events.after(self._progress[name].seen)
                self._note(name, take_in(self._progress[name], fresh, each.hook))
                for waiting in due(self._progress[name], self._clock()):
                    await self._deliver(each.hook, waiting)
            except Exception:  # noqa: BLE001  (whatever it is, this hook is served again)
                _log.exception("events for a hook cannot be read", hook=name)
                await asyncio.sleep(AGAIN)  # a disk or a database that works again tells nobody
                each.news.set()
            await self._until(each.news, next_due(self._progress[name]))

    async def _until(self, news: asyncio.Event, moment: float | None) -> None:
        try:
            async with asyncio.timeout(None if moment is None else max(0.0, moment - self._clock())):
                await news.wait()
        except TimeoutError:
            return  # it is time for the next attempt

    async def _deliver(self, hook: HookConfig, waiting: Waiting) -> None:
        posted = await self._events.get(waiting.number)
        if posted is None:
            answer, event = Answer(delivered=False, words="it is too old to be kept", final=True), str(waiting.number)
        else:
            answer = await self._attempt(hook, posted.id, posted.body)
            event = f"{posted.id} ({posted.kind}, {posted.subject})"
        before = self._progress[hook.called]
        now = after(before, waiting, answer, self._clock(), event)
        self._note(hook.called, now)
        if now.given_up > before.given_up:
            _log.error("gave an event for a hook up", hook=hook.called, hook_event=event, why=answer.words)
        elif not answer.delivered:
            _log.warning("a hook was not told yet", hook=hook.called, hook_event=event, why=answer.words)
        else:
            _log.info("a hook was told", hook=hook.called, hook_event=event)

    async def _attempt(self, hook: HookConfig, event_id: str, body: bytes) -> Answer:
        try:
            match hook.kind:
                case "url":
                    return await webhook.post(hook, event_id, body)
                case "command":
                    return await program.run(hook, body)
                case _:
                    return await file.append(hook, body)
        except Exception as defect:  # noqa: BLE001  (one attempt that breaks must not end all others)
            _log.exception("an attempt at a hook broke", hook=hook.called)
            return Answer(delivered=False, words=f"internal error: {type(defect).__name__}: {defect}")

    async def _try(self, hook: HookConfig) -> HookTried:
        event = HookEvent(
            id=new_id(), type=EventKind.TEST, timestamp=stamp(self._clock()), teller=self._teller, data={}
        )
        began = time.monotonic()
        answer = await self._attempt(hook, event.id, msgspec.json.encode(event))
        took = time.monotonic() - began
        return HookTried(name=hook.called, delivered=answer.delivered, answer=answer.words, seconds=took)

    # -- records ----------------------------------------------------------------------------------------------

    def _note(self, name: str, progress: Progress) -> None:
        if progress != self._progress[name]:
            self._progress[name] = progress
            self._unsaved.set()

    async def _keep_saved(self) -> None:
        """Save whatever changed; what is not saved when the power goes is delivered once more."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            try:
                await self._memory.save(self._progress)
            except asyncio.CancelledError:
                self._unsaved.set()  # `close` saves it
                raise
