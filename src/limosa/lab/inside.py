"""Processes inside a lab host: asking its init for one, waiting for it, ending it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from limosa.lab.state import LabError, start_time

ANSWER = 1 << 16
SPAWN_LIMIT = 10.0
"""Seconds that an init may take to start a process; on an idle machine it takes about one millisecond."""

AIMED = frozenset(
    {
        "LIMOSA_CONFIG_DIR", "LIMOSA_HOST", "LIMOSA_PKI_DIR", "LIMOSA_RUN_DIR", "LIMOSA_SOCKET", "LIMOSA_STATE_DIR",
    }
)  # fmt: skip
"""Variables that point limosa elsewhere; they mean nothing inside a host."""


@dataclass(frozen=True)
class Completed:
    """A command that ended: exit status (negative for a signal) and what it wrote."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class Process:
    """A process inside a host.

    Attributes:
        pid: in the machine's numbering.
        inner_pid: as the host itself numbers it.
        argv: what was started.
        stdout_path, stderr_path: files on the machine; None where the caller brought its own.
    """

    def __init__(self, argv: Sequence[str], connection: socket.socket, pid: int, inner_pid: int) -> None:
        self.argv = tuple(argv)
        self.pid = pid
        self.inner_pid = inner_pid
        self.start_time = start_time(pid)
        self.stdout_path: Path | None = None
        self.stderr_path: Path | None = None
        self._status: int | None = None
        # The bare descriptor: a process that nobody waits for is no leak worth a warning.
        self._connection = connection.detach()
        self._close = weakref.finalize(self, os.close, self._connection)

    @property
    def running(self) -> bool:
        """Whether it still executes."""
        return self.start_time is not None and start_time(self.pid) == self.start_time

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it; nothing happens if it is gone."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL for it and its process group."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self, timeout: float | None = None) -> int:
        """Its exit status, negative for a signal; -9 too where the host lost its power.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        if self._status is None:
            async with asyncio.timeout(timeout):
                await readable(self._connection)
            told = os.read(self._connection, ANSWER)
            self._status = int(json.loads(told)["status"]) if told else -signal.SIGKILL
            self._close()
        return self._status

    def close(self) -> None:
        """Let go of it. A bound process is killed by this, another one runs on."""
        self._close()


async def readable(fd: int) -> None:
    """Wait until a descriptor has something to read, or its other end is closed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment, fit for a host: `limosa` is this limosa, and talks to that host's own agent."""
    kept = {name: value for name, value in os.environ.items() if name not in AIMED}
    path = kept.get("PATH", os.defpath)
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{path}", **(extra or {})}


def connect(role: Path) -> socket.socket:
    """Reach the init of a role. Raises LabError where nothing listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(SPAWN_LIMIT)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        directory = os.open(role, os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{directory}/init.sock")
        finally:
            os.close(directory)
    except OSError as error:
        connection.close()
        raise LabError(
            f"{role.name} of lab {role.parent.name} is switched off", remedy=f"limosa lab plug {role.name}"
        ) from error
    return connection


def ask(connection: socket.socket, request: Mapping[str, Any], stdio: Sequence[int]) -> tuple[int, int]:
    """Send one request. Returns the pid as the machine and as the host number it; raises LabError."""
    try:
        socket.send_fds(connection, [json.dumps(request).encode()], list(stdio))
        data, ancillary, _, _ = connection.recvmsg(ANSWER, socket.CMSG_SPACE(struct.calcsize("3i")))
    except OSError as error:
        raise LabError(f"the host did not start {request['argv'][0]}: {error}", remedy="limosa lab status") from error
    answer = json.loads(data) if data else {"error": "it lost its power"}
    if "pid" not in answer:
        raise LabError(f"the host cannot start {request['argv'][0]}: {answer['error']}", remedy="check the command")
    pids = [
        struct.unpack("3i", content[:12])[0] for level, kind, content in ancillary if kind == socket.SCM_CREDENTIALS
    ]
    return pids[0], int(answer["pid"])


def spawn(
    role: Path,
    argv: Sequence[str],
    stdio: Sequence[int | IO[Any]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    bound: bool = False,
) -> Process:
    """Start a process under a role's init, in a session of its own. Takes about a millisecond; blocks meanwhile.

    Args:
        role: the role's directory in the lab's.
        argv: the program is looked up on the PATH that it will see.
        stdio: standard input, output and error.
        env: added to the caller's environment.
        cwd: as the host sees it.
        bound: kill it, with its group, when the returned object is closed or this process ends.

    Raises:
        LabError: the role is switched off, or the program cannot be started.
    """
    request = {"argv": list(argv), "env": environment(env), "cwd": cwd, "bound": bound}
    connection = connect(role)
    try:
        fds = [stream if isinstance(stream, int) else stream.fileno() for stream in stdio]
        pid, inner_pid = ask(connection, request, fds)
        connection.setblocking(False)
        return Process(argv, connection, pid, inner_pid)
    finally:
        connection.close()  # detached by then, where it went well


async def run(
    role: Path,
    argv: Sequence[str],
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    timeout: float = 60.0,
    check: bool = True,
) -> Completed:
    """Run a command to its end inside a role; it is killed with its group when the time is up.

    Raises:
        LabError: it did not start; it took longer than `timeout` seconds; or, with `check`, it failed. `detail` is what
            it wrote.
    """
    # Files, not pipes: a daemon that the command leaves behind may keep them open for ever.
    with tempfile.TemporaryFile() as feed, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        feed.write(stdin.encode())
        feed.seek(0)
        process = spawn(role, argv, (feed, out, err), env=env, cwd=cwd, bound=True)
        try:
            status = await process.wait(timeout)
        except TimeoutError as error:
            raise LabError(
                f"{' '.join(argv)} took longer than {timeout:g} s on {role.name}", detail=_written(err) or _written(out)
            ) from error
        finally:
            process.close()
        done = Completed(tuple(argv), status, _written(out), _written(err))
    if check and status != 0:
        raise LabError(
            f"{' '.join(argv)} ended with status {status} on {role.name}", detail=(done.stderr or done.stdout).strip()
        )
    return done


def _written(stream: BinaryIO) -> str:
    """All that a command has written to a file."""
    stream.seek(0)
    return stream.read().decode(errors="replace")


def enter_argv(pid: int, argv: Sequence[str], *, cwd: str | None = None) -> list[str]:
    """A command line that runs `argv` inside the namespaces of init `pid`, in the foreground of this terminal."""
    where = [f"--wdns={cwd}"] if cwd else []
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", *where, "--", *argv]


async def tool(argv: Sequence[str], *, stdin: str = "", timeout: float = 20.0) -> str:
    """Run one of the machine's own tools (ip, tc, nsenter). Returns what it printed.

    Raises:
        LabError: it is missing, failed, or took longer than `timeout` seconds.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed", remedy="install iproute2 and util-linux") from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(stdin.encode())
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise LabError(f"{' '.join(argv)} took longer than {timeout:g} s") from error
    if process.returncode != 0:
        raise LabError(f"{' '.join(argv)} failed", detail=err.decode(errors="replace").strip() or stdin)
    return out.decode()
