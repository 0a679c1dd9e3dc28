"""Calls between two agents: the frames on a peer link, and what callers and handlers look like.

A link carries MessagePack frames, many calls at a time. One side sends `Request`s; for each the other
answers one `Result` or one `Failure`, in any order. `Cancel` takes a request back: its handler is
cancelled, and still answers. `Beat` is answered by `Echo`; each side sends one a second, so that a peer
that hangs, or a cable that is out, is told from one that has nothing to say.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from limosa.units import HostName

T = TypeVar("T")

PROTOCOL = 1
"""Part of the link's path; raised when an older agent would misunderstand a frame or a call."""

LARGEST_MESSAGE = 64 * 1024**2
"""Bytes in one frame; a larger one closes the link."""

Handler = tuple[type[Any], Callable[[Any, HostName], Awaitable[Any]]]
"""Type of the parameters (`type(None)` for a call without), and what answers.

The handler gets the parameters and the name of the calling host, as its certificate says it. It may raise
LimosaError, which the caller sees as it is. **It is cancelled when its caller cancels the call, and when
the link is lost**; so a handler that waits for ever is how one end learns that the other is gone.
"""

Handlers = Mapping[str, Handler]


class Caller(Protocol):
    """The other host's agent, as whoever calls it sees it."""

    @property
    def host(self) -> HostName:
        """Its name, proved by its certificate."""

    @property
    def local_address(self) -> str:
        """Address of this host on this link."""

    @property
    def peer_address(self) -> str:
        """Address of the other host on this link."""

    @property
    def round_trip(self) -> float | None:
        """Seconds for a beat and its echo, the shortest of the latest ones; None before the first."""

    async def call(
        self, method: str, params: msgspec.Struct | None, result: type[T], *, timeout: float | None = None
    ) -> T:
        """Ask the other agent; `result` is the type its answer must have.

        Cancelling the call cancels its handler over there.

        Args:
            method: name of the handler.
            params: its parameters.
            result: type of the answer; `type(None)` where there is none.
            timeout: seconds; None waits for as long as the link lives.

        Raises:
            LimosaError: whatever the handler raised.
            PeerError: the link is or was lost, the time limit passed, or the answer makes no sense. What
                was asked for may have happened.
        """

    async def gone(self) -> None:
        """Return as soon as the link is lost, however that came about."""


class Request(msgspec.Struct, frozen=True, tag="request"):
    """A call."""

    id: int
    method: str
    params: msgspec.Raw


class Result(msgspec.Struct, frozen=True, tag="result"):
    """A call's answer."""

    id: int
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The error a call ended in, as `LimosaError.to_wire` gives it."""

    id: int
    error: dict[str, Any]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The caller no longer wants the answer."""

    id: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A sign of life; `sent` is in seconds on the sender's own clock."""

    sent: float


class Echo(msgspec.Struct, frozen=True, tag="echo"):
    """Answer to a beat."""

    sent: float


Frame = Request | Result | Failure | Cancel | Beat | Echo
