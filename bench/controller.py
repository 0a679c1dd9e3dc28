"""A real controller that follows simulated agents: what it costs, and how long its API and its news take.

    uv run python bench/fleet.py --cpuid ../shared/data/cpuid --controller [--hosts 1000] [--seconds 120]

Three processes: `limosa controller` as it is installed, with its API over TLS and, in turn, SQLite and PostgreSQL;
the agents (`simulated_agents.py`), at whose ports it dials in; and this one, which asks the API at a modest rate.
CPU time is counted from when all hosts are known; the database's own, where it is a server, apart. What no clock tells
is counted too: requests that failed, and probes that were never seen.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import httpx

from limosa.agent import pki
from limosa.agent.hosts import write_missing
from limosa.cli.table import table
from limosa.fleet.inventory import Inventory
from limosa.testing import postgres
from limosa.testing.ports import free_port
from limosa.testing.postgres import Cluster
from simulated_agents import Probe, entry_of, run

EVERY = 10.0
"""Seconds between two reports of one agent."""
PAUSE = 0.4
"""Seconds between two requests, where the one before has been answered."""
LOOK_EVERY = 0.1
"""Seconds between two looks for a probe."""
PROBE_SECONDS = 60.0
"""A report that is not seen by then is lost."""
START_SECONDS = 600.0
LIMOSA = Path(sys.executable).with_name("limosa")
TICKS = os.sysconf("SC_CLK_TCK")
DATABASES = ("sqlite", "postgresql")
REQUESTS = ("hosts", "guests", "guest", "fits", "plan")


class Row(NamedTuple):
    """What one database made of it. Times in seconds, CPU as a share of one processor."""

    database: str
    known_after: float
    """From the start of the controller until all hosts and guests are in its answers."""
    cpu: float
    database_cpu: float
    memory: int
    """Resident bytes of the controller at the end."""
    lag: tuple[float, ...]
    latency: dict[str, tuple[float, ...]]
    failed: int
    """Requests that were answered by an error, or not at all."""
    lost: int
    """Reports that the API never showed."""


class _Probes:
    """The latest report that an agent told of; read as they come, or the agents would wait for a full pipe."""

    def __init__(self, told: Connection) -> None:
        self._told = told
        self._latest: Probe | None = None
        self._news = asyncio.Event()
        asyncio.get_running_loop().add_reader(told.fileno(), self._read)

    def _read(self) -> None:
        while self._told.poll():
            self._latest = self._told.recv()
            self._news.set()

    async def next(self) -> Probe:
        """One that was told since this was asked for."""
        self._news.clear()
        await self._news.wait()
        assert self._latest is not None
        return self._latest


@dataclass(slots=True)
class _Measured:
    latency: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    lag: list[float] = field(default_factory=list)
    failed: int = 0
    lost: int = 0


def measure(fleet: Inventory, seconds: float, databases: Sequence[str]) -> list[Row]:
    """One row for each database (`sqlite`, `postgresql`)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever is ended takes what he started with him
    with tempfile.TemporaryDirectory(prefix="lm-bench-") as name:
        directory = Path(name)
        pki.create_ca(directory / "ca", "bench")
        with agents_running(fleet, directory) as probes:
            return [_measured_on(fleet, directory, each, seconds, probes) for each in databases]


def _measured_on(fleet: Inventory, directory: Path, kind: str, seconds: float, probes: Connection) -> Row:
    home = directory / kind
    home.mkdir()
    with ExitStack() as stack:
        cluster = stack.enter_context(postgres.running(durable=True)) if kind == "postgresql" else None
        database = cluster.create("limosa") if cluster else f"sqlite:///{home}/controller.db"
        controller = stack.enter_context(controller_running(fleet, home, directory / "ca", database))
        return asyncio.run(_measure(fleet, controller, cluster, seconds, probes))


@contextmanager
def agents_running(fleet: Inventory, directory: Path) -> Iterator[Connection]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=run, args=(fleet, directory, EVERY, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield ours
    finally:
        process.terminate()
        process.join()


class Running(NamedTuple):
    """A controller's process, and how to ask it."""

    process: subprocess.Popen[bytes]
    url: str
    token: str
    trusted: ssl.SSLContext

    def client(self) -> httpx.AsyncClient:
        """For asking it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, verify=self.trusted, timeout=PROBE_SECONDS)


@contextmanager
def controller_running(fleet: Inventory, home: Path, ca: Path, database: str) -> Iterator[Running]:
    port = free_port()
    pki.issue_host(ca, "fleet-1", ["127.0.0.1"], home / "pki", controller=True)
    settings = {"listen": f"127.0.0.1:{port}", "database": database, "state_dir": str(home / "state")}
    (home / "controller.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    write_missing(home / "hosts.toml", {host.name: entry_of(place) for place, host in enumerate(fleet.hosts)})
    words: list[str | Path] = [LIMOSA, "controller", "token", "bench", "--role", "operator", "--config-dir", home]
    token = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    trusted = ssl.create_default_context(cafile=home / "pki" / pki.CA_CERT)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([LIMOSA, "controller", "--config-dir", home], stderr=log)
    try:
        yield Running(process, f"https://127.0.0.1:{port}", token, trusted)
    finally:
        process.terminate()
        process.wait()


async def _measure(
    fleet: Inventory, running: Running, cluster: Cluster | None, seconds: float, told: Connection
) -> Row:
    begun, probes = time.monotonic(), _Probes(told)
    async with running.client() as client:
        await _all_known(fleet, client, running.process)
        known_after = time.monotonic() - begun
        await asyncio.sleep(EVERY)
        measured, start = _Measured(), time.monotonic()
        before = _cpu(running.process.pid), _cpu_below(cluster)
        async with asyncio.timeout(seconds + PROBE_SECONDS):
            await asyncio.gather(
                _ask(fleet, client, start + seconds, measured), _probe(client, probes, start + seconds, measured)
            )
    took = time.monotonic() - start
    return Row(
        database="postgresql" if cluster else "sqlite",
        known_after=known_after,
        cpu=(_cpu(running.process.pid) - before[0]) / took,
        database_cpu=(_cpu_below(cluster) - before[1]) / took,
        memory=_resident(running.process.pid),
        lag=tuple(measured.lag),
        latency={name: tuple(each) for name, each in measured.latency.items()},
        failed=measured.failed,
        lost=measured.lost,
    )


async def _all_known(fleet: Inventory, client: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(START_SECONDS):
        while await _count(client) < len(fleet.hosts):
            assert process.poll() is None, "the controller ended"
            await asyncio.sleep(1.0)


async def _count(client: httpx.AsyncClient) -> int:
    """Hosts that have reported."""
    known, after = 0, ""
    try:
        while True:
            answer = await client.get("/v1/hosts", params={"limit": 500, "after": after})
            body = answer.raise_for_status().json()
            known += sum(host["cores"] is not None and not host["silent_for"] for host in body["items"])
            if body["next"] is None:
                return known
            after = body["next"]
    except httpx.HTTPError:
        return 0  # it does not listen yet


async def _ask(fleet: Inventory, client: httpx.AsyncClient, until: float, measured: _Measured) -> None:
    """Ask in turn for each thing, one request at a time."""
    number = 0
    while time.monotonic() < until:
        kind, guest = REQUESTS[number % len(REQUESTS)], fleet.guests[number * 997 % len(fleet.guests)]
        begun = time.perf_counter()
        try:
            answer = await _request(client, kind, guest.name, guest.host)
        except httpx.HTTPError:
            measured.failed += 1
        else:
            # A guest may have ended meanwhile: that is an answer.
            measured.failed += answer.is_server_error or answer.status_code == httpx.codes.BAD_REQUEST
            measured.latency[kind].append(time.perf_counter() - begun)
        number += 1
        await asyncio.sleep(PAUSE)


async def _request(client: httpx.AsyncClient, kind: str, guest: str, host: str) -> httpx.Response:
    match kind:
        case "hosts":
            return await client.get("/v1/hosts", params={"limit": 100})
        case "guests":
            return await client.get("/v1/guests", params={"limit": 100})
        case "guest":
            return await client.get(f"/v1/guests/{guest}")
        case "fits":
            return await client.get(f"/v1/guests/{guest}/fits")
        case _:
            return await client.post("/v1/plans", json={"kind": "drain", "hosts": [host]})


async def _probe(client: httpx.AsyncClient, probes: _Probes, until: float, measured: _Measured) -> None:
    """Follow one report after another until the API shows it; those made meanwhile are passed over."""
    while time.monotonic() < until:
        lag = await _seen(client, await probes.next())
        if lag is None:
            measured.lost += 1
        else:
            measured.lag.append(lag)


async def _seen(client: httpx.AsyncClient, probe: Probe) -> float | None:
    """Seconds until the API shows a report; None where it does not."""
    while time.time() - probe.at < PROBE_SECONDS:
        try:
            answer = await client.get(f"/v1/guests/{probe.guest}")
        except httpx.HTTPError:
            return None
        if answer.is_success and answer.json()["load"] == probe.load:
            return time.time() - probe.at
        await asyncio.sleep(LOOK_EVERY)
    return None


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used. Source: proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _cpu_below(cluster: Cluster | None) -> float:
    """The same of a database server and all its processes, also those that have ended."""
    if cluster is None:
        return 0.0
    children = Path(f"/proc/{cluster.pid}/task/{cluster.pid}/children").read_text().split()
    ended = Path(f"/proc/{cluster.pid}/stat").read_text().rpartition(")")[2].split()
    return _cpu(cluster.pid) + (int(ended[13]) + int(ended[14])) / TICKS + sum(_cpu(int(pid)) for pid in children)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def page(rows: Sequence[Row], fleet: Inventory, seconds: float) -> str:
    """The rows for people."""
    heads = ("", *(row.database for row in rows))
    lines: list[tuple[str, ...]] = [
        ("all hosts known after", *(f"{row.known_after:.0f} s" for row in rows)),
        ("controller's CPU, of one processor", *(f"{row.cpu:.0%}" for row in rows)),
        ("database server's CPU", *(f"{row.database_cpu:.0%}" if row.database_cpu else "-" for row in rows)),
        ("controller's memory", *(f"{row.memory / 2**20:.0f} MiB" for row in rows)),
        ("report to API, p50 / p99", *(quantiles(row.lag) for row in rows)),
        *((_NAMES[name], *(quantiles(row.latency.get(name, ())) for row in rows)) for name in REQUESTS),
        ("requests, failed", *(f"{sum(map(len, row.latency.values()))}, {row.failed}" for row in rows)),
        ("reports followed, lost", *(f"{len(row.lag)}, {row.lost}" for row in rows)),
    ]
    title = (
        f"{len(fleet.hosts)} agents with {len(fleet.guests)} guests, a report of each every {EVERY:g} s; {seconds:g} s"
    )
    return f"{title}\n\n{table(heads, lines, right=heads[1:])}"


_NAMES = {
    "hosts": "GET hosts (100), p50 / p99",
    "guests": "GET guests (100), p50 / p99",
    "guest": "GET one guest by name, p50 / p99",
    "fits": "GET where a guest fits, p50 / p99",
    "plan": "POST a drain's plan, p50 / p99",
}


def quantiles(times: Sequence[float]) -> str:
    """Median and 99th percentile, in milliseconds."""
    if not times:
        return "-"
    last = sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]
    return f"{statistics.median(times) * 1e3:.0f} / {last * 1e3:.0f} ms"
