"""A short look at each guest here. Its monitor is borrowed for a few commands and given back at once."""

import asyncio
from collections.abc import Sequence
from typing import Any

from limosa.errors import LimosaError, MonitorBusy
from limosa.guest.attach import attach, pick
from limosa.guest.discover import find_guests, given_uuid
from limosa.guest.introspect import introspect
from limosa.guest.parts import OURS
from limosa.guest.profile import FoundGuest, Profile
from limosa.migration.hold import Hold
from limosa.migration.moves import Moves
from limosa.qmp.monitor import Monitor
from limosa.units import HostName
from limosa.wire.guests import GuestShown

LOOK_LIMIT = 2.0
"""Seconds for one guest's monitor: QEMU greets within milliseconds, on a host that has too much to do within a second
or so, and not at all while somebody else holds it. All guests are looked at side by side."""

INCOMING = frozenset({"inmigrate"})
ENDED = frozenset({"shutdown", "postmigrate", "guest-panicked", "internal-error"})


async def show_guests(host: HostName, moves: Moves) -> tuple[GuestShown, ...]:
    """Every QEMU on this host, by name; also each guest in doubt whose QEMU is gone.

    One in a move is asked a single question, through the monitor that the move holds.
    """
    found = find_guests()
    here = {guest.pid for guest in found}
    gone = [in_hand(guest, host, "", hold, pid=0) for guest, hold in moves.doubts() if guest.pid not in here]
    seen = await asyncio.gather(*(show_guest(guest, host, moves.hold(guest.pid)) for guest in found))
    return tuple(sorted((*seen, *gone), key=lambda guest: (guest.name, guest.pid)))


async def read_profile(wanted: str, moves: Moves) -> Profile:
    """The profile of the guest with this name, UUID or pid; in a move, as the move read it.

    Raises:
        NotFound: there is none, or there are several.
        MoveInDoubt: it is in doubt.
        MonitorError: it cannot be asked.
    """
    moves.require_no_doubt(wanted)
    guest = pick(find_guests(), wanted)
    hold = moves.hold(guest.pid)
    if hold is not None and hold.profile is not None:
        return hold.profile
    monitor = await attach(guest)
    try:
        return await introspect(monitor, pid=guest.pid)
    finally:
        await monitor.close()


async def show_guest(
    guest: FoundGuest, host: HostName, hold: Hold | None = None, *, limit: float = LOOK_LIMIT
) -> GuestShown:
    """One QEMU; what keeps us from looking at it is said in `movable`. `limit` in seconds."""
    if hold is not None:
        return in_hand(guest, host, await run_state(hold), hold)
    try:
        return shown(guest, host, await _look(guest, limit), "")
    except LimosaError as error:
        return shown(guest, host, {}, error.what)


async def run_state(hold: Hold) -> str:
    """QEMU's run state through the monitor that a move holds; empty where it does not answer at once."""
    if hold.monitor is None or hold.monitor.lost:
        return ""
    try:
        return str((await hold.monitor.execute("query-status", timeout=LOOK_LIMIT))["status"])
    except LimosaError:  # a monitor that is busy with the move, or dies with it, is no reason not to list the guest
        return ""


async def _look(guest: FoundGuest, limit: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(limit):
            monitor = await attach(guest)
    except TimeoutError as error:
        raise MonitorBusy(f"its monitor did not greet within {limit:g} s: somebody else may hold it") from error
    try:
        return await _ask(monitor, limit)
    finally:
        await monitor.close()


async def _ask(monitor: Monitor, limit: float) -> dict[str, Any]:
    commands = ("query-status", "query-memory-size-summary", "query-cpus-fast", "query-uuid", "query-name")
    answers = await monitor.execute_many([(command, None) for command in commands], timeout=limit)
    return {c: a for c, a in zip(commands, answers, strict=True) if not isinstance(a, Exception)}


def in_hand(guest: FoundGuest, host: HostName, run_state: str, hold: Hold, *, pid: int | None = None) -> GuestShown:
    """One line of `limosa ls` for a guest that a move has in hand. Pure.

    Args:
        guest: as it was found.
        host: where.
        run_state: QEMU's, or empty.
        hold: the move's hold on it.
        pid: instead of its own.
    """
    profile = hold.profile
    return GuestShown(
        name=guest.name,
        uuid=guest.uuid,
        pid=guest.pid if pid is None else pid,
        host=host,
        state=hold.word,
        memory=profile.memory.size if profile else guest.memory,
        vcpus=guest.vcpus,
        owner=owner(guest),
        monitor=_monitor(guest),
        movable=hold.doubt.what if hold.doubt else "it is in a move",
        move=hold.move,
        run_state=run_state,
        remedy=hold.doubt.remedy if hold.doubt else "",
    )


def shown(guest: FoundGuest, host: HostName, told: dict[str, Any], trouble: str) -> GuestShown:
    """One line of `limosa ls`. Pure.

    Args:
        guest: as it was found.
        host: where.
        told: QEMU's answers by command; empty if it was not, or could not be, asked.
        trouble: why not.
    """
    state = str(told["query-status"]["status"]) if "query-status" in told else "unknown"
    sizes = told.get("query-memory-size-summary", {})
    memory = sizes.get("base-memory", 0) + sizes.get("plugged-memory", 0)
    return GuestShown(
        name=told.get("query-name", {}).get("name") or guest.name,
        uuid=guest.uuid or _uuid(told),
        pid=guest.pid,
        host=host,
        state=state,
        memory=memory or guest.memory,
        vcpus=len(told.get("query-cpus-fast", ())) or guest.vcpus,
        owner=owner(guest),
        monitor=_monitor(guest),
        movable=trouble or _state_forbids(state) or "yes",
    )


def _uuid(told: dict[str, Any]) -> str | None:
    return given_uuid(str(told.get("query-uuid", {}).get("UUID", "")))


def owner(guest: FoundGuest) -> str:
    """Who started a guest, by where its monitors lie: ours, libvirt's and Proxmox's have their own places."""
    if any((m.chardev or "").startswith(OURS) for m in guest.monitors):
        return "limosa"
    paths = [m.path or "" for m in guest.monitors]
    signs = (("/libvirt/", "libvirt"), ("/qemu-server/", "proxmox"))
    return next((who for sign, who in signs if any(sign in path for path in paths)), "by hand")


def _state_forbids(state: str) -> str:
    if state in INCOMING:
        return "it waits for a guest that arrives"
    return f"its state is {state}" if state in ENDED else ""


def _monitor(guest: FoundGuest) -> str | None:
    places: Sequence[str | None] = [m.path or m.address for m in guest.monitors if m.mode == "control"]
    return next((place for place in places if place), None)
