"""Real QEMUs for tests: started small, stopped by their own handle, whatever happens."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from limosa.lab import assets
from limosa.qmp.monitor import Monitor

SMALLEST = ("-accel", "tcg", "-machine", "q35", "-m", "32", "-nodefaults", "-display", "none", "-S")
"""A board that never executes an instruction."""


MARK = "LIMOSA_TEST_DIRECTORY"
"""Tells the processes of one test from those of another, also where they leave their directory."""


@dataclass(frozen=True, slots=True)
class Started:
    """A QEMU under test; `directory` is where it was started."""

    pid: int
    process: subprocess.Popen[bytes]
    directory: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def monitor(self, name: str = "qmp") -> Monitor:
        return await Monitor.connect(str(self.directory / name), pid=self.pid, greeting_timeout=10)


StartQemu = Callable[..., Started]


@pytest.fixture(params=["7.2", "10.0"])
def qemu_binary(request: pytest.FixtureRequest) -> Path:
    """Both QEMUs that limosa promises to work with."""
    if request.param == "10.0":
        return assets.qemu_10()
    binary = assets.qemu_7()
    if binary is None:
        pytest.skip("this machine's own QEMU is newer than 7")
    return binary


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose sockets fit into 108 bytes, which pytest's own often do not."""
    with tempfile.TemporaryDirectory(prefix="lm-") as path:
        yield Path(path)


@pytest.fixture
def start_qemu(short_dir: Path) -> Iterator[StartQemu]:
    """Starts a QEMU and waits until its sockets listen: `start_qemu(binary, "-qmp", "unix:qmp,server=on,wait=off")`.

    Its first argument may be any program; `listens` names the sockets to wait for.
    """
    with ExitStack() as stack:

        def start(
            binary: Path | str,
            *words: str,
            board: Sequence[str] = SMALLEST,
            listens: Sequence[str] = ("qmp",),
            directory: Path = short_dir,
            stdin: int = subprocess.DEVNULL,
        ) -> Started:
            for name in listens:
                (directory / name).unlink(missing_ok=True)  # an earlier start's
            process = subprocess.Popen(
                [str(binary), *board, *words],
                cwd=directory,
                env=os.environ | {MARK: str(directory)},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            stack.callback(_stop, process)
            _wait_for(process, [directory / name for name in listens])
            return Started(process.pid, process, directory)

        yield start


def _wait_for(process: subprocess.Popen[bytes], sockets: Sequence[Path], limit: float = 20) -> None:
    """Until each socket listens: bound sockets have a file before listen(), so the kernel's table is asked (polled)."""
    end = time.monotonic() + limit
    while not all(_listens(path) for path in sockets):
        if process.poll() is not None and process.returncode != 0:
            pytest.fail(f"QEMU ended: {process.stderr.read().decode() if process.stderr else ''}")
        if time.monotonic() > end:
            pytest.fail(f"none listens on {', '.join(map(str, sockets))}")
        time.sleep(0.01)


def _listens(path: Path) -> bool:
    """Whether a process that was started for this directory listens there: others have sockets of the same name."""
    accepting = 0x10000  # __SO_ACCEPTCON in proc_net(5)'s `unix` table
    rows = (line.split(None, 7) for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    found = {
        row[6] for row in rows if len(row) == 8 and int(row[3], 16) & accepting and row[7] in (path.name, str(path))
    }
    return path.exists() and not found.isdisjoint(_sockets_of(path.parent))


def _sockets_of(directory: Path) -> Iterator[str]:
    """Inodes of the sockets of all processes that were started for a directory, or by such a process."""
    mark = f"{MARK}={directory}".encode()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended, or was never ours
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                links = (str(fd.readlink()) for fd in (entry / "fd").iterdir())
                yield from (link[8:-1] for link in links if link.startswith("socket:["))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
async def qemu(start_qemu: StartQemu, qemu_binary: Path) -> Started:
    """The smallest QEMU, of either version, with one monitor."""
    return await asyncio.to_thread(start_qemu, qemu_binary, "-qmp", "unix:qmp,server=on,wait=off")


@pytest.fixture
async def qemu_10(start_qemu: StartQemu) -> Started:
    """The smallest QEMU 10.0, with one monitor."""
    return await asyncio.to_thread(start_qemu, assets.qemu_10(), "-qmp", "unix:qmp,server=on,wait=off")
