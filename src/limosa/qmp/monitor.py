"""One QEMU's monitor: `qemu.qmp` with typed errors, an ordered event log and an end that is always noticed."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import struct
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from qemu.qmp import (
    ConnectError,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from limosa.errors import MonitorBusy, MonitorError, MonitorLost, MonitorMissing, MonitorSilent, QmpError
from limosa.qmp.events import END_OF_STREAM, EventLog

Address = str | tuple[str, int]

# QEMU's queue holds 8 in-band commands of one monitor and, when it is full, stops reading the socket: out-of-band
# commands would wait too (docs/interop/qmp-spec.rst, "Out-of-band execution"). One place stays free, so that
# `yank` gets through whatever hangs.
IN_FLIGHT = 7

# `query-qmp-schema` is about 250 KiB; the profile of a guest with hundreds of devices is a few MiB in one line.
LONGEST_MESSAGE = 64 * 1024 * 1024

SOCKET_PATH = 108

_QUEUE_FULL = 0.02
"""Seconds between two tries to get into a listener's queue."""

SECOND_MONITOR = "give this QEMU a second monitor: -qmp unix:/run/NAME-limosa.qmp,server=on,wait=off"

# What qemu.qmp logs (late replies, every lost stream) reaches callers as errors and events.
_MUTE = logging.getLogger("limosa.qmp.client")
_MUTE.setLevel(logging.CRITICAL + 1)


class _Client(QMPClient):
    """qemu.qmp's client with its message hooks put to use.

    The inherited hooks pretty-print each message for a debug log, whether or not anybody reads it: a fifth of a
    round trip.
    """

    def __init__(self, log: EventLog, transcript: IO[str] | None) -> None:
        super().__init__(readbuflen=LONGEST_MESSAGE)
        self.logger = _MUTE
        self._log = log
        self._transcript = transcript
        self._in_band: set[object] = set()
        self.free = asyncio.Semaphore(IN_FLIGHT)
        # A filter that says no to everything keeps qemu.qmp from collecting a second, unbounded history.
        self.events.event_filter = self._take_event

    def told(self) -> tuple[tuple[int, int, int], str, bool]:
        """Version, package and whether out-of-band execution was negotiated (qemu.qmp does, where it is offered)."""
        assert self.greeting is not None
        version: Any = self.greeting.QMP.version
        number = version["qemu"]
        oob = "oob" in self.greeting.QMP.capabilities
        return (int(number["major"]), int(number["minor"]), int(number["micro"])), str(version["package"]), oob

    def _take_event(self, event: Message) -> bool:
        data, stamp = event.get("data"), event.get("timestamp")
        seconds = stamp["seconds"] + stamp["microseconds"] / 1e6 if isinstance(stamp, dict) else 0.0
        now = asyncio.get_running_loop().time()
        self._log.add(str(event["event"]), data if isinstance(data, dict) else {}, at=now, qemu_time=seconds)
        return False

    def _cb_outbound(self, msg: Message) -> Message:
        if "execute" in msg and "id" in msg:
            self._in_band.add(msg["id"])
        if self._transcript:
            self._write("->", msg)
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        # A place is free when QEMU answered, not when the caller stopped waiting.
        if (sent := msg.get("id")) is not None and sent in self._in_band:
            self._in_band.discard(sent)
            self.free.release()
        if self._transcript:
            self._write("<-", msg)
        return msg

    def _write(self, arrow: str, message: Message) -> None:
        assert self._transcript is not None
        now = asyncio.get_running_loop().time()
        self._transcript.write(f"{now:.6f} {arrow} {json.dumps(dict(message))}\n")


class Monitor:
    """A connection to one QEMU. Made by `connect`; ends once, for good."""

    def __init__(self, client: _Client, sock: socket.socket, events: EventLog, transcript: IO[str] | None) -> None:
        self.events = events
        self.version, self.package, self.oob = client.told()
        self._client = client
        self._socket = sock
        self._transcript = transcript
        self._pidfd = -1
        self._ending = asyncio.Event()
        self._reason = ""
        self._tender = asyncio.create_task(self._tend())

    @classmethod
    async def connect(
        cls,
        address: Address,
        *,
        pid: int | None = None,
        greeting_timeout: float = 1.0,
        transcript: Path | None = None,
    ) -> "Monitor":
        """Connect, read the greeting and negotiate out-of-band execution.

        Args:
            address: path of a Unix socket (`@name` or a leading NUL for an abstract one), or host and port.
            pid: the QEMU's process id, as a second sign of death.
            greeting_timeout: seconds; QEMU serves one client per socket and lets the next one wait in silence.
            transcript: file to which each message is appended, with the event loop's time.

        Raises:
            MonitorBusy: the socket is there, but no greeting came.
            MonitorMissing: nobody listens there, or what answers is not QMP.
        """
        pidfd = _open_pidfd(pid) if pid is not None else -1
        file = transcript.open("a", buffering=1) if transcript else None
        events = EventLog()
        client = _Client(events, file)
        try:
            sock = await _greeted(client, address, pid, greeting_timeout)
        except BaseException:
            _close_all(pidfd, file)
            raise
        monitor = cls(client, sock, events, file)
        if pidfd >= 0:
            monitor._watch(pidfd)
        return monitor

    @property
    def lost(self) -> bool:
        """Whether the stream ended or the process died."""
        return self.events.ended or self._ending.is_set()

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = 30.0,
        oob: bool = False,
    ) -> Any:
        """Run one command and return its value.

        Args:
            command: QMP command.
            arguments: its arguments; values must be JSON.
            timeout: seconds until the answer; the command itself is not taken back.
            oob: run out of band (`yank`, `migrate-pause`, ...), also while QEMU's main loop hangs.

        Raises:
            QmpError: QEMU refused.
            MonitorLost: the stream ended before the answer.
            MonitorSilent: no answer in time.
        """
        try:
            async with asyncio.timeout(timeout):
                if not oob:
                    await self._place(command)
                return await self._client.execute(command, arguments, oob=oob)
        except TimeoutError as late:
            raise MonitorSilent(
                f"QEMU did not answer {command} within {timeout} s",
                remedy="its main loop may wait for a dead connection; `limosa doctor` tells what it waits for",
            ) from late
        except ExecuteError as refusal:
            raise QmpError(command, refusal.error_class, str(refusal)) from refusal
        except (TypeError, ValueError):  # not JSON: nothing was sent, so no answer will free the place
            if not oob:
                self._client.free.release()
            raise
        except (ExecInterruptedError, StateError) as end:
            await self.gone()
            raise self._lost_in(command) from end
        except QMPError as strange:
            raise MonitorError(f"QEMU's answer to {command} is not QMP", detail=str(strange)) from strange

    async def execute_many(
        self, commands: Sequence[tuple[str, Mapping[str, Any] | None]], *, timeout: float | None = 30.0
    ) -> list[Any | QmpError]:
        """Run commands one behind the other without waiting for each answer; QEMU keeps their order.

        Returns:
            One value per command, in the same order; the QmpError itself where QEMU refused.

        Raises:
            MonitorLost: the stream ended before the last answer.
            MonitorSilent: the last answer did not come in time (seconds, for all of them together).
        """
        calls = (self.execute(command, arguments, timeout=timeout) for command, arguments in commands)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, QmpError):
                raise answer
        return list(answers)

    async def hmp(self, line: str) -> str:
        """Run one line of the human monitor; its text, errors included."""
        return str(await self.execute("human-monitor-command", {"command-line": line}))

    async def yank(self, instances: Sequence[Mapping[str, str]]) -> None:
        """Cut QEMU's own connections (`{"type": "migration"}`, ...), even while its main loop waits for them."""
        await self.execute("yank", {"instances": [dict(instance) for instance in instances]}, oob=self.oob)

    async def gone(self) -> None:
        """Return when the stream has ended or the process has died."""
        await asyncio.shield(self._tender)

    async def close(self) -> None:
        """Hang up and release everything; never raises, may be repeated."""
        self._end("closed by us")
        await self.gone()

    async def _place(self, command: str) -> None:
        await self._client.free.acquire()
        if self.lost:
            self._client.free.release()
            raise self._lost_in(command)

    def _lost_in(self, command: str) -> MonitorLost:
        return MonitorLost(f"the monitor's stream ended before QEMU answered {command}: {self.events.reason}")

    def _watch(self, pidfd: int) -> None:
        self._pidfd = pidfd
        # A pidfd reads as ready once its process is dead (pidfd_open(2)); a child that inherited the socket could
        # keep the stream open for longer.
        asyncio.get_running_loop().add_reader(pidfd, self._end, "the process died")

    def _end(self, reason: str) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
        self._reason = self._reason or reason
        self._ending.set()

    async def _tend(self) -> None:
        """Wait for the end, whoever brings it, then take the connection down once and close the log."""
        try:
            await _first(_not_running(self._client), self._ending.wait())
            reason = await self._hang_up()
        finally:
            self._ending.set()
            if self._pidfd >= 0:
                asyncio.get_running_loop().remove_reader(self._pidfd)
            _close_all(self._pidfd, self._transcript)
            self._pidfd = -1
        self.events.add(
            END_OF_STREAM,
            {"reason": self._reason or reason},
            at=asyncio.get_running_loop().time(),
            qemu_time=0.0,
        )
        # Whoever waits for a place passes the news on to the next one (_place).
        self._client.free.release()

    async def _hang_up(self) -> str:
        # disconnect() would first flush what a stuck peer does not read; after shutdown nothing can block it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            await self._client.disconnect()
        except Exception as why:  # noqa: BLE001  # whatever a strange peer made the reader raise is the reason
            return _first_line(why) or "QEMU closed the connection"
        return ""


async def _not_running(client: _Client) -> None:
    while client.runstate is Runstate.RUNNING:
        await client.runstate_changed()


async def _first(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of several; the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _greeted(client: _Client, address: Address, pid: int | None, timeout: float) -> socket.socket:
    """Connect `client` and return its socket, greeting read and capabilities negotiated."""
    where = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
    try:
        async with asyncio.timeout(timeout):
            sock = await _open(address)
            try:
                _check_owner(sock, where, pid)
                await _shake_hands(client, sock)
            except BaseException:
                sock.close()
                raise
    except TimeoutError as silence:
        raise MonitorBusy(f"no greeting from {where}: another program holds this monitor", remedy=SECOND_MONITOR) from (
            silence
        )
    except OSError as refusal:
        raise MonitorMissing(f"no monitor at {where}: {refusal.strerror or refusal}", remedy=SECOND_MONITOR) from (
            refusal
        )
    except ConnectError as strange:
        raise MonitorMissing(
            f"{where} does not speak QMP", remedy=SECOND_MONITOR, detail=_first_line(strange)
        ) from strange
    return sock


async def _shake_hands(client: _Client, sock: socket.socket) -> None:
    try:
        await client.connect(sock)
        client.told()
    except (AssertionError, KeyError, TypeError, ValueError) as nonsense:
        # AssertionError: the peer hung up between the negotiation and connect()'s return.
        if client.runstate is not Runstate.IDLE:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError, EOFError, QMPError):
                await client.disconnect()
        raise ConnectError("the greeting has no version, or the peer hung up behind it", nonsense) from nonsense


async def _open(address: Address) -> socket.socket:
    """A connected, non-blocking stream socket."""
    if isinstance(address, str):
        while True:
            try:
                return _open_unix(address)
            except BlockingIOError:
                # The listener's queue is full (connect(2), EAGAIN): of clients that wait, or of some that gave up and
                # that a busy QEMU has yet to take out. Nothing announces that there is room in it.
                await asyncio.sleep(_QUEUE_FULL)
    loop = asyncio.get_running_loop()
    family, kind, protocol, _, target = (await loop.getaddrinfo(*address, type=socket.SOCK_STREAM))[0]
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with _short(path) as name:
            # asyncio's sock_connect takes EAGAIN for "in progress" and would report a connection that is none.
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """The same socket under a name that fits into 108 bytes (unix(7)); paths below /proc/PID/root often do not."""
    if path.startswith("@"):
        yield "\0" + path[1:]
    elif len(os.fsencode(path)) < SOCKET_PATH:
        yield path
    else:
        directory = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{directory}/{Path(path).name}"
        finally:
            os.close(directory)


def _check_owner(sock: socket.socket, where: str, pid: int | None) -> None:
    """Refuse a socket that another process listens on.

    QEMU takes over a socket file that exists: of two guests started with the same path, the first one's command line
    names the second one's monitor.
    """
    if pid is None or sock.family != socket.AF_UNIX:
        return
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    listener: int = struct.unpack("3i", credentials)[0]
    if listener not in (0, pid):  # 0: it lives in a PID namespace that we do not see
        raise MonitorMissing(f"{where} is the monitor of process {listener}, not of {pid}", remedy=SECOND_MONITOR)


def _open_pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise MonitorMissing(f"there is no process {pid}", remedy="see `limosa ls`") from error
        raise MonitorError(f"cannot watch process {pid}: {error.strerror}") from error


def _close_all(pidfd: int, file: IO[str] | None) -> None:
    if pidfd >= 0:
        os.close(pidfd)
    if file is not None:
        file.close()


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
