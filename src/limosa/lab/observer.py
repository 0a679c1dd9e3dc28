"""The third party: sits on the guests' network and records, from outside, what moves do to guests."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from limosa.lab.hosts import Role
from limosa.lab.inside import Process
from limosa.lab.network import OBSERVER_ADDRESS
from limosa.lab.state import LabError
from limosa.lab.traces import HeartbeatRecord, PingRecord, Recording

R = TypeVar("R", bound=Recording)

OBSERVE = Path(__file__).with_name("observe.py")
BEGIN_LIMIT = 10.0
END_LIMIT = 5.0


class Observer(Role):
    """A namespace on the guests' network, at 10.66.0.2."""

    address = OBSERVER_ADDRESS

    @contextlib.asynccontextmanager
    async def ping(self, targets: Sequence[str], interval: float = 0.005) -> AsyncIterator[PingRecord]:
        """Ping IPv4 addresses every `interval` seconds while the context lasts; the record grows meanwhile.

        Raises:
            LabError: the observer is switched off, or could not record.
        """
        async with self._recording(["ping", repr(interval), *targets], PingRecord(targets)) as record:
            yield record

    @contextlib.asynccontextmanager
    async def heartbeats(self, port: int = 7777) -> AsyncIterator[HeartbeatRecord]:
        """Take in UDP packets to `port` while the context lasts; the record grows meanwhile.

        Raises:
            LabError: the observer is switched off, the port is taken, or it could not record.
        """
        async with self._recording(["heartbeats", str(port)], HeartbeatRecord()) as record:
            yield record

    @contextlib.asynccontextmanager
    async def _recording(self, argv: Sequence[str], record: R) -> AsyncIterator[R]:
        """Run observe.py and feed a record with what it writes."""
        source, sink = os.pipe2(os.O_CLOEXEC)
        try:
            process = await self.spawn(
                [sys.executable, "-I", "-S", str(OBSERVE), *argv], name=f"observe-{argv[0]}", stdout=sink, bound=True
            )
        except BaseException:
            os.close(source)
            raise
        finally:
            os.close(sink)
        feeding = asyncio.create_task(feed(source, record))
        try:
            await self._begun(record, feeding, process)
            yield record
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(END_LIMIT):
                await feeding
                status = await process.wait()
            if status != 0:
                raise LabError(f"the observer ended with status {status}", detail=complaint(process))
        finally:
            process.kill()
            process.close()
            feeding.cancel()
            await asyncio.wait({feeding})

    async def _begun(self, record: Recording, feeding: "asyncio.Task[None]", process: Process) -> None:
        """Wait for the first record."""
        await until(lambda: record.clock is not None or feeding.done(), BEGIN_LIMIT, "the observer to begin")
        if record.clock is None:
            raise LabError("the observer did not begin", detail=complaint(process))


def complaint(process: Process) -> str:
    """The end of what a process wrote to standard error."""
    return process.stderr_path.read_text(errors="replace")[-2000:].strip() if process.stderr_path else ""


async def feed(source: int, record: Recording) -> None:
    """Read a pipe to its end into a record, and close it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb"))
    try:
        while data := await reader.read(1 << 16):
            record.feed(data)
    finally:
        transport.close()


async def until(holds: Callable[[], bool], timeout: float, what: str = "it") -> None:
    """Wait until something that a record shows holds; looked at every 2 ms, which costs nothing and suits any record.

    Raises:
        LabError: it does not hold after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s for {what}")
        await asyncio.sleep(0.002)
