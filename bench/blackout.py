"""How long a guest is away: moved by limosa, by bare QEMU at its defaults, and by bare QEMU tuned.

    sudo uv run python bench/blackout.py [--rounds N] [--scenario ram|disk|both] [--json FILE]

One guest goes to and fro between two lab hosts, the three methods taking turns, so that drifts of the machine's speed
meet all of them. Bare QEMU is driven over QMP by hand: no checks, no comparison, no encryption, and the destination
starts by itself (no `-S`). `tuned` uses the levers that limosa uses. The gap is the largest hole in the guest's 1 ms
heartbeat, seen by an observer on the guests' network.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limosa.errors import MonitorMissing
from limosa.lab.guestctl import GuestOptions
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.traces import Gap, gaps, largest
from limosa.qmp.monitor import Monitor
from limosa.units import MIB

GUEST_ADDRESS = "10.66.0.100"
DISK = "/srv/data.raw"
DISK_SIZE = 256 * MIB
METHODS = ("limosa", "default", "tuned")
RAM_PORT, NBD_PORT = 49400, 49401


@dataclass(frozen=True, slots=True)
class Sample:
    """One move. Milliseconds for pauses, seconds for durations."""

    scenario: str
    method: str
    gap_ms: float
    downtime_ms: float
    total: float
    setup: float
    tail: float


def spec_of(scenario: str) -> GuestSpec:
    writes = scenario == "disk"
    options = GuestOptions(
        addresses=(f"{GUEST_ADDRESS}/24",),
        pages=64,
        pages_rate=16,
        records="auto" if writes else "off",
        records_hz=100,
        records_size=64 * 1024,
        heartbeat="10.66.0.2:7777",
        heartbeat_ms=1,
    )
    return GuestSpec("bench", options, memory=256, devices=blockdev("data", DISK, "raw") if writes else ())


async def by_limosa(source: Host, destination: Host, spec: GuestSpec) -> tuple[float, float, float]:
    done = await source.run(
        [sys.executable, "-m", "limosa", "migrate", spec.name, "--to", destination.name, "--json"], timeout=180
    )
    measured = json.loads(done.stdout.splitlines()[-1])["measured"]
    stages: Mapping[str, float] = measured["stage_seconds"]
    setup = sum(stages.get(stage, 0.0) for stage in ("check", "reserve", "prepare"))
    return float(measured["qemu_downtime_ms"] or 0), setup, stages.get("retire", 0.0)


async def by_hand(source: Host, destination: Host, spec: GuestSpec, *, tuned: bool) -> tuple[float, float, float]:
    """Bare QEMU: returns QEMU's downtime (ms), set-up and tail (s)."""
    began = time.monotonic()
    for tap in spec.taps:
        await destination.run(["ip", "link", "del", tap], check=False)
    if "data" in " ".join(spec.devices):
        await destination.run(["truncate", "-s", str(DISK_SIZE), DISK])
    incoming = GuestSpec(**{**_fields(spec), "devices": (*spec.devices, "-incoming", "defer")})
    await start(destination, incoming)
    there = await _monitor(destination, spec)
    here = await _monitor(source, spec)
    disks = await here.execute("query-block") if "data" in " ".join(spec.devices) else []
    if disks:
        await _mirror(here, there, destination, tuned=tuned)
    setup = time.monotonic() - began
    await _send(here, there, destination, mirrored=bool(disks), tuned=tuned)
    done = time.monotonic()
    downtime = (await here.execute("query-migrate"))["downtime"]
    await here.execute("quit")
    await here.close()
    await there.close()
    return float(downtime), setup, time.monotonic() - done


def _fields(spec: GuestSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in GuestSpec.__dataclass_fields__}


async def _monitor(host: Host, spec: GuestSpec) -> Monitor:
    """The guest's monitor as soon as it listens; the socket of an earlier guest may lie there until then."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return await Monitor.connect(str(host.path(spec.monitor_path)), greeting_timeout=5)
        except MonitorMissing:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.01)


async def _mirror(here: Monitor, there: Monitor, destination: Host, *, tuned: bool) -> None:
    place = {"host": destination.addresses.migration, "port": str(NBD_PORT)}
    await there.execute("nbd-server-start", {"addr": {"type": "inet", "data": place}})
    export = {"type": "nbd", "id": "x", "node-name": "data", "name": "data", "writable": True}
    await there.execute("block-export-add", export)
    target = {"driver": "nbd", "node-name": "target", "server": {"type": "inet", **place}, "export": "data"}
    await here.execute("blockdev-add", target)
    mark = here.events.position
    job = {"job-id": "mirror", "device": "data", "target": "target", "sync": "full", "auto-dismiss": False}
    await here.execute("blockdev-mirror", job)
    await here.events.wait("BLOCK_JOB_READY", since=mark, timeout=120)
    if tuned:
        await here.execute("block-job-change", {"id": "mirror", "type": "mirror", "copy-mode": "write-blocking"})


async def _send(here: Monitor, there: Monitor, destination: Host, *, mirrored: bool, tuned: bool) -> None:
    wanted = ["events", *(["pause-before-switchover"] if mirrored else [])]
    capabilities = [{"capability": name, "state": True} for name in wanted]
    await here.execute("migrate-set-capabilities", {"capabilities": capabilities})
    await there.execute("migrate-set-capabilities", {"capabilities": capabilities[:1]})
    if tuned:
        await here.execute("migrate-set-parameters", {"max-bandwidth": 0, "downtime-limit": 1})
    uri = f"tcp:{destination.addresses.migration}:{RAM_PORT}"
    await there.execute("migrate-incoming", {"uri": uri})
    mark, there_mark = here.events.position, there.events.position
    await here.execute("migrate", {"uri": uri})
    calming = asyncio.create_task(_calm(here)) if tuned else None
    if mirrored:
        await here.events.wait(
            lambda e: e.name == "MIGRATION" and e.data["status"] == "pre-switchover", since=mark, timeout=120
        )
        await here.execute("block-job-cancel", {"device": "mirror"})
        await here.events.wait("BLOCK_JOB_COMPLETED", since=mark, timeout=60)
        await there.execute("nbd-server-stop")
        await here.execute("migrate-continue", {"state": "pre-switchover"})
    await here.events.wait(lambda e: e.name == "MIGRATION" and e.data["status"] == "completed", since=mark, timeout=120)
    await there.events.wait("RESUME", since=there_mark, timeout=60)
    if calming is not None:
        calming.cancel()


async def _calm(here: Monitor) -> None:
    while (await here.execute("query-migrate")).get("ram", {}).get("dirty-sync-count", 0) < 2:
        await asyncio.sleep(0.005)
    await here.execute("migrate-set-parameters", {"max-bandwidth": 200 * MIB, "downtime-limit": 10})


async def measure(lab: Lab, scenario: str, rounds: int) -> list[Sample]:
    """Move one guest `rounds` times by each method, the methods taking turns."""
    spec = spec_of(scenario)
    source, destination = lab.host("a"), lab.host("b")
    if scenario == "disk":
        await source.run(["truncate", "-s", str(DISK_SIZE), DISK])
    await start(source, spec)
    await (await control(source, spec)).close()
    samples: list[Sample] = []
    async with lab.observer.heartbeats() as record:
        for _ in range(rounds):
            for method in METHODS:
                await asyncio.sleep(2)  # the guest warms up again: TCG translates its code anew on each host
                beats = len(record.of())
                began = time.monotonic()
                if method == "limosa":
                    told = await by_limosa(source, destination, spec)
                else:
                    told = await by_hand(source, destination, spec, tuned=method == "tuned")
                total = time.monotonic() - began
                await asyncio.sleep(1)  # what comes late belongs to this move
                seen = [beat.time for beat in record.of()[beats:]]
                gap = largest(gaps(seen)) or Gap(0, 0)
                samples.append(Sample(scenario, method, gap.ms, told[0], total, told[1], told[2]))
                print(f"{scenario:5} {method:8} gap {gap.ms:7.1f} ms  downtime {told[0]:4.0f} ms  total {total:5.2f} s")
                await source.run(["rm", "-f", DISK])
                source, destination = destination, source
        async with await control(source, spec) as guest:
            if not (await guest.check_pages()).intact:
                raise SystemExit("the guest's memory was spoiled on the way")
            await guest.power_off()
    return samples


def table(samples: Sequence[Sample]) -> str:
    """Medians, and their ratios to tuned bare QEMU."""
    lines = ["scenario method    gap ms (min-max)        downtime ms  total s  set-up s  tail s  gap / tuned"]
    for scenario in dict.fromkeys(s.scenario for s in samples):
        medians = {m: _median([s.gap_ms for s in samples if (s.scenario, s.method) == (scenario, m)]) for m in METHODS}
        for method in METHODS:
            rows = [s for s in samples if (s.scenario, s.method) == (scenario, method)]
            found = [s.gap_ms for s in rows]
            lines.append(
                f"{scenario:8} {method:8} {medians[method]:7.1f} ({min(found):6.1f}-{max(found):6.1f})"
                f" {_median([s.downtime_ms for s in rows]):11.0f} {_median([s.total for s in rows]):8.2f}"
                f" {_median([s.setup for s in rows]):9.2f} {_median([s.tail for s in rows]):7.2f}"
                f" {medians[method] / medians['tuned']:12.2f}"
            )
    return "\n".join(lines)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenario", choices=["ram", "disk", "both"], default="both")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    samples: list[Sample] = []
    for scenario in ("ram", "disk") if asked.scenario == "both" else (asked.scenario,):
        async with Lab.up(hosts=2, name="blackout") as lab:
            samples += await measure(lab, scenario, asked.rounds)
    print(table(samples))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(sample) for sample in samples], indent=1))


if __name__ == "__main__":
    asyncio.run(main())
