"""JSON over plain HTTP/1.1, on whatever way a stream of bytes goes: what agents' and controllers' clients share.

By the standard library: see docs/decisions/0001-the-client-speaks-http-by-the-standard-library.md.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from limosa.cli.transport import AGENT, Peer
from limosa.errors import LimosaError, from_wire

if TYPE_CHECKING:
    from limosa.cli.transport import Way

T = TypeVar("T")

ANSWER_SECONDS = 30.0
SILENCE_SECONDS = 15.0
"""A stream of events that is silent for so long is asked for anew."""
RECONNECT_SECONDS = 0.5

_GONE_WHILE_IDLE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
_BETWEEN = frozenset({502, 503, 504})
"""What a proxy answers with where the server behind it does not."""


class _Stream(http.client.HTTPConnection):
    """An HTTP connection over a socket that a `Way` opened."""

    def __init__(self, way: Way) -> None:
        super().__init__(way.peer.authority)
        self._way = way

    def connect(self) -> None:
        self.sock = self._way.connect()


class Rest:
    """One kept-alive connection for calls, and one for each stream of events.

    Raises the errors that the peer sent, and its way's own where it does not answer.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._peer = way.peer
        self._calls = _Stream(way)
        self._aside: list[_Stream] = []

    def close(self) -> None:
        """Close the connection, and whatever carried it."""
        for stream in (self._calls, *self._aside):
            stream.close()
        self._way.close()

    def get(self, path: str, kind: type[T]) -> T:
        """What is at `path`."""
        return decoded(self.ask("GET", path), kind, self._peer)

    def post(self, path: str, body: Any, kind: type[T], *, seconds: float = ANSWER_SECONDS, key: str = "") -> T:
        """Ask for a deed; with a key, repeating it is harmless."""
        return decoded(self.ask("POST", path, body, seconds=seconds, key=key), kind, self._peer)

    def put(self, path: str, body: Any, kind: type[T]) -> T:
        """Replace what is at `path`."""
        return decoded(self.ask("PUT", path, body), kind, self._peer)

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = ANSWER_SECONDS, key: str = "") -> bytes:
        """One request on the kept-alive connection; the answer's body.

        Raises:
            AgentUnreachable, ControllerUnreachable: no peer, or no answer within `seconds`.
            LimosaError: the peer's own error.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        headers |= {"Idempotency-Key": key} if key else {}
        with self._translated(seconds):
            try:
                return self._exchange(method, path, content, headers, seconds)
            except BaseException:
                # Interrupted, too: what is left in the pipe would be taken for the next answer.
                self._calls.close()
                raise

    def ask_aside(self, method: str, path: str) -> None:
        """Ask on a connection of its own, and leave the answer unread."""
        stream = _Stream(self._way)
        with self._translated():
            stream.connect()
            self._request(stream, method, path, None, {})
        self._aside.append(stream)  # the peer might take a closed stream for a change of mind

    def followed(self, path: str, kind: type[T], *, now: Callable[[], T], over: Callable[[T], bool]) -> Iterator[T]:
        """What the events at `path` tell, to the final one; at a heartbeat the latest again.

        A stream that breaks off or falls silent is asked for again: an interrupted watch shows the end all the same.

        Args:
            path: of a stream of server-sent events, each a `kind`.
            kind: their type.
            now: asks for the present state, and tells whether the peer is still there.
            over: whether nothing will follow.
        """
        while True:
            try:
                for told in self._events(path, kind):
                    yield told
                    if over(told):
                        return
            except (OSError, http.client.HTTPException, self._peer.lost):
                pass  # asked for again below, by a call that tells whether the peer is still there
            told = now()
            yield told
            if over(told):
                return
            time.sleep(RECONNECT_SECONDS)  # nothing announces that a stream will last this time

    def _events(self, path: str, kind: type[T]) -> Iterator[T]:
        stream = _Stream(self._way)
        try:
            with self._translated():
                stream.connect()
                stream.sock.settimeout(SILENCE_SECONDS)
                self._request(stream, "GET", path, None, {"Accept": "text/event-stream"})
                answer = stream.getresponse()
                if answer.status != 200:
                    raise refusal(answer.status, answer.read(), self._peer)
            told = None
            for data in server_sent(answer):
                told = decoded(data, kind, self._peer) if data is not None else told
                if told is not None:
                    yield told
        finally:
            stream.close()

    def _exchange(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], seconds: float
    ) -> bytes:
        reused = self._calls.sock is not None
        try:
            answer = self._send(method, path, content, headers, seconds)
        except _GONE_WHILE_IDLE:
            if not reused:
                raise
            # A server may close a kept-alive connection at any time; it has then not begun with this request.
            self._calls.close()
            answer = self._send(method, path, content, headers, seconds)
        told = answer.read()
        if not 200 <= answer.status < 300:
            raise refusal(answer.status, told, self._peer)
        return told

    def _send(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], seconds: float
    ) -> http.client.HTTPResponse:
        if self._calls.sock is None:
            self._calls.connect()
        self._calls.sock.settimeout(seconds)
        self._request(self._calls, method, path, content, headers)
        return self._calls.getresponse()

    def _request(
        self, stream: _Stream, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> None:
        stream.request(method, self._peer.prefix + path, body=content, headers={**self._peer.headers, **headers})

    @contextmanager
    def _translated(self, seconds: float = SILENCE_SECONDS) -> Iterator[None]:
        """Foreign exceptions become limosa's at this door."""
        peer = self._peer
        try:
            yield
        except TimeoutError as error:
            raise peer.lost(
                f"{peer.name} did not answer within {seconds:.0f} s", remedy="look at its log, and try again"
            ) from error
        except (http.client.HTTPException, OSError) as error:
            said = self._way.why_lost()
            raise peer.lost(
                f"the connection to {peer.name} broke off",
                remedy=_after_loss(said, peer),
                detail=said or str(error),
            ) from error


def _after_loss(said: str, peer: Peer) -> str:
    if "command not found" in said or "No such file" in said:
        return "install limosa on that host, where root's PATH finds it"
    return peer.if_lost


def decoded(told: bytes, kind: type[T], peer: Peer = AGENT) -> T:
    """Strictly typed JSON.

    Raises:
        LimosaError: the peer says something this version does not know, or is no limosa at all.
    """
    try:
        return msgspec.json.decode(told, type=kind)
    except msgspec.ValidationError as error:
        raise LimosaError(
            f"the answer of {peer.name} is not what this limosa expects",
            remedy="install the same version of limosa at both ends (limosa --version)",
            detail=str(error),
        ) from error
    except msgspec.DecodeError as error:
        raise peer.strange(
            f"{peer.name} answered with what is no JSON", remedy=peer.if_strange, detail=_start(told)
        ) from error


def refusal(status: int, told: bytes, peer: Peer = AGENT) -> LimosaError:
    """The error that an answer other than 2xx carries, or the one it means where limosa did not write it."""
    try:
        value = msgspec.json.decode(told)
    except msgspec.DecodeError:
        value = None
    if isinstance(value, dict) and "code" in value and "what" in value:
        return from_wire(value)
    if status in _BETWEEN:
        return peer.lost(
            f"something in front of {peer.name} answers in its place, with HTTP status {status}",
            remedy=f"look whether {peer.name} runs, and try again",
            detail=_start(told),
        )
    what = f"{peer.name} answered with HTTP status {status}"
    return peer.strange(what, remedy=peer.if_strange, detail=_start(told))


def _start(told: bytes) -> str:
    return told[:500].decode(errors="replace")


def server_sent(lines: Iterable[bytes]) -> Iterator[bytes | None]:
    """The data of each server-sent event, and None for each comment: a heartbeat. Other fields are passed over.

    Source: WHATWG HTML, 9.2.6 Interpreting an event stream.
    """
    data: list[bytes] = []
    for line in lines:
        line = line.rstrip(b"\r\n")
        if line.startswith(b":"):
            yield None
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
