"""Start a QEMU that waits for a guest, so that it outlives this agent; and destroy one."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limosa.errors import LaunchError, MonitorBusy, MonitorError, MonitorMissing
from limosa.guest.proc import dead
from limosa.qmp.monitor import Monitor
from limosa.units import Side

START_LIMIT = 60.0
"""Seconds from the start until the greeting; a twin with many gigabytes preallocated takes long."""
QUIT_LIMIT = 5.0
_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Twin:
    """A QEMU that was started to receive a guest."""

    pid: int
    monitor: Monitor
    stderr_path: Path

    def stderr(self) -> str:
        """What it has said so far."""
        return _read(self.stderr_path)


async def launch(
    binary: str | Path,
    argv: Sequence[str],
    *,
    directory: Path,
    monitor: str,
    timeout: float = START_LIMIT,
) -> Twin:
    """Start `binary` with `argv` in a session of its own, and connect to its monitor.

    Args:
        binary: QEMU's program.
        argv: its arguments, without the program's name.
        directory: where its stderr is kept; made when it does not exist.
        monitor: path of the QMP socket that `argv` makes.
        timeout: seconds until it must have greeted.

    Raises:
        LaunchError: it did not start, or died, or did not greet in time; `detail` is its stderr.
    """
    pid, stderr = _start(str(binary), argv, directory)
    pidfd = os.pidfd_open(pid)
    try:
        async with asyncio.timeout(timeout):
            connection = await _greeted(pid, pidfd, monitor, timeout)
    except BaseException as error:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await dead(pidfd, QUIT_LIMIT)
        _reap(pid, pidfd)
        if not isinstance(error, (TimeoutError, MonitorError)):
            raise
        words = _read(stderr)
        raise _failed(str(binary), words or str(error) or f"no greeting within {timeout} s") from error
    _reap_later(pid, pidfd)
    return Twin(pid, connection, stderr)


def _start(binary: str, argv: Sequence[str], directory: Path) -> tuple[int, Path]:
    """Start QEMU with its words going to a file in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="qemu-", suffix=".stderr", dir=directory)
    try:
        return _spawn(wrapped(binary, argv), handle), Path(name)
    except OSError as error:
        raise _failed(binary, str(error)) from error
    finally:
        os.close(handle)


def stderr_in(directory: Path) -> Path:
    """The stderr that `launch` keeps in a directory."""
    return next(iter(sorted(directory.glob("qemu-*.stderr"))), directory / "qemu.stderr")


def read_stderr(directory: Path) -> str:
    """What the QEMU that `launch` started in a directory has written there so far."""
    return _read(stderr_in(directory))


def _read(stderr: Path) -> str:
    return stderr.read_text(errors="replace").strip() if stderr.exists() else ""


def _reap(pid: int, pidfd: int) -> None:
    os.close(pidfd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _spawn(command: Sequence[str], output: int) -> int:
    """Start a process that no event loop owns: asyncio kills its subprocesses when their transport is dropped.

    `env -C /` so that the twin holds no directory of the agent's.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        return os.posix_spawnp(
            "env",
            ["env", "-C", "/", *command],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in ((null, 0), (output, 1), (output, 2))],
            setsid=True,
        )
    finally:
        os.close(null)


def _reap_later(pid: int, pidfd: int) -> None:
    """Take the exit status when the twin ends, so that no zombie stays; after us, init does."""
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(pidfd)
        _reap(pid, pidfd)

    loop.add_reader(pidfd, ended)


async def stop(twin: Twin) -> None:
    """Destroy a twin: `quit`, and SIGKILL where that is not enough. Safe to repeat."""
    try:
        pidfd = os.pidfd_open(twin.pid)
    except ProcessLookupError:
        await twin.monitor.close()
        return
    try:
        with contextlib.suppress(MonitorError):
            await twin.monitor.execute("quit", timeout=QUIT_LIMIT)
        if not await dead(pidfd, QUIT_LIMIT):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await dead(pidfd, QUIT_LIMIT)
    finally:
        os.close(pidfd)
        await twin.monitor.close()


def wrapped(binary: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The command that starts QEMU: inside a systemd scope of its own where systemd runs, else QEMU itself.

    Without a scope, stopping the agent's unit would kill the guests that it started.
    """
    if not Path("/run/systemd/system").is_dir():
        return (binary, *argv)
    return ("systemd-run", "--scope", "--quiet", "--collect", "--slice=machine.slice", "--", binary, *argv)


async def _greeted(pid: int, pidfd: int, path: str, timeout: float) -> Monitor:
    """Connect as soon as QEMU listens. It announces its socket by no event, so this polls, until it died."""
    while True:
        try:
            return await Monitor.connect(path, pid=pid, greeting_timeout=timeout)
        except (MonitorMissing, MonitorBusy):
            if await dead(pidfd, _POLL):
                raise


def _failed(binary: str, words: str) -> LaunchError:
    reason = words.strip().splitlines()[-1] if words.strip() else "it said nothing"
    return LaunchError(
        f"{binary} did not start as a twin: {reason}",
        guest_runs=Side.SOURCE,
        remedy="the words below are QEMU's own; `limosa show` names what is unknown about this guest",
        detail=words,
    )
