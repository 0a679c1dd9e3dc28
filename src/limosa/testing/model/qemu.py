"""A QEMU that is nothing but its states: run state, migration, disks, mirrors, exports.

It answers as docs/qemu-notes.md found the real one to, also where that is inconvenient: a source does not notice at
pre-switchover that its destination died, `cont` after a completed migration works, late writes are lost in silence.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from limosa.errors import MonitorLost, MonitorSilent, QmpError
from limosa.qmp.events import END_OF_STREAM, EventLog
from limosa.qmp.monitor import Monitor

UUID = "11111111-2222-3333-4444-555555555555"


@dataclass(slots=True)
class Image:
    """One disk image; `writes` is the number of the last write it has, counted over the guest's life."""

    writes: int = 0


@dataclass(slots=True)
class Mirror:
    """One mirror job and its NBD node at the source."""

    disk: int
    target: "ModelQemu"
    export: str
    ready: bool = False
    concluded: bool = False
    error: str | None = None


class Physics(Protocol):
    """What a QEMU needs to know of the rest of the world."""

    acknowledged: list[int]

    def data_flows(self) -> bool:
        """Whether the QEMUs of two hosts reach each other."""

    async def until_data_flows(self) -> None:
        """Return when they do."""

    def listener(self, uri: str) -> "ModelQemu | None":
        """The QEMU that listens for RAM."""

    def exporter(self, export: str) -> "ModelQemu | None":
        """The QEMU that exports a node."""

    def complain(self, what: str) -> None:
        """A promise was broken."""

    def executing_changed(self) -> None:
        """Some QEMU began or ceased to execute."""

    def retiring(self, qemu: "ModelQemu") -> None:
        """A QEMU was told to quit."""

    def later(self, deed: Awaitable[None]) -> None:
        """Let something happen that no agent does."""


@dataclass(eq=False, slots=True)
class ModelQemu:
    """One process. `disks` are its images, in order; `ram` what the guest remembers of its acknowledged writes."""

    world: Physics
    host: str
    pid: int
    monitor_path: str
    disks: list[Image]
    nics: int
    status: str = "running"
    ram: list[int] | None = None
    alive: bool = True
    frozen: bool = False
    executed: bool = False
    told_to_run: bool = False
    """Whether a `cont` was ever on its way; where no answer comes, nobody can know what became of it."""
    migration: str = "none"
    listens: str = ""
    was_running: bool = False
    exports: set[str] = field(default_factory=set)
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    links_down: set[int] = field(default_factory=set)
    peer: "ModelQemu | None" = None
    monitors: list["ModelMonitor"] = field(default_factory=list)
    _thawed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def executes(self) -> bool:
        """Whether the guest's vCPUs run here."""
        return self.alive and self.status == "running" and not self.frozen

    # -- fate ---------------------------------------------------------------------------------------------

    def die(self) -> None:
        """The process ends, however."""
        if not self.alive:
            return
        self.alive = False
        for monitor in self.monitors:
            monitor.end("the process died")
        if self.peer is not None and self.peer.status == "inmigrate" and self.world.data_flows():
            self.peer.die()  # a destination exits when its source vanishes before everything arrived
        self.world.executing_changed()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = True
        self._thawed.clear()

    def thaw(self) -> None:
        """SIGCONT."""
        self.frozen = False
        self._thawed.set()
        self.world.executing_changed()

    async def until_thawed(self) -> None:
        """Return when it is not frozen."""
        while self.frozen:
            await self._thawed.wait()

    # -- the guest ----------------------------------------------------------------------------------------

    def write(self) -> None:
        """The guest writes once to each disk, and is told that the write is safe."""
        for number, image in enumerate(self.disks):
            jobs = [job for job in self.mirrors.values() if job.disk == number and job.ready and not job.concluded]
            if any(job.target.alive and not self.world.data_flows() for job in jobs):
                continue  # a synchronous mirror on a dead link: the write is not acknowledged yet
            for job in jobs:
                if not job.target.alive or job.export not in job.target.exports:
                    job.concluded, job.error = True, "Input/output error"
                elif job.target.status == "inmigrate":
                    # What was written last may still be under way: only `finish` proves that it arrived.
                    job.target.disks[number].writes = max(job.target.disks[number].writes, image.writes)
            image.writes += 1
            self.world.acknowledged[number] += 1

    def _start_vcpus(self) -> None:
        if self.status == "running":
            return
        if self.ram is None:
            self.world.complain(f"a half-copied guest started on {self.host}")
        elif self.ram != self.world.acknowledged:
            self.world.complain(f"an old state started on {self.host}: {self.ram}, not {self.world.acknowledged}")
        held = [image.writes for image in self.disks]
        if held != self.world.acknowledged:
            self.world.complain(f"writes are lost on {self.host}: disks have {held} of {self.world.acknowledged}")
        if self.exports:
            self.world.complain(f"the guest on {self.host} started while {sorted(self.exports)} were exported")
        self.status, self.executed = "running", True
        self._say("RESUME")
        self.world.executing_changed()

    def _stop_vcpus(self, status: str) -> None:
        if self.status == "running":
            self.ram = list(self.world.acknowledged)
            self.status = status
            self._say("STOP")
            self.world.executing_changed()
        else:
            self.status = status

    # -- the monitor --------------------------------------------------------------------------------------

    def run(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Answer one command.

        Raises:
            QmpError: it is refused.
        """
        deed = COMMANDS.get(command)
        if deed is None:
            raise QmpError(command, "CommandNotFound", f"the model does not know {command}")
        return deed(self, arguments)

    def _say(self, name: str, **data: Any) -> None:
        for monitor in self.monitors:
            monitor.hear(name, data)

    def says_it_migrates(self, status: str) -> None:
        """Enter a state of the migration, and tell."""
        self.migration = status
        self._say("MIGRATION", status=status)

    def do_migrate(self, arguments: Mapping[str, Any]) -> None:
        """Begin to copy RAM."""
        self.peer = self.world.listener(arguments["uri"])
        if self.peer is not None:
            self.peer.peer = self
        self.says_it_migrates("setup")
        self.says_it_migrates("active")
        self.world.later(self._copy())

    async def _copy(self) -> None:
        await self._time_passes(0.05)
        self._say("MIGRATION_PASS", **{"pass": 1})
        await self._time_passes(0.05)
        if self.migration != "active":
            return
        if self.peer is None or not self.peer.alive:
            self.says_it_migrates("failed")
            return
        self.was_running = self.status == "running"
        self._stop_vcpus("finish-migrate")
        self.says_it_migrates("pre-switchover")

    async def _time_passes(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.world.until_data_flows()
        await self.until_thawed()
        if not self.alive:
            await asyncio.Event().wait()

    def do_continue(self, _arguments: Mapping[str, Any]) -> None:
        """Go on from pre-switchover."""
        if self.migration != "pre-switchover":
            raise QmpError("migrate-continue", "GenericError", "Migration not in expected state")
        self.says_it_migrates("device")
        self.world.later(self._send_devices())

    async def _send_devices(self) -> None:
        await self._time_passes(0.004)
        there = self.peer
        if self.migration != "device":
            return
        if there is None or not there.alive:
            self._go_back("failed")
            return
        await there.until_thawed()
        # From here on the source gives up block I/O: what a mirror still had under way is lost, in silence.
        there.ram, there.status = list(self.ram or []), "paused"
        await self._time_passes(0.002)
        if self.migration != "device":
            return
        self.status = "postmigrate"
        self.says_it_migrates("completed")
        await asyncio.sleep(0.01)
        if there.alive:
            there.says_it_migrates("completed")

    def do_cancel(self, _arguments: Mapping[str, Any]) -> None:
        """Cancel the migration."""
        if self.migration in {"active", "setup", "pre-switchover", "device"}:
            self.says_it_migrates("cancelling")
            self.world.later(self._cancelled())

    async def _cancelled(self) -> None:
        await asyncio.sleep(0.003)
        if self.alive and self.migration == "cancelling":
            self._go_back("cancelled")

    def _go_back(self, status: str) -> None:
        if self.peer is not None and self.peer.status == "inmigrate" and self.world.data_flows():
            self.peer.die()
        if self.status == "finish-migrate":
            if self.was_running:
                self._start_vcpus()
            else:
                self.status = "paused"
        self.says_it_migrates(status)

    def do_cont(self, _arguments: Mapping[str, Any]) -> None:
        """Let the vCPUs run."""
        if self.status in {"paused", "postmigrate", "prelaunch", "inmigrate"}:
            self._start_vcpus()

    def do_quit(self, _arguments: Mapping[str, Any]) -> None:
        """Exit."""
        self.world.retiring(self)
        self.die()

    def do_object_add(self, arguments: Mapping[str, Any]) -> None:
        """Create an object."""
        if arguments["id"] in self.objects:
            raise QmpError("object-add", "GenericError", "attempt to add duplicate property")
        self.objects.add(arguments["id"])

    def do_object_del(self, arguments: Mapping[str, Any]) -> None:
        """Remove an object."""
        if arguments["id"] not in self.objects:
            raise QmpError("object-del", "GenericError", f"object '{arguments['id']}' not found")
        self.objects.discard(arguments["id"])

    def do_listen(self, arguments: Mapping[str, Any]) -> None:
        """Listen for RAM."""
        if self.listens and self.listens != arguments["uri"]:
            raise QmpError("migrate-incoming", "GenericError", "The incoming migration has already been started")
        self.listens = arguments["uri"]

    # -- mirrors (commands of the model's own kind of disks) ------------------------------------------------

    def do_export(self, arguments: Mapping[str, Any]) -> None:
        """Export disks."""
        self.exports |= set(arguments["names"])

    def do_withdraw(self, arguments: Mapping[str, Any]) -> None:
        """Withdraw exports."""
        self.exports -= set(arguments["names"])

    def do_mirror(self, arguments: Mapping[str, Any]) -> None:
        """Begin to mirror; the bulk is copied at once."""
        for disk, name in enumerate(arguments["names"]):
            if name in self.mirrors:
                continue
            there = self.world.exporter(name)
            if there is None or not self.world.data_flows():
                raise QmpError("blockdev-add", "GenericError", "Connection refused")
            self.mirrors[name] = job = Mirror(disk, there, name, ready=True)
            job.target.disks[disk].writes = self.disks[disk].writes

    def do_jobs(self, _arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All mirrors."""
        return [{"id": name, "error": job.error} for name, job in self.mirrors.items()]

    def do_finish(self, arguments: Mapping[str, Any]) -> None:
        """End mirrors with their targets complete, if the guest's disks are still here."""
        for name in arguments["names"]:
            job = self.mirrors.get(name)
            if job is None:
                raise QmpError("block-job-cancel", "DeviceNotActive", f"no job {name}")
            if job.error is None and (not job.target.alive or name not in job.target.exports):
                job.error = "Input/output error"
            if job.error is None and not self.world.data_flows():
                raise MonitorSilent("the job did not end in time")
            if job.error is None and self.status != "postmigrate":
                job.target.disks[job.disk].writes = self.disks[job.disk].writes
            job.concluded = True
            if job.error is not None:
                raise QmpError("block-job-cancel", "GenericError", job.error)

    def do_unmirror(self, arguments: Mapping[str, Any]) -> None:
        """Remove mirrors."""
        for name in arguments["names"]:
            self.mirrors.pop(name, None)

    def do_set_link(self, arguments: Mapping[str, Any]) -> None:
        """Take a NIC's link up or down."""
        (self.links_down.discard if arguments["up"] else self.links_down.add)(arguments["nic"])

    def do_query_migrate(self, _arguments: Mapping[str, Any]) -> dict[str, Any]:
        """How the migration stands."""
        return {} if self.migration == "none" else {"status": self.migration}

    def do_yank(self, _arguments: Mapping[str, Any]) -> None:
        """Cut the migration's connection."""
        if self.migration in {"active", "device", "cancelling"}:
            self._go_back("failed")


def _nothing(_qemu: ModelQemu, _arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _list(_qemu: ModelQemu, _arguments: Mapping[str, Any]) -> list[Any]:
    return []


COMMANDS: Mapping[str, Callable[[ModelQemu, Mapping[str, Any]], Any]] = {
    "query-status": lambda qemu, _: {"status": qemu.status},
    "query-migrate": ModelQemu.do_query_migrate,
    "query-migrate-capabilities": _list,
    "query-migrate-parameters": _nothing,
    "migrate-set-capabilities": _nothing,
    "migrate-set-parameters": _nothing,
    "query-block": _list,
    "qom-list": _list,
    "query-memory-size-summary": _nothing,
    "calc-dirty-rate": _nothing,
    "query-dirty-rate": lambda _qemu, _: {"status": "measured", "dirty-rate": 1},
    "migrate": ModelQemu.do_migrate,
    "migrate-continue": ModelQemu.do_continue,
    "migrate_cancel": ModelQemu.do_cancel,
    "migrate-incoming": ModelQemu.do_listen,
    "cont": ModelQemu.do_cont,
    "quit": ModelQemu.do_quit,
    "object-add": ModelQemu.do_object_add,
    "object-del": ModelQemu.do_object_del,
    "yank": ModelQemu.do_yank,
    "x-export": ModelQemu.do_export,
    "x-withdraw": ModelQemu.do_withdraw,
    "x-mirror": ModelQemu.do_mirror,
    "x-jobs": ModelQemu.do_jobs,
    "x-finish": ModelQemu.do_finish,
    "x-unmirror": ModelQemu.do_unmirror,
    "x-set-link": ModelQemu.do_set_link,
}


Door = Callable[[str], None]
"""Called before and after each command, with its name; may raise instead of letting it through."""


class ModelMonitor(Monitor):
    """An agent's connection to a model QEMU."""

    def __init__(self, qemu: ModelQemu, door: Door) -> None:
        self.events = EventLog()
        self.version, self.package, self.oob = (10, 0, 0), "", True
        self._qemu = qemu
        self._door = door
        self._over = asyncio.Event()
        qemu.monitors.append(self)

    @property
    def lost(self) -> bool:
        """Whether the stream ended."""
        return self.events.ended

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = 30.0,
        oob: bool = False,
    ) -> Any:
        """Run one command; a frozen QEMU answers when it is thawed."""
        self._qemu.told_to_run |= command == "cont"
        self._door(f"qmp {command}: before")
        if not oob:
            await self._until_it_listens(command, timeout)
        await asyncio.sleep(0.0003)
        self._still_there(command)
        answer = self._qemu.run(command, arguments or {})
        self._door(f"qmp {command}: after")
        if command != "quit":
            self._still_there(command)
        return answer

    def hear(self, name: str, data: Mapping[str, Any]) -> None:
        """Take an event into the log."""
        now = asyncio.get_running_loop().time()
        self.events.add(name, data, at=now, qemu_time=now)

    def end(self, reason: str) -> None:
        """The stream ends."""
        self.hear(END_OF_STREAM, {"reason": reason})
        self._over.set()

    async def gone(self) -> None:
        """Return when the stream has ended."""
        await self._over.wait()

    async def close(self) -> None:
        """Hang up."""
        self.end("closed by us")
        self.leave()

    def leave(self) -> None:
        """The agent at this end is dead: QEMU sees the connection close."""
        if self in self._qemu.monitors:
            self._qemu.monitors.remove(self)

    async def _until_it_listens(self, command: str, timeout: float | None) -> None:
        listening = asyncio.ensure_future(self._qemu.until_thawed())
        dead = asyncio.ensure_future(self._over.wait())
        try:
            done, _ = await asyncio.wait({listening, dead}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
            dead.cancel()
        if not done:
            raise MonitorSilent(f"QEMU did not answer {command} within {timeout} s")

    def _still_there(self, command: str) -> None:
        if self.lost:
            raise MonitorLost(f"the monitor's stream ended before QEMU answered {command}")
