"""The network between model hosts: connections that carry a peer link's frames, and may fall silent."""

import asyncio
from typing import Protocol

import msgspec

from limosa.agent.link import ChannelClosed
from limosa.wire.rpc import Failure, Frame, Request, Result

LATENCY = 0.0005
"""Seconds that a frame takes."""

_frames: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class Network(Protocol):
    """What a connection asks of the world."""

    def at(self, point: str) -> None:
        """A point at which something may fail."""

    def reaches(self, source: str, destination: str) -> bool:
        """Whether what one host sends arrives at the other."""

    def delivered(self, destination: str, source: str, request: Request) -> None:
        """A call has arrived; kept, for repeating it."""


class End:
    """One end of a connection: a `limosa.agent.link.Channel`.

    What is sent while the line is cut waits, as TCP would resend it, and arrives when the line is whole again,
    unless an end has given up by then.
    """

    def __init__(self, network: Network, here: str, there: str) -> None:
        self.local_address, self.peer_address = here, there
        self.other: End | None = None
        self.closed = False
        self._network = network
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._stuck: list[bytes | None] = []
        self.answers: dict[int, str] = {}

    async def send(self, message: bytes) -> None:
        """Send one frame."""
        if self.closed:
            raise ChannelClosed("closed")
        self._point(message, "sent")
        self.put(message)

    def put(self, message: bytes | None) -> None:
        """Let a frame travel; None is the end of the stream."""
        if self._stuck or not self._network.reaches(self.local_address, self.peer_address):
            self._stuck.append(message)
        else:
            asyncio.get_running_loop().call_later(LATENCY, self._arrive, message)

    def healed(self) -> None:
        """The line is whole: what waited travels now."""
        if self._network.reaches(self.local_address, self.peer_address):
            stuck, self._stuck = self._stuck, []
            for message in stuck:
                self.put(message)

    async def receive(self) -> bytes:
        """The next frame."""
        message = await self.incoming.get()
        if message is None or self.closed:
            self.closed = True
            raise ChannelClosed("closed by the other end")
        self._point(message, "arrived")
        return message

    async def close(self, _reason: str) -> None:
        """Let go."""
        self.drop()

    def drop(self) -> None:
        """End it without waiting; the other end learns of it if the line is whole."""
        if not self.closed:
            self.closed = True
            self.put(None)

    def _arrive(self, message: bytes | None) -> None:
        assert self.other is not None
        self.other.incoming.put_nowait(message)

    def _point(self, message: bytes, moment: str) -> None:
        frame = _frames.decode(message)
        if isinstance(frame, Request):
            if moment == "sent":
                assert self.other is not None
                self.other.answers[frame.id] = frame.method
            else:
                self._network.delivered(self.local_address, self.peer_address, frame)
            self._network.at(f"{frame.method} {moment}")
        elif isinstance(frame, Result | Failure):
            answers = self.answers if moment == "sent" else (self.other.answers if self.other else {})
            self._network.at(f"answer to {answers.get(frame.id)} {moment}")


def connection(network: Network, a: str, b: str) -> tuple[End, End]:
    """Both ends of a new connection."""
    one, other = End(network, a, b), End(network, b, a)
    one.other, other.other = other, one
    return one, other
