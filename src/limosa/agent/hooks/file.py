"""Adds events to a file, one line of JSON each."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.progress import Answer

MODE = 0o640


async def append(hook: HookConfig, body: bytes) -> Answer:
    """One attempt; delivered when the line is on disk."""
    try:
        async with asyncio.timeout(hook.timeout):
            await _beside(partial(_append, Path(hook.file), body))
    except TimeoutError:
        return Answer(delivered=False, words=f"it could not be written within {hook.timeout:g} s")
    except OSError as error:
        return Answer(delivered=False, words=str(error))
    return Answer(delivered=True, words="written")


async def _beside(deed: Callable[[], None]) -> None:
    """Do something in a thread of its own, which the agent's end does not wait for: a file system may hang."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end(error: OSError | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error = None
        try:
            deed()
        except OSError as refusal:
            error = refusal
        with contextlib.suppress(RuntimeError):  # the loop is closed: the agent has ended
            loop.call_soon_threadsafe(end, error)

    threading.Thread(target=run, name="hook's file", daemon=True).start()
    await done


def _append(path: Path, body: bytes) -> None:
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
    with open(descriptor, "rb+", buffering=0) as file:  # noqa: PTH123  (by descriptor, so that the mode is right)
        line = (b"" if _ends_whole(descriptor) else b"\n") + body + b"\n"
        written = file.write(line)
        if written != len(line):
            raise OSError(f"{path}: only {written} of {len(line)} bytes could be written")
        os.fsync(descriptor)


def _ends_whole(descriptor: int) -> bool:
    """Whether the last line is complete; a full disk may have cut it."""
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
