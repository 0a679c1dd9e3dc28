"""What limosa made for a guest goes when the guest's QEMU ends: its taps, and its runtime directory.

A guest that came by a move runs on taps that limosa made, with limosa's monitor in a directory of limosa's. Its owner
knows of neither, so nobody else would ever remove them. An agent that starts tidies up after what ended meanwhile.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import structlog

from limosa.agent.holders import holders
from limosa.cargo import taps
from limosa.cargo.nics import ALIAS
from limosa.destination.launch import read_stderr
from limosa.errors import LimosaError
from limosa.guest.discover import find_guests
from limosa.guest.proc import start_time
from limosa.guest.profile import FoundGuest
from limosa.migration.moves import Moves

_log = structlog.get_logger()


class Keeper:
    """Waits for the end of every guest that came by a move, and tidies up after it.

    Args:
        run_dir: the agent's; guests that came by a move have a directory below it.
        moves: what they have in hand is theirs to tidy up, until they are at rest.
    """

    def __init__(self, run_dir: Path, moves: Moves) -> None:
        self._guests = run_dir / "guests"
        self._moves = moves
        self._watched: dict[int, int] = {}
        """pid -> pidfd."""
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; `look` at once, and whenever a move comes to rest or a guest ends."""
        self._moves.at_rest(self.look)
        self._task = asyncio.create_task(self._work(), name="keeper")
        self.look()

    def look(self) -> None:
        """Look at all guests soon; however often this is called meanwhile, it is done once."""
        self._wanted.set()

    async def close(self) -> None:
        """Stop; no guest and nothing of one is touched."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for pid in tuple(self._watched):
            self._unwatch(pid)

    async def _work(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for place, guest in self._here():
                if guest is not None:
                    self._watch(guest)
                else:
                    await self._tidy_up(place)

    def _here(self) -> Iterator[tuple[Path, FoundGuest | None]]:
        """Directories of guests that came here, each with its QEMU; those that a move has in hand are left out."""
        busy, arrived = self._moves.busy_directories(), self._moves.arrived()
        if not (places := [p for p in sorted(self._guests.glob("*")) if p.name in arrived and p not in busy]):
            return
        by_place = {Path(m.path).parent: guest for guest in find_guests() for m in guest.monitors if m.path}
        yield from ((place, by_place.get(place)) for place in places)

    def _watch(self, guest: FoundGuest) -> None:
        if guest.pid in self._watched:
            return
        try:
            pidfd = os.pidfd_open(guest.pid)
        except ProcessLookupError:
            self.look()
            return
        self._watched[guest.pid] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, guest.pid)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if start_time(guest.pid) == guest.start_time:
                return
        self._ended(guest.pid)  # the pid is another process's by now

    def _ended(self, pid: int) -> None:
        self._unwatch(pid)
        self.look()

    def _unwatch(self, pid: int) -> None:
        pidfd = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    async def _tidy_up(self, place: Path) -> None:
        words = read_stderr(place)
        try:
            gone = await _remove_taps(place.name)
        except (LimosaError, OSError) as trouble:
            _log.warning("cannot remove the taps of a guest that ended", move=place.name, why=str(trouble))
            return
        shutil.rmtree(place, ignore_errors=True)
        _log.info("tidied up after a guest that ended", move=place.name, taps=gone, said=words)


async def _remove_taps(move: str) -> list[str]:
    """Remove the taps that were made for a move, but for those that somebody has taken into use."""
    made = {
        n: link.alias for n, link in (await taps.links()).items() if (link.alias or "").startswith(f"{ALIAS}{move}:")
    }
    if not made:
        return []
    held = await asyncio.to_thread(holders)
    gone = [name for name in made if not held.of_tap(name)]
    for name in gone:
        await taps.remove(name, made[name] or "")
    return gone
