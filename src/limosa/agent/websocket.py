"""A link's channel over a WebSocket, as a client or a server holds it."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from aiohttp import ClientConnectionError, ClientWebSocketResponse, WSMessage, WSMsgType
from aiohttp.web import Request, WebSocketResponse

from limosa.agent.link import ChannelClosed

CLOSE_LIMIT = 1.0
"""Seconds that an end of a link may take."""

_BROKEN = (ClientConnectionError, ConnectionError, RuntimeError, OSError)
"""What aiohttp raises for a WebSocket that has ended; RuntimeError is "WebSocket connection is closed"."""


class _Socket(Protocol):
    """What the two classes of aiohttp have in common."""

    def exception(self) -> BaseException | None: ...

    async def send_bytes(self, data: bytes, compress: int | None = None) -> None: ...

    async def receive(self, timeout: float | None = None) -> Any: ...

    async def close(self, *, code: int = 1000, message: bytes = b"") -> Any: ...


class _WebSocketChannel:
    """Whole binary messages over a WebSocket; anything else is the end."""

    def __init__(self, ws: _Socket, info: Callable[[str], Any]) -> None:
        self._ws = ws
        self._connection = info("socket")
        self.local_address = str((info("sockname") or ("",))[0])
        self.peer_address = str((info("peername") or ("",))[0])

    async def send(self, message: bytes) -> None:
        try:
            await self._ws.send_bytes(message)
        except _BROKEN as error:
            raise ChannelClosed(str(error) or type(error).__name__) from error

    async def receive(self) -> bytes:
        try:
            message: WSMessage = await self._ws.receive()
        except _BROKEN as error:
            raise ChannelClosed(str(error) or type(error).__name__) from error
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        raise ChannelClosed(self._why(message))

    def _why(self, message: WSMessage) -> str:
        match message.type:
            case WSMsgType.CLOSE:
                return f"closed by the other end: {message.extra or message.data}"
            case WSMsgType.ERROR:
                return f"broken: {message.data}"
            case WSMsgType.TEXT:
                return "it sent text, which no agent does"
            case _:
                error = self._ws.exception()
                return f"broken: {error}" if error else "the connection ended"

    async def close(self, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                await self._ws.close(code=1000, message=reason.encode()[:120])  # a close frame takes 123 bytes
        except _BROKEN:
            return  # it was closed already
        except TimeoutError:
            # It reads nothing, so the close frame waits behind what was sent before. The sockets of asyncio's
            # transports offer this for just such an end.
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)


class ClientChannel(_WebSocketChannel):
    """The end that dialled."""

    def __init__(self, ws: "ClientWebSocketResponse[bool]") -> None:
        super().__init__(ws, ws.get_extra_info)


class ServerChannel(_WebSocketChannel):
    """The end that was called."""

    def __init__(self, ws: "WebSocketResponse[bool]", request: Request) -> None:
        assert request.transport is not None
        super().__init__(ws, request.transport.get_extra_info)
