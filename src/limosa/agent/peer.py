"""Being called by other agents: the port on which peers, and hosts that want to join, knock.

Whoever connects must show a certificate of the fleet's CA: a host's whose name is in `hosts.toml`, or a controller's.
The two may make different calls. Only the join door (`join.py`, on the host that keeps the CA's key) opens without
one. Whatever else arrives, garbage, plain HTTP, a foreign certificate, a connection that says nothing, is logged and
let go.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web

from limosa.agent import trust
from limosa.agent.config import Config, Endpoint
from limosa.agent.dial import PEER_PATH, Peers
from limosa.agent.hosts import Hosts
from limosa.agent.link import PeerLink
from limosa.agent.websocket import ServerChannel
from limosa.errors import PeerError, UsageError
from limosa.units import HostName
from limosa.wire.rpc import LARGEST_MESSAGE, Handlers

__all__ = ["PeerLink", "PeerServer", "Peers", "serve"]

HANDSHAKE_LIMIT = 5.0
"""Seconds for TLS."""

SAY_SOMETHING = 10.0
"""Seconds from the handshake until a connection must have become a link, or be done."""

MOST_STRANGERS = 64
"""Connections that are not links yet; more are turned away, so that nobody can use up this agent's files."""

JOIN_PATHS = frozenset({"/v1/join", "/v1/join/ca"})
LARGEST_REQUEST = 64 * 1024

_log = structlog.get_logger()
_CALLER = web.RequestKey("caller", str)
_COMMANDS = web.RequestKey("commands", bool)


class PeerServer:
    """The peer port. Made by `serve`."""

    def __init__(
        self, config: Config, handlers: Handlers, for_controllers: Handlers, hosts: Hosts, context: ssl.SSLContext
    ) -> None:
        self._config = config
        self._handlers = handlers
        self._for_controllers = for_controllers
        self._hosts = hosts
        self._context = context
        self._links: set[PeerLink] = set()
        self._strangers: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._knocking: set[asyncio.Task[None]] = set()
        self._accepting: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def links(self) -> frozenset[PeerLink]:
        """Links that came in and live."""
        return frozenset(self._links)

    def reload(self) -> None:
        """Use the certificate that lies in the PKI directory now, for connections to come.

        Raises:
            NotFound, PeerError: it is missing or no good; the old one stays.
        """
        self._context = trust.server_context(self._config.pki_dir)

    async def start(self, routes: Sequence[web.RouteDef]) -> None:
        """Open the port.

        Raises:
            PeerError: it cannot be had.
        """
        self._sockets = await _listen(self._config.listen)
        app = web.Application(middlewares=[self._gate], client_max_size=LARGEST_REQUEST)
        app.add_routes([web.get(PEER_PATH, self._accept_link), *routes])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        self._accepting = [asyncio.create_task(self._accept(s), name="peer port") for s in self._sockets]

    async def close(self) -> None:
        """Close the port and every link that came in by it."""
        for task in (*self._accepting, *self._knocking):
            task.cancel()
        await asyncio.gather(*self._accepting, *self._knocking, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        await asyncio.gather(*(link.close("this agent stops") for link in self._links))
        for transport in list(self._strangers):
            self._let_go(transport, "this agent stops")
        if self._runner:
            await self._runner.cleanup()

    # -- connections --------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("peer port cannot accept", error=str(error))
                await asyncio.sleep(0.1)  # out of descriptors: there is no event that says some are free again
                continue
            if len(self._strangers) + len(self._knocking) >= MOST_STRANGERS:
                _log.warning("too many connections that are not links", address=address[0])
                connection.close()
                continue
            task = asyncio.create_task(self._shake_hands(connection, address[0]))
            self._knocking.add(task)
            task.add_done_callback(self._knocking.discard)

    async def _shake_hands(self, connection: socket.socket, address: str) -> None:
        """TLS first, by hand rather than by aiohttp: a failed handshake must be in the log, with its reason."""
        assert self._runner is not None
        assert self._runner.server is not None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._runner.server, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_LIMIT
            )
        except (OSError, TimeoutError) as error:
            _log.warning("refused a connection", address=address, why=_why(error))
            connection.close()
            return
        when = asyncio.get_running_loop().call_later(SAY_SOMETHING, self._let_go, transport, "it said nothing")
        self._strangers = {t: timer for t, timer in self._strangers.items() if not t.is_closing()} | {transport: when}

    def _let_go(self, transport: asyncio.Transport, why: str) -> None:
        self._known(transport)
        if not transport.is_closing():
            _log.info("let a connection go", address=str(transport.get_extra_info("peername")), why=why)
            transport.abort()

    def _known(self, transport: asyncio.Transport | None) -> None:
        if transport and (timer := self._strangers.pop(transport, None)):
            timer.cancel()

    # -- requests -----------------------------------------------------------------------------------------

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Nobody without a certificate gets past this, except to the join door."""
        if request.path in JOIN_PATHS:
            return await handler(request)
        tls = request.transport.get_extra_info("ssl_object") if request.transport else None
        name, commands = trust.certified_name(tls), trust.is_controller(tls)
        why = self._why_no_controller(name) if commands else self._why_not(name)
        if why or name is None:
            _log.warning("refused a peer", address=request.remote, certificate=name, path=request.path, why=why)
            raise web.HTTPForbidden(text=f"{why}\n")
        request[_CALLER] = name
        request[_COMMANDS] = commands
        return await handler(request)

    def _why_no_controller(self, name: HostName | None) -> str:
        allowed = self._config.controllers
        return "" if allowed is None or name in allowed else f"controller {name} is not in agent.toml's controllers"

    def _why_not(self, name: HostName | None) -> str:
        if name is None:
            return "no client certificate"
        try:
            return "" if name in self._hosts.known() else f"{name} is not in {self._hosts.file}"
        except UsageError as error:
            return error.what

    async def _accept_link(self, request: web.Request) -> web.StreamResponse:
        ws: web.WebSocketResponse[bool] = web.WebSocketResponse(
            max_msg_size=LARGEST_MESSAGE, compress=False, timeout=1.0
        )
        await ws.prepare(request)
        self._known(request.transport)
        caller = HostName(request[_CALLER])
        handlers = self._for_controllers if request[_COMMANDS] else self._handlers
        link = PeerLink(caller, ServerChannel(ws, request), handlers, silence=self._config.silence)
        self._links.add(link)
        _log.info("peer linked to us", peer=caller, address=request.remote)
        try:
            await link.wait_over()
        finally:
            await link.close("the server let go")
            self._links.discard(link)
            _log.info("peer is gone", peer=caller, address=request.remote, why=link.reason)
        return ws


async def serve(
    config: Config,
    handlers: Handlers,
    hosts: Hosts | None = None,
    routes: Sequence[web.RouteDef] = (),
    *,
    for_controllers: Handlers | None = None,
) -> PeerServer:
    """Open the peer port.

    Args:
        config: where to listen, and the certificates.
        handlers: what peers may call.
        hosts: who may; default is `config.hosts_file`.
        routes: the join door, on the host that has one; its paths are `JOIN_PATHS`.
        for_controllers: what controllers may call; nothing by default.

    Raises:
        NotFound: a certificate is missing.
        PeerError: the port cannot be had, or a certificate is no good.
    """
    known, context = hosts or Hosts(config.hosts_file), trust.server_context(config.pki_dir)
    server = PeerServer(config, handlers, for_controllers or {}, known, context)
    await server.start(routes)
    return server


async def _listen(endpoint: Endpoint) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            listening = socket.socket(family, kind, protocol)
            sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.setblocking(False)
            listening.bind(address)
            listening.listen(128)
    except OSError as error:
        for listening in sockets:
            listening.close()
        remedy = "set listen in agent.toml, or stop what uses that port"
        raise PeerError(f"cannot listen for peers on {endpoint}: {error.strerror}", remedy=remedy) from error
    return sockets


def _why(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return str(error) or type(error).__name__
