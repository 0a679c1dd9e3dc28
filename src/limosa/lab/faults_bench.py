"""Where the fault matrix is run: two lab hosts, one guest that is moved to and fro, and a hand on every step."""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from limosa.cli.client import AgentClient
from limosa.cli.transport import Unix
from limosa.errors import LimosaError
from limosa.lab import assets, guests, records
from limosa.lab.faults_matrix import STEPS, Point
from limosa.lab.guestctl import GuestControl, GuestOptions, Status
from limosa.lab.guests import GuestSpec, blockdev
from limosa.lab.hosts import Host
from limosa.lab.inside import tool
from limosa.lab.lab import Lab
from limosa.lab.provision import SOCKET, start_agent
from limosa.lab.state import LabError
from limosa.migration.fault_points import VARIABLE
from limosa.units import MIB
from limosa.wire.moves import MoveRequest, MoveStatus

T = TypeVar("T")

GUEST = "fault"
ADDRESSES = ("10.66.0.111", "10.66.0.112")
TAPS = ("tap0", "tap1")
SYSTEM, DATA, VOLUME = "system", "data", "volume"
ROOM = 96 * MIB
"""Of each host's disk: little more than the guest needs, so that it is soon full."""
DISK = 24 * MIB
SILENCE = 2.0
"""Seconds after which an agent takes its peer for dead, here."""
REACH_LIMIT = 45.0
RECORDS_HZ = 10
"""Records per second and disk: what a guest under TCG does beside being moved is paid with the time of all cells."""


class Points:
    """Listens where agents tell which point of a move they stand at, and holds them at one."""

    def __init__(self) -> None:
        self._wanted: Point | None = None
        self.reached = asyncio.Event()
        self._go = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def open(self, path: Path) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, str(path))

    def arm(self, point: Point) -> None:
        """Hold the next move that comes by a point."""
        self._wanted = point
        self.reached.clear()
        self._go.clear()

    def release(self) -> None:
        """Let it go on, and hold none from now on."""
        self._wanted = None
        self._go.set()

    async def close(self) -> None:
        """Listen no more."""
        self.release()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            told = json.loads(await reader.readline() or b"{}")
            wanted = self._wanted
            if wanted is not None and _is_at(told, wanted):
                self.reached.set()
                await self._go.wait()
            writer.write(b"\n")
            await writer.drain()
        except OSError:
            return  # the agent was killed while it waited
        finally:
            writer.close()


def _is_at(told: dict[str, object], wanted: Point) -> bool:
    return (told.get("point"), told.get("moment"), told.get("number")) == (wanted.step, wanted.moment, wanted.number)


@dataclass(slots=True)
class Bench:
    """A lab with the matrix's guest. `home` is where the guest runs, or ran when it was lost."""

    lab: Lab
    place: Path
    points: Points
    home: str = "a"
    contents: dict[str, records.Content] = field(default_factory=dict)
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def source(self) -> Host:
        """Where the guest is."""
        return self.lab.host(self.home)

    @property
    def destination(self) -> Host:
        """The other host."""
        return self.lab.host("b" if self.home == "a" else "a")

    @property
    def spec(self) -> GuestSpec:
        """Two local disks, a shared volume, two NICs."""
        options = GuestOptions(
            addresses=tuple(f"{address}/24" for address in ADDRESSES),
            pages=16,
            pages_rate=4,
            records="magic",
            records_hz=RECORDS_HZ,
            zero_freed=True,
        )
        return GuestSpec(
            name=GUEST,
            options=options,
            memory=192,
            taps=TAPS,
            uuid=self.uuid,
            devices=(
                *blockdev(SYSTEM, f"/srv/{SYSTEM}.qcow2", "qcow2", serial=SYSTEM),
                *blockdev(DATA, f"/srv/{DATA}.raw", "raw", serial=DATA),
                *blockdev(VOLUME, str(self.volume), "raw", serial=VOLUME),
            ),
        )

    @property
    def volume(self) -> Path:
        """The shared volume: at the same path for both hosts, because it lies on the machine's own file system."""
        return self.place / "shared" / f"{VOLUME}.raw"

    def srv(self, host: Host) -> Path:
        """A host's local disks, with its power on or off."""
        return self.place / host.name

    def images(self, host: Host) -> dict[str, tuple[Path, str]]:
        """Label -> (path, format) of the disks that the guest uses on a host."""
        srv = self.srv(host)
        return {
            SYSTEM: (srv / f"{SYSTEM}.qcow2", "qcow2"),
            DATA: (srv / f"{DATA}.raw", "raw"),
            VOLUME: (self.volume, "raw"),
        }

    # -- hosts ----------------------------------------------------------------------------------------------

    async def furnish(self, host: Host) -> None:
        """What a host needs after it got its power: its disk of limited size, and the guest's directory."""
        await host.run(["mount", "--bind", str(self.srv(host)), "/srv"])
        host.path(self.spec.directory).mkdir(parents=True, exist_ok=True)

    async def restart_agent(self, host: Host) -> None:
        """Start the agent of a host that has none."""
        host.path(SOCKET).unlink(missing_ok=True)
        await start_agent(host)

    async def plug(self, host: Host) -> None:
        """Power back on, disk mounted, agent started."""
        await host.plug()
        await self.furnish(host)
        await start_agent(host)

    # -- the guest -------------------------------------------------------------------------------------------

    async def prepare(self, host: Host) -> None:
        """Boot the guest once, on blank disks, and keep its memory: that is what every later start begins with.

        A boot takes four seconds of a processor under emulation, a sixth of all cells start the guest anew.
        """
        for path, fmt in self.images(host).values():
            path.unlink(missing_ok=True)
            await tool([str(assets.qemu_img()), "create", "-q", "-f", fmt, str(path), str(DISK)])
        process = await guests.start(host, self.spec)
        async with self.control(host) as agent:
            # What the guest holds is sent in each of its moves: it needs no more drivers, and its freed pages are zero.
            await agent.shell("rm -r /lib/drivers; echo 3 > /proc/sys/vm/drop_caches")
        monitor = await guests.owners_monitor(host, self.spec)
        try:
            since = monitor.events.position
            await monitor.execute(
                "migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}
            )
            await monitor.execute("migrate", {"uri": f"file:{self.memory}"})
            ended = {"completed", "failed"}
            event = await monitor.events.wait(
                lambda event: event.name == "MIGRATION" and event.data["status"] in ended, since=since, timeout=60
            )
        finally:
            await monitor.close()
        process.kill()
        await process.wait(10)
        if event.data["status"] == "failed":
            raise LabError("the guest's memory could not be kept", detail=str(process.stderr_path))

    @property
    def memory(self) -> Path:
        """A guest that has booted and has not found a disk to write records to, as QEMU keeps it."""
        return self.place / "memory"

    async def build(self, host: Host) -> None:
        """Make the guest's disks from nothing."""
        self.home = host.name
        for number, (label, (path, fmt)) in enumerate(self.images(host).items()):
            path.unlink(missing_ok=True)
            layout = records.Layout(label, slots=1024)
            self.contents[label] = records.create(path, fmt, DISK, layout, content=4 * MIB, seed=number)

    async def start(self, host: Host) -> Status:
        """Start the guest as its owner does who has saved it, and wait until each disk takes records."""
        for tap in TAPS:
            await host.run(["ip", "link", "del", tap], check=False)  # left by an earlier life of the guest
        spec = self.spec
        await guests.start(host, replace(spec, devices=(*spec.devices, "-incoming", f"file:{self.memory}")))
        async with self.control(host) as agent, asyncio.timeout(guests.BOOT_LIMIT):
            # It looks at each disk as it does where one is plugged in, and goes on behind the last record there.
            await agent.shell("for disk in /sys/block/vd*; do echo change > $disk/uevent; done")
            while True:
                now = await agent.status()
                if sum(disk.acknowledged > 0 for disk in now.disks) == len(self.contents):
                    return now
                await asyncio.sleep(0.05)  # the guest has no way to call us

    @asynccontextmanager
    async def control(self, host: Host, timeout: float = guests.BOOT_LIMIT) -> AsyncIterator[GuestControl]:
        """The guest's agent."""
        async with await guests.control(host, self.spec, timeout=timeout) as agent:
            yield agent

    def pids(self, host: Host) -> list[int]:
        """QEMUs of the guest on a host, as the machine numbers them; twins included."""
        return qemus_of(host, self.uuid)

    # -- agents ----------------------------------------------------------------------------------------------

    async def ask(self, host: Host, question: Callable[[AgentClient], T]) -> T:
        """Ask a host's agent over its API, in a thread, since its client blocks."""

        def answer() -> T:
            with AgentClient(Unix(str(host.path(SOCKET)))) as agent:
                return question(agent)

        return await asyncio.to_thread(answer)

    async def start_move(self, *, plaintext: bool = False) -> MoveStatus:
        """Begin a move to the other host. Under emulation, TLS is a sixth of what a move takes."""
        request = MoveRequest(
            guest=GUEST, to=self.destination.name, keep_source_disks=False, insecure_plaintext=plaintext
        )
        return await self.ask(self.source, lambda agent: agent.start(request))

    async def status(self, host: Host, move: str) -> MoveStatus | None:
        """A move as an agent tells it; None where it is silent or knows no such move (any more)."""
        if not host.plugged:
            return None
        try:
            return await self.ask(host, lambda agent: agent.move(move))
        except (LimosaError, LabError, OSError):
            return None

    async def over(self, host: Host, move: str, limit: float) -> MoveStatus | None:
        """The move's report; None if it is not over after `limit` seconds (polled: the agent may die and come back)."""
        deadline = asyncio.get_running_loop().time() + limit
        while True:
            now = await self.status(host, move)
            if now is not None and now.state.over:
                return now
            if asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(0.1)


def open_moves(host: Host) -> list[str]:
    """Moves that a host's journal has open: `m123 (source)`."""
    return [f"{move} ({side})" for move, side in _journal(host, "SELECT id, side FROM moves WHERE closed IS NULL")]


def noted(host: Host) -> list[str]:
    """What a host's ledger holds."""
    return [f"{kind} {name}" for kind, name in _journal(host, "SELECT kind, name FROM ledger WHERE struck IS NULL")]


def _journal(host: Host, question: str) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(host.path("/var/lib/limosa/journal.db"), timeout=5)) as db:
        return db.execute(question).fetchall()


def qemus_of(host: Host, uuid: str) -> list[int]:
    """QEMUs of a guest on a host, as the machine numbers them; twins included."""
    if not host.plugged:
        return []
    space = str(Path(f"/proc/{host.pid}/ns/pid").readlink())
    return [pid for pid in _processes_with(uuid) if _in_space(pid, space)]


def _processes_with(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (
                    word.encode() in (entry / "cmdline").read_bytes()
                    and b"qemu-system" in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
    return found


def _in_space(pid: int, space: str) -> bool:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink()) == space
    except OSError:
        return False


@asynccontextmanager
async def bench(name: str) -> AsyncIterator[Bench]:
    """A lab of two hosts, each with a small disk of its own, and the guest on the first."""
    place = Path(tempfile.mkdtemp(prefix="limosa-faults-", dir="/var/tmp"))
    points = Points()
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(place / "points")  # every agent that is started from here inherits it
    try:
        (place / "shared").mkdir()
        for host in ("a", "b"):
            (place / host).mkdir()
            await tool(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", f"limosa-{name}-{host}", str(place / host)])
        await points.open(place / "points")
        async with Lab.up(hosts=2, name=name, agents=False) as lab:
            made = Bench(lab, place, points)
            await _furnish(made)
            yield made
    finally:
        await points.close()
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        for host in ("a", "b"):
            with contextlib.suppress(LabError):  # it was not mounted yet
                await tool(["umount", "-l", str(place / host)])
        shutil.rmtree(place, ignore_errors=True)


async def require_steps(made: Bench) -> None:
    """The move that is cut has the steps that the matrix is made of.

    Raises:
        LabError: it has others.
    """
    request = MoveRequest(guest=GUEST, to=made.destination.name, keep_source_disks=False)
    plan = await made.ask(made.source, lambda agent: agent.plan(request))
    if (steps := tuple(step.name for step in plan.steps)) != STEPS:
        raise LabError(
            "a move has other steps than the fault matrix",
            remedy="mend STEPS in lab/faults_matrix.py",
            detail=", ".join(steps),
        )


async def _furnish(made: Bench) -> None:
    from limosa.lab.provision import provision

    for host in made.lab.hosts.values():
        provision(made.lab, host)
        setting = host.path("/etc/limosa/conf.d/faults.toml")
        setting.parent.mkdir(exist_ok=True)
        setting.write_text(f"silence = {SILENCE}\n")
        await made.furnish(host)
    await asyncio.gather(*(start_agent(host) for host in made.lab.hosts.values()))
    first = made.lab.host("a")
    await made.prepare(first)
    await made.build(first)
    await made.start(first)
    await require_steps(made)
