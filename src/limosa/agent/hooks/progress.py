"""How far one hook is: what waits, when it is tried again, when it is given up. Pure; time comes in as an argument."""

from collections.abc import Iterable

import msgspec

from limosa.agent.hooks.config import HookConfig
from limosa.migration.outbox import KEPT, Posted
from limosa.units import Seconds
from limosa.wire.hooks import HookShown

FIRST = Seconds(5.0)
LONGEST = Seconds(3600.0)
PATIENCE = Seconds(3 * 86400.0)
"""Seconds after an event's first attempt in which it is tried again."""

assert PATIENCE < KEPT


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt."""

    delivered: bool
    words: str
    """What the receiver said, or why it was not reached; one line."""
    final: bool = False
    """The receiver does not want this event, now or later."""
    not_before: float = 0.0
    """Seconds for which the receiver asked to be left alone."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a hook has not been told of yet. Times in seconds since 1970."""

    number: int
    subject: str
    at: float
    """When it happened."""
    tried_first: float | None = None
    attempts: int = 0
    due: float = 0.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One hook's own record. It is kept over restarts; times in seconds since 1970."""

    seen: int
    """Number of the last event that was taken in."""
    waiting: tuple[Waiting, ...] = ()
    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    last_delivery: float | None = None
    last_error: str = ""
    last_given_up: float | None = None
    given_up_event: str = ""


def delay(attempts: int) -> Seconds:
    """Seconds between a failed attempt and the next: 5, 10, 20 … and from the eleventh on an hour.

    Args:
        attempts: made so far, 1 or more.
    """
    return Seconds(min(FIRST * 2.0 ** min(attempts - 1, 20), LONGEST))


def take_in(progress: Progress, events: Iterable[Posted], hook: HookConfig) -> Progress:
    """Let new events wait, as far as the hook wants them."""
    fresh = [event for event in events if event.number > progress.seen]
    wanted = tuple(Waiting(number=e.number, subject=e.subject, at=e.at) for e in fresh if hook.wants(e.kind))
    seen = max((event.number for event in fresh), default=progress.seen)
    return msgspec.structs.replace(progress, seen=seen, waiting=(*progress.waiting, *wanted))


def due(progress: Progress, now: float) -> tuple[Waiting, ...]:
    """What is to be tried now: of each guest the oldest event only, so that its events arrive in order."""
    return tuple(waiting for waiting in _heads(progress) if waiting.due <= now)


def next_due(progress: Progress) -> float | None:
    """When there is something to do without any news; None for never."""
    return min((waiting.due for waiting in _heads(progress)), default=None)


def after(progress: Progress, tried: Waiting, answer: Answer, now: float, event: str) -> Progress:
    """The record after an attempt.

    Args:
        progress: before it.
        tried: the event.
        answer: what became of it.
        now: seconds since 1970.
        event: the event in words, for the case that it is given up.
    """
    others = tuple(waiting for waiting in progress.waiting if waiting.number != tried.number)
    if answer.delivered:
        return msgspec.structs.replace(
            progress, waiting=others, delivered=progress.delivered + 1, last_delivery=now, last_error=""
        )
    failed = msgspec.structs.replace(progress, failed=progress.failed + 1, last_error=answer.words)
    again = _again(tried, answer, now)
    if again is None:
        return msgspec.structs.replace(
            failed, waiting=others, given_up=failed.given_up + 1, last_given_up=now, given_up_event=event
        )
    kept = tuple(again if waiting.number == tried.number else waiting for waiting in progress.waiting)
    return msgspec.structs.replace(failed, waiting=kept)


def shown(hook: HookConfig, progress: Progress) -> HookShown:
    """How a hook fares."""
    return HookShown(
        name=hook.called,
        kind=hook.kind,
        target=hook.target,
        events=hook.events,
        delivered=progress.delivered,
        failed=progress.failed,
        given_up=progress.given_up,
        waiting=len(progress.waiting),
        oldest_waiting=min((waiting.at for waiting in progress.waiting), default=None),
        next_attempt=next_due(progress),
        last_delivery=progress.last_delivery,
        last_error=progress.last_error,
        last_given_up=progress.last_given_up,
        given_up_event=progress.given_up_event,
    )


def _again(tried: Waiting, answer: Answer, now: float) -> Waiting | None:
    first = now if tried.tried_first is None else tried.tried_first
    attempts = tried.attempts + 1
    wait = max(delay(attempts), min(answer.not_before, LONGEST))
    if answer.final or now + wait > first + PATIENCE:
        return None
    return msgspec.structs.replace(tried, tried_first=first, attempts=attempts, due=now + wait)


def _heads(progress: Progress) -> tuple[Waiting, ...]:
    first: dict[str, Waiting] = {}
    for waiting in progress.waiting:
        first.setdefault(waiting.subject, waiting)
    return tuple(first.values())
