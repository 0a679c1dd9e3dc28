"""Twins are started so that they outlive whoever started them, and end when they are told to."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from limosa.destination.launch import launch, stop
from limosa.errors import LaunchError
from limosa.lab import assets
from limosa.units import Side

pytestmark = pytest.mark.qemu

WORDS = ("-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-incoming", "defer", "-m", "32")


def line(directory: Path, *more: str) -> tuple[str, ...]:
    return (*WORDS, *more, "-qmp", f"unix:{directory}/twin,server=on,wait=off")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def directory_of(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except FileNotFoundError:
        return None


def runs(command: str) -> bool:
    """Whether any process has this command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text())
    return any(words.startswith(command) for words in found)


async def test_a_twin_waits_in_a_session_of_its_own_and_stops_without_a_trace(short_dir: Path) -> None:
    twin = await launch(assets.qemu_10(), line(short_dir), directory=short_dir, monitor=f"{short_dir}/twin")
    assert (await twin.monitor.execute("query-status"))["status"] == "inmigrate"
    assert os.getsid(twin.pid) == twin.pid
    assert directory_of(twin.pid) == "/"
    await stop(twin)
    assert directory_of(twin.pid) is None  # not even a zombie
    await stop(twin)


async def test_a_twin_that_does_not_listen_any_more_is_killed(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limosa.destination.launch.QUIT_LIMIT", 0.3)
    twin = await launch(assets.qemu_10(), line(short_dir), directory=short_dir, monitor=f"{short_dir}/twin")
    os.kill(twin.pid, signal.SIGSTOP)
    await stop(twin)
    assert not alive(twin.pid)


async def test_a_line_that_qemu_refuses_fails_with_its_words(short_dir: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(LaunchError) as failure:
        await launch(
            assets.qemu_10(), line(short_dir, "-device", "nonsense"), directory=short_dir, monitor=f"{short_dir}/twin"
        )
    assert "'nonsense' is not a valid device model name" in failure.value.detail
    assert "'nonsense' is not a valid device model name" in failure.value.what
    assert failure.value.guest_runs is Side.SOURCE
    assert time.monotonic() - begin < 10


async def test_a_program_that_is_not_there_or_never_greets_fails(short_dir: Path) -> None:
    with pytest.raises(LaunchError):
        await launch("/nonexistent/qemu", (), directory=short_dir, monitor=f"{short_dir}/twin")
    with pytest.raises(LaunchError, match="did not start"):
        await launch("/bin/sleep", ("60",), directory=short_dir, monitor=f"{short_dir}/twin", timeout=0.3)


async def test_an_aborted_start_leaves_no_process(short_dir: Path) -> None:
    start = asyncio.create_task(
        launch("/bin/sleep", ("61.5",), directory=short_dir, monitor=f"{short_dir}/twin", timeout=30)
    )
    await asyncio.sleep(0.3)
    start.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await start
    assert not runs("sleep\00061.5")


STARTER = """
import asyncio, sys
from pathlib import Path
from limosa.destination.launch import launch
async def main():
    directory = Path(sys.argv[2])
    twin = await launch(sys.argv[1], sys.argv[3:], directory=directory, monitor=f"{directory}/twin")
    print(twin.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_twin_survives_the_death_of_whoever_started_it(short_dir: Path) -> None:
    starter = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STARTER, str(assets.qemu_10()), str(short_dir), *line(short_dir)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert starter.stdout is not None
    pid = int(await starter.stdout.readline())
    try:
        starter.kill()
        await starter.wait()
        await asyncio.sleep(0.2)
        assert alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
