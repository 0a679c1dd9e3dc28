"""Runs a program that is told of an event on its standard input."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Mapping
from typing import IO, Any

import msgspec

from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.progress import Answer
from limosa.wire.hooks import HookEvent

HEARD = 2000
"""Bytes of a program's last output that are kept."""

DYING = 2.0
"""Seconds in which a program that was killed is waited for."""

_VARIABLES = ("guest", "uuid", "host", "source", "destination", "epoch", "move", "macs")


async def run(hook: HookConfig, body: bytes) -> Answer:
    """One attempt: exit status 0 is delivered. After its time the program is killed, with all of its process group."""
    # Files and no pipes: a process that outlives the program, and holds them open, keeps nobody waiting.
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        told.write(body)
        told.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *hook.command,
                stdin=told,
                stdout=said,
                stderr=said,
                env=environment(msgspec.json.decode(body, type=HookEvent)),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return Answer(delivered=False, words=f"it cannot be started: {error}")
        return await _ended(hook, process, said)


async def _ended(hook: HookConfig, process: asyncio.subprocess.Process, said: IO[bytes]) -> Answer:
    try:
        async with asyncio.timeout(hook.timeout):
            status = await process.wait()
    except TimeoutError:
        return Answer(delivered=False, words=_with_output(f"killed after {hook.timeout:g} s", said))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # Nobody waits for one that hangs in the kernel: it dies when it can.
            dying = asyncio.ensure_future(process.wait())
            await asyncio.wait({dying}, timeout=DYING)
            dying.cancel()
    words = "exit status 0" if status == 0 else _with_output(_status_words(status), said)
    return Answer(delivered=status == 0, words=words)


def environment(event: HookEvent) -> dict[str, str]:
    """The variables that a program gets: the event's main parts, and a plain `PATH`."""
    told = {"LIMOSA_EVENT_ID": event.id, "LIMOSA_EVENT": event.type, "LIMOSA_TELLER": event.teller}
    found = {f"LIMOSA_{name.upper()}": _word(event.data, name) for name in _VARIABLES if name in event.data}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **told, **found}


def _word(data: Mapping[str, Any], name: str) -> str:
    value = data[name]
    return " ".join(value) if isinstance(value, list) else str(value)


def _status_words(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"killed by signal {-status}"


def _with_output(words: str, said: IO[bytes]) -> str:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - HEARD))
    output = " ".join(said.read().decode(errors="replace").split())
    return f"{words}: {output}" if output else words
