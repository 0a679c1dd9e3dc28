"""Adds events to a file, one line of JSON each."""

import asyncio
import os
from pathlib import Path

from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.progress import Answer

MODE = 0o640


async def append(hook: HookConfig, body: bytes) -> Answer:
    """One attempt; delivered when the line is on disk."""
    try:
        async with asyncio.timeout(hook.timeout):
            await asyncio.to_thread(_append, Path(hook.file), body)
    except TimeoutError:
        return Answer(delivered=False, words=f"it could not be written within {hook.timeout:g} s")
    except OSError as error:
        return Answer(delivered=False, words=str(error))
    return Answer(delivered=True, words="written")


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
