"""What a QEMU program knows and what its boards bring along, asked once per program and kept on disk.

A guest's devices are the user's and the board's mixed; the board's are told apart by starting the same
program with the same board and nothing else (`Bare`), and subtracting.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from limosa.errors import LaunchError, MonitorError, QmpError
from limosa.guest.profile import Value
from limosa.guest.qtree import parse_qom_tree, parse_qtree
from limosa.guest.tree import ambiguous, place
from limosa.qmp.monitor import Monitor

START_LIMIT = 30.0
"""Seconds a bare machine may take until it greets; under TCG on a busy machine it takes about one."""

# Environment that the dynamic linker of an unpacked QEMU may need; nothing else of ours reaches the probe.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "QEMU_MODULE_DIR", "HOME", "TMPDIR", "LANG")
_NOT_PLUGGABLE = re.compile(r'^name "(?P<name>[^"]+)".*, no-user$', re.MULTILINE)


class Known(msgspec.Struct, frozen=True):
    """One property as a driver declares it."""

    type: str
    default: Value = None
    has_default: bool = False
    by_machine: bool = False
    """Whether a board of the machine type in question may have another default."""


class Board(msgspec.Struct, frozen=True, order=True):
    """What a bare machine is started with."""

    machine: str
    cpu: str
    """Empty for none, which only the machine `none` can do without."""
    accel: str
    options: tuple[tuple[str, str], ...] = ()
    firmware_paths: tuple[str, ...] = ()
    """`-L` directories."""


class Bare(msgspec.Struct, frozen=True):
    """A bare machine as it was read: what the board brings along."""

    devices: dict[str, str]
    """Position -> driver."""
    machine: dict[str, Value]
    """Readable machine properties by name."""
    cpu: dict[str, Value]
    """CPU properties of the bare model."""
    feature_words: list[dict[str, Value]]


class Store(msgspec.Struct):
    """What is kept on disk for one program."""

    format: int = 2
    drivers: dict[str, dict[str, Known]] = msgspec.field(default_factory=dict)
    types: dict[str, dict[str, Known]] = msgspec.field(default_factory=dict)
    not_pluggable: tuple[str, ...] = ()
    bare: dict[str, Bare] = msgspec.field(default_factory=dict)
    cpus: dict[str, dict[str, Value]] = msgspec.field(default_factory=dict)
    compat: dict[str, tuple[str, ...] | None] = msgspec.field(default_factory=dict)
    """Machine type -> names of properties with a default of its own; None where QEMU does not tell (before 9.1)."""


class Probe:
    """Knowledge about one QEMU program.

    Args:
        binary: the program; also `/proc/PID/exe` of one that runs.
        directory: where knowledge is kept between runs; None keeps it in this object only.
    """

    def __init__(self, binary: Path, directory: Path | None = None) -> None:
        self.binary = binary
        self._file = directory / f"qemu-{_identity(binary)}.json" if directory else None
        self._store = self._load()
        self._dirty = False

    def driver(self, name: str) -> dict[str, Known]:
        """Properties of a device driver; `learn` must have been asked for it."""
        return self._store.drivers[name]

    def type(self, name: str) -> dict[str, Known]:
        """Properties of another QOM type; `learn` must have been asked for it."""
        return self._store.types[name]

    @property
    def not_pluggable(self) -> frozenset[str]:
        """Drivers that only a board can make."""
        return frozenset(self._store.not_pluggable)

    async def learn(self, monitor: Monitor, drivers: Iterable[str] = (), types: Iterable[str] = ()) -> None:
        """Ask a running QEMU of this program for what is not known yet. A type that it lacks gets no properties."""
        wanted = [("device-list-properties", name) for name in sorted(set(drivers) - set(self._store.drivers))]
        wanted += [("qom-list-properties", name) for name in sorted(set(types) - set(self._store.types))]
        if not self._store.not_pluggable:
            self._store.not_pluggable = tuple(_NOT_PLUGGABLE.findall((await monitor.hmp("info qdm")).replace("\r", "")))
            self._dirty = True
        answers = await monitor.execute_many([(command, {"typename": name}) for command, name in wanted])
        for (command, name), answer in zip(wanted, answers, strict=True):
            found = {} if isinstance(answer, QmpError) else {told["name"]: _known(told) for told in answer}
            (self._store.drivers if command == "device-list-properties" else self._store.types)[name] = found
            self._dirty = True

    def cpu(self, key: str) -> dict[str, Value] | None:
        """A CPU's properties kept under `key`."""
        return self._store.cpus.get(key)

    def keep_cpu(self, key: str, properties: dict[str, Value]) -> None:
        """Keep a CPU's properties."""
        self._store.cpus[key] = properties
        self._dirty = True

    async def bare(self, board: Board) -> Bare:
        """The board's own devices and defaults; starts this program once per board.

        Raises:
            LaunchError: it did not start; `detail` is its stderr.
        """
        key = hashlib.sha256(msgspec.json.encode(board)).hexdigest()[:16]
        if key not in self._store.bare:
            async with self.running(board) as monitor:
                await self.learn(monitor)
                self._store.bare[key] = await _read_bare(monitor, self)
            self._dirty = True
            self.save()
        return self._store.bare[key]

    async def knows(self, board: Board, drivers: Iterable[str], types: Iterable[str]) -> dict[str, dict[str, Known]]:
        """Driver or type -> the properties that this program knows; starts it when something is not on record.

        Raises:
            LaunchError: it did not start; `detail` is its stderr.
        """
        drivers, types = set(drivers), set(types)
        new = drivers - set(self._store.drivers) or types - set(self._store.types)
        if new or board.machine not in self._store.compat:
            async with self.running(board) as monitor:
                await self.learn(monitor, drivers, types)
                self._store.compat[board.machine] = await _compat(monitor, board.machine)
            self._dirty = True
            self.save()
        own = self._store.compat[board.machine]
        found = {name: self._store.types[name] for name in types}
        return found | {name: _on_board(self._store.drivers[name], own) for name in drivers}

    @contextlib.asynccontextmanager
    async def running(self, board: Board) -> AsyncIterator[Monitor]:
        """A bare machine that never executes, for as long as the block lasts."""
        with tempfile.TemporaryDirectory(prefix="limosa-probe-") as directory:
            path = f"{directory}/qmp"
            with _listening(path) as listener, _words(directory) as stderr:
                process = await asyncio.create_subprocess_exec(
                    *bare_argv(str(self.binary), board, listener.fileno()),
                    pass_fds=(listener.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    start_new_session=True,
                    env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                )
                listener.close()
                try:
                    monitor = await _talking(path, stderr, process)
                    try:
                        yield monitor
                    finally:
                        await monitor.close()
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()

    def save(self) -> None:
        """Write what was learnt to disk, if there is a place for it."""
        if not self._dirty or self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(self._store))
        draft.replace(self._file)
        self._dirty = False

    def _load(self) -> Store:
        if self._file is None:
            return Store()
        try:
            store = msgspec.json.decode(self._file.read_bytes(), type=Store)
        except (FileNotFoundError, msgspec.DecodeError):
            return Store()
        return store if store.format == Store().format else Store()


def bare_argv(binary: str, board: Board, listener: int) -> tuple[str, ...]:
    """The bare machine's command line. It takes its monitor as an open listening socket: connecting needs no retry."""
    machine = ",".join((board.machine, f"accel={board.accel}", *(f"{k}={v}" for k, v in board.options)))
    paths = [word for path in board.firmware_paths for word in ("-L", path)]
    # It waits for us: QEMU crashes or hangs, once in some hundred starts, if a client comes while its monitor moves to
    # a thread of its own (docs/qemu-notes.md).
    chardev = f"socket,id=limosa,fd={listener},server=on,wait=on"
    return (
        *(binary, "-nodefaults", "-no-user-config", "-S", "-display", "none", *paths),
        *("-machine", machine, *(("-cpu", board.cpu) if board.cpu else ()), "-m", "64", "-smp", "1"),
        *("-chardev", chardev, "-mon", "chardev=limosa,mode=control"),
    )


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)
    return listener


def _words(directory: str) -> IO[bytes]:
    return Path(directory, "stderr").open("w+b")


async def _talking(path: str, stderr: IO[bytes], process: asyncio.subprocess.Process) -> Monitor:
    try:
        # No pid: the socket was bound by us, and the kernel names whoever bound it.
        return await Monitor.connect(path, greeting_timeout=START_LIMIT)
    except MonitorError as error:
        ending = await _ending(process)
        stderr.seek(0)
        raise LaunchError(
            "QEMU did not start a bare machine to compare with",
            remedy="see the reason below; `limosa show` needs the guest's own QEMU program",
            detail=stderr.read().decode(errors="replace").strip() or ending or error.what,
        ) from error


async def _ending(process: asyncio.subprocess.Process) -> str:
    """How a QEMU that hung up has ended; empty where it has not."""
    try:
        async with asyncio.timeout(1):
            status = await process.wait()
    except TimeoutError:
        return ""
    return f"it ended with {f'signal {-status}' if status < 0 else f'status {status}'}"


async def get_all(monitor: Monitor, path: str, names: Iterable[str]) -> dict[str, Value]:
    """Several properties of one object; those that cannot be read are left out."""
    names = list(names)
    answers = await monitor.execute_many([("qom-get", {"path": path, "property": name}) for name in names])
    return {name: answer for name, answer in zip(names, answers, strict=True) if not isinstance(answer, QmpError)}


def readable(listed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of plain properties in an answer of `qom-list`: no children, no pins, no clocks of the machine."""
    return [told["name"] for told in listed if plain(told["type"]) and told["name"] not in _MOVING]


def plain(type_name: str) -> bool:
    """Whether a property of this type is a value, and not a child, a pin or a region."""
    return not type_name.startswith(("child<", "link<irq>", "link<memory-region>", "link<qemu:memory-region>"))


# Differ from one reading to the next.
_MOVING = frozenset({"rtc-time", "crash-information"})


async def _read_bare(monitor: Monitor, probe: Probe) -> Bare:
    qtree, qom = await monitor.hmp("info qtree"), await monitor.hmp("info qom-tree")
    listed = await monitor.execute("qom-list", {"path": "/machine"})
    cpus = await monitor.execute("query-cpus-fast")
    roots, objects = parse_qtree(qtree.replace("\r", "")), parse_qom_tree(qom.replace("\r", ""))
    torn = ambiguous(roots, objects)
    parents = await monitor.execute_many([("qom-get", {"path": p, "property": "parent_bus"}) for p in torn])
    placed = place(roots, objects, {p: bus for p, bus in zip(torn, parents, strict=True) if isinstance(bus, str)})
    cpu_path = cpus[0]["qom-path"]
    await probe.learn(monitor, [objects[cpu_path]])
    cpu = probe.driver(objects[cpu_path])
    return Bare(
        devices={device.position: device.driver for device in placed},
        machine=await get_all(monitor, "/machine", readable(listed)),
        cpu=await get_all(monitor, cpu_path, [n for n, known in cpu.items() if plain(known.type) and n not in _MOVING]),
        feature_words=await monitor.execute("qom-get", {"path": cpu_path, "property": "feature-words"}),
    )


async def _compat(monitor: Monitor, machine: str) -> tuple[str, ...] | None:
    """Names of the properties to which a versioned machine type gives defaults of its own."""
    try:
        machines = await monitor.execute("query-machines", {"compat-props": True})
    except QmpError:
        return None
    ours = [m for m in machines if machine in (m["name"], m.get("alias"))]
    return tuple(sorted({prop["property"] for m in ours for prop in m.get("compat-props", ())}))


def _on_board(declared: Mapping[str, Known], own: tuple[str, ...] | None) -> dict[str, Known]:
    return {
        name: msgspec.structs.replace(known, by_machine=own is None or name in own) for name, known in declared.items()
    }


def _known(told: Mapping[str, Any]) -> Known:
    return Known(told["type"], told.get("default-value"), "default-value" in told)


def _identity(binary: Path) -> str:
    """Names one program: its place, size and time of change."""
    state = binary.stat()
    text = f"{os.path.realpath(binary)} {state.st_size} {state.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
