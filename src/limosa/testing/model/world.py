"""Two hosts, the network between them, one guest, and everything that can go wrong with them."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from limosa.errors import LimosaError, QmpError
from limosa.migration.store import Held
from limosa.testing.model.clock import VirtualLoop
from limosa.testing.model.host import AGENT, Crashed, ModelAgent, ModelHost
from limosa.testing.model.qemu import UUID, Image, ModelQemu
from limosa.testing.model.wire import End, connection
from limosa.units import HostName
from limosa.wire.moves import MoveRequest, MoveStatus
from limosa.wire.rpc import Request

DEEDS = ("create", "keep", "remove", "nics", " qmp ")
"""What stands in points at which a host or a QEMU may refuse."""

LONGEST = 300.0
"""Virtual seconds in which everything must have come to rest after the last fault was healed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The guest of a case."""

    disks: int = 2
    nics: int = 2
    running: bool = True


Fault = Callable[["World"], None]
Schedule = Mapping[int, Sequence[Fault]]
"""Number of a point -> what happens there."""


class World:
    """Everything that exists in one case. `complaints` are the promises that were broken."""

    def __init__(
        self, setting: Setting, schedule: Schedule, directory: Path, names: Sequence[str] = ("a", "b")
    ) -> None:
        self.setting = setting
        self.acknowledged = [0] * setting.disks
        self.complaints: list[str] = []
        self.trace: list[str] = []
        self.recording = True
        self.cut: set[tuple[str, str]] = set()
        self.data_cut = False
        self.quiet_from = 0.0
        self.killed: set[ModelQemu] = set()
        self.forgetful: set[str] = set()
        """Hosts whose agent had to begin anew: what it had not recorded is not known any more."""
        self.grants: dict[str, int] = {}
        self.pauses: list[dict[str, int]] = []
        self.calls: list[tuple[str, str, Request]] = []
        self.refuse_next: str | None = None
        self.statuses: list[MoveStatus] = []
        self.hosts = {HostName(name): ModelHost(self, name, directory / name) for name in names}
        self._schedule = {number: list(faults) for number, faults in schedule.items()}
        self._pids = 100
        self._connections: list[tuple[End, End]] = []
        self._flows = asyncio.Event()
        self._flows.set()
        self._natural: set[asyncio.Task[None]] = set()
        self._writes_before: dict[str, int] | None = None
        self.guest = self._first_guest()

    def _first_guest(self) -> ModelQemu:
        home = self.hosts[HostName("a")]
        images = [Image() for _ in range(self.setting.disks)]
        home.files |= {f"/srv/disk{n}": image for n, image in enumerate(images)}
        home.taps |= {f"tap{n}" for n in range(self.setting.nics)}
        status = "running" if self.setting.running else "paused"
        return home.add(images, "/run/web1.qmp", nics=self.setting.nics, status=status, ram=[0] * self.setting.disks)

    # -- what the model's parts ask ------------------------------------------------------------------------

    def at(self, point: str) -> None:
        """Something may fail here. The guest writes meanwhile.

        Raises:
            Crashed: the agent that stands here is dead.
            LimosaError: what it does is refused.
        """
        agent = AGENT.get()
        if agent is not None and agent.dead:
            raise Crashed
        for qemu in self._all():
            if qemu.executes:
                qemu.write()
        if self.recording:
            self.trace.append(point)
            for fault in self._schedule.get(len(self.trace), ()):
                fault(self)
        if agent is not None and agent.dead:
            raise Crashed
        if self.refuse_next is not None and may_refuse(point):
            why, self.refuse_next = self.refuse_next, None
            raise QmpError(point, "GenericError", why) if " qmp " in point else LimosaError(why)

    def hardware(self, host: str) -> ModelHost:
        """One host."""
        return self.hosts[HostName(host)]

    def next_pid(self) -> int:
        """A process id that was never used."""
        self._pids += 1
        return self._pids

    def complain(self, what: str) -> None:
        """A promise was broken."""
        self.complaints.append(f"{what} (point {len(self.trace)}: {self.trace[-1] if self.trace else 'start'})")

    def granted(self, token: str) -> None:
        """A grant was used."""
        self.grants[token] = self.grants.get(token, 0) + 1

    def executing_changed(self) -> None:
        """Count who executes, and the writes of a pause."""
        executing = [qemu for qemu in self._all() if qemu.alive and qemu.status == "running"]
        if len(executing) > 1:
            self.complain(f"{len(executing)} execute: {[qemu.host for qemu in executing]}")
        writes = {str(name): host.writes for name, host in self.hosts.items()}
        if not executing:
            self._writes_before = self._writes_before or writes
        elif self._writes_before is not None:
            self.pauses.append({name: writes[name] - before for name, before in self._writes_before.items()})
            self._writes_before = None

    def retiring(self, qemu: ModelQemu) -> None:
        """The guest's first QEMU must stay until the guest runs elsewhere: until then it may be needed again."""
        runs = any(other.alive and other.status == "running" for other in self._all())
        if qemu is self.guest and self.setting.running and not runs and not self.killed:
            self.complain("the source was retired while nobody ran the guest")

    def reaches(self, source: str, destination: str) -> bool:
        """Whether frames get from one host to the other."""
        powered = all(self.hosts[HostName(name)].powered for name in (source, destination))
        return powered and (source, destination) not in self.cut

    def data_flows(self) -> bool:
        """Whether RAM and disks do."""
        return not self.data_cut and all(host.powered for host in self.hosts.values())

    async def until_data_flows(self) -> None:
        """Return when they do."""
        while not self.data_flows():
            await self._flows.wait()

    def listener(self, uri: str) -> ModelQemu | None:
        """The QEMU that listens there."""
        return next((qemu for qemu in self._all() if qemu.alive and qemu.listens == uri), None)

    def exporter(self, export: str) -> ModelQemu | None:
        """The QEMU that exports this."""
        return next((qemu for qemu in self._all() if qemu.alive and export in qemu.exports), None)

    def later(self, deed: Awaitable[None]) -> None:
        """Nature takes its course, whoever lives."""

        async def course() -> None:
            await deed

        task = asyncio.get_running_loop().create_task(course(), context=Context())
        self._natural.add(task)

    def connect(self, a: str, b: str) -> tuple[End, End]:
        """A new connection."""
        ends = connection(self, a, b)
        self._connections.append(ends)
        return ends

    def delivered(self, destination: str, source: str, request: Request) -> None:
        """Keep a call, for repeating it."""
        self.calls.append((destination, source, request))

    # -- faults ---------------------------------------------------------------------------------------------

    def after(self, seconds: float, deed: Callable[[], None]) -> None:
        """Do something later; the case does not end before."""
        loop = asyncio.get_running_loop()
        self.quiet_from = max(self.quiet_from, loop.time() + seconds)
        loop.call_later(seconds, deed, context=Context())

    def kill_agent(self, host: str, *, back: float) -> None:
        """Kill -9, and a restart after `back` seconds."""
        at = self.hardware(host)
        self.forgetful.add(host)
        if at.agent is not None:
            at.agent.crash()
        self.after(back, at.boot)

    def kill_guest(self) -> None:
        """Kill -9 of the QEMU the guest began in."""
        self._kill(self.guest)

    def kill_twin(self, host: str = "b") -> None:
        """Kill -9 of every QEMU at the destination."""
        for qemu in self.hardware(host).qemus:
            if qemu is not self.guest:
                self._kill(qemu)

    def _kill(self, qemu: ModelQemu) -> None:
        if qemu.alive:
            self.killed.add(qemu)
            qemu.die()

    def pull_plug(self, host: str, *, back: float) -> None:
        """Power off, and on again."""
        off = self.hardware(host)
        self.forgetful.add(host)
        off.powered = False
        self._flows.clear()
        for qemu in off.qemus:
            self._kill(qemu)
        off.taps.clear()
        if off.agent is not None:
            off.agent.crash()
        shutil.rmtree(off.directory, ignore_errors=True)
        self.after(back, lambda: self._plug_in(off))

    def _plug_in(self, off: ModelHost) -> None:
        off.powered = True
        self._healed()
        off.boot()

    def cut_link(self, *directions: tuple[str, str], back: float) -> None:
        """Frames do not get through, and nobody is told."""
        self.cut |= set(directions)
        self.after(back, lambda: self._heal(directions))

    def _heal(self, directions: Sequence[tuple[str, str]]) -> None:
        self.cut -= set(directions)
        self._healed()

    def _healed(self) -> None:
        if self.data_flows():
            self._flows.set()
        for ends in self._connections:
            for end in ends:
                end.healed()

    def break_link(self) -> None:
        """Every connection is reset; new ones can be opened."""
        for ends in self._connections:
            for end in ends:
                end.drop()

    def cut_data(self, *, back: float) -> None:
        """RAM and disks do not get through."""
        self.data_cut = True
        self._flows.clear()

        def heal() -> None:
            self.data_cut = False
            self._healed()

        self.after(back, heal)

    def refuse_writes(self, host: str, *, back: float) -> None:
        """The state disk is full for a while."""
        full = self.hardware(host)
        full.disk_refuses = True

        def room() -> None:
            full.disk_refuses = False

        self.after(back, room)

    def freeze(self, host: str, *, back: float) -> None:
        """SIGSTOP of every QEMU of a host, and SIGCONT."""
        frozen = [qemu for qemu in self.hardware(host).qemus if qemu.alive]
        for qemu in frozen:
            qemu.freeze()

        def thaw() -> None:
            for qemu in frozen:
                qemu.thaw()

        self.after(back, thaw)

    def abort(self) -> None:
        """Somebody asks for an abort at the source."""
        agent = self.hardware("a").agent
        if agent is not None and agent.moves is not None:
            moves = agent.moves

            async def ask() -> None:
                for status in moves.all():
                    if not status.state.over:
                        await _quietly(moves.abort(status.id))

            asyncio.get_running_loop().create_task(ask(), context=agent.context)

    def fail(self) -> None:
        """What is done here is refused."""
        self.refuse_next = "refused on purpose"

    def repeat_call(self, *, after: float) -> None:
        """The latest call arrives once more, later."""
        if self.calls:
            call = self.calls[-1]
            self.after(after, lambda: self._deliver_again(*call))

    def _deliver_again(self, destination: str, source: str, request: Request) -> None:
        agent = self.hardware(destination).agent
        if agent is None or agent.moves is None or not agent.serving:
            return
        kind, handler = agent.moves.handlers()[request.method]
        deed = handler(msgspec.msgpack.decode(request.params, type=kind), HostName(source))

        async def answer() -> None:
            task = asyncio.ensure_future(_quietly(deed))
            await asyncio.wait({task}, timeout=200)
            task.cancel()

        self.quiet_from += 1.0
        asyncio.get_running_loop().create_task(answer(), context=agent.context)

    # -- the case -------------------------------------------------------------------------------------------

    def executing(self) -> list[str]:
        """Hosts on which the guest executes."""
        return [qemu.host for qemu in self._all() if qemu.executes]

    def _all(self) -> list[ModelQemu]:
        return [qemu for host in self.hosts.values() for qemu in host.qemus]

    async def play(self) -> None:
        """Move the guest from a to b, with everything that happens on the way, until all is at rest."""
        for host in self.hosts.values():
            host.boot()
        await self._until(lambda: all(host.agent and host.agent.serving for host in self.hosts.values()))
        await self.move("a", "b")

    def begin(self, source: str, destination: str) -> None:
        """Start one move."""
        agent = self.hardware(source).agent
        assert agent is not None
        assert agent.moves is not None
        request = MoveRequest(guest="web1", to=destination)
        asyncio.get_running_loop().create_task(_quietly(agent.moves.start(request)), context=agent.context)

    async def move(self, source: str, destination: str) -> None:
        """Start one move, and wait until all is at rest."""
        self.begin(source, destination)
        await asyncio.sleep(0.5)
        if not await self._until(self._rests):
            self.complain(f"no rest after {LONGEST:g} s: {self._unrest()}")
        for host in self.hosts.values():
            if host.agent is not None and host.agent.moves is not None:
                self.statuses += host.agent.moves.all()

    async def _until(self, condition: Callable[[], bool]) -> bool:
        clock = asyncio.get_running_loop().time
        while not condition():
            if clock() > self.quiet_from + LONGEST:
                return False
            await asyncio.sleep(0.25)
        return True

    def _rests(self) -> bool:
        return asyncio.get_running_loop().time() > self.quiet_from and not self._unrest()

    def _unrest(self) -> str:
        for name, host in self.hosts.items():
            agent: ModelAgent | None = host.agent
            if agent is None or agent.moves is None or not agent.serving:
                return f"the agent of {name} does not run"
            if busy := [status for status in agent.moves.all() if not status.state.over]:
                return f"{name} has a move that is {busy[0].state}: {busy[0].error}"
            if left := host.store.open_moves():
                return f"the journal of {name} has open moves: {[(m.id, str(m.side)) for m in left]}"
        return ""

    def owner(self) -> str:
        """The host that owns the guest by the journals."""
        records = [(name, host.store.owner(UUID)) for name, host in self.hosts.items()]
        here = [(record.epoch, str(name)) for name, record in records if record and record.state is Held.HERE]
        return max(here)[1] if here else "a"

    async def end(self) -> None:
        """Unwind every task without any effect."""
        for host in self.hosts.values():
            if host.agent is not None:
                host.agent.crash()
        me = asyncio.current_task()
        for _ in range(50):
            rest = [task for task in asyncio.all_tasks() if task is not me]
            if not rest:
                return
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=1)


def may_refuse(point: str) -> bool:
    """Whether what happens at a point can be refused. Removing an object is not: only one that is not there is."""
    return any(deed in point for deed in DEEDS) and "object-del" not in point


async def _quietly(deed: Awaitable[object]) -> None:
    try:
        await deed
    except LimosaError:
        return


def play(
    setting: Setting,
    schedule: Schedule,
    directory: Path,
    *,
    names: Sequence[str] = ("a", "b"),
    also: Callable[[World], Coroutine[Any, Any, None]] | None = None,
) -> World:
    """Play one case to its end.

    Args:
        setting: the guest.
        schedule: the faults.
        directory: for the hosts' runtime directories; emptied afterwards.
        names: the hosts; the guest goes from `a` to `b`.
        also: what else to do when all is at rest.
    """
    loop = VirtualLoop()
    loop.set_task_factory(_enlist)
    loop.set_exception_handler(lambda _loop, _context: None)

    async def case() -> World:
        world = World(setting, schedule, directory, names)
        try:
            await world.play()
            world.recording = False
            if also is not None:
                await also(world)
        finally:
            world.recording = False
            await world.end()
        return world

    try:
        return loop.run_until_complete(case())
    finally:
        loop.close()
        shutil.rmtree(directory, ignore_errors=True)


def _enlist(
    loop: asyncio.AbstractEventLoop, deed: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **options: Any
) -> "asyncio.Future[Any]":
    """A task knows on whose behalf it runs, and dies with its agent."""
    assert not isinstance(deed, Generator)
    task: asyncio.Task[Any] = asyncio.Task(deed, loop=loop, **options)
    context: Context | None = options.get("context")
    agent = context.get(AGENT) if context is not None else AGENT.get()
    if agent is not None:
        agent.tasks.add(task)
    return task
