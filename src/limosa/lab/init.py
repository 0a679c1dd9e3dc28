"""Pid 1 of a lab host: unshares the namespaces, mounts what is the host's own, starts what it is asked to, reaps.

Run as a file with a bare interpreter (`python -I -S init.py LAB_DIRECTORY ROLE`), so it imports nothing of limosa and
is up within tens of milliseconds. It reads one line of JSON, `Setup`, from standard input and answers with one line:
`{"pid": N}` in the machine's numbering, or `{"error": TEXT}`. It starts nothing before that line came: a half-started
init whose parent was killed ends by itself.

Then it listens on `init.sock` in the role's directory. One connection is one process: a SOCK_SEQPACKET message
`{"argv", "env", "cwd", "bound"}` with three file descriptors (standard input, output, error) comes in; `{"pid": N}`
goes out, with the pid also as SCM_CREDENTIALS, which the kernel translates to the reader's numbering; and at its end
`{"status": N}`, negative for a signal. A bound process is killed, with its group, when its connection closes.
"""

import contextlib
import ctypes
import errno
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 1 << 30
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 0x1000, 0x2000, 0x4000, 1 << 18

MESSAGE = 1 << 20
"""Largest request in bytes: arguments and environment."""

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """The system call. Raises OSError that names the target."""
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or source}: {os.strerror(number)}", target)


def unshare(flags: int) -> None:
    """The system call. Raises OSError."""
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def settle_in(setup: dict[str, Any]) -> None:
    """Mount what is this host's own and take its name. `setup` is hosts.Setup as plain values."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for target in setup["tmpfs"]:
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    fresh_sys(setup["spare"])
    for source, target in setup["binds"]:
        mount(source, target, flags=MS_BIND)
    for target in setup["hidden"]:
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "size=4k")
    socket.sethostname(setup["hostname"])
    for conf in ("default", "all"):
        # Duplicate address detection would keep every new address tentative for a second or two.
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/sys/net/ipv6/conf/{conf}/accept_dad").write_text("0")
    os.chdir("/")


def fresh_sys(spare: str) -> None:
    """Mount a /sys that shows this network namespace's interfaces; the control groups stay where they were."""
    mount("/sys/fs/cgroup", spare, flags=MS_BIND | MS_REC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount(spare, "/sys/fs/cgroup", flags=MS_MOVE)


def listen(path: Path) -> socket.socket:
    """The socket that takes orders. Bound before the lab's directory is hidden."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # A socket's path may hold 108 bytes; through a descriptor of its directory it always fits.
    directory = os.open(path.parent, os.O_PATH)
    server.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)
    server.listen(64)
    server.setblocking(False)
    return server


def start(request: dict[str, Any], stdio: list[int]) -> int:
    """Start one process in its own session. Returns its pid in this namespace; raises OSError."""
    argv, env = request["argv"], request["env"]
    program = shutil.which(argv[0], path=env.get("PATH", os.defpath))
    if program is None:
        raise FileNotFoundError(errno.ENOENT, "no such program", argv[0])
    os.chdir(request["cwd"])
    try:
        return os.posix_spawn(
            program,
            argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)],
            setsid=True,
            setsigmask=[],
            # Python ignores SIGPIPE; what it starts should not.
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM],
        )
    finally:
        os.chdir("/")


def credentials(pid: int) -> list[tuple[int, int, bytes]]:
    """Ancillary data that tells the reader a pid in the reader's own numbering."""
    return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("3i", pid, os.getuid(), os.getgid()))]


class Init:
    """The loop: takes orders, starts processes, reaps every child, whoever's it was."""

    def __init__(self, server: socket.socket) -> None:
        self.server = server
        self.clients: dict[int, socket.socket] = {}  # by pid of the process that each one asked for
        self.bound: set[int] = set()
        self.selector = selectors.DefaultSelector()
        self.selector.register(server, selectors.EVENT_READ, self.accept)

    def run(self) -> NoReturn:
        """Serve until killed."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.selector.register(woken, selectors.EVENT_READ, lambda: self.reap(woken))
        while True:
            for key, _ in self.selector.select():
                key.data()

    def accept(self) -> None:
        """Take one client; its request is read when it has come."""
        try:
            client, _ = self.server.accept()
        except OSError:  # it left before it was taken
            return
        self.selector.register(client, selectors.EVENT_READ, lambda: self.order(client))

    def order(self, client: socket.socket) -> None:
        """Read one request, start its process, tell its pid."""
        self.selector.unregister(client)
        stdio: list[int] = []
        try:
            data, stdio, _, _ = socket.recv_fds(client, MESSAGE, 3)
            request = json.loads(data)
            pid = start(request, stdio)
            client.sendmsg([json.dumps({"pid": pid}).encode()], credentials(pid))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            # This is pid 1: a bad request may end its connection, never the host.
            with contextlib.suppress(OSError):
                client.send(json.dumps({"error": str(error)}).encode())
            client.close()
            return
        finally:
            for fd in stdio:
                os.close(fd)
        self.clients[pid] = client
        if request.get("bound"):
            self.bound.add(pid)
        self.selector.register(client, selectors.EVENT_READ, lambda: self.hang_up(pid))

    def hang_up(self, pid: int) -> None:
        """The client went away, or talks out of turn: forget it, and end what was bound to it."""
        client = self.clients.pop(pid)
        self.selector.unregister(client)
        client.close()
        if pid in self.bound:
            self.bound.discard(pid)
            # Its group may be gone already, waiting here to be reaped.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def reap(self, woken: int) -> None:
        """Collect every child that ended; tell those who asked."""
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.bound.discard(pid)
            if (client := self.clients.pop(pid, None)) is not None:
                self.selector.unregister(client)
                with contextlib.suppress(OSError):  # the client left in this very moment
                    client.send(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode())
                client.close()


def become_init(setup: dict[str, Any], server: socket.socket, ready: int) -> NoReturn:
    """What the child does: settle in, say so, serve."""
    try:
        settle_in(setup)
    except OSError as error:
        os.write(ready, f"{error}".encode())
        os._exit(1)
    devnull = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(devnull, fd)
    os.close(ready)
    Init(server).run()


def main(directory: Path) -> int:
    """Read the setup, fork pid 1, report. Returns an exit status."""
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return 1
    setup = json.loads(line)
    os.set_inheritable(setup["held"], False)
    server = listen(directory / "init.sock")
    result, ready = os.pipe2(os.O_CLOEXEC)
    unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET)
    pid = os.fork()
    if pid == 0:
        os.close(result)
        become_init(setup, server, ready)
    os.close(ready)
    with os.fdopen(result) as told:
        trouble = told.read()
    print(json.dumps({"error": trouble} if trouble else {"pid": pid}), flush=True)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) / sys.argv[2]))
