"""Hooks of a controller: who is told of what happens, and whether he hears it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.web.views.states import Sign
from limosa.wire.hooks import HookShown, HookTried


@dataclass(frozen=True, slots=True)
class HookRow:
    """One hook."""

    name: str
    target: str
    """Where it goes; empty where its name says it."""
    kind: str
    events: str
    sign: Sign
    waiting: str
    oldest: words.Moment | None
    """When the oldest event happened that waits."""
    next: words.Moment | None
    """When it is tried again."""
    delivered: str
    last: words.Moment | None
    failed: str
    """Attempts, and why the latest one failed."""
    why: str
    given_up: str
    lost: str
    """The event that was given up last."""
    lost_at: words.Moment | None


@dataclass(frozen=True, slots=True)
class TriedRow:
    """What one answered to a test."""

    name: str
    sign: Sign
    took: str
    answer: str


@dataclass(frozen=True, slots=True)
class Hooks:
    """The page."""

    rows: tuple[HookRow, ...]
    tried: tuple[TriedRow, ...]


def hooks(found: Sequence[HookShown], now: float, tried: Sequence[HookTried] = ()) -> Hooks:
    """Every hook.

    Args:
        found: as GET /v1/hooks says them.
        now: seconds since 1970.
        tried: what POST /v1/hooks/test said just now.
    """
    return Hooks(tuple(_row(hook, now) for hook in found), tuple(map(_tried, tried)))


def _row(hook: HookShown, now: float) -> HookRow:
    return HookRow(
        name=hook.name,
        target=hook.target if hook.target != hook.name else "",
        kind=hook.kind,
        events=", ".join(hook.events) or "all",
        sign=_sign(hook),
        waiting=f"{hook.waiting:,}" if hook.waiting else words.NONE,
        oldest=words.maybe(hook.oldest_waiting, now),
        next=words.maybe(hook.next_attempt, now),
        delivered=f"{hook.delivered:,}" if hook.delivered else words.NONE,
        last=words.maybe(hook.last_delivery, now),
        failed=words.count(hook.failed, "attempt") if hook.failed else words.NONE,
        why=hook.last_error,
        given_up=f"{hook.given_up:,}" if hook.given_up else words.NONE,
        lost=hook.given_up_event,
        lost_at=words.maybe(hook.last_given_up, now),
    )


def _sign(hook: HookShown) -> Sign:
    if hook.last_error and hook.waiting:
        return Sign("failing", "✗", "bad", hook.last_error)
    if hook.last_error:
        return Sign("gave up", "✗", "warn", hook.last_error)
    if hook.waiting:
        return Sign("delivering", "▶", "busy")
    return Sign("delivered", "✓", "good") if hook.delivered else Sign("not told yet", "·", "off")


def _tried(tried: HookTried) -> TriedRow:
    sign = Sign("took it", "✓", "good") if tried.delivered else Sign("did not", "✗", "bad")
    return TriedRow(tried.name, sign, words.lasting(tried.seconds), tried.answer)
