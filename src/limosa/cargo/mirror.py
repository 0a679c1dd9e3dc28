"""Copying block nodes from a running QEMU into NBD exports of another one, and ending that without losing a write.

Order and traps are measured (docs/qemu-notes.md): a wrong order is reported by nobody, so each
job is checked to be concluded without error, and each export to be gone, before QEMU hands anything over.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import msgspec

from limosa.cargo.kind import Here, Streams
from limosa.errors import LimosaError, MonitorSilent, MoveFailed, QmpError
from limosa.qmp.monitor import Monitor
from limosa.units import KIB, MIB, Side
from limosa.wire.moves import Progress

READING_SECONDS = 0.5
STALLED_SECONDS = 20.0
"""A copy that has not moved for this long is given up. A cut link is never reported by QEMU itself."""
YANK_SECONDS = 2.0
"""How long QEMU may take to list its connections; out of band, so this is plenty."""
SETTLE_SECONDS = 10.0

CHANGE_SINCE = (8, 2, 0)
"""First version with `block-job-change`: a mirror can begin in the background and turn synchronous later."""

_NBD = {"type": "nbd"}

_TROUBLES = {"nospace": "No space left on device", "failed": "Input/output error"}
"""What a job's `io-status` says, in the system's words (qapi/block-core.json, BlockDeviceIoStatus)."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One node to be copied. Names are chosen before the deed."""

    item: str
    """What people call it, for progress."""
    node: str
    """Node at the source, by its name in the running process."""
    into: str
    """Node at the destination that is exported."""
    name: str
    """Name of export, job and NBD node: at most 31 characters (QEMU's limit for node names)."""
    size: int
    sync: str = "full"
    speed: int = 0
    """Limit in bytes per second; 0 is none."""


LEAST_IN_FLIGHT, MOST_IN_FLIGHT = 256 * KIB, 16 * MIB


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Where the destination's NBD server listens."""

    address: str
    port: int
    tls_creds: str | None
    in_flight: int = LEAST_IN_FLIGHT
    """Bytes of one mirror that may be under way at once (`buf-size`)."""


def gate_of(streams: Streams) -> Gate:
    """Where mirrors of a move connect, and how much each may have under way.

    QEMU's own 16 MiB make a guest stall for hundreds of milliseconds, encrypted ones above all: its main loop
    sends them. 256 KiB for each millisecond of round trip keep a link of 256 MiB/s busy (docs/qemu-notes.md).
    """
    wanted = int(streams.round_trip * 1000 * LEAST_IN_FLIGHT)
    return Gate(
        address=streams.address,
        port=streams.nbd_port,
        tls_creds=streams.tls_creds,
        in_flight=min(max(LEAST_IN_FLIGHT, wanted), MOST_IN_FLIGHT),
    )


async def open_exports(monitor: Monitor, gate: Gate, copies: Sequence[Copy]) -> None:
    """Start the destination's NBD server, if it does not run yet, and export each copy's node, writable."""
    server: dict[str, Any] = {
        "addr": {"type": "inet", "data": {"host": gate.address, "port": str(gate.port)}},
        "max-connections": 0,
    }
    if gate.tls_creds:
        server["tls-creds"] = gate.tls_creds
    try:
        await monitor.execute("nbd-server-start", server)
    except QmpError as refusal:
        if "already running" not in refusal.text:
            raise
    present = {export["id"] for export in await monitor.execute("query-block-exports")}
    for copy in copies:
        if copy.name not in present:
            arguments = {"id": copy.name, "node-name": copy.into, "name": copy.name, "writable": True}
            await monitor.execute("block-export-add", arguments | _NBD)


async def close_exports(monitor: Monitor) -> None:
    """End the NBD server and prove that no export is left.

    Raises:
        MoveFailed: something is still exported, so the destination could not own its images.
    """
    stopped, left = await monitor.execute_many([("nbd-server-stop", None), ("query-block-exports", None)])
    if isinstance(stopped, QmpError) and "not running" not in stopped.text:
        raise stopped
    if isinstance(left, QmpError):
        raise left
    if left:
        names = ", ".join(export["id"] for export in left)
        raise MoveFailed(f"the destination still exports {names}", guest_runs=Side.SOURCE, remedy="try again")


async def withdraw_exports(monitor: Monitor, copies: Sequence[Copy]) -> None:
    """Undo `open_exports` for these copies; the server ends with the last export."""
    ours = {copy.name for copy in copies}
    since = monitor.events.position
    present = {export["id"] for export in await monitor.execute("query-block-exports")}
    for name in ours & present:
        await monitor.execute("block-export-del", {"id": name, "mode": "hard"})
    for name in ours & present:
        await monitor.events.wait(_about("BLOCK_EXPORT_DELETED", "id", name), since=since, timeout=SETTLE_SECONDS)
    if present <= ours:
        await close_exports(monitor)


async def start(monitor: Monitor, gate: Gate, copies: Sequence[Copy]) -> None:
    """Begin to mirror each copy into its export. Repeating it leaves jobs that exist alone."""
    jobs = {job["id"] for job in await monitor.execute("query-jobs")}
    nodes = await _node_names(monitor)
    for copy in copies:
        if copy.name not in nodes:
            await monitor.execute("blockdev-add", _target(gate, copy))
        if copy.name not in jobs:
            await monitor.execute("blockdev-mirror", _job(copy, gate, background=monitor.version >= CHANGE_SINCE))


async def in_sync(here: Here, copies: Sequence[Copy], *, since: int) -> None:
    """Wait until every copy is complete and follows the guest's writes.

    Args:
        here: the source.
        copies: what was started.
        since: position in the event log before the jobs began.

    Raises:
        MoveFailed: a copy failed or stalled; with QEMU's own words.
    """
    watch = _Watch()
    monitor = here.monitor
    while True:
        told = await _readings(monitor, copies, since)
        for copy in copies:
            here.tell(watch.read(copy, told[copy.name]))
        if all(job["ready"] for job in told.values()):
            return
        watch.complain([copy for copy in copies if not told[copy.name]["ready"]])
        await _something_happens(monitor, monitor.events.position)


async def turn_synchronous(monitor: Monitor, copies: Sequence[Copy]) -> None:
    """From here on a guest's write is complete only when both ends have it, so that little is left to do in the pause.

    Older QEMUs cannot change a running job; theirs began synchronously.

    Raises:
        MoveFailed: a copy does not catch up.
    """
    if monitor.version < CHANGE_SINCE:
        return
    since = monitor.events.position
    for copy in copies:
        change = {"id": copy.name, "type": "mirror", "copy-mode": "write-blocking"}
        try:
            await monitor.execute("block-job-change", change)
        except QmpError as refusal:
            await _readings(monitor, copies, since)  # a job that has failed says why
            raise _failed(copy, refusal.text) from refusal
    deadline = monotonic() + STALLED_SECONDS
    while behind := _behind(copies, await _readings(monitor, copies, since)):
        if monotonic() > deadline:
            raise _failed(behind[0], "it does not catch up with the guest's writes")
        await asyncio.sleep(0.02)  # QEMU has no event for `actively-synced`


async def finish(monitor: Monitor, copies: Sequence[Copy]) -> None:
    """End each mirror with its target complete; the guest is paused. Few round trips: this is blackout.

    Raises:
        MoveFailed: a mirror ended with an error, or did not end.
    """
    since = monitor.events.position
    answers = await monitor.execute_many([("block-job-cancel", {"device": copy.name}) for copy in copies], timeout=10.0)
    try:
        for copy, answer in zip(copies, answers, strict=True):
            # A job that refuses has ended before, well or not: what is kept of it tells.
            if not isinstance(answer, QmpError):
                await monitor.events.wait(_concluded(copy.name), since=since, timeout=SETTLE_SECONDS)
    except MonitorSilent as late:
        raise MoveFailed(
            f"the copy of {copy.item} did not end", guest_runs=Side.SOURCE, remedy="look at the link, then try again"
        ) from late
    jobs = {job["id"]: job for job in await monitor.execute("query-jobs")}
    for copy in copies:
        _verify(copy, jobs.get(copy.name))


async def stop(monitor: Monitor, copies: Sequence[Copy]) -> None:
    """Undo `start`: no job and no NBD node of these copies is left. Safe if they never existed.

    The connection is cut first (`yank`): on a dead link nothing of this would end without that, and `blockdev-del`
    would hold up QEMU's whole main loop, guest included (docs/qemu-notes.md). Jobs end while the guest stands still
    for some milliseconds: one that ends under a write of the guest corrupts QEMU's memory.
    """
    names = [copy.name for copy in copies]
    if connected := await _yankable(monitor, names):
        await monitor.yank([{"type": "block-node", "node-name": name} for name in connected])
    jobs = [job for job in await monitor.execute("query-jobs") if job["id"] in names]
    if any(job["status"] != "concluded" for job in jobs):
        async with _guest_still(monitor):
            await _cancelled(monitor, names)
    for job in jobs:
        await monitor.execute("job-dismiss", {"id": job["id"]})
    for name in (await _node_names(monitor)).intersection(names):
        await monitor.execute("blockdev-del", {"node-name": name})


@asynccontextmanager
async def _guest_still(monitor: Monitor) -> AsyncIterator[None]:
    """No write of the guest is under way while the context lasts; a guest that stands is left standing."""
    runs = (await monitor.execute("query-status"))["status"] == "running"
    if runs:
        await monitor.execute("stop")
    try:
        yield
    finally:
        if runs:
            await monitor.execute("cont")


async def _cancelled(monitor: Monitor, names: Sequence[str]) -> None:
    since = monitor.events.position
    for name in names:
        with suppress(QmpError):  # it concluded meanwhile, or there is none
            await monitor.execute("block-job-cancel", {"device": name, "force": True})
    await _await_concluded(monitor, names, since, SETTLE_SECONDS)


async def _await_concluded(monitor: Monitor, names: Sequence[str], since: int, timeout: float) -> None:
    async with asyncio.timeout(timeout + 1):
        for job in await monitor.execute("query-jobs", timeout=timeout):
            if job["id"] in names and job["status"] != "concluded":
                await monitor.events.wait(_concluded(job["id"]), since=since, timeout=timeout)


async def _yankable(monitor: Monitor, names: Sequence[str]) -> list[str]:
    """Those that are connected: QEMU yanks none if it does not know one. Out of band, as the main loop may hang."""
    told = await monitor.execute("query-yank", timeout=YANK_SECONDS, oob=monitor.oob)
    return [instance["node-name"] for instance in told if instance.get("node-name") in names]


class _Watch:
    """Turns readings of jobs into progress, and notices when none moves."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}
        self._moved = monotonic()

    def read(self, copy: Copy, job: Mapping[str, Any]) -> Progress:
        now, done, total = monotonic(), int(job["offset"]), int(job["len"])
        before, had = self._last.get(copy.name, (now, done))
        # A job that is in sync proves nothing: with the link cut it stays so, while another one hangs.
        if done != had or copy.name not in self._last:
            self._moved = now
        if now - before >= READING_SECONDS / 2:
            rate = (done - had) / (now - before)
            self._rates[copy.name] = rate if copy.name not in self._rates else (rate + self._rates[copy.name]) / 2
            self._last[copy.name] = (now, done)
        self._last.setdefault(copy.name, (now, done))
        rate = self._rates.get(copy.name, 0.0)
        ready = bool(job["ready"])
        eta = (total - done) / rate if rate > 0 and not ready else None
        state = "in sync" if ready else "copying"
        return Progress(item=copy.item, done=done, total=total, rate=0.0 if ready else rate, eta=eta, state=state)

    def complain(self, unfinished: Sequence[Copy]) -> None:
        """Raise when nothing has moved for too long."""
        still = monotonic() - self._moved
        if still > STALLED_SECONDS:
            raise _failed(unfinished[0], f"nothing was copied for {still:.0f} s")


async def _something_happens(monitor: Monitor, since: int) -> None:
    """Wait for news of a job, at most until the next reading is due."""
    try:
        await monitor.events.wait(
            ("BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR"),
            since=since,
            timeout=READING_SECONDS,
        )
    except MonitorSilent:
        return


async def _readings(monitor: Monitor, copies: Sequence[Copy], since: int) -> dict[str, Mapping[str, Any]]:
    """The job of each copy, by its name.

    Raises:
        MoveFailed: one has ended, which none should.
    """
    told = {job["device"]: job for job in await monitor.execute("query-block-jobs")}
    for copy in copies:
        job = told.get(copy.name, {"status": "null"})
        if job["status"] not in {"created", "running", "paused", "ready", "standby"}:
            raise _failed(copy, job.get("error") or _last_error(monitor, copy, since))
        if trouble := _TROUBLES.get(job["io-status"]):
            raise _failed(copy, trouble)
    return {copy.name: told[copy.name] for copy in copies}


def _behind(copies: Sequence[Copy], told: Mapping[str, Mapping[str, Any]]) -> list[Copy]:
    return [copy for copy in copies if not told[copy.name].get("actively-synced", True)]


def _verify(copy: Copy, job: Mapping[str, Any] | None) -> None:
    """A mirror's end, as QEMU keeps it for us (auto-dismiss is off)."""
    if job is None:
        raise _failed(copy, "the job is gone")
    if job["status"] != "concluded" or "error" in job:
        raise _failed(copy, job.get("error") or _TROUBLES.get(job.get("io-status", ""), f"the job is {job['status']}"))
    if job["current-progress"] != job["total-progress"]:
        raise _failed(copy, f"{job['total-progress'] - job['current-progress']} bytes are missing")


def _failed(copy: Copy, why: str | None) -> LimosaError:
    return MoveFailed(
        f"the copy of {copy.item} failed: {why or 'the job ended'}",
        guest_runs=Side.SOURCE,
        remedy="see the destination's free space and the link, then try again",
    )


def _last_error(monitor: Monitor, copy: Copy, since: int) -> str | None:
    for event in reversed(monitor.events.since(since)):
        if event.data.get("device") == copy.name and "error" in event.data:
            return str(event.data["error"])
    return None


def _concluded(name: str) -> Any:
    return lambda event: (
        event.name == "JOB_STATUS_CHANGE" and event.data["id"] == name and event.data["status"] == "concluded"
    )


def _about(name: str, key: str, value: str) -> Any:
    return lambda event: event.name == name and event.data.get(key) == value


async def _node_names(monitor: Monitor) -> set[str]:
    return {node["node-name"] for node in await monitor.execute("query-named-block-nodes", {"flat": True})}


def _target(gate: Gate, copy: Copy) -> dict[str, Any]:
    # Zeros stay holes at the destination: detected here, sent as write-zeroes, and allowed to unmap.
    node: dict[str, Any] = {
        "driver": "nbd",
        "node-name": copy.name,
        "server": {"type": "inet", "host": gate.address, "port": str(gate.port)},
        "export": copy.name,
        "discard": "unmap",
        "detect-zeroes": "unmap",
    }
    return node | ({"tls-creds": gate.tls_creds} if gate.tls_creds else {})


def _job(copy: Copy, gate: Gate, *, background: bool) -> dict[str, Any]:
    return {
        "job-id": copy.name,
        "device": copy.node,
        "target": copy.name,
        "sync": copy.sync,
        "speed": copy.speed,
        "buf-size": gate.in_flight,
        "copy-mode": "background" if background else "write-blocking",
        # A job that ended by itself on an error would do so under a write of the guest; see `stop`.
        "on-source-error": "stop",
        "on-target-error": "stop",
        "auto-finalize": True,
        "auto-dismiss": False,
    }
