"""One model host: its files, its journal, its QEMUs, and the agents that live and die on it."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import msgspec

from limosa.agent.link import PeerLink
from limosa.cargo.kind import HostFacts
from limosa.cpu.facts import HostCpu, Source
from limosa.destination.argv import TwinShape
from limosa.destination.binaries import Binary
from limosa.destination.launch import Twin
from limosa.errors import MonitorBusy, MonitorError, MonitorMissing, PeerError, StateDiskError
from limosa.guest.profile import (
    BlockNode,
    Cpu,
    FoundGuest,
    Machine,
    MonitorAddress,
    Netdev,
    Profile,
)
from limosa.migration.moves import Moves
from limosa.migration.qemus import Qemus
from limosa.migration.store import Owner, Store
from limosa.qmp.monitor import Monitor
from limosa.testing.model.cargo import model_kinds
from limosa.testing.model.qemu import UUID, Image, ModelMonitor, ModelQemu
from limosa.testing.model.wire import End
from limosa.testing.profiles import bare_profile
from limosa.units import HostName, Seconds
from limosa.wire.rpc import Caller

if TYPE_CHECKING:
    from limosa.testing.model.world import World

AGENT: ContextVar["ModelAgent | None"] = ContextVar("AGENT", default=None)
"""The agent on whose behalf a task runs."""

SILENCE = Seconds(5.0)


class Crashed(BaseException):
    """The agent that runs this is dead: nothing that it does has an effect any more."""


class ModelStore(Store):
    """A journal whose file outlives its agents, and whose disk may refuse."""

    def __init__(self, host: "ModelHost") -> None:
        self._host = host
        if host.db is None:
            super().__init__(Path(":memory:"))
            host.db = self._db
        self.path, self._db = Path(f"/{host.name}/journal.db"), host.db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._host.world.at(f"{self._host.name} journal: before")
        if self._host.disk_refuses:
            raise StateDiskError(f"the disk of {self._host.name} refuses")
        with super()._writing():
            yield
        self._host.writes += 1
        self._host.world.at(f"{self._host.name} journal: after")

    def record_owner(self, owner: Owner) -> None:
        """Record, and watch the epochs."""
        self._check_epoch(owner)
        super().record_owner(owner)

    def take(self, owner: Owner, baggage: bytes) -> None:
        """Record, and watch the epochs and the grants."""
        self._check_epoch(owner)
        super().take(owner, baggage)
        self._host.world.granted(owner.token)

    def _check_epoch(self, owner: Owner) -> None:
        known = self.owner(owner.identity)
        if known is not None and known.epoch > owner.epoch:
            self._host.world.complain(f"{self._host.name} goes back from epoch {known.epoch} to {owner.epoch}")


class ModelQemus(Qemus):
    """The QEMUs of one model host."""

    def __init__(self, host: "ModelHost") -> None:
        self._host = host

    def found(self) -> tuple[FoundGuest, ...]:
        """Every living QEMU here."""
        self._host.world.at(f"{self._host.name} looks for QEMUs")
        return tuple(self._host.found(qemu) for qemu in self._host.qemus if qemu.alive)

    async def attach(self, guest: FoundGuest) -> Monitor:
        """As QEMU does: one client on a socket, and no greeting while it is frozen."""
        self._host.world.at(f"{self._host.name} attaches")
        qemu = self._host.process(guest.pid)
        if qemu is None:
            raise MonitorMissing("gone")
        if qemu.frozen or qemu.monitors:
            await asyncio.sleep(1.0)
            raise MonitorBusy("no greeting")
        return self._host.monitor(qemu)

    async def attach_again(self, guest: FoundGuest) -> Monitor | None:
        """The same process, if it lives."""
        return None if self._host.process(guest.pid) is None else await self.attach(guest)

    async def introspect(self, monitor: Monitor, pid: int) -> Profile:
        """The profile of one QEMU."""
        await monitor.execute("query-status")
        qemu = self._host.process(pid)
        if qemu is None:
            raise MonitorError("it died while it was read")
        return self._host.profile(qemu)

    async def start(
        self, profile: Profile, shape: TwinShape, *, binary: str, monitor: str
    ) -> tuple[Twin, tuple[str, ...]]:
        """Start a twin; a start that is cancelled leaves no process."""
        world = self._host.world
        world.at(f"{self._host.name} starts a twin: before")
        images = [self._host.files.get(str(node.filename), Image()) for node in profile.block_nodes]
        qemu = self._host.add(images, monitor, nics=len(profile.netdevs), status="inmigrate", ram=None)
        if shape.extra_objects:
            qemu.objects |= {thing["id"] for thing in shape.extra_objects}
        try:
            await asyncio.sleep(0.1)
            world.at(f"{self._host.name} starts a twin: after")
            await qemu.until_thawed()
        except BaseException:
            agent = AGENT.get()
            if agent is None or not agent.dead:
                qemu.die()
            raise
        return Twin(qemu.pid, self._host.monitor(qemu), Path("/none")), ()

    async def finish(self, twin: Twin, profile: Profile) -> None:
        """Nothing to do."""

    async def find_twin(self, monitor: str) -> Twin | None:
        """The twin with this monitor."""
        for guest in self.found():
            if any(address.path == monitor for address in guest.monitors):
                try:
                    return Twin(guest.pid, await self.attach(guest), Path("/none"))
                except MonitorMissing:
                    return None
        return None

    async def stop(self, twin: Twin) -> None:
        """Quit, and SIGKILL where that is not enough."""
        with contextlib.suppress(MonitorError):
            await twin.monitor.execute("quit", timeout=5)
        if (qemu := self._host.process(twin.pid)) is not None:
            self._host.world.at(f"{self._host.name} kills a twin")
            qemu.die()
        await twin.monitor.close()

    def kill(self, monitor: str) -> None:
        """SIGKILL to all with this monitor."""
        self._host.world.at(f"{self._host.name} kills twins")
        for qemu in self._host.qemus:
            if qemu.monitor_path == monitor:
                qemu.die()

    async def see_end(self, guest: FoundGuest, *, within: float) -> None:
        """SIGKILL to one process."""
        self._host.world.at(f"{self._host.name} sees the end of the guest's process")
        if (qemu := self._host.process(guest.pid)) is not None:
            qemu.die()

    async def binaries(self, paths: Sequence[str]) -> list[Binary]:
        """One that fits."""
        return [Binary("qemu", (10, 0, 0), frozenset({"q35"}))]

    async def host_cpu(self, host: HostFacts, binary: Binary, accel: str) -> HostCpu:
        """Everything that a guest of the model sees."""
        return HostCpu(host=host.name, source=Source.QEMU, flags=(), accel=accel, qemu=binary.version)

    def free_memory(self) -> int:
        """Plenty."""
        return 2**40

    def port_free(self, address: str, port: int) -> bool:
        """All are."""
        return True


@dataclass(eq=False, slots=True)
class ModelHost:
    """What stays of a host when its agent dies, and what does not when its plug is pulled."""

    world: "World"
    name: str
    directory: Path
    files: dict[str, Image] = field(default_factory=dict)
    taps: set[str] = field(default_factory=set)
    qemus: list[ModelQemu] = field(default_factory=list)
    db: sqlite3.Connection | None = None
    powered: bool = True
    disk_refuses: bool = False
    writes: int = 0
    agent: "ModelAgent | None" = None

    @property
    def store(self) -> Store:
        """The journal, for looking into it."""
        return ModelStore(self)

    def process(self, pid: int) -> ModelQemu | None:
        """The living QEMU with this pid."""
        return next((qemu for qemu in self.qemus if qemu.pid == pid and qemu.alive), None)

    def add(self, images: list[Image], monitor: str, *, nics: int, status: str, ram: list[int] | None) -> ModelQemu:
        """Start a QEMU."""
        qemu = ModelQemu(
            world=self.world,
            host=self.name,
            pid=self.world.next_pid(),
            monitor_path=monitor,
            disks=images,
            nics=nics,
            status=status,
            ram=ram,
        )
        self.qemus.append(qemu)
        return qemu

    def monitor(self, qemu: ModelQemu) -> Monitor:
        """A connection for the agent that asks."""
        monitor = ModelMonitor(qemu, lambda point: self.world.at(f"{self.name} {point}"))
        if (agent := AGENT.get()) is not None:
            agent.monitors.append(monitor)
        return monitor

    def found(self, qemu: ModelQemu) -> FoundGuest:
        """As `discover` finds it."""
        return FoundGuest(
            pid=qemu.pid,
            start_time=qemu.pid,
            name="web1",
            uuid=UUID,
            binary="qemu",
            monitors=(MonitorAddress(mode="control", chardev=None, path=qemu.monitor_path),),
            memory=2**20,
            vcpus=1,
            incoming=qemu.status == "inmigrate",
        )

    def profile(self, qemu: ModelQemu) -> Profile:
        """As `introspect` reads it."""
        paths = {id(image): path for path, image in self.files.items() if not path.endswith(".new")}
        return msgspec.structs.replace(
            BARE,
            status=qemu.status,
            block_nodes=tuple(
                BlockNode(
                    node_name=f"d{n}",
                    live_name=f"d{n}",
                    driver="file",
                    options={},
                    children={},
                    read_only=False,
                    virtual_size=2**20,
                    filename=paths.get(id(image)),
                )
                for n, image in enumerate(qemu.disks)
            ),
            netdevs=tuple(Netdev(id=f"n{n}", type="tap", options={}) for n in range(qemu.nics)),
        )

    def boot(self) -> None:
        """Start an agent."""
        if self.powered and self.agent is None:
            self.agent = ModelAgent(self)
            self.agent.boot()


class ModelAgent:
    """One life of an agent."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.dead = False
        self.serving = False
        self.tasks: WeakSet[asyncio.Task[object]] = WeakSet()
        self.monitors: list[ModelMonitor] = []
        self.ends: list[End] = []
        self.links: dict[str, PeerLink] = {}
        self.context: Context = copy_context()
        self.context.run(AGENT.set, self)
        self.moves: Moves | None = None

    def boot(self) -> None:
        """Read the journal, settle, then serve."""
        asyncio.get_running_loop().create_task(self._boot(), context=self.context)

    async def _boot(self) -> None:
        world, host = self.host.world, self.host
        facts = HostFacts(
            name=host.name,
            migration_address=host.name,
            state_dir=str(host.directory),
            run_dir=str(host.directory),
            machine_id=host.name,
        )
        moves = Moves(
            facts,
            link=self.link,
            qemu_binaries=["qemu"],
            ports=range(50000, 50100),
            cargo=model_kinds(world),
            store=ModelStore(host),
            qemus=ModelQemus(host),
        )
        try:
            await moves.restore()
        except StateDiskError:
            self.crash()
            asyncio.get_running_loop().call_later(5.0, host.boot)
            return
        except Exception as defect:  # noqa: BLE001  (whatever it is, no agent may fail to start because of it)
            world.complain(f"the agent of {host.name} does not start: {defect!r}")
            return
        self.moves, self.serving = moves, True

    def crash(self) -> None:
        """SIGKILL: its tasks unwind, but nothing that they do has an effect."""
        self.dead = True
        self.serving = False
        self.host.agent = None
        for monitor in self.monitors:
            monitor.leave()
        for end in self.ends:
            end.drop()
        for task in list(self.tasks):
            task.cancel()

    async def link(self, name: HostName) -> Caller:
        """The link to another host, opened where there is none."""
        world = self.host.world
        world.at(f"{self.host.name} links")
        known = self.links.get(name)
        if known is not None and not known.lost:
            return known
        there = world.hosts[name]
        await asyncio.sleep(0.001)
        if not (world.reaches(self.host.name, name) and world.reaches(name, self.host.name)):
            await asyncio.sleep(3.0)
            raise PeerError(f"{name} cannot be reached")
        peer = there.agent
        if peer is None or peer.moves is None or not peer.serving:
            raise PeerError(f"{name} refuses connections")
        if self.dead:
            raise Crashed
        return self._open(name, peer, peer.moves)

    def _open(self, name: HostName, peer: "ModelAgent", moves: Moves) -> PeerLink:
        here, over_there = self.host.world.connect(self.host.name, name)
        self.ends.append(here)
        peer.ends.append(over_there)
        mine = self.links[name] = PeerLink(name, here, {}, silence=SILENCE)
        mine_name = HostName(self.host.name)
        peer.context.run(PeerLink, mine_name, over_there, moves.handlers(), silence=SILENCE)
        return mine


BARE = bare_profile(
    name="web1",
    uuid=UUID,
    machine=Machine(type="q35", accel="tcg", properties={}),
    cpu=Cpu(type="c-x86_64-cpu", model="c", properties={}, flags=()),
    guest_visible={"pci.0/01.0": {"driver": "virtio-net-pci"}},
)
