"""Talks to the programs inside a lab guest: their orders on the kernel's command line, their answers, their heartbeat.

The other end is `guest/agent.c` (commands), `guest/heartbeat.c` (packets) and `guest/common.c` (parameters).
"""

import asyncio
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from limosa.errors import LimosaError

PORT = 7
VIRTIO_PORT = "limosa.0"
LIMIT = 1 << 20
"""The longest answer, bytes."""
# Lab guests prove correctness, not safety from each other; every one of these saves time under emulation.
# The TSC is read without leaving translated code; the HPET, the kernel's own choice, costs an exit and QEMU's big lock.
QUICK_BOOT = "quiet mitigations=off nokaslr cryptomgr.notests no_timer_check panic=-1 tsc=reliable clocksource=tsc"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Answer = TypeVar("Answer", bound="msgspec.Struct")


class GuestSilent(LimosaError):
    """The guest's agent could not be reached or did not answer."""

    code = "guest-silent"


class GuestRefused(LimosaError):
    """The guest's agent answered with an error."""

    code = "guest-refused"


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """What a lab guest shall do; `append()` is its kernel command line.

    Attributes:
        addresses: ADDRESS/BITS of eth0, eth1 and so on; a NIC that is plugged in later takes the next one.
        pages: MiB in which a counter is kept in every page; 0 for none.
        pages_rate: MiB/s dirtied there; 0 for as fast as it can.
        records: `off`, `magic` (disks laid out by records.py) or `auto` (blank disks too).
        records_hz: records per second and disk.
        records_size: bytes per record, on blank disks; a multiple of 4096.
        heartbeat: ADDRESS:PORT of the observer.
        heartbeat_ms: milliseconds between two packets.
        vectors: whether to compute with AVX2, where the processor has it, and to check every result.
        console: the kernel's console.
        zero_freed: whether the kernel fills memory with zeros when it is freed; a move sends less then.
    """

    addresses: tuple[str, ...] = ()
    pages: int = 0
    pages_rate: int = 16
    records: str = "off"
    records_hz: int = 20
    records_size: int = 4096
    heartbeat: str = ""
    heartbeat_ms: int = 1
    vectors: bool = False
    console: str = "ttyS0"
    zero_freed: bool = False

    def append(self) -> str:
        """The value for QEMU's `-append`."""
        words = [f"console={self.console}", QUICK_BOOT]
        words += [f"limosa.ip{number or ''}={address}" for number, address in enumerate(self.addresses)]
        if self.pages:
            words += [f"limosa.pages={self.pages}", f"limosa.pages-rate={self.pages_rate}"]
        if self.records != "off":
            words += [f"limosa.records={self.records}", f"limosa.records-hz={self.records_hz}"]
            words += [f"limosa.records-size={self.records_size}"]
        if self.heartbeat:
            words += [f"limosa.heartbeat={self.heartbeat},{self.heartbeat_ms}ms"]
        if self.vectors:
            words.append("limosa.vectors=1")
        if self.zero_freed:
            words.append("init_on_free=1")
        return " ".join(words)


class Dirtier(msgspec.Struct, frozen=True):
    """A region of guest memory with a counter in every page; `errors` counts pages that held anything else."""

    mib: int
    rate: int
    passes: int
    errors: int
    first_bad: int


class Disk(msgspec.Struct, frozen=True):
    """A disk as the guest sees it.

    Attributes:
        name: the kernel's, which may differ from boot to boot.
        label: the name in the disk's own header (records.Layout), once records are written to it.
        size: bytes.
        acknowledged: number of the last stable record.
        slowest_us: the longest write of a record, microseconds.
    """

    name: str
    serial: str
    label: str
    size: int
    readonly: bool
    recording: bool
    acknowledged: int
    errors: int
    slowest_us: int


class Nic(msgspec.Struct, frozen=True):
    """A network card as the guest sees it."""

    name: str
    mac: str
    state: str
    addresses: tuple[str, ...]


class Status(msgspec.Struct, frozen=True):
    """All that a lab guest tells about itself.

    Attributes:
        uptime_ns: the guest's monotonic clock.
        deaths: programs of the guest that ended unasked; any is a sign of spoiled memory.
        late_us: the heartbeat's longest delay by the guest's own clock.
        tainted: the kernel's taint mask; bit 7 is an oops, bit 9 a warning.
        vector_rounds: calculations with AVX2; 0 where none were asked for, or the processor had none at boot.
        vector_errors: those that plain arithmetic did not confirm.
    """

    uptime_ns: int
    realtime_ns: int
    cpus: int
    memory_kib: int
    deaths: int
    beats: int
    late_us: int
    boot_id: str
    kernel: str
    tainted: str
    clocksource: str
    records_hz: int
    dirtiers: tuple[Dirtier, ...]
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...]
    vector_rounds: int = 0
    vector_errors: int = 0

    def disk(self, label_or_serial: str) -> Disk:
        """The disk that goes by this label, or else serial number.

        Raises:
            KeyError: there is none.
        """
        for found in self.disks:
            if label_or_serial in {found.label, found.serial}:
                return found
        raise KeyError(label_or_serial)

    @property
    def oopsed(self) -> bool:
        """The kernel has had an oops or a warning."""
        return bool(int(self.tainted) & (1 << 7 | 1 << 9))


class Pages(msgspec.Struct, frozen=True):
    """The dirtiers after a full check of every word of every page."""

    dirtiers: tuple[Dirtier, ...]

    @property
    def intact(self) -> bool:
        """No page was ever found to hold anything but what was written."""
        return all(not dirtier.errors for dirtier in self.dirtiers)


class Digest(msgspec.Struct, frozen=True):
    """SHA-256 of a stretch of a disk, read past the guest's cache."""

    sha256: str
    length: int


class Cpu(msgspec.Struct, frozen=True):
    """The processor as the guest's kernel lists it."""

    flags: tuple[str, ...]
    model: str = ""


class Output(msgspec.Struct, frozen=True):
    """What a shell command in the guest printed, and its exit status."""

    exit: int
    output: str


class GuestControl:
    """One connection to a guest's agent. Commands on one connection are answered in turn; open more to ask at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @classmethod
    async def over_tcp(cls, address: str, port: int = PORT, *, timeout: float = 30) -> Self:
        """Connect over the network, trying again until the guest is up.

        Raises:
            GuestSilent: not within `timeout` seconds.
        """
        return await cls._retry(
            lambda: asyncio.open_connection(address, port, limit=LIMIT), f"{address}:{port}", timeout
        )

    @classmethod
    async def over_unix(cls, path: Path, *, timeout: float = 30) -> Self:
        """Connect through a virtio-serial port named `limosa.0`, or the serial console, on a unix socket of QEMU's.

        Raises:
            GuestSilent: no answer within `timeout` seconds.
        """

        async def ask() -> Streams:
            reader, writer = await asyncio.open_unix_connection(str(path), limit=LIMIT)
            # QEMU takes the bytes although nobody in the guest reads them yet: only an answer shows an agent.
            try:
                await asyncio.wait_for(cls(reader, writer).status(), 3)
            except BaseException:
                writer.close()
                raise
            return reader, writer

        return await cls._retry(ask, str(path), timeout)

    @classmethod
    async def over_socket(cls, connected: socket.socket) -> Self:
        """Use a connected stream socket, for example one made in another network namespace."""
        connected.setblocking(False)
        return cls(*await asyncio.open_connection(sock=connected, limit=LIMIT))

    @classmethod
    async def _retry(cls, connect: Callable[[], Awaitable[Streams]], where: str, timeout: float) -> Self:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            left = deadline - asyncio.get_running_loop().time()
            try:
                return cls(*await asyncio.wait_for(connect(), max(left, 0.1)))
            except (
                OSError,
                TimeoutError,
                GuestSilent,
                GuestRefused,
            ) as error:  # half a line on a console is no command
                if left <= 0:
                    raise GuestSilent(f"the guest's agent at {where} does not answer", detail=str(error)) from error
            await asyncio.sleep(0.1)  # a booting guest has no way to call us

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the guest goes on."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # the guest is gone, which closes the connection as well

    async def ask(self, command: str, kind: type[Answer], *, timeout: float = 60) -> Answer:
        """Send a command line and decode its answer.

        Raises:
            GuestSilent: the connection ended, or no answer within `timeout` seconds.
            GuestRefused: the agent answered with an error.
        """
        async with self._turn:
            try:
                line = await asyncio.wait_for(self._exchange(command), timeout)
            except (OSError, TimeoutError, EOFError) as error:
                raise GuestSilent(f"the guest does not answer `{command}`", detail=repr(error)) from error
        if line.startswith(b'{"error":'):
            said = msgspec.json.decode(line, type=dict[str, str])["error"]
            raise GuestRefused(f"the guest refused `{command}`: {said}")
        return msgspec.json.decode(line, type=kind)

    async def _exchange(self, command: str) -> bytes:
        # On a serial line come also the kernel's messages, answers that an earlier client no longer waited for, and an
        # echo of what was sent, until the agent has set the terminal up.
        tag = f"@{secrets.token_hex(4)} ".encode()
        self._writer.write(tag + command.encode() + b"\n")
        await self._writer.drain()
        while not (line := await self._reader.readuntil(b"\n")).startswith(tag + b"{"):
            pass
        return line.removeprefix(tag)

    async def status(self) -> Status:
        """Clocks, CPUs, memory, disks, NICs, and how far each program has come."""
        return await self.ask("status", Status)

    async def check_pages(self, *, timeout: float = 120) -> Pages:
        """Have every word of every page verified."""
        return await self.ask("check-pages", Pages, timeout=timeout)

    async def set_records_rate(self, hz: int) -> None:
        """Records per second and disk from now on; 0 pauses the writers."""
        await self.ask(f"write-rate {hz}", _Done)

    async def set_dirty_rate(self, mib_per_second: int) -> None:
        """MiB/s for every dirtier; 0 is as fast as it can."""
        await self.ask(f"dirty-rate {mib_per_second}", _Done)

    async def start_dirtier(self, mib: int, mib_per_second: int = 0) -> None:
        """Dirty another region of memory."""
        await self.ask(f"dirty {mib} {mib_per_second}", _Done)

    async def stop_dirtiers(self) -> None:
        """Stop the dirtiers that were started so."""
        await self.ask("dirty-stop", _Done)

    async def sha256(self, disk: str, offset: int, length: int, *, timeout: float = 120) -> str:
        """Digest of a stretch of a disk, in bytes; multiples of 512."""
        return (await self.ask(f"read-sha256 {disk} {offset} {length}", Digest, timeout=timeout)).sha256

    async def cpu(self) -> Cpu:
        """Model and flags from /proc/cpuinfo."""
        return await self.ask("lscpu", Cpu)

    async def shell(self, command: str, *, timeout: float = 60) -> Output:
        """Run a busybox shell command in the guest."""
        return await self.ask(f"sh {command}", Output, timeout=timeout)

    async def power_off(self) -> None:
        """Sync and power off."""
        await self.ask("poweroff", _Done)

    async def reboot(self) -> None:
        """Sync and reboot."""
        await self.ask("reboot", _Done)


class _Done(msgspec.Struct, frozen=True):
    """An answer that only confirms."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One packet of the guest's heartbeat; `disks` maps a disk's name to (acknowledged, errors)."""

    interval_us: int
    sequence: int
    monotonic_ns: int
    realtime_ns: int
    passes: int
    page_errors: int
    deaths: int
    late_us: int
    disks: dict[str, tuple[int, int]]

    @classmethod
    def parse(cls, packet: bytes) -> Self:
        """Read a packet.

        Raises:
            ValueError: not a heartbeat.
        """
        if len(packet) < _BEAT.size or packet[:4] != b"LBT1":
            raise ValueError("not a heartbeat")
        _, interval, *numbers, disks = _BEAT.unpack_from(packet)
        if len(packet) != _BEAT.size + disks * _BEAT_DISK.size:
            raise ValueError("a heartbeat of the wrong length")
        told = _BEAT_DISK.iter_unpack(packet[_BEAT.size :])
        sequence, monotonic, realtime, passes, page_errors, deaths, late = numbers
        named = {name.rstrip(b"\0").decode(): (acknowledged, errors) for name, acknowledged, errors in told}
        return cls(interval, sequence, monotonic, realtime, passes, page_errors, deaths, late, named)


_BEAT = struct.Struct("<4sI7QQ")
_BEAT_DISK = struct.Struct("<16sQQ")
