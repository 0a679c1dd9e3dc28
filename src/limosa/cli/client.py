"""The agent's API, spoken over any way to it: plain HTTP/1.1 by the standard library.

aiohttp serves the agent but costs a command a quarter of a second to import; see
docs/decisions/0001-the-client-speaks-http-by-the-standard-library.md.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from limosa.cli.transport import Way
from limosa.errors import AgentUnreachable, LimosaError, from_wire
from limosa.units import MoveId
from limosa.wire.doctor import Diagnosis
from limosa.wire.guests import GuestShown, Hello, HostShown
from limosa.wire.moves import MoveRequest, MoveStatus, PlanShown

if TYPE_CHECKING:
    from limosa.cpu.facts import HostCpu

T = TypeVar("T")

ANSWER_SECONDS = 30.0
PLAN_SECONDS = 300.0
"""A plan starts the real twin and reads two machines."""
SILENCE_SECONDS = 15.0
"""A stream of events that is silent for so long is asked for anew."""
RECONNECT_SECONDS = 0.5

_GONE_WHILE_IDLE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


class _Stream(http.client.HTTPConnection):
    """An HTTP connection over a socket that a `Way` opened."""

    def __init__(self, way: Way) -> None:
        super().__init__("limosa-agent")
        self._way = way

    def connect(self) -> None:
        self.sock = self._way.connect()


class AgentClient:
    """One agent's API. Raises the errors that the agent sent, and AgentUnreachable where none answers."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._calls = _Stream(way)
        self._aside: list[_Stream] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and whatever carried it."""
        for stream in (self._calls, *self._aside):
            stream.close()
        self._way.close()

    def hello(self) -> Hello:
        """What the agent says of itself."""
        return decoded(self.ask("GET", "/v1/hello"), Hello)

    def guests(self) -> tuple[GuestShown, ...]:
        """The guests on the agent's host."""
        return decoded(self.ask("GET", "/v1/guests"), tuple[GuestShown, ...])

    def profile(self, guest: str) -> bytes:
        """A guest's profile as JSON, by name, uuid or pid."""
        return self.ask("GET", f"/v1/guests/{quote(guest, safe='')}/profile")

    def hosts(self) -> tuple[HostShown, ...]:
        """The hosts the agent knows."""
        return decoded(self.ask("GET", "/v1/hosts"), tuple[HostShown, ...])

    def cpu(self, host: str, *, machine: str = "", version: str = "", accel: str = "") -> HostCpu:
        """What a known host can give to guests; machine, version and accelerator are those of one guest."""
        from limosa.cpu.facts import HostCpu  # its table of flags is for those who ask

        meant = {"machine": machine, "version": version, "accel": accel}
        query = urlencode({key: value for key, value in meant.items() if value})
        return decoded(self.ask("GET", f"/v1/hosts/{quote(host, safe='')}/cpu?{query}"), HostCpu)

    def doctor(self, *, fix: bool) -> Diagnosis:
        """What is wrong on the hosts that the agent knows."""
        told = self.ask("POST", "/v1/doctor/fix") if fix else self.ask("GET", "/v1/doctor")
        return decoded(told, Diagnosis)

    def resolve(self, guest: str, evidence: str) -> MoveStatus:
        """End a doubt on somebody's word; answers at once, the move then comes to rest."""
        path = f"/v1/guests/{quote(guest, safe='')}/resolve"
        return decoded(self.ask("POST", path, {"evidence": evidence}), MoveStatus)

    def plan(self, request: MoveRequest) -> PlanShown:
        """Check and rehearse a move."""
        return decoded(self.ask("POST", "/v1/plan", request, seconds=PLAN_SECONDS), PlanShown)

    def start(self, request: MoveRequest) -> MoveStatus:
        """Start a move; answers at once."""
        return decoded(self.ask("POST", "/v1/moves", request), MoveStatus)

    def moves(self) -> tuple[MoveStatus, ...]:
        """The moves this agent drives or has driven."""
        return decoded(self.ask("GET", "/v1/moves"), tuple[MoveStatus, ...])

    def move(self, move: str) -> MoveStatus:
        """One move as it stands."""
        return decoded(self.ask("GET", _move(move)), MoveStatus)

    def abort(self, move: str) -> MoveStatus:
        """Abort a move. The answer comes when it is rolled back."""
        return decoded(self.ask("POST", _move(move, "abort"), seconds=PLAN_SECONDS), MoveStatus)

    def ask_abort(self, move: str) -> None:
        """Ask for an abort, and leave its answer to the move's events."""
        stream = _Stream(self._way)
        with self._translated():
            stream.connect()
            stream.request("POST", _move(move, "abort"))
        self._aside.append(stream)  # the agent might take a closed stream for a change of mind

    def speed(self, move: str, bytes_per_second: int) -> MoveStatus:
        """Change a move's bandwidth; 0 lifts its cap."""
        answer = self.ask("POST", _move(move, "speed"), {"bytes_per_second": bytes_per_second})
        return decoded(answer, MoveStatus)

    def events(self, move: str) -> Iterator[MoveStatus]:
        """A move's status at each change, the present one first, the final one last.

        A stream that breaks off or falls silent is asked for again: watching never ends a move, and an
        interrupted watch shows the end all the same.
        """
        while True:
            try:
                for status in self._event_stream(move):
                    yield status
                    if status.state.over:
                        return
            except (TimeoutError, http.client.HTTPException, ConnectionError):
                pass  # asked for again below, by a call that tells whether the agent is still there
            status = self.move(move)
            yield status
            if status.state.over:
                return
            time.sleep(RECONNECT_SECONDS)  # nothing announces that a stream will last this time

    def _event_stream(self, move: str) -> Iterator[MoveStatus]:
        stream = _Stream(self._way)
        try:
            with self._translated():
                stream.connect()
                stream.sock.settimeout(SILENCE_SECONDS)
                stream.request("GET", _move(move, "events"), headers={"Accept": "text/event-stream"})
                answer = stream.getresponse()
                if answer.status != 200:
                    raise refusal(answer.status, answer.read())
            for data in server_sent(answer):
                yield decoded(data, MoveStatus)
        finally:
            stream.close()

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = ANSWER_SECONDS) -> bytes:
        """One request on the kept-alive connection; the answer's body.

        Raises:
            AgentUnreachable: no agent, or no answer within `seconds`.
            LimosaError: the agent's own error.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        with self._translated(seconds):
            try:
                return self._exchange(method, path, content, headers, seconds)
            except BaseException:
                # Interrupted, too: what is left in the pipe would be taken for the next answer.
                self._calls.close()
                raise

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
            raise refusal(answer.status, told)
        return told

    def _send(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str], seconds: float
    ) -> http.client.HTTPResponse:
        if self._calls.sock is None:
            self._calls.connect()
        self._calls.sock.settimeout(seconds)
        self._calls.request(method, path, body=content, headers=headers)
        return self._calls.getresponse()

    @contextmanager
    def _translated(self, seconds: float = SILENCE_SECONDS) -> Iterator[None]:
        """Foreign exceptions become limosa's at this door."""
        try:
            yield
        except TimeoutError as error:
            raise AgentUnreachable(
                f"the agent did not answer within {seconds:.0f} s", remedy="look at its log, and try again"
            ) from error
        except (http.client.HTTPException, OSError) as error:
            said = self._way.why_lost()
            raise AgentUnreachable(
                "the connection to the agent broke off", remedy=_after_loss(said), detail=said or str(error)
            ) from error


def _after_loss(said: str) -> str:
    if "command not found" in said or "No such file" in said:
        return "install limosa on that host, where root's PATH finds it"
    return "look whether the agent runs, and try again"


def _move(move: str, deed: str = "") -> str:
    return f"/v1/moves/{quote(MoveId(move), safe='')}" + (f"/{deed}" if deed else "")


def decoded(told: bytes, kind: type[T]) -> T:
    """Strictly typed JSON.

    Raises:
        LimosaError: the agent says something this version does not know.
    """
    try:
        return msgspec.json.decode(told, type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise LimosaError(
            "the agent's answer is not what this limosa expects",
            remedy="install the same version of limosa at both ends (limosa --version)",
            detail=str(error),
        ) from error


def refusal(status: int, told: bytes) -> LimosaError:
    """The error that an answer other than 2xx carries."""
    try:
        value = msgspec.json.decode(told)
    except msgspec.DecodeError:
        value = None
    if isinstance(value, dict) and "code" in value:
        return from_wire(value)
    return LimosaError(
        f"the agent answered with HTTP status {status}",
        remedy="install the same version of limosa at both ends (limosa --version)",
        detail=told[:500].decode(errors="replace"),
    )


def server_sent(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event; comments (the agent's heartbeat) and other fields are passed over.

    Source: WHATWG HTML, 9.2.6 Interpreting an event stream.
    """
    data: list[bytes] = []
    for line in lines:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data = []
