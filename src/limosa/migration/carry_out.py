"""The runner: make each step; on any trouble settle, which is also how a move is aborted."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from limosa.errors import LimosaError, PeerError
from limosa.migration.journal import Journal, Outcome
from limosa.migration.steps import Commit, ResumeThere, Step, name_of, side_of
from limosa.units import Side

Deed = Callable[[Step], Awaitable[Mapping[str, Any]]]
Undeed = Callable[[Step], Awaitable[None]]
Guard = Callable[[Awaitable[Mapping[str, Any]]], Awaitable[Mapping[str, Any]]]


async def carry_out(journal: Journal, make: Deed, unmake: Undeed, guard: Guard) -> tuple[str, ...]:
    """Make every step of a move; where one fails, or the task is cancelled, settle and raise.

    Args:
        journal: the plan, and the record of it.
        make: does one step.
        unmake: undoes one step.
        guard: runs a step's deed while watching both QEMUs and the link; not used after commit.

    Returns:
        Troubles after commit that did not keep the guest from running at the destination.

    Raises:
        LimosaError: the trouble, after the move was rolled back; its notes say what could not be undone.
        asyncio.CancelledError: the move was aborted, and rolled back.
    """
    for entry in journal.entries:
        journal.intend(entry)
        try:
            deed = make(entry.step)
            journal.made(entry, await (deed if journal.committed else guard(deed)))
        except BaseException as trouble:  # cancellation settles too
            journal.failed(entry)
            left = await _to_the_end(settle(journal, make, unmake))
            if journal.committed:
                return (f"{name_of(entry.step)}: {trouble}", *left)
            for note in left:
                trouble.add_note(note)
            raise
    return ()


async def settle(journal: Journal, make: Deed, unmake: Undeed) -> tuple[str, ...]:
    """Bring a half-done move to rest: forward after commit, back before it.

    Returns:
        What could not be done, a sentence each.
    """
    return await (_forward(journal, make) if journal.committed else _back(journal, unmake))


async def _forward(journal: Journal, make: Deed) -> tuple[str, ...]:
    troubles: list[str] = []
    began = next(i for i, e in enumerate(journal.entries) if isinstance(e.step, Commit))
    for entry in journal.entries[began:]:
        if entry.outcome in {Outcome.MADE, Outcome.MISSED}:
            continue
        journal.intend(entry)
        try:
            journal.made(entry, await make(entry.step))
        except (LimosaError, OSError) as trouble:
            journal.failed(entry)
            troubles.append(f"{name_of(entry.step)}: {trouble}")
            if isinstance(entry.step, Commit | ResumeThere):
                break  # the source must not be retired while nobody is known to run
    return tuple(troubles)


async def _back(journal: Journal, unmake: Undeed) -> tuple[str, ...]:
    troubles: list[str] = []
    silent: PeerError | None = None
    for entry in reversed(journal.intended):
        if silent is not None and side_of(entry.step) is Side.DESTINATION:
            continue  # it cleans up by itself as soon as it notices that the link is gone
        try:
            await unmake(entry.step)
        except PeerError as trouble:
            silent = trouble
            troubles.append(f"the destination could not be told to clean up: {trouble}")
        except (LimosaError, OSError) as trouble:
            # One thing that cannot be undone must not keep the rest from being undone.
            troubles.append(f"could not undo {name_of(entry.step)}: {trouble}")
        else:
            journal.undone(entry)
    return tuple(troubles)


async def _to_the_end(work: Awaitable[tuple[str, ...]]) -> tuple[str, ...]:
    """Await settling to its end, however often this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    return task.result()
