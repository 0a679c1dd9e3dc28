"""The API on the agent's unix socket: plain HTTP/1.1 with JSON bodies, root and group `limosa` only.

    GET  /v1/hello                     Hello
    GET  /v1/guests                    [GuestShown]
    GET  /v1/guests/{guest}/profile    Profile; guest is a name, UUID or pid
    GET  /v1/hosts                     [HostShown]; asks every peer
    GET  /v1/hosts/{host}/cpu          HostCpu; ?machine=M&version=X.Y.Z&accel=A names the guest it is for
    POST /v1/guests/{guest}/resolve    {"evidence": TEXT} -> MoveStatus; ends a doubt on the caller's word
    GET  /v1/hooks                     [HookShown]
    POST /v1/hooks/test                {"hook": NAME} -> [HookTried]; sends a test event, to every hook without a name
    GET  /v1/doctor                    Diagnosis; asks every peer
    POST /v1/doctor/fix                Diagnosis, after what is proved unused on this host was removed
    POST /v1/plan                      MoveRequest -> PlanShown; changes nothing
    POST /v1/moves                     MoveRequest -> 202 MoveStatus
    GET  /v1/moves                     [MoveStatus]
    GET  /v1/moves/{move}              MoveStatus
    GET  /v1/moves/{move}/events       server-sent events, each a MoveStatus; ends after the final one
    POST /v1/moves/{move}/abort        MoveStatus after the roll-back
    POST /v1/moves/{move}/speed        {"bytes_per_second": N} -> MoveStatus; 0 lifts the cap
    POST /v1/web-link                  WebLink; where a browser is let in, once

An error is a status of 400 or more and the error as `LimosaError.to_wire` gives it.
"""

import asyncio
import grp
import os
import pwd
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from limosa.agent.browsers import gate
from limosa.agent.config import Config
from limosa.agent.cpu import CpuAsk
from limosa.cpu.facts import HostCpu
from limosa.errors import (
    AgentUnreachable,
    Blocked,
    Forbidden,
    LimosaError,
    MonitorBusy,
    MonitorMissing,
    MoveInDoubt,
    NotFound,
    PeerError,
    StateDiskError,
    TwinDiffers,
    UsageError,
)
from limosa.guest.profile import Profile
from limosa.units import HostName
from limosa.wire.doctor import Diagnosis
from limosa.wire.guests import GuestShown, Hello, HostShown
from limosa.wire.hooks import HookMeant, HookShown, HookTried
from limosa.wire.moves import MoveRequest, MoveStatus, PlanShown

T = TypeVar("T")

GROUP = "limosa"
EVENT_SPACING = 0.2
"""Seconds between two events of one stream, at the least."""
EVENT_SILENCE = 5.0
"""Seconds after which a stream without news carries a comment, so that a dead client is noticed."""

_log = structlog.get_logger()
_STATUS: tuple[tuple[type[LimosaError], int], ...] = (
    (UsageError, 400),
    (Forbidden, 403),
    (NotFound, 404),
    (Blocked, 409),
    (MonitorBusy, 409),
    (MonitorMissing, 409),
    (TwinDiffers, 409),
    (MoveInDoubt, 409),
    (StateDiskError, 503),
    (PeerError, 502),
    (AgentUnreachable, 503),
)


class Speed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST …/speed."""

    bytes_per_second: float


class Fenced(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST …/resolve: how the caller knows that the other host does not run the guest."""

    evidence: str


class Engine(Protocol):
    """What moves guests: `limosa.migration.moves.Moves`."""

    async def plan(self, request: MoveRequest) -> PlanShown:
        """Check and rehearse; change nothing."""

    async def start(self, request: MoveRequest) -> MoveStatus:
        """Begin a move."""

    def get(self, move: str) -> MoveStatus:
        """One move as it stands."""

    def all(self) -> tuple[MoveStatus, ...]:
        """Every move that is remembered."""

    def watch(self, move: str) -> AsyncIterator[MoveStatus]:
        """A move at each change, to its end."""

    async def abort(self, move: str) -> MoveStatus:
        """Roll a move back, and wait for it."""

    def resolve(self, guest: str, who: str, evidence: str) -> MoveStatus:
        """Take a guest back that is in doubt."""

    async def set_speed(self, move: str, rate: float | None) -> MoveStatus:
        """Cap a move, bytes per second."""


class Sight(Protocol):
    """What tells of this host and the others."""

    def hello(self) -> Hello:
        """Who this agent is."""

    async def guests(self) -> tuple[GuestShown, ...]:
        """The guests here."""

    async def profile(self, guest: str) -> Profile:
        """One guest's profile, by name, UUID or pid."""

    async def examine(self, *, fix: bool) -> Diagnosis:
        """What is wrong on the known hosts."""

    async def known_hosts(self) -> tuple[HostShown, ...]:
        """This host and the others."""

    def hooks(self) -> tuple[HookShown, ...]:
        """How each hook fares."""

    async def test_hooks(self, name: str) -> tuple[HookTried, ...]:
        """Send a test event to one hook, or to all."""

    async def cpu(self, host: HostName, ask: CpuAsk) -> HostCpu:
        """The processor of a known host, as far as guests can be given it."""


class Api:
    """The API of one agent. `open` it, `close` it.

    Args:
        config: settings of the agent.
        engine: what moves guests.
        sight: what tells of hosts and guests.
        more: routes beside the ones above, such as those of `limosa.agent.history` and `limosa.agent.front`.
    """

    def __init__(self, config: Config, engine: Engine, sight: Sight, more: Iterable[web.RouteDef] = ()) -> None:
        self._more = tuple(more)
        self._path = config.socket
        self._engine = engine
        self._sight = sight
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            UsageError: the socket's path is too long, or cannot be made.
        """
        listening = _unix_socket(self._path)
        app = web.Application(middlewares=[_gate, _told, gate], client_max_size=1024 * 1024)
        app.add_routes(self._routes())
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
        await self._runner.setup()
        self._site = web.SockSite(self._runner, listening)
        await self._site.start()

    async def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        if self._site:
            await self._site.stop()
            self._site = None
            self._path.unlink(missing_ok=True)

    async def close(self) -> None:
        """End everything."""
        await self.stop_accepting()
        if self._runner:
            await self._runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/hello", self._hello),
            web.get("/v1/guests", self._guests),
            web.get("/v1/guests/{guest}/profile", self._profile),
            web.post("/v1/guests/{guest}/resolve", self._resolve),
            web.get("/v1/hosts", self._hosts),
            web.get("/v1/hosts/{host}/cpu", self._cpu),
            web.get("/v1/hooks", self._hooks),
            web.post("/v1/hooks/test", self._test_hooks),
            web.get("/v1/doctor", self._doctor),
            web.post("/v1/doctor/fix", self._fix),
            web.post("/v1/plan", self._plan),
            web.post("/v1/moves", self._start),
            web.get("/v1/moves", self._moves),
            web.get("/v1/moves/{move}", self._move),
            web.get("/v1/moves/{move}/events", self._events),
            web.post("/v1/moves/{move}/abort", self._abort),
            web.post("/v1/moves/{move}/speed", self._speed),
            *self._more,
        ]

    async def _hello(self, _request: web.Request) -> web.StreamResponse:
        return _json(self._sight.hello())

    async def _guests(self, _request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.guests())

    async def _profile(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.profile(request.match_info["guest"]))

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        evidence = (await _body(request, Fenced)).evidence
        return _json(self._engine.resolve(request.match_info["guest"], user(peer_uid(request)), evidence))

    async def _hosts(self, _request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.known_hosts())

    async def _cpu(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.cpu(HostName(request.match_info["host"]), CpuAsk.of(request.query)))

    async def _hooks(self, _request: web.Request) -> web.StreamResponse:
        return _json(self._sight.hooks())

    async def _test_hooks(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.test_hooks((await _body(request, HookMeant)).hook))

    async def _doctor(self, _request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.examine(fix=False))

    async def _fix(self, _request: web.Request) -> web.StreamResponse:
        return _json(await self._sight.examine(fix=True))

    async def _plan(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._engine.plan(await _body(request, MoveRequest)))

    async def _start(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._engine.start(await _body(request, MoveRequest)), status=202)

    async def _moves(self, _request: web.Request) -> web.StreamResponse:
        return _json(self._engine.all())

    async def _move(self, request: web.Request) -> web.StreamResponse:
        return _json(self._engine.get(request.match_info["move"]))

    async def _abort(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._engine.abort(request.match_info["move"]))

    async def _speed(self, request: web.Request) -> web.StreamResponse:
        speed = (await _body(request, Speed)).bytes_per_second
        if speed < 0:
            raise UsageError("a speed is 0 (no cap) or more bytes per second")
        return _json(await self._engine.set_speed(request.match_info["move"], speed or None))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._engine.get(request.match_info["move"])  # NotFound must come before the stream begins
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        response.force_close()
        await response.prepare(request)
        with suppress(ConnectionError):  # the watcher has left: nobody is there to be told
            async with aclosing(spaced(self._engine.watch(request.match_info["move"]))) as statuses:
                async for status in statuses:
                    news = b"data: " + msgspec.json.encode(status) if status else b": still here"
                    await response.write(news + b"\n\n")
            await response.write_eof()
        return response


async def spaced(
    statuses: AsyncIterator[T], *, spacing: float = EVENT_SPACING, silence: float = EVENT_SILENCE
) -> AsyncGenerator[T | None, None]:
    """The latest value, at most once in `spacing` seconds, the last one always; None after a silence (seconds)."""
    newest: list[T] = []
    news = asyncio.Event()
    over = False

    async def collect() -> None:
        nonlocal over
        try:
            async for status in statuses:
                newest[:] = [status]
                news.set()
        finally:
            over = True
            news.set()

    collector = asyncio.create_task(collect())
    try:
        while not (over and not newest):
            try:
                async with asyncio.timeout(silence):
                    await news.wait()
            except TimeoutError:
                yield None
                continue
            news.clear()
            if newest:
                yield newest.pop()
                await asyncio.wait({collector}, timeout=spacing)
        await collector
    finally:
        collector.cancel()
        await asyncio.gather(collector, return_exceptions=True)


async def _body(request: web.Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise UsageError(f"the request's body makes no sense: {error}") from error


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def status_of(error: LimosaError) -> int:
    """The status of an answer that is an error."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def _refusal(error: LimosaError) -> web.Response:
    return _json(error.to_wire(), status_of(error))


Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _gate(request: web.Request, handler: Handle) -> web.StreamResponse:
    uid = peer_uid(request)
    if not permitted(uid):
        _log.warning("refused a local caller", uid=uid, path=request.path)
        return _json(
            UsageError(f"user {uid} may not use limosa", remedy=f"be root, or in group {GROUP}").to_wire(), 403
        )
    return await handler(request)


@web.middleware
async def _told(request: web.Request, handler: Handle) -> web.StreamResponse:
    """Whatever goes wrong is told as JSON."""
    try:
        return await handler(request)
    except LimosaError as error:
        return _refusal(error)
    except web.HTTPNotFound:
        return _refusal(NotFound(f"the agent has no {request.path}", remedy="run the same version of limosa"))
    except web.HTTPException as error:
        return _json(UsageError(f"{request.method} {request.path}: {error.reason}").to_wire(), error.status)
    except Exception as error:  # noqa: BLE001  (the caller is told, and the agent lives on)
        _log.exception("a request failed", path=request.path)
        what = f"the agent failed with an internal error: {type(error).__name__}: {error}"
        return _refusal(LimosaError(what, remedy="see the agent's log (journalctl -u limosa-agent), and report it"))


def peer_uid(request: web.Request) -> int:
    """Who is at the other end of the unix socket."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def user(uid: int) -> str:
    """A local caller as the journal names him: `root (uid 0)`."""
    with suppress(KeyError):
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    return f"uid {uid}"


def permitted(uid: int) -> bool:
    """Root, the agent's own user, and members of group `limosa`."""
    if uid in {0, os.geteuid()}:
        return True
    with suppress(KeyError):
        user = pwd.getpwuid(uid)
        return grp.getgrnam(GROUP).gr_gid in os.getgrouplist(user.pw_name, user.pw_gid)
    return False


def _unix_socket(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # of an agent that died: the lock says that none is alive
        old = os.umask(0o117)
        try:
            listening.bind(str(path))
        finally:
            os.umask(old)
        with suppress(KeyError, PermissionError):  # without that group, or not as root: the socket is the owner's alone
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    except OSError as error:
        listening.close()
        raise UsageError(f"cannot make {path}: {error}", remedy="choose another run_dir in agent.toml") from error
    return listening
