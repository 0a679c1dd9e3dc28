"""Processes as /proc shows them, and paths as those processes see them.

Nothing here reads a process's memory or environment, except PWD, which tells where a daemon was started.
"""

import asyncio
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from limosa.guest.cmdline import CommandLine, host_files, parse

PROC = Path("/proc")

_DELETED = " (deleted)"
_LINKS = 40  # as many symbolic links as Linux follows in one path (path_resolution(7))
_INODE = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment; `pid` and `start_time` name it for ever.

    Args:
        start_time: clock ticks since boot.
        binary: program, as the process sees it.
        deleted: the program's file was removed or replaced since (an upgrade).
        argv: its command line.
        directory: where it was started, as it sees it; None when that cannot be told any more.
        root: its root directory, as we see it; `/` unless it was chrooted or has its own mount namespace.
        shares_files: whether paths mean the same for it and for us.
        shares_network: whether its abstract sockets and loopback are ours.
        shares_pids: whether it lives in our own PID namespace.
    """

    pid: int
    start_time: int
    binary: str
    deleted: bool
    argv: tuple[str, ...]
    directory: str | None
    root: str
    shares_files: bool
    shares_network: bool
    shares_pids: bool
    proc: Path = PROC

    @property
    def command_line(self) -> CommandLine:
        """Its argv taken apart; `-readconfig` files are read as it saw them."""
        return parse(self.argv, read=self.text)

    def resolve(self, path: str) -> str:
        """`path` made absolute, as this process sees it.

        Raises:
            LookupError: it is relative, and nobody knows any more to what (`-daemonize` leaves the directory).
        """
        if path.startswith("/"):
            return path
        if self.directory is None:
            raise LookupError(f"{path!r} is relative to a directory that process {self.pid} has left")
        return str(PurePosixPath(self.directory) / path)

    def outside(self, path: str) -> Path:
        """Where `path` of this process is reached from the host.

        Raises:
            LookupError: as `resolve`.
        """
        seen = self.resolve(path)
        if self.shares_files:
            return Path(seen)
        return _inside(self.proc / str(self.pid) / "root", seen)

    def reach(self, path: str) -> str | None:
        """`outside` as text; None where nobody can tell."""
        try:
            return str(self.outside(path))
        except LookupError:
            return None

    def text(self, path: str) -> str | None:
        """Content of a small text file of this process; None where it cannot be read."""
        try:
            return self.outside(path).read_text(errors="replace")
        except (OSError, LookupError):
            return None

    def socket_path(self, fd: int) -> str | None:
        """Path on the host of a Unix socket that this process holds open."""
        here = self.proc / str(self.pid)
        try:
            inode = _INODE.fullmatch(str((here / "fd" / str(fd)).readlink()))
            bound = {} if inode is None else dict(_bound_sockets(here))
        except OSError:
            return None
        path = bound.get(int(inode[1])) if inode else None
        return path if path is None or path.startswith("@") else self.reach(path)


def read_process(pid: int, proc: Path = PROC) -> Process:
    """Read one process.

    Raises:
        ProcessLookupError: it is not there, or went away while it was read.
    """
    here = proc / str(pid)
    try:
        started = start_time(pid, proc)
        found = _read(pid, started, proc, here)
        if start_time(pid, proc) != started:
            raise ProcessLookupError(f"process {pid} was replaced by another one")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    return found if found.directory is not None else replace(found, directory=_start_directory(found, here))


def start_time(pid: int, proc: Path = PROC) -> int:
    """Clock ticks since boot at which a process started (field 22 of proc_pid_stat(5))."""
    # The second field is the program's name in brackets, which may hold brackets and spaces itself.
    return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])


async def dead(pidfd: int, limit: float) -> bool:
    """Whether the process ended within `limit` seconds: a pidfd reads as ready then (pidfd_open(2))."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(limit):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def resolve(pid: int, path: str) -> str:
    """`path` made absolute, as process `pid` sees it; see Process.resolve."""
    return read_process(pid).resolve(path)


def outside(pid: int, path: str) -> Path:
    """Where `path` of process `pid` is reached from the host; see Process.outside."""
    return read_process(pid).outside(path)


def _read(pid: int, started: int, proc: Path, here: Path) -> Process:
    exe = str((here / "exe").readlink())
    argv = tuple((here / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1])
    mounts, root = _same(here, proc, "mnt"), str((here / "root").readlink())
    command_line = parse(argv)
    if _chroot(command_line) is not None and mounts:
        # It opened the files of its command line before it went into its new root (chroot after set-up, as in
        # os-posix.c), so their names are the host's. What is plugged later is named from inside: `resolve` cannot know.
        root = "/"
    cwd = None if command_line.has("daemonize") or _chroot(command_line) else str((here / "cwd").readlink())
    return Process(
        pid=pid,
        start_time=started,
        binary=exe.removesuffix(_DELETED),
        deleted=exe.endswith(_DELETED),
        argv=argv,
        directory=None if cwd is None else _from_root(cwd, root),
        root=root,
        shares_files=mounts and root == "/",
        shares_network=_same(here, proc, "net"),
        shares_pids=_same(here, proc, "pid"),
        proc=proc,
    )


def _same(here: Path, proc: Path, kind: str) -> bool:
    return (here / "ns" / kind).readlink() == (proc / "self" / "ns" / kind).readlink()


def _chroot(command_line: CommandLine) -> str | None:
    option = command_line.last("chroot")
    return option.raw if option else command_line.merged("run-with").get("chroot")


def _from_root(path: str, root: str) -> str:
    """A path of ours, as a process with this root directory sees it."""
    if root != "/" and PurePosixPath(path).is_relative_to(root):
        return "/" + str(PurePosixPath(path).relative_to(root)).removeprefix(".")
    return path


def _start_directory(process: Process, here: Path) -> str | None:
    """Where a daemon was started: QEMU's `-daemonize` and `-chroot` change to `/` once files are open (os-posix.c).

    The directory is told by files that it still holds open, else by PWD as it was at the start, if every file of the
    command line is there.
    """
    relative = [name for name in host_files(process.command_line) if ":" not in name.partition("/")[0]]
    relative = [name for name in relative if not name.startswith("/")]
    try:
        held = [str(link.readlink()) for link in (here / "fd").iterdir()]
    except OSError:
        return None
    for name in relative:
        plain = os.path.normpath(name)
        for path in held:
            if path.endswith(f"/{plain}") and not path.startswith(("/dev/", "/proc/")):
                return _from_root(path.removesuffix(f"/{plain}") or "/", process.root)
    return _working_directory(process, relative, here)


def _working_directory(process: Process, relative: list[str], here: Path) -> str | None:
    try:
        environment = (here / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    told = next((entry[4:].decode(errors="surrogateescape") for entry in environment if entry.startswith(b"PWD=/")), "")
    if not told:
        return None
    there = replace(process, directory=told)
    return told if all(there.outside(name).exists() for name in relative) else None


def _inside(root: Path, path: str) -> Path:
    """`path` below `root`, symbolic links followed as a process with that root follows them.

    The kernel resolves an absolute link below /proc/PID/root from *our* root, hence by hand.
    """
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        target = _link(root.joinpath(*done, part))
        if target is None or (links := links + 1) > _LINKS:
            done.append(part)
            continue
        if target.startswith("/"):
            done.clear()
        todo.extend(piece for piece in reversed(target.split("/")) if piece not in ("", "."))
    return root.joinpath(*done)


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink()) if stat.S_ISLNK(path.lstat().st_mode) else None
    except OSError:
        return None


def _bound_sockets(here: Path) -> Iterator[tuple[int, str]]:
    """Inode and path of each bound Unix socket in the process's network namespace (proc_net(5), `unix`)."""
    for line in (here / "net" / "unix").read_text(errors="surrogateescape").splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8:
            yield int(fields[6]), fields[7]
