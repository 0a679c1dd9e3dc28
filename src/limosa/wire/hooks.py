"""What hooks are told, and what is told of hooks. The events are an interface to others: docs/hooks.md."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec


class EventKind(StrEnum):
    """What may have happened."""

    MOVED = "guest.moved"
    """A guest lives on another host."""
    MOVE_FAILED = "guest.move-failed"
    """A move was rolled back, or aborted: the guest lives where it lived."""
    LOST = "guest.lost"
    """A guest's QEMU died during a move: it belongs to its host, and runs nowhere."""
    TEST = "hooks.test"
    """Somebody tries whether hooks work."""


class GuestNews(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about a guest. Times in ISO 8601, UTC, on the telling host's clock."""

    guest: str
    uuid: str
    macs: tuple[str, ...]
    """MAC addresses of its NICs."""
    host: str
    """Where the guest lives from now on."""
    epoch: int
    """Grows with each change of owner: what an event with a lower epoch says of this guest is outdated."""
    move: str
    source: str
    destination: str
    began: str
    ended: str
    blackout_ms: float | None = None
    """Milliseconds for which nobody ran the guest, as measured; None where it was not."""
    error: dict[str, str] | None = None
    """`code` and `what` of a move that failed."""


class HookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event; as JSON, the body that every hook gets. The same at each attempt."""

    id: str
    type: str
    timestamp: str
    """When it happened."""
    teller: str
    """The host, or the controller, that tells."""
    data: dict[str, Any]


class HookShown(msgspec.Struct, frozen=True, kw_only=True):
    """How a hook fares; times in seconds since 1970. Counts are over the life of the hook's records."""

    name: str
    kind: str
    """`url`, `command` or `file`."""
    target: str
    events: tuple[str, ...] = ()
    """Kinds that it is told of; all when empty."""
    delivered: int = 0
    failed: int = 0
    """Attempts that failed."""
    given_up: int = 0
    """Events that were never delivered, and will not be."""
    waiting: int = 0
    """Events that are still to be delivered."""
    oldest_waiting: float | None = None
    next_attempt: float | None = None
    last_delivery: float | None = None
    last_error: str = ""
    """Why the latest attempt failed; empty when it succeeded."""
    last_given_up: float | None = None
    given_up_event: str = ""
    """Id and kind of the event that was given up last, and its guest."""


class HookTried(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook answered to a test event."""

    name: str
    delivered: bool
    answer: str
    seconds: float


def stamp(at: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC: `2026-03-01T12:00:00.250Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class HookMeant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/hooks/test: a hook's name, or nothing for all of them."""

    hook: Annotated[str, msgspec.Meta(max_length=2000, pattern=r"^[^\x00]*$")] = ""
