"""Browsers that were let in: one-time words that lead in, and sessions. In memory: a restart ends them all."""

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

INVITED = 120.0
"""Seconds for which an invitation waits."""
LASTS = 12 * 3600.0
"""Seconds of a session."""
MOST = 64
"""Sessions, and invitations, at a time; the oldest ones end."""


class _Pass(NamedTuple):
    who: str
    until: float


class Visits:
    """Sessions of one agent. Words are kept as hashes only.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._invited: dict[str, _Pass] = {}
        self._sessions: dict[str, _Pass] = {}

    def invite(self, who: str) -> str:
        """A word that lets somebody in once, soon."""
        return self._put(self._invited, who, INVITED)

    def enter(self, word: str) -> str | None:
        """The word of a new session for that of an invitation, which is used up; None where it is none."""
        invited = self._invited.pop(_hash(word), None)
        if invited is None or invited.until <= self._clock():
            return None
        return self._put(self._sessions, invited.who, LASTS)

    def who(self, word: str) -> str | None:
        """Whose session this is; None where it is none, or over."""
        found = self._sessions.get(_hash(word))
        return found.who if found and self._clock() < found.until else None

    def leave(self, word: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(word), None)

    def _put(self, into: dict[str, _Pass], who: str, seconds: float) -> str:
        word, now = secrets.token_urlsafe(24), self._clock()
        living = [(key, each) for key, each in into.items() if now < each.until]
        into.clear()
        into.update(living[-(MOST - 1) :])
        into[_hash(word)] = _Pass(who, now + seconds)
        return word


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode(errors="replace")).hexdigest()
