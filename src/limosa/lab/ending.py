"""Programs that build labs take them down again, also when they are told to end."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a program that SIGTERM ended, as shells have it."""


def run_to_the_end(work: Coroutine[Any, Any, int]) -> int:
    """`asyncio.run`, where SIGTERM cancels the work, as Ctrl-C does, and is waited for. Returns the exit status."""

    async def cancellable() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        return TERMINATED
