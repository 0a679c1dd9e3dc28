"""How an agent reaches the QEMUs of its host: the one door to processes, so that a model can stand in for them."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from limosa.cargo.kind import HostFacts
from limosa.cpu.facts import HostCpu
from limosa.destination.argv import TwinShape, argv
from limosa.destination.binaries import Binary, look_at_all
from limosa.destination.finish import finish
from limosa.destination.host_cpu import host_cpu
from limosa.destination.launch import Twin, launch, stderr_in, stop
from limosa.errors import LimosaError, MonitorMissing
from limosa.guest.attach import attach
from limosa.guest.discover import find_guests
from limosa.guest.introspect import introspect
from limosa.guest.proc import dead, start_time
from limosa.guest.profile import FoundGuest, Profile
from limosa.qmp.monitor import Monitor

KILL_LIMIT = 10.0
"""Seconds that a killed QEMU may take to be gone: it gives its memory back first, and its disks may hang."""


class Qemus:
    """The QEMU processes of this host, as moves need them. Holds no state."""

    def found(self) -> tuple[FoundGuest, ...]:
        """Every QEMU here, in the order of their start."""
        return find_guests()

    async def attach(self, guest: FoundGuest) -> Monitor:
        """A monitor of a guest.

        Raises:
            MonitorBusy: others hold every QMP socket it has, or it hangs.
            MonitorMissing: it has none that can be reached.
        """
        return await attach(guest)

    async def attach_again(self, guest: FoundGuest) -> Monitor | None:
        """A monitor of the very process that was found earlier; None where it is gone.

        Raises:
            MonitorBusy: it does not answer.
        """
        if _started(guest.pid) != guest.start_time:
            return None
        try:
            return await attach(guest)
        except MonitorMissing:
            return None

    async def introspect(self, monitor: Monitor, pid: int) -> Profile:
        """The profile of a running QEMU."""
        return await introspect(monitor, pid=pid)

    async def start(
        self, profile: Profile, shape: TwinShape, *, binary: str, monitor: str
    ) -> tuple[Twin, tuple[str, ...]]:
        """Start the twin of a profile, with its monitor at the path `monitor`; and its command line.

        Raises:
            LaunchError: it did not start; `detail` is its stderr.
        """
        line = await argv(profile, shape, binary)
        return await launch(binary, line, directory=Path(monitor).parent, monitor=monitor), line

    async def finish(self, twin: Twin, profile: Profile) -> None:
        """Make a started twin equal to its profile where no command line could."""
        await finish(twin.monitor, profile)

    async def find_twin(self, monitor: str) -> Twin | None:
        """The twin that an earlier agent started with its monitor at this path; None where it is gone.

        Raises:
            MonitorBusy: it does not answer.
        """
        for guest in self.found():
            if any(address.path == monitor for address in guest.monitors):
                try:
                    connection = await Monitor.connect(monitor, pid=guest.pid, greeting_timeout=5)
                except MonitorMissing:
                    return None
                return Twin(guest.pid, connection, stderr_in(Path(monitor).parent))
        return None

    async def stop(self, twin: Twin) -> None:
        """Destroy a twin. Safe to repeat."""
        await stop(twin)

    def kill(self, monitor: str) -> None:
        """End every QEMU that has its monitor at this path, whatever state it is in."""
        for guest in self.found():
            if any(address.path == monitor for address in guest.monitors):
                _kill(guest)

    async def see_end(self, guest: FoundGuest, *, within: float) -> None:
        """Return when the very process that was found earlier is gone; after `within` seconds it is killed."""
        with _process(guest) as pidfd:
            if pidfd is not None and not await dead(pidfd, within):
                _send_kill(pidfd)
                await dead(pidfd, KILL_LIMIT)

    async def binaries(self, paths: Sequence[str]) -> list[Binary]:
        """Those of these QEMU programs that run here."""
        return await look_at_all(paths)

    async def host_cpu(self, host: HostFacts, binary: Binary, accel: str) -> HostCpu:
        """What this program, under this accelerator, can give a guest here.

        Raises:
            LaunchError: it does not start so.
        """
        return await host_cpu(host.name, binary, accel, host.cpu_remove)

    def free_memory(self) -> int:
        """Bytes that programs could still have here."""
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        raise LimosaError("/proc/meminfo has no MemAvailable", remedy="limosa needs Linux 3.14 or newer")

    def port_free(self, address: str, port: int) -> bool:
        """Whether a TCP port can be listened on."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
        return True


def _kill(guest: FoundGuest) -> None:
    with _process(guest) as pidfd:
        if pidfd is not None:
            _send_kill(pidfd)


def _send_kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


@contextlib.contextmanager
def _process(guest: FoundGuest) -> Iterator[int | None]:
    """A pidfd of the process that was found earlier, so that a pid that was given away meanwhile is not hit."""
    try:
        pidfd = os.pidfd_open(guest.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd if _started(guest.pid) == guest.start_time else None
    finally:
        os.close(pidfd)


def _started(pid: int) -> int | None:
    try:
        return start_time(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
