"""What must hold after every fault: one guest, whole, and nothing left lying around."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from limosa.cli.client import AgentClient
from limosa.errors import LimosaError
from limosa.lab import assets, records
from limosa.lab.faults_bench import ADDRESSES, GUEST, RECORDS_HZ, TAPS, VOLUME, Bench, noted, open_moves
from limosa.lab.guestctl import GuestControl, GuestSilent, Status
from limosa.lab.hosts import Host
from limosa.qmp.monitor import Monitor

GUEST_LIMIT = 20.0
TIDY_LIMIT = 10.0


async def at_rest(bench: Bench, limit: float) -> list[str]:
    """Wait until no journal has an open move (polled: agents tell each other, not us); what is left open otherwise."""
    deadline = asyncio.get_running_loop().time() + limit
    while True:
        left = [f"{host.name}: {move}" for host in bench.lab.hosts.values() for move in open_moves(host)]
        if not left:
            return []
        if asyncio.get_running_loop().time() > deadline:
            return [f"not at rest after {limit:g} s: {', '.join(left)}"]
        await asyncio.sleep(0.03)


async def checks(bench: Bench, before: Status, *, disk_errors: bool = False) -> list[str]:
    """The guest at its home: same boot, memory and disks whole, seen from outside, known to its agent as running."""
    try:
        async with bench.control(bench.source, GUEST_LIMIT) as agent:
            wrong = await _inside(bench, agent, before, disk_errors=disk_errors)
    except GuestSilent as silent:
        return [f"the guest does not answer: {silent.detail}", *await _status_words(bench)]
    for address in ADDRESSES:
        done = await bench.lab.observer.run(["ping", "-c", "1", "-w", "5", address], check=False)
        wrong += [f"the observer cannot ping {address}"] if done.status else []
    return wrong + await _agents_words(bench)


async def _inside(bench: Bench, agent: GuestControl, before: Status, *, disk_errors: bool) -> list[str]:
    wrong = []
    if not (await agent.check_pages()).intact:
        wrong.append("RAM was spoiled")
    await agent.set_records_rate(0)
    try:
        now = await agent.status()
        if now.boot_id != before.boot_id or now.uptime_ns <= before.uptime_ns:
            wrong.append("the guest was booted anew, or its clock went back")
        if now.oopsed or now.deaths > before.deaths:
            wrong.append(f"the guest suffered: tainted {now.tainted}, {now.deaths} deaths")
        if not disk_errors:
            wrong += [f"disk {d.label} had {d.errors} errors" for d in now.disks if d.errors > _errors(before, d.label)]
        wrong += whole_disks(bench, bench.source, now)
    finally:
        await agent.set_records_rate(RECORDS_HZ)
    return wrong


def _errors(before: Status, label: str) -> int:
    return before.disk(label).errors


def whole_disks(bench: Bench, host: Host, known: Status) -> list[str]:
    """What is missing of known contents and of records that were acknowledged until `known`."""
    wrong = []
    for label, (path, fmt) in bench.images(host).items():
        if not path.exists():
            wrong.append(f"disk {label} is not on {host.name}")
            continue
        with _opened(path, fmt) as image:
            verdict = records.verify(image, known.disk(label).acknowledged)
            wrong += [f"disk {label}: {verdict.faults[0]} and {len(verdict.faults) - 1} more"] if verdict.faults else []
            content = bench.contents[label]
            image.seek(content.offset)
            wrong += _same(label, image.read(content.length), content)
    return wrong


def _same(label: str, held: bytes, content: records.Content) -> list[str]:
    import hashlib

    return [] if hashlib.sha256(held).hexdigest() == content.sha256 else [f"disk {label}: its contents changed"]


@contextmanager
def _opened(path: Path, fmt: str) -> Iterator[BinaryIO]:
    """A disk's bytes although a QEMU may have it open; nobody writes just now, and what was written is flushed."""
    if fmt == "raw":
        with path.open("rb") as image:
            yield image
        return
    scratch = Path(tempfile.mkdtemp(prefix="limosa-faults-raw-"))
    try:
        words = [str(assets.qemu_img()), "convert", "--force-share", "-f", fmt, "-O", "raw", str(path)]
        subprocess.run([*words, str(scratch / "raw")], check=True, capture_output=True, timeout=120)
        with (scratch / "raw").open("rb") as image:
            yield image
    finally:
        shutil.rmtree(scratch)


async def _status_words(bench: Bench) -> list[str]:
    """What QEMU says of itself, for a guest that is silent."""
    try:
        monitor = await Monitor.connect(str(bench.source.path(bench.spec.monitor_path)), greeting_timeout=5)
    except (LimosaError, OSError) as error:
        return [f"nor does its monitor: {error}"]
    try:
        return [f"QEMU says: {(await monitor.execute('query-status'))['status']}"]
    finally:
        await monitor.close()


async def _agents_words(bench: Bench) -> list[str]:
    """Whether the agents list the guest once, as running."""
    listed = []
    for host in bench.lab.hosts.values():
        seen = await bench.ask(host, AgentClient.guests)
        listed += [f"{guest.state} on {host.name}" for guest in seen if guest.name == GUEST]
    return [] if listed == [f"running on {bench.home}"] else [f"limosa ls says: {', '.join(listed) or 'no such guest'}"]


async def strays(bench: Bench) -> list[str]:
    """Everything of a move that should be gone, once both hosts had time to tidy up."""
    deadline = asyncio.get_running_loop().time() + TIDY_LIMIT
    while True:
        left = [
            f"{host.name} has a stray: {each}"
            for host in bench.lab.hosts.values()
            for each in await _strays(bench, host)
        ]
        if not left or asyncio.get_running_loop().time() > deadline:
            return left
        await asyncio.sleep(0.1)


async def _strays(bench: Bench, host: Host) -> list[str]:
    lives_here = bool(bench.pids(host))
    left = [f"in the ledger: {each}" for each in noted(host)]
    left += [f"move directory {path.name}" for path in host.path("/run/limosa/moves").glob("*")]
    left += [f"guest directory {path.name}" for path in host.path("/run/limosa/guests").glob("*") if not lives_here]
    own = {path.name for path, _ in bench.images(host).values()} if bench.home == host.name else set()
    left += [f"file {path.name}" for path in bench.srv(host).iterdir() if path.name not in own]
    left += [f"shared file {path.name}" for path in bench.volume.parent.iterdir() if path.stem != VOLUME]
    links = (await host.run(["ip", "-o", "link"])).stdout.splitlines()
    tagged = [line.split()[1].strip(":") for line in links if "alias limosa" in line]
    left += [f"tap {name}" for name in tagged if not lives_here or len(tagged) > len(TAPS)]
    return left
