"""The demo: two lab hosts, a guest under load, moved there and back by `limosa migrate`, every promise checked."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from limosa.cli.client import AgentClient
from limosa.cli.transport import Unix
from limosa.errors import LimosaError, from_wire
from limosa.guest.compare import Comparison, compare
from limosa.guest.profile import Profile
from limosa.lab import assets, demo_guest, guests, provision, records
from limosa.lab.demo_guest import DISKS, NAME, VOLUME, DemoDisk
from limosa.lab.demo_report import Check, Moved, watched
from limosa.lab.guestctl import GuestControl, Pages, Status
from limosa.lab.hosts import Host
from limosa.lab.inside import Completed
from limosa.lab.lab import Lab
from limosa.lab.traces import PingRecord
from limosa.wire.guests import GuestShown
from limosa.wire.moves import MoveStatus

PING_SECONDS = 0.005
QUIET_SECONDS = 1.0
"""Watched before and after each move, so that the picture shows what is usual."""
MOVE_LIMIT = 150.0
LONGEST_GAP_MS = 3000.0
"""A ping gap that no load of the machine excuses, even under emulation."""


class DemoFailed(LimosaError):
    """A move of the demo did not come to its end."""

    code = "demo-failed"


@dataclass(frozen=True, slots=True)
class Before:
    """The guest before a move."""

    profile: Profile
    status: Status
    plugged_sum: str
    """Checksum of what fills the DIMM."""


class Demo:
    """One run of the demo in a lab that is up.

    Args:
        lab: with two hosts and their agents.
        say: told what happens, a line at a time.
    """

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        self._lab = lab
        self._say = say
        self._volume = lab.store.directory / "volume" / VOLUME.path
        self._contents: dict[str, records.Content] = {}

    async def run(self) -> tuple[Moved, ...]:
        """Start the guest, plug things in, move it there and back.

        Raises:
            LimosaError: something failed before any promise could be checked.
        """
        first, second = self._lab.hosts.values()
        await self._start(first)
        async with demo_guest.connected(self._lab) as guest:
            status = await guest.status()
            self._say(f"guest up after {status.uptime_ns / 1e9:.1f} s: {status.cpus} vCPUs, 512 MiB, two local disks")
            await demo_guest.plug_in(first, guest)
            self._say("plugged in while it runs: a volume over NBD, a second NIC, a DIMM of 128 MiB, a third vCPU")
            plugged_sum = await demo_guest.fill_plugged_memory(guest)
            there = await self._move(guest, first, second, plugged_sum)
            return there, await self._move(guest, second, first, plugged_sum)

    async def _start(self, host: Host) -> None:
        self._contents = demo_guest.make_disks(host, self._volume)
        await demo_guest.serve_volume(self._lab.observer, self._volume)
        for other in self._lab.hosts.values():
            other.path(demo_guest.spec().directory).mkdir(parents=True, exist_ok=True)
        await guests.start(host, demo_guest.spec())

    async def _move(self, guest: GuestControl, source: Host, destination: Host, plugged_sum: str) -> Moved:
        before = Before(await profile_on(source), await guest.status(), plugged_sum)
        self._say(f"moving {source.name} → {destination.name} …")
        async with self._lab.observer.ping(demo_guest.ADDRESSES, PING_SECONDS) as pings:
            await asyncio.sleep(QUIET_SECONDS)
            beginning = asyncio.create_task(began_at(source))
            try:
                status = await migrate(source, destination)
                began = await beginning
            finally:
                beginning.cancel()
            await asyncio.sleep(QUIET_SECONDS)
        checks = await self._check(guest, source, destination, status, before, pings)
        seen = tuple(watched(address, pings.traces[address].probes.values()) for address in demo_guest.ADDRESSES)
        moved = Moved(status, since_first_ping(pings, began), seen, pings.worst_late_ms, checks)
        broken = "; ".join(f"{check.what}: {check.seen}" for check in checks if not check.holds)
        kept = f"NOT kept: {broken}" if broken else "every promise kept"
        self._say(f"moved in {status.elapsed:.1f} s, longest ping gap {moved.worst.worst.ms:.0f} ms, {kept}")
        return moved

    async def _check(
        self,
        guest: GuestControl,
        source: Host,
        destination: Host,
        status: MoveStatus,
        before: Before,
        pings: PingRecord,
    ) -> tuple[Check, ...]:
        """Look at everything that a move promises. The writers rest meanwhile, so that disks can be read."""
        pages = await guest.check_pages()
        await guest.set_records_rate(0)
        try:
            now = await guest.status()
            profile = await profile_on(destination)
            plugged_sum = await demo_guest.plugged_memory_sum(guest)
            disks = [
                check for disk in DISKS for check in await self._check_disk(guest, destination, profile, now, disk)
            ]
        finally:
            await guest.set_records_rate(before.status.records_hz)
        found = compare(before.profile, profile)
        return (
            profile_check(found, status),
            ram_check(pages, before.status),
            plugged_check(plugged_sum, before.plugged_sum),
            *disks,
            alive_check(before.status, now),
            *gap_checks(pings),
            *await place_checks(source, destination),
        )

    async def _check_disk(
        self, guest: GuestControl, host: Host, profile: Profile, now: Status, disk: DemoDisk
    ) -> tuple[Check, ...]:
        seen = now.disk(disk.label)
        content = self._contents[disk.label]
        inside = await guest.sha256(seen.name, content.offset, content.length)
        place = self._volume if disk is VOLUME else host.path(image_of(profile, disk))
        return await asyncio.to_thread(disk_checks, place, disk, content, inside, seen.acknowledged, seen.errors)


async def began_at(source: Host) -> int:
    """When the move began, in nanoseconds of CLOCK_REALTIME, by asking the agent while it lasts."""
    way = Unix(str(source.path(provision.SOCKET)))
    while True:
        moves = await asyncio.to_thread(moves_of, way)
        now = time.time_ns()
        for status in moves:
            if not status.state.over and status.elapsed > 0:
                return now - int(status.elapsed * 1e9)
        await asyncio.sleep(0.05)  # a move that has not begun has no events to wait for


def moves_of(way: Unix) -> tuple[MoveStatus, ...]:
    """The moves of an agent."""
    with AgentClient(way) as agent:
        return agent.moves()


def since_first_ping(pings: PingRecord, began: int) -> float:
    """Seconds from the first ping to the move's beginning."""
    first = min(probe.sent for trace in pings.traces.values() for probe in trace.probes.values())
    return (began - first) / 1e9


async def migrate(source: Host, destination: Host) -> MoveStatus:
    """Run `limosa migrate` on the source, as its operator would.

    Raises:
        DemoFailed: it did not end with status 0.
    """
    done = await source.run(
        ["limosa", "migrate", NAME, "--to", destination.name, "--delete-source-disks", "--yes", "--json"],
        timeout=MOVE_LIMIT,
        check=False,
    )
    if done.status != 0:
        raise failed(done, source.name)
    return msgspec.json.decode(done.stdout, type=MoveStatus)


def failed(done: Completed, host: str) -> DemoFailed:
    """What to say of a `limosa migrate` that did not move the guest: its own words."""
    remedy = "limosa demo --keep leaves the lab standing, for limosa lab exec to look around in"
    try:
        error = from_wire(json.loads(done.stderr)["error"])
    except (ValueError, KeyError, TypeError):
        what = f"limosa migrate ended with status {done.status} on host {host}"
        return DemoFailed(what, remedy=remedy, detail=done.stderr or done.stdout)
    what = f"limosa migrate on host {host} ended with status {done.status}: {error.what}"
    return DemoFailed(what, guest_runs=error.guest_runs, remedy=error.remedy or remedy, detail=error.detail)


async def profile_on(host: Host) -> Profile:
    """The guest's profile, as `limosa show` on this host gives it."""
    return msgspec.json.decode((await host.run(["limosa", "show", NAME, "--json"])).stdout, type=Profile)


def image_of(profile: Profile, disk: DemoDisk) -> str:
    """The file that a disk lies in now.

    Raises:
        DemoFailed: the profile names none.
    """
    for drive in profile.drives:
        if drive.node == disk.label:
            node = profile.node(drive.node)
            filename = node.filename or profile.node(node.children["file"]).filename
            if filename:
                return filename
    raise DemoFailed(f"the profile names no file for disk {disk.label}", remedy="limosa show demo --json")


def profile_check(found: Comparison, status: MoveStatus) -> Check:
    """The machine is the same as before the move; the twin was too, before a byte was copied."""
    twin = status.measured.compared if status.measured else 0
    differences = "; ".join(str(difference) for difference in found.guest_visible[:3])
    seen = f"{found.compared} properties read on both hosts, {twin} of the twin before the copy"
    return Check("the same machine", differences or f"{seen}: equal", not found.guest_visible and twin > 0)


def ram_check(pages: Pages, before: Status) -> Check:
    """Every page holds what was last written to it, and the counter went on."""
    dirtier, old = pages.dirtiers[0], before.dirtiers[0]
    counted = dirtier.passes - old.passes
    seen = f"{dirtier.mib} MiB, {dirtier.passes} times through, {counted} of them since; {dirtier.errors} pages wrong"
    return Check("RAM pattern intact", seen, pages.intact and dirtier.passes > 0)


def plugged_check(now: str, before: str) -> Check:
    """The DIMM holds what it held."""
    seen = f"a file that fills it, md5 {now[:12]}…" if now == before else f"md5 {before} before, {now} now"
    return Check("plugged memory intact", seen, now == before)


def disk_checks(
    place: Path, disk: DemoDisk, content: records.Content, inside: str, acknowledged: int, errors: int
) -> tuple[Check, ...]:
    """Known bytes by checksum, read by the guest and by the host; and every record that the guest was told is safe."""
    with opened(place, disk.format) as image:
        image.seek(content.offset)
        outside = hashlib.sha256(image.read(content.length)).hexdigest()
        verdict = records.verify(image, acknowledged)
    equal = inside == outside == content.sha256
    seen = f"sha256 {content.sha256[:12]}… in guest and on host" if equal else f"guest {inside}, host {outside}"
    found = f"{acknowledged} acknowledged, {verdict.checked - len(verdict.faults)} of {verdict.checked} found"
    return (
        Check(f"disk {disk.label}: checksum", seen, equal),
        Check(
            f"disk {disk.label}: records",
            "; ".join((found, *verdict.faults[:2], *([f"{errors} write errors"] if errors else []))),
            verdict.intact and acknowledged > 0 and not errors,
        ),
    )


@contextmanager
def opened(place: Path, fmt: str) -> Iterator[BinaryIO]:
    """A disk's bytes while a QEMU has it open; its guest does not write just now, and what it wrote is flushed."""
    if fmt == "raw":
        with place.open("rb") as image:
            yield image
        return
    scratch = Path(tempfile.mkdtemp(prefix="limosa-demo-"))
    try:
        raw = scratch / "raw"
        convert = [str(assets.qemu_img()), "convert", "--force-share", "-f", fmt, "-O", "raw", str(place), str(raw)]
        subprocess.run(convert, check=True, capture_output=True, timeout=120)
        with raw.open("rb") as image:
            yield image
    finally:
        shutil.rmtree(scratch)


def alive_check(before: Status, now: Status) -> Check:
    """The same boot of the same kernel, nothing died in it, and the TCP connection from before still carries this."""
    wrong = demo_guest.missing_parts(now)
    wrong += ["it booted again"] if now.boot_id != before.boot_id else []
    wrong += [f"{now.deaths} of its programs died"] if now.deaths else []
    wrong += ["its kernel complained"] if now.oopsed and not before.oopsed else []
    seen = (
        f"3 vCPUs, {now.memory_kib // 1024} MiB, 2 NICs, 3 disks, up {now.uptime_ns / 1e9:.0f} s, same TCP connection"
    )
    return Check("the guest noticed nothing", ", ".join(wrong) or seen, not wrong)


def gap_checks(pings: PingRecord) -> Iterator[Check]:
    """The pause, as somebody outside saw it."""
    for number, trace in enumerate(pings.traces.values(), start=1):
        seen = f"{trace.largest_gap_ms:.1f} ms, {trace.lost} of {trace.sent} pings lost"
        yield Check(f"NIC {number}: longest ping gap", seen, trace.largest_gap_ms < LONGEST_GAP_MS)


async def place_checks(source: Host, destination: Host) -> tuple[Check, ...]:
    """It runs on one host, and nothing of it is left on the other."""
    here, there = [await guests_on(host) for host in (source, destination)]
    running = [guest for guest in there if guest.name == NAME and guest.state == "running"]
    seen = f"{len(running)} on {destination.name}, {len(here)} on {source.name}"
    left = sorted(
        str(path.relative_to(source.path("/srv"))) for path in source.path("/srv").rglob("*") if path.is_file()
    )
    return (
        Check("it runs on exactly one host", seen, len(running) == 1 and not here),
        Check("the source keeps nothing", ", ".join(left) or "no QEMU, no disk", not left),
    )


async def guests_on(host: Host) -> list[GuestShown]:
    """What `limosa ls` on this host lists."""
    return msgspec.json.decode((await host.run(["limosa", "ls", "--json"])).stdout, type=list[GuestShown])


async def run(say: Callable[[str], None], *, name: str = "demo", keep: bool = False) -> tuple[Moved, ...]:
    """Build a lab, run the demo in it, and take it down.

    Args:
        say: told what happens, a line at a time.
        name: the lab's.
        keep: leave the lab standing, for looking around in it.

    Raises:
        LimosaError: no lab could be built, or something failed before any promise could be checked.
    """
    lab = await Lab.up(hosts=2, name=name)
    say("two hosts up, a and b, each with its own namespaces, bridge, disks and agent")
    try:
        return await Demo(lab, say).run()
    finally:
        if not keep:
            await lab.down()
