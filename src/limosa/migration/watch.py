"""Keeps an eye on both QEMUs and the link while steps are made."""

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from typing import Any

from limosa.errors import GuestPoweredOff, LaunchError, LimosaError, MonitorLost, MoveFailed
from limosa.migration.departure import Departure
from limosa.migration.ends import Destination
from limosa.units import Side

PATIENCE = 0.5
"""Seconds that a deed gets to fail by itself when an alarm goes off: it may have better words for the same trouble."""


class Watch:
    """Alarms of one move. `guard` runs a deed under them; `close` switches them off."""

    def __init__(self, source: Departure, destination: Destination) -> None:
        self._destination = destination
        self._alarms: set[asyncio.Task[LimosaError]] = set()
        self._add(source.alarm())

    def attend(self) -> None:
        """From now on the destination is on the line: it has opened its side of the move."""
        self._add(_hung_up(self._destination))

    async def guard(self, deed: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Run a deed; if an alarm goes off meanwhile, stop it and raise the alarm's trouble.

        Raises:
            LimosaError: the deed's own trouble, or what the alarms know to have caused it.
        """
        work = asyncio.ensure_future(deed)
        try:
            if self._rung:
                raise self._rung[0]  # between two deeds: the next one must not even begin
            await asyncio.wait({work, *self._alarms}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await asyncio.wait({work}, timeout=PATIENCE)
            if not work.done():
                raise self._rung[0]
            try:
                return work.result()
            except LimosaError as trouble:
                # A copy breaks off because a QEMU died: the cause may be known a moment later than the effect.
                await asyncio.wait(self._alarms, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                raise caused(trouble, self._rung) from trouble
        finally:
            work.cancel()
            await asyncio.wait({work})

    @property
    def _rung(self) -> list[LimosaError]:
        return [alarm.result() for alarm in self._alarms if alarm.done()]

    async def close(self) -> None:
        """Switch the alarms off."""
        for alarm in self._alarms:
            alarm.cancel()
        await asyncio.wait(self._alarms)

    def _add(self, alarm: Coroutine[Any, Any, LimosaError]) -> None:
        self._alarms.add(asyncio.create_task(alarm))


def caused(trouble: LimosaError, alarms: Sequence[LimosaError]) -> LimosaError:
    """What to say of a deed that failed while these alarms went off: the cause first, where one is known. Pure."""
    for alarm in alarms:
        if isinstance(alarm, GuestPoweredOff):
            return alarm
    for alarm in alarms:
        if isinstance(alarm, LaunchError | MonitorLost) and alarm.what not in f"{trouble.what} {trouble.detail}":
            detail = "\n".join(filter(None, (alarm.detail, trouble.what, trouble.detail)))
            return MoveFailed(alarm.what, guest_runs=Side.SOURCE, remedy=alarm.remedy, detail=detail)
    return trouble


async def _hung_up(destination: Destination) -> LimosaError:
    try:
        await destination.attend()
    except LimosaError as trouble:
        return trouble
    return MoveFailed("the destination hung up", guest_runs=Side.SOURCE)
