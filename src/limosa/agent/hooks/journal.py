"""The courier's two ends on an agent: events in the journal, progress in a file beside it.

Progress has a file of its own, written by a thread: a delivery must not write to the journal, whose next write may be
the one in some guest's pause.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from limosa.agent.files import replace_file
from limosa.agent.hooks.progress import Progress
from limosa.migration.outbox import Outbox, Posted

_log = structlog.get_logger()


class JournalEvents:
    """The events of one agent's moves."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    async def after(self, number: int) -> Sequence[Posted]:
        """Events with higher numbers, oldest first."""
        return self._outbox.after(number)

    async def get(self, number: int) -> Posted | None:
        """One event; None where it is not kept any more."""
        return self._outbox.get(number)

    async def last(self) -> int:
        """Number of the latest event; 0 before the first."""
        return self._outbox.last()


class ProgressFile:
    """How far each hook is, in one file. Where it cannot be written, hooks are told all the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refused = False

    async def load(self) -> Mapping[str, Progress]:
        """What was saved last.

        A file that makes no sense counts as none; hooks then hear of what happens from now on.
        """
        try:
            return msgspec.json.decode(await asyncio.to_thread(self._path.read_bytes), type=dict[str, Progress])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            _log.error("what hooks were told of cannot be read", file=str(self._path), why=str(error))
            return {}

    async def save(self, progress: Mapping[str, Progress]) -> None:
        """Keep this from now on; if it cannot be kept, a restart of the agent tells some events again."""
        content = msgspec.json.encode(progress)
        try:
            await asyncio.to_thread(replace_file, self._path, content, 0o600)
        except OSError as error:
            if not self._refused:
                _log.warning("what hooks were told of cannot be kept", file=str(self._path), why=str(error))
            self._refused = True
        else:
            self._refused = False
