"""Pre-copy: RAM travels while the guest runs, until QEMU pauses it at pre-switchover."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from limosa.errors import MonitorSilent, MoveFailed
from limosa.guest.profile import Profile
from limosa.migration.convergence import (
    STALL,
    Change,
    Course,
    Limits,
    Phase,
    RamProgress,
    advise,
    first_course,
    needed_downtime,
)
from limosa.qmp.events import Event
from limosa.qmp.monitor import Monitor
from limosa.units import Milliseconds, Side, format_rate
from limosa.wire.moves import MoveRequest, Progress

DEFAULT_DOWNTIME_LIMIT = Milliseconds(300)
"""Longest pause that is allowed where the operator says nothing: QEMU's own default."""

SOURCE_CAPABILITIES = ("events", "return-path", "pause-before-switchover", "validate-uuid")
"""Without return-path a source says `completed` when the destination failed to load (docs/qemu-notes.md)."""

POLL = 0.25
"""Seconds between readings when no event comes: QEMU has no progress event, only one for each pass."""


class Precopier:
    """Drives one pre-copy.

    Attributes:
        stopped_at: when the guest was paused for the switchover, on the event loop's clock.
        paused_by_user: somebody else paused the guest while it was copied; it stays paused then.
        final: QEMU's last `query-migrate`, once it completed.
    """

    def __init__(
        self, monitor: Monitor, profile: Profile, request: MoveRequest, tell: Callable[[Progress], None]
    ) -> None:
        self.stopped_at: float | None = None
        self.paused_by_user = False
        self.final: Mapping[str, Any] = {}
        self._passes = 0
        self._monitor = monitor
        self._profile = profile
        self._tell = tell
        self.limits = Limits(
            bandwidth=request.bandwidth,
            downtime=Milliseconds(request.downtime_limit or DEFAULT_DOWNTIME_LIMIT),
            may_throttle="throttle" in request.allow,
        )
        self._course = first_course(self.limits)
        self._moved: tuple[int, float] = (-1, 0.0)

    async def settings(self, channels: int) -> dict[str, Any]:
        """The guest's migration settings as they are, ready to be set again."""
        capabilities = await self._monitor.execute("query-migrate-capabilities")
        parameters = await self._monitor.execute("query-migrate-parameters")
        wanted = self._capabilities(channels)
        kept = ("max-bandwidth", "downtime-limit", "tls-creds", "multifd-channels")
        return {
            "capabilities": [c for c in capabilities if c["capability"] in wanted],
            "parameters": {k: parameters[k] for k in kept if k in parameters},
        }

    async def prepare(self, channels: int, tls_creds: str | None) -> None:
        """Set capabilities and parameters for this pre-copy."""
        wanted = [{"capability": c, "state": True} for c in sorted(self._capabilities(channels))]
        await self._monitor.execute("migrate-set-capabilities", {"capabilities": wanted})
        settings: dict[str, Any] = {"tls-creds": tls_creds or ""}
        if channels:
            settings["multifd-channels"] = channels
        await self._monitor.execute("migrate-set-parameters", settings)
        await self._steer(self._course)

    def _capabilities(self, channels: int) -> frozenset[str]:
        # QEMU takes no capability while a migration runs, so throttling is decided here.
        throttle = ["auto-converge"] if self.limits.may_throttle else []
        return frozenset((*SOURCE_CAPABILITIES, *(["multifd"] if channels else []), *throttle))

    async def run(self, uri: str) -> Mapping[str, Any]:
        """Copy until the guest is paused with little left to send.

        Returns:
            Passes, bytes and the course that was reached.

        Raises:
            MoveFailed: QEMU gave up, or nothing moves any more.
        """
        events = self._monitor.events
        mark = start = events.position
        await self._monitor.execute("migrate", {"uri": uri})
        while True:
            try:
                event = await events.wait(("MIGRATION", "MIGRATION_PASS", "STOP", "RESUME"), since=mark, timeout=POLL)
            except MonitorSilent:
                await self._notice_pause()
                await self._look()
                continue
            mark = event.number + 1
            if event.name == "MIGRATION" and await self._reached(event):
                break
            if event.name == "MIGRATION_PASS":
                await self._look()
        stops = [e for e in events.since(start) if e.name == "STOP"]
        if stops and not self.paused_by_user:
            self.stopped_at = stops[-1].at
        waited = 1000 * (event.qemu_time - stops[-1].qemu_time) if stops else 0.0
        return {"passes": max(1, self._passes), "course": self._course.phase, "stop_to_pre_switchover_ms": waited}

    async def set_bandwidth(self, rate: float | None) -> None:
        """Cap the copy at `rate` bytes per second from now on; None lifts the cap."""
        self.limits = Limits(rate, self.limits.downtime, self.limits.may_throttle)
        await self._steer(Course(self._course.phase, int(rate or 0), self._course.downtime_limit))

    async def read_final(self) -> None:
        """Keep QEMU's own figures of a completed migration."""
        self.final = await self._monitor.execute("query-migrate")

    async def _reached(self, event: Event) -> bool:
        status = event.data["status"]
        if status in {"failed", "cancelled"}:
            info = await self._monitor.execute("query-migrate")
            raise _failed(self._profile.name, str(info.get("error-desc", status)))
        return bool(status == "pre-switchover")

    async def _notice_pause(self) -> None:
        """Whether somebody else has paused the guest: then it stays paused at the destination.

        The migration's own STOP leaves `finish-migrate`, and pre-switchover follows it at once; so this is
        asked only while nothing happens, and costs the switchover nothing.
        """
        self.paused_by_user = (await self._monitor.execute("query-status"))["status"] == "paused"

    async def _look(self) -> None:
        info = await self._monitor.execute("query-migrate")
        if (ram := info.get("ram")) is None:
            return
        now = _reading(ram)
        self._passes = now.passes
        self._notice_stall(now)
        advice = advise(now, self._course, self.limits)
        if isinstance(advice, Change):
            await self._steer(advice.course)
        self._report(now, ram)

    def _notice_stall(self, now: RamProgress) -> None:
        clock = asyncio.get_running_loop().time()
        if now.transferred != self._moved[0]:
            self._moved = (now.transferred, clock)
        elif clock - self._moved[1] > STALL:
            raise MoveFailed(
                f"no RAM of {self._profile.name} reached the destination for {STALL:.0f} s",
                guest_runs=Side.SOURCE,
                remedy="check the migration network between the two hosts, then start again",
            )

    async def _steer(self, course: Course) -> None:
        parameters: dict[str, Any] = {
            "max-bandwidth": course.max_bandwidth,
            "downtime-limit": max(1, int(course.downtime_limit)),
        }
        await self._monitor.execute("migrate-set-parameters", parameters)
        self._course = course

    def _report(self, now: RamProgress, ram: Mapping[str, Any]) -> None:
        stuck = self._course.phase is Phase.STUCK
        spare = now.throughput - now.dirty_rate
        self._tell(
            Progress(
                item="ram",
                done=int(ram["total"] - now.remaining),
                total=int(ram["total"]),
                sent=now.transferred,
                rate=now.throughput,
                passes=now.passes,
                dirty_rate=now.dirty_rate,
                eta=now.remaining / spare if spare > 0 and not stuck else None,
                state=self._words(now) if stuck else self._course.phase,
            )
        )

    def _words(self, now: RamProgress) -> str:
        return (
            f"{Phase.STUCK}: {format_rate(now.dirty_rate)} dirtied, {format_rate(now.throughput)} sent; "
            f"--downtime-limit {needed_downtime(now):.0f} or --allow throttle would end it"
        )


def _failed(guest: str, why: str) -> MoveFailed:
    # At its end QEMU flushes every disk. One whose flush failed once is never flushed again by that QEMU, since the
    # kernel may have dropped what was not written (block/file-posix.c, page_cache_inconsistent).
    flush = "Input/output error" in why
    return MoveFailed(
        f"RAM of {guest} could not be copied: {why}",
        guest_runs=Side.SOURCE,
        remedy="if a disk of the guest failed here before: mend it, and start the guest's QEMU anew before it is moved"
        if flush
        else "look at the destination's log and at the migration network, then start again",
    )


def _reading(ram: Mapping[str, Any]) -> RamProgress:
    return RamProgress(
        passes=ram["dirty-sync-count"],
        remaining=ram["remaining"],
        transferred=ram["transferred"],
        throughput=ram.get("mbps", 0.0) * 1e6 / 8,
        dirty_rate=ram.get("dirty-pages-rate", 0) * ram.get("page-size", 4096),
    )
