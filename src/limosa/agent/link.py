"""One open link between two agents: many calls in flight, signs of life, and one clear end.

What a link runs on is a `Channel`: a WebSocket over mutual TLS (`peer.py`), or two queues (`loopback`).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol, TypeVar, assert_never

import msgspec
import structlog

from limosa.errors import LimosaError, PeerError, UsageError, from_wire
from limosa.units import HostName, Seconds
from limosa.wire.rpc import Beat, Cancel, Echo, Failure, Frame, Handlers, Request, Result

T = TypeVar("T")

BEAT_EVERY = 1.0
"""Seconds between two signs of life."""

_TICKS = 10
"""Looks at the silence within its limit."""

_log = structlog.get_logger()
_encode = msgspec.msgpack.Encoder().encode
_frames: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


class ChannelClosed(Exception):
    """A channel ended, or carried something that is not ours; the text says why."""


class Channel(Protocol):
    """Carries whole messages, in order, to one other agent."""

    @property
    def local_address(self) -> str:
        """IP address of this end."""

    @property
    def peer_address(self) -> str:
        """IP address of the other end."""

    async def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            ChannelClosed: it has ended.
        """

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            ChannelClosed: it has ended.
        """

    async def close(self, reason: str) -> None:
        """Tell the other end, if it still listens, and let go. Does not wait long for anybody."""


Heard = Callable[[str, str], None]
"""Is told of each call that ended: its method, and the code of its error; empty where it had none."""

ROUND_TRIPS = 10
"""Beats, one a second, over which the round trip is taken."""


class PeerLink:
    """A link over a channel; a `limosa.wire.rpc.Caller`. Both ends may call.

    Create it in a running loop; it works until `close`, or until the channel ends, is silent for longer than
    `silence` seconds, or carries nonsense. Then calls in flight end in PeerError, handlers that the other
    end started are cancelled, and `gone` returns.
    """

    def __init__(
        self, host: HostName, channel: Channel, handlers: Handlers, *, silence: Seconds, heard: Heard | None = None
    ) -> None:
        self.host = host
        self._heard = heard
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._channel = channel
        self._handlers = handlers
        self._silence = silence
        self._clock = asyncio.get_running_loop().time
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._sending: set[asyncio.Timeout] = set()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._aside: set[asyncio.Task[None]] = set()
        self._lost = asyncio.Event()
        self._reason = ""
        self._quiet = 0
        self._life = asyncio.create_task(self._live(), name=f"link to {host}")

    @property
    def local_address(self) -> str:
        """Address of this host on this link."""
        return self._channel.local_address

    @property
    def peer_address(self) -> str:
        """Address of the other host on this link."""
        return self._channel.peer_address

    @property
    def lost(self) -> bool:
        """True when the link is over."""
        return self._lost.is_set()

    @property
    def reason(self) -> str:
        """Why it is over; empty while it is not."""
        return self._reason

    @property
    def round_trip(self) -> float | None:
        """The shortest of the latest beats' round trips, in seconds: the link's own, without either host's hiccups."""
        return min(self._round_trips, default=None)

    async def call(
        self, method: str, params: msgspec.Struct | None, result: type[T], *, timeout: float | None = None
    ) -> T:
        """Ask the other agent; see `limosa.wire.rpc.Caller.call`."""
        cause = ""
        try:
            return await self._call(method, params, result, timeout)
        except LimosaError as error:
            cause = error.code
            raise
        finally:
            if self._heard is not None:
                self._heard(method, cause)

    async def _call(self, method: str, params: msgspec.Struct | None, result: type[T], timeout: float | None) -> T:
        if self.lost:
            raise self._error(f"{method} was not sent")
        call = next(self._ids)
        answer = self._waiting[call] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout) as limit:
                self._sending.add(limit)
                try:
                    await self._send(Request(call, method, msgspec.Raw(_encode(params))))
                finally:
                    self._sending.discard(limit)
                value: T = _decoder(result).decode(await answer)
                return value
        except (TimeoutError, asyncio.CancelledError) as error:
            if not self.lost:
                self._send_beside(Cancel(call))
            if isinstance(error, TimeoutError):
                if self.lost:
                    raise self._error(f"{method} could not be sent") from error
                raise PeerError(f"{self.host} did not answer {method} within {timeout} s") from error
            raise
        except ChannelClosed as error:
            raise self._error(f"{method} was in flight") from error
        except msgspec.MsgspecError as error:
            raise PeerError(f"{self.host} answered {method} with nonsense: {error}", remedy=_SAME_VERSION) from error
        finally:
            del self._waiting[call]

    async def gone(self) -> None:
        """Return as soon as the link is lost."""
        await self._lost.wait()

    async def close(self, reason: str = "closed") -> None:
        """End the link, and wait until its handlers here have ended too."""
        self._lose(reason)
        await self._life

    async def wait_over(self) -> None:
        """Return when the link is lost and its handlers here have ended."""
        await asyncio.shield(self._life)

    # -- life ---------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for deed in (self._read(), self._beat(), self._listen_for_silence(), self._until_lost()):
                    group.create_task(deed)
        except* _Lost:
            pass
        finally:
            self._lose("internal error")
            tasks = [*self._running.values(), *self._aside]
            for task in tasks:
                task.cancel()
            await self._channel.close(self._reason)  # first, so that the other end learns of it at once
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_lost(self) -> None:
        await self._lost.wait()
        raise _Lost

    def _lose(self, reason: str) -> None:
        if self.lost:
            return
        self._reason = reason
        self._lost.set()
        for limit in self._sending:  # the channel may never take these, and never refuse them
            limit.reschedule(self._clock())
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._error("it had not answered yet"))
                answer.exception()  # a caller that was cancelled meanwhile will not look

    def _error(self, state: str) -> PeerError:
        return PeerError(
            f"the link to {self.host} is lost ({self._reason}): {state}",
            remedy=f"see whether the agent on {self.host} runs and can be reached: limosa hosts",
        )

    async def _read(self) -> None:
        try:
            while True:
                message = await self._channel.receive()
                self._quiet = 0
                self._take(_frames.decode(message))
        except ChannelClosed as error:
            self._lose(str(error))
        except (msgspec.MsgspecError, ValueError) as error:
            _log.warning("peer sent nonsense", peer=self.host, address=self.peer_address, error=str(error))
            self._lose(f"it sent nonsense: {error}")

    async def _listen_for_silence(self) -> None:
        # Ticks are counted, not seconds: when this process itself stood still (a busy loop, a suspended host), what
        # the peer said meanwhile waits to be read, and must be read before it is called silent.
        while self._quiet < _TICKS:
            await asyncio.sleep(self._silence / _TICKS)
            self._quiet += 1
        self._lose(f"no sign of life for {self._silence:g} s")

    async def _beat(self) -> None:
        try:
            while True:
                await self._send(Beat(self._clock()))
                await asyncio.sleep(BEAT_EVERY)
        except ChannelClosed as error:
            self._lose(str(error))

    # -- frames -------------------------------------------------------------------------------------------

    async def _send(self, frame: Frame) -> None:
        await self._channel.send(_encode(frame))

    async def _try_send(self, frame: Frame) -> None:
        try:
            await self._send(frame)
        except ChannelClosed:
            return  # the reader sees the same end, and ends the link

    def _send_beside(self, frame: Frame) -> None:
        """Send what nobody waits for."""
        task = asyncio.create_task(self._try_send(frame))
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def _take(self, frame: Frame) -> None:
        match frame:
            case Request(id=call):
                if call in self._running:
                    raise ValueError(f"two calls with number {call}")
                self._running[call] = task = asyncio.create_task(self._serve(frame))
                task.add_done_callback(lambda _: self._running.pop(call))
            case Result(id=call, value=value):
                if (answer := self._waiting.get(call)) and not answer.done():
                    answer.set_result(value)
            case Failure(id=call, error=told):
                if (answer := self._waiting.get(call)) and not answer.done():
                    answer.set_exception(from_wire(told))
            case Cancel(id=call):
                if running := self._running.get(call):
                    running.cancel()
            case Beat(sent=sent):
                self._send_beside(Echo(sent))
            case Echo(sent=sent):
                self._round_trips.append(self._clock() - sent)
            case _:
                assert_never(frame)

    async def _serve(self, request: Request) -> None:
        try:
            answer: Frame = Result(request.id, msgspec.Raw(_encode(await self._handle(request))))
        except LimosaError as error:
            answer = Failure(request.id, error.to_wire())
        except asyncio.CancelledError:
            if self.lost:
                raise
            answer = Failure(request.id, PeerError(f"{request.method} was cancelled").to_wire())
        except Exception as error:  # noqa: BLE001  (the caller is told, and the link lives on)
            _log.exception("a call from a peer failed", peer=self.host, method=request.method)
            what = f"{request.method} failed with an internal error: {type(error).__name__}: {error}"
            answer = Failure(request.id, LimosaError(what, remedy="see that agent's log, and report it").to_wire())
        await self._try_send(answer)

    async def _handle(self, request: Request) -> object:
        if request.method not in self._handlers:
            raise UsageError(f"the agent does not know the call {request.method}", remedy=_SAME_VERSION)
        kind, run = self._handlers[request.method]
        try:
            params = _decoder(kind).decode(request.params)
        except msgspec.MsgspecError as error:
            raise UsageError(f"{request.method}: {error}", remedy=_SAME_VERSION) from error
        return await run(params, self.host)


_SAME_VERSION = "run the same version of limosa on both hosts"


class _Lost(Exception):
    """Ends the tasks of a link."""


_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def _decoder(kind: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    """A decoder, made once for each type: there are as many as there are calls."""
    if kind not in _decoders:
        _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return _decoders[kind]


class _Queues:
    """One end of a channel inside this process."""

    def __init__(self, incoming: asyncio.Queue[bytes | None], outgoing: asyncio.Queue[bytes | None]) -> None:
        self.local_address = self.peer_address = "127.0.0.1"
        self._incoming, self._outgoing = incoming, outgoing
        self._closed = False

    async def send(self, message: bytes) -> None:
        if self._closed:
            raise ChannelClosed("closed")
        self._outgoing.put_nowait(message)

    async def receive(self) -> bytes:
        message = await self._incoming.get()
        if message is None:
            self._closed = True
            raise ChannelClosed("closed by the other end")
        return message

    async def close(self, _reason: str) -> None:
        self._closed = True
        self._outgoing.put_nowait(None)


def loopback(
    a: HostName,
    b: HostName,
    handlers_of_a: Handlers,
    handlers_of_b: Handlers,
    *,
    silence: Seconds = Seconds(5.0),  # noqa: B008  (a NewType, not a call that does anything)
) -> tuple[PeerLink, PeerLink]:
    """Two agents' ends of one link, within one process: for tests. The first is a's link to b."""
    to_a: asyncio.Queue[bytes | None] = asyncio.Queue()
    to_b: asyncio.Queue[bytes | None] = asyncio.Queue()
    return (
        PeerLink(b, _Queues(to_a, to_b), handlers_of_a, silence=silence),
        PeerLink(a, _Queues(to_b, to_a), handlers_of_b, silence=silence),
    )
