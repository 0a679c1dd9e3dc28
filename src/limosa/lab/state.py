"""What a lab leaves on the machine: one directory and some processes; how both are named and found again.

A lab has no named network namespaces, no mounts and no interfaces of the machine's own: everything hangs on its inits
(init.py) and vanishes with them. So whatever `up` did before it was killed is found by two signs: the lab's directory,
and processes whose command line is `python … lab/init.py LAB_DIRECTORY ROLE`.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import select
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from limosa.errors import LimosaError, NotFound, UsageError

FABRIC, OBSERVER = "fabric", "observer"
MOUNT_POINTS = (Path("/etc/limosa"), Path("/run/limosa"), Path("/srv"), Path("/var/lib/limosa"))
"""Directories that each host sees as its own. Those that the machine lacks exist while any lab does."""
NOTE = Path("/run/limosa-lab.made")
"""Which of them labs have made, a line each; locked by every init that needs them."""

LONGEST_NAME = 32
MOST_HOSTS = 26


class LabError(LimosaError):
    """The lab could not do it; nothing of it concerns the machine's own guests."""

    code = "lab"
    exit_status = 20

    def __init__(self, what: str, *, remedy: str = "", detail: str = "") -> None:
        super().__init__(what, remedy=remedy, detail=detail)
        if detail:
            self.add_note(detail)  # a failed test shows an agent's log, or what a command wrote


class LabRecord(msgspec.Struct, frozen=True):
    """What `lab.json` holds: what the lab was asked to be."""

    name: str
    hosts: tuple[str, ...]
    link_mbit: float | None
    agents: bool
    complete: bool
    """False until `up` has finished; a lab that stays so was killed half-way."""


class InitRecord(msgspec.Struct, frozen=True):
    """Which process is a role's pid 1. The start time tells it from a later process with the same pid."""

    pid: int
    start_time: int


def base_directory() -> Path:
    """Where labs live: `$LIMOSA_LAB_DIR`, else /var/lib/limosa-lab."""
    return Path(os.environ.get("LIMOSA_LAB_DIR", "/var/lib/limosa-lab"))


def lab_name(name: str | None) -> str:
    """The lab meant: as given, else `$LIMOSA_LAB`, else `lab`. Raises UsageError for what cannot be a name."""
    chosen = name or os.environ.get("LIMOSA_LAB") or "lab"
    if len(chosen) > LONGEST_NAME or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", chosen):
        raise UsageError(
            f"{chosen!r} cannot name a lab",
            remedy=f"use up to {LONGEST_NAME} lower-case letters, digits and dashes",
        )
    return chosen


def host_names(count: int) -> tuple[str, ...]:
    """The first `count` letters. Raises UsageError beyond 26."""
    if not 1 <= count <= MOST_HOSTS:
        raise UsageError(f"a lab has 1 to {MOST_HOSTS} hosts, not {count}", remedy="choose another --hosts")
    return tuple(chr(ord("a") + index) for index in range(count))


def require_root() -> None:
    """Raises UsageError unless this process may make namespaces and interfaces."""
    if os.geteuid() != 0:
        raise UsageError("the lab needs root: it makes namespaces, mounts and bridges", remedy="run it with sudo")


class Store:
    """One lab's directory: its record, its roles' directories, its lock."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directory = base_directory() / name

    def role(self, role: str) -> Path:
        """The directory of a host, the fabric or the observer."""
        return self.directory / role

    def exists(self) -> bool:
        """Whether anything of the lab is on disk."""
        return self.directory.is_dir()

    def load(self) -> LabRecord:
        """Read `lab.json`. Raises NotFound where there is no such lab, LabError where its `up` was cut short."""
        try:
            return msgspec.json.decode((self.directory / "lab.json").read_bytes(), type=LabRecord)
        except FileNotFoundError as error:
            if self.exists():
                raise LabError(
                    f"lab {self.name} was never finished", remedy=f"limosa lab down --name {self.name}"
                ) from error
            raise NotFound(f"there is no lab {self.name}", remedy="limosa lab up, or limosa lab ls") from error

    def save(self, record: LabRecord) -> None:
        """Write `lab.json` whole or not at all."""
        write_atomically(self.directory / "lab.json", msgspec.json.encode(record))

    def save_init(self, role: str, record: InitRecord) -> None:
        """Note which process is the role's pid 1."""
        write_atomically(self.role(role) / "init.json", msgspec.json.encode(record))

    def init(self, role: str) -> InitRecord | None:
        """The role's pid 1 if it is alive, else None."""
        try:
            record = msgspec.json.decode((self.role(role) / "init.json").read_bytes(), type=InitRecord)
        except FileNotFoundError:
            return None
        return record if start_time(record.pid) == record.start_time else None

    @contextlib.asynccontextmanager
    async def locked(self, timeout: float = 30.0) -> AsyncIterator[None]:
        """Hold the lab for a change. Its lock lies beside the labs, since `down` removes the lab's directory.

        Raises:
            LabError: another command holds it for longer than `timeout` seconds.
        """
        path = self.directory.with_name(f".{self.name}.lock")
        deadline = time.monotonic() + timeout
        while (fd := try_lock(path)) is None:
            if time.monotonic() > deadline:
                raise LabError(f"another command is busy with lab {self.name}", remedy="wait for it, or end it")
            await asyncio.sleep(0.02)  # flock offers neither time limit nor event
        try:
            yield
        finally:
            unlock(path, fd)


def try_lock(path: Path) -> int | None:
    """Lock a file that goes with its holder. Returns its descriptor, or None while somebody else holds it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # another holder removed the directory just now
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if same_file(fd, path):
        return fd
    os.close(fd)
    return None


def unlock(path: Path, fd: int) -> None:
    """Drop the lock, its file, and the labs' directory where nothing else is left in it."""
    path.unlink(missing_ok=True)
    os.close(fd)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def same_file(fd: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`; a lock on a removed file protects nothing."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.rename(path)


def lab_names() -> tuple[str, ...]:
    """Every lab that has a directory or a process, by name."""
    base = base_directory()
    on_disk = {entry.name for entry in base.iterdir() if entry.is_dir()} if base.is_dir() else set()
    running = {directory.name for _, directory, _ in inits() if directory.parent == base}
    return tuple(sorted(on_disk | running))


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie. Source: proc(5), stat."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def inits() -> Iterator[tuple[int, Path, str]]:
    """Every lab init on the machine: pid, lab directory, role; also those no record tells of."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if len(argv) >= 3 and argv[-3].endswith(b"/limosa/lab/init.py"):
            yield int(entry.name), Path(os.fsdecode(argv[-2])), os.fsdecode(argv[-1])


def kill(pid: int, timeout: float = 10.0) -> None:
    """Kill a process and wait until it is gone; a host's init goes last, when everything on the host is dead.

    Raises:
        LabError: still there after `timeout` seconds.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not select.select([pidfd], [], [], timeout)[0]:
            raise LabError(f"process {pid} did not die within {timeout:g} s", remedy=f"look at /proc/{pid}/stack")
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


def kill_inits(directory: Path) -> int:
    """Kill all of one lab's inits, until a look at the process list finds none. Returns how many."""
    killed = 0
    while found := [pid for pid, lab, _ in inits() if lab == directory and start_time(pid) is not None]:
        for pid in found:
            kill(pid)
        killed += len(found)
    return killed


def remove_directory(directory: Path) -> None:
    """Remove a lab's directory and all its disks. Raises LabError where something is mounted below it."""
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(directory)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise LabError(
                f"something is mounted below {directory}: {error.filename}", remedy=f"umount {error.filename}"
            ) from error


@contextlib.contextmanager
def mount_points() -> Iterator[int]:
    """Have the directories that hosts see as their own; made where the machine lacks them, and noted.

    Yields a file descriptor that holds them: an init that inherits it keeps them until it dies, since the kernel then
    drops its share of the lock. All labs of the machine share them, whatever $LIMOSA_LAB_DIR.
    """
    fd = shared_hold()
    try:
        yield fd
    finally:
        os.close(fd)


def shared_hold() -> int:
    """Lock the note of made directories against their removal, after making what is missing. Takes milliseconds."""
    while True:
        fd = os.open(NOTE, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)  # the exclusive holder only removes a few directories
        if same_file(fd, NOTE):
            break
        os.close(fd)
    for point in MOUNT_POINTS:
        if not point.exists():
            os.write(fd, f"{point}\n".encode())  # noted first: a crash may follow
            point.mkdir(mode=0o755, parents=True, exist_ok=True)
    return fd


def remove_mount_points() -> None:
    """Remove what `mount_points` made, once no lab on the machine is left; a directory that filled up meanwhile stays.

    Removing one earlier would pull it from under other labs: rmdir unmounts it in every other mount namespace.
    """
    try:
        fd = os.open(NOTE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if same_file(fd, NOTE):
            for line in NOTE.read_text().split():
                remove_if_empty(Path(line))
            NOTE.unlink()
    except BlockingIOError:
        return  # another lab stands; the last one removes them
    finally:
        os.close(fd)


def remove_if_empty(directory: Path) -> None:
    """Remove a directory unless it is gone already, or holds something."""
    with contextlib.suppress(FileNotFoundError):
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
