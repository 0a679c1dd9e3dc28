"""A port on this machine behind which something in a lab listens, for programs that cannot enter a lab: browsers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from limosa.lab.dial import dial
from limosa.lab.hosts import Role

CHUNK = 1 << 16


@asynccontextmanager
async def relay(role: Role, address: str, port: int) -> AsyncIterator[int]:
    """Listen on a free port of loopback while the block runs; yields the port.

    Args:
        role: from where connections are opened.
        address: that somebody listens on, as the role sees it.
        port: there.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(sock=await asyncio.to_thread(dial, role, address, port))
        except OSError:  # nobody listens: whoever came is told so as he would be there, by a closed connection
            writer.close()
            return
        await asyncio.gather(_carry(reader, there[1]), _carry(there[0], writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes from one side to the other, until one of them is gone."""
    try:
        with suppress(ConnectionError):
            while chunk := await reader.read(CHUNK):
                writer.write(chunk)
                await writer.drain()
    finally:
        writer.close()
