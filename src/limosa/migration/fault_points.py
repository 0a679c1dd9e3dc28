"""Where a move can be held on purpose, exactly before or after a step: for proving what faults do to it.

Inert unless the agent's environment names a unix socket in LIMOSA_FAULT_POINTS. Then the agent connects to it
at each point, says one line of JSON about where it stands, and goes on when it is answered, when nobody listens
there, or after `LIMIT` seconds. What to use it for: docs/faults-how.md.
"""

import asyncio
import json
import os

VARIABLE = "LIMOSA_FAULT_POINTS"

LIMIT = 60.0
"""Seconds that a move waits at a point, so that a dead test never holds a guest for long."""

BEFORE, AFTER = "before", "after"


async def reach(move: str, point: str, moment: str, number: int = -1) -> None:
    """Say that a move stands at a point, and wait for permission to go on.

    Args:
        move: its id.
        point: name of the step, or of a moment within one.
        moment: `BEFORE` or `AFTER`.
        number: of the step in its plan; -1 for a moment within a step.
    """
    if not (path := os.environ.get(VARIABLE)):
        return
    told = json.dumps({"move": move, "point": point, "moment": moment, "number": number})
    try:
        async with asyncio.timeout(LIMIT):
            await _ask(path, told)
    except (OSError, TimeoutError):
        return  # nobody holds moves just now


async def _ask(path: str, told: str) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(told.encode() + b"\n")
        await writer.drain()
        await reader.readline()
    finally:
        writer.close()
