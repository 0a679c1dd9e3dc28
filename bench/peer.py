"""What one call over the peer link costs, as a ratio to a bare TCP echo on the same loopback.

Both ends run in this one process and event loop, so that the figures hold both ends' work.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from limosa.agent import pki
from limosa.agent.config import Config, Endpoint, load
from limosa.agent.hosts import HostEntry, Hosts, write_missing
from limosa.agent.peer import Peers, serve
from limosa.units import HostName
from limosa.wire.guests import Hello

ROUNDS, CALLS = 5, 400


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = fleet(Path(directory))

        async def hello(params: Hello, _caller: HostName) -> Hello:
            return params

        server = await serve(theirs, {"hello": (Hello, hello)})
        write_missing(ours.hosts_file, {HostName("b"): HostEntry(address=f"127.0.0.1:{server.port}")})
        peers = Peers(ours, Hosts(ours.hosts_file))
        started = time.perf_counter()
        link = await peers.link(HostName("b"))
        opened = time.perf_counter() - started
        ask = Hello(host="a", version="0", pid=1, protocol=1)

        async def call() -> None:
            await link.call("hello", ask, Hello)

        echo, stop = await tcp_echo()
        pairs = [(await timed(echo), await timed(call)) for _ in range(ROUNDS)]
        together = await many(call)
        await stop()
        await peers.close()
        await server.close()
    bare, calls = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = statistics.median(c / b for b, c in pairs)
    print(f"opening a link (TCP, TLS 1.3, upgrade)   {opened * 1e3:7.2f} ms")
    print(f"bare TCP echo                            {bare * 1e3:7.3f} ms   1.0")
    print(f"a call over the peer link                {calls * 1e3:7.3f} ms   {ratio:.1f}")
    print(f"a call, {CALLS} in flight                   {together * 1e3:7.3f} ms   {together / bare:.1f}")


def fleet(directory: Path) -> tuple[Config, Config]:
    """Two hosts under one CA; b listens on a free port and knows a."""
    pki.create_ca(directory / "ca", "bench")
    configs = []
    for name in ("a", "b"):
        pki.issue_host(directory / "ca", name, ["127.0.0.1"], directory / name / "pki")
        configs.append(replace(load(directory / name, overrides={"host": name}), listen=Endpoint("127.0.0.1", 0)))
    write_missing(configs[1].hosts_file, {HostName("a"): HostEntry(address="127.0.0.1:1")})
    return configs[0], configs[1]


async def tcp_echo() -> tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]:
    async def serve_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve_echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def echo() -> None:
        writer.write(b"x" * 64)
        await reader.readexactly(64)

    async def stop() -> None:
        writer.close()
        server.close()
        await server.wait_closed()

    return echo, stop


async def timed(deed: Callable[[], Awaitable[None]]) -> float:
    """Median seconds of one deed."""
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await deed()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


async def many(deed: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(deed() for _ in range(CALLS)))
    return (time.perf_counter() - started) / CALLS


if __name__ == "__main__":
    asyncio.run(main())
