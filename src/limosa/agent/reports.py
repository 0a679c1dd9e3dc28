"""What this host tells controllers: looked at while one asks, told when it changed (`limosa.wire.reports`)."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from pyroute2 import AsyncIPRoute

from limosa.agent import look, this_host
from limosa.agent.config import Config
from limosa.agent.cpu import CpuAsk, this_cpu
from limosa.agent.ledger import Ledger
from limosa.agent.load import Loads
from limosa.cargo.storage import Carrier, carried_by
from limosa.cargo.taps import links
from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.errors import LimosaError, MonitorError
from limosa.guest.cpu import guest_cpu
from limosa.guest.discover import find_guests
from limosa.guest.profile import FoundGuest, Profile
from limosa.migration.moves import Moves
from limosa.migration.store import Held, identity_of
from limosa.units import MIB, HostName
from limosa.wire.guests import GuestShown
from limosa.wire.reports import GuestReport, MachineReport, Report, ReportAsk
from limosa.wire.rpc import Handlers

LOOK_EVERY = 2.0
"""Seconds between two looks at the host while a controller asks."""
ASKED_LATELY = 60.0
"""Seconds after the last question until nobody looks any more."""
LOOK_AGAIN = 600.0
"""Seconds after which a guest's profile is read again; what changes it is rare."""
LONGEST_WAIT = 60.0
MEMORY_STEP = 256 * MIB
"""Free memory is told in such steps: it changes all the time."""

_log = structlog.get_logger()


class Insight(NamedTuple):
    """What only a guest's profile tells."""

    at: float
    cpu: GuestCpu
    disk: int
    networks: tuple[str, ...]
    blocked: tuple[str, ...]


class Reporter:
    """Keeps the ledger of this host, as long as somebody asks for it."""

    def __init__(self, config: Config, moves: Moves, migration_address: str) -> None:
        self._config = config
        self._moves = moves
        self._address = migration_address
        self._ledger = Ledger(secrets.token_hex(8))
        self._loads = Loads()
        self._insights: dict[tuple[int, int], Insight] = {}
        self._news = asyncio.Condition()
        self._asked = 0.0
        self.asked_at = 0.0
        """When a controller asked last, seconds since 1970; 0 before the first question."""
        self._kept = moves.archive.mark()
        self._task: asyncio.Task[None] | None = None
        self._look_now = asyncio.Event()
        moves.at_rest(self._look_now.set)

    def handlers(self) -> Handlers:
        """For `peer.serve`, as what controllers may call."""
        return {"fleet.report": (ReportAsk, self._report)}

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _report(self, ask: ReportAsk, _caller: HostName) -> Report:
        self._asked, self.asked_at = asyncio.get_running_loop().time(), time.time()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="reports")
        async with self._news:
            try:
                async with asyncio.timeout(min(max(ask.wait, 0.0), LONGEST_WAIT)):
                    await self._news.wait_for(lambda: self._has_news_for(ask))
            except TimeoutError:
                pass  # nothing new: a sign of life
        return msgspec.structs.replace(self._ledger.since(ask.known), kept=self._moves.archive.mark())

    def _has_news_for(self, ask: ReportAsk) -> bool:
        report = self._ledger.since(ask.known)
        ended = ask.kept is not None and ask.kept != self._moves.archive.mark()
        return ended or (self._ledger.number > 0 and report.number > report.since)

    async def _look(self) -> None:
        clock = asyncio.get_running_loop().time
        while clock() - self._asked < ASKED_LATELY:
            self._look_now.clear()
            try:
                await self._note()
            except (LimosaError, OSError) as error:
                _log.warning("cannot look at this host for a report", why=str(error))
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._look_now.wait()
            except TimeoutError:
                continue

    async def _note(self) -> None:
        machine = await machine_report(self._config, self._address)
        guests = {report.key: report for report in await self.guests()}
        kept, self._kept = self._kept, self._moves.archive.mark()
        if self._ledger.note(machine, guests) or kept != self._kept:
            async with self._news:
                self._news.notify_all()

    async def guests(self) -> tuple[GuestReport, ...]:
        """Every guest here, looked at now."""
        found = {guest.pid: guest for guest in find_guests()}
        shown = await look.show_guests(self._config.host, self._moves)
        self._forget({(guest.pid, guest.start_time) for guest in found.values()})
        return tuple([await self._guest(each, found.get(each.pid)) for each in shown])

    async def _guest(self, shown: GuestShown, found: FoundGuest | None) -> GuestReport:
        insight = await self._insight(shown, found)
        key = identity_of(shown.uuid or "", shown.name)
        owner = self._moves.store.owner(key)
        now = asyncio.get_running_loop().time()
        return GuestReport(
            key=key,
            shown=shown,
            epoch=owner.epoch if owner else 0,
            here=owner is None or owner.state is Held.HERE,
            cpu=insight.cpu if insight else None,
            disk=insight.disk if insight else 0,
            networks=insight.networks if insight else (),
            load=self._loads.look(found.pid, found.start_time, now) if found else None,
            blocked=_blocked(shown, insight),
        )

    async def _insight(self, shown: GuestShown, found: FoundGuest | None) -> Insight | None:
        if found is None:
            return None
        name, now = (found.pid, found.start_time), asyncio.get_running_loop().time()
        known = self._insights.get(name)
        in_hand = shown.move is not None or shown.state in look.INCOMING
        if in_hand or (known is not None and now - known.at < LOOK_AGAIN):
            return known
        try:
            profile, findings = await self._moves.examine(found)
        except MonitorError:  # `shown.movable` says so; what was known is still true
            return known
        blocked = tuple(finding.what for finding in findings)
        networks = tuple(sorted({netdev.bridge for netdev in profile.netdevs if netdev.bridge}))
        disk = await asyncio.to_thread(self._local_bytes, profile)
        self._insights[name] = Insight(now, guest_cpu(profile), disk, networks, blocked)
        return self._insights[name]

    def _local_bytes(self, profile: Profile) -> int:
        """Bytes that its disks take below `storage`; of all its disks, where none is configured."""
        places = [image.path for image in carried_by(profile, Carrier.DISKS) if image.path]
        return sum(
            Path(path).stat().st_blocks * 512
            for path in places
            if Path(path).exists()
            and (not self._config.storage or any(Path(path).is_relative_to(p) for p in self._config.storage))
        )

    def _forget(self, living: set[tuple[int, int]]) -> None:
        self._insights = {name: insight for name, insight in self._insights.items() if name in living}
        self._loads.keep(living)


def _blocked(shown: GuestShown, insight: Insight | None) -> tuple[str, ...]:
    of_now = () if shown.movable == "yes" or shown.move else (shown.movable,)
    return (*of_now, *(insight.blocked if insight else ()))


async def machine_report(config: Config, migration_address: str) -> MachineReport:
    """This host as it is now."""
    meminfo = Path("/proc/meminfo").read_text()  # noqa: ASYNC240  (not a disk)
    size, free = await asyncio.to_thread(_room, config.storage)
    return MachineReport(
        host=config.host,
        version=version("limosa"),
        cores=len(os.sched_getaffinity(0)),
        memory=_total(meminfo),
        memory_free=this_host.memory_free(meminfo) // MEMORY_STEP * MEMORY_STEP,
        disk=size,
        disk_free=free // MEMORY_STEP * MEMORY_STEP,
        link=await link_rate(migration_address),
        networks=tuple(sorted(name for name, link in (await links()).items() if link.kind == "bridge")),
        qemu_versions=await this_host.qemu_versions(config.qemu),
        cpu=await _cpu(config),
    )


def _total(meminfo: str) -> int:
    return next((int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemTotal:")), 0)


def _room(places: tuple[Path, ...]) -> tuple[int, int]:
    """Size and free bytes of the file systems of these directories, each counted once."""
    stats: Mapping[int, os.statvfs_result] = {p.stat().st_dev: os.statvfs(p) for p in places if p.is_dir()}
    return (
        sum(stat.f_frsize * stat.f_blocks for stat in stats.values()),
        sum(stat.f_frsize * stat.f_bavail for stat in stats.values()),
    )


async def _cpu(config: Config) -> HostCpu | None:
    try:
        return await this_cpu(config, CpuAsk())
    except LimosaError as error:
        _log.warning("no QEMU tells what guests can be given of this processor", why=error.what)
        return None


async def link_rate(address: str) -> float:
    """Bytes per second of the interface with this address, as its driver says; 0 where it does not."""
    async with AsyncIPRoute() as netlink:
        found = [m["index"] async for m in await netlink.get_addr() if m.get("address") == address]
    if not found:
        return 0.0
    try:
        megabits = int(Path(f"/sys/class/net/{socket.if_indextoname(found[0])}/speed").read_text())  # noqa: ASYNC240
    except (OSError, ValueError):  # a virtual interface has no speed, and one that is down refuses to tell
        return 0.0
    return max(0, megabits) * 1e6 / 8
