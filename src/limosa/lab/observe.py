"""Runs in the observer's namespace and writes what it sees to standard output; see traces.py for the reader's side.

    observe.py ping SECONDS ADDRESS…     an echo request to each address every SECONDS, whatever was answered
    observe.py heartbeats PORT           every UDP packet that comes to PORT

Run as a file with a bare interpreter, so it imports nothing of limosa. Times are CLOCK_REALTIME in nanoseconds:
arrivals as the kernel stamped them when the packet came in (SO_TIMESTAMPNS), so that a late wake-up of this process
falsifies nothing; departures just before the packet is handed over. Each run begins with both clocks read at one
moment, by which a reader turns either into CLOCK_MONOTONIC. SIGTERM ends it: no more requests, a moment for late
answers, the rest of the output.

Records, little-endian: `kind, number, length, sequence, time, time`, then `length` bytes.
    C  clocks: CLOCK_REALTIME, CLOCK_MONOTONIC
    S  sent to target `number`: departure, lateness against the schedule in nanoseconds
    R  reply from target `number`: arrival, 0
    H  heartbeat: arrival, the sender's IPv4 address as a number; the packet's content follows
"""

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import NoReturn

RECORD = struct.Struct("<cBHIqq")
ECHO = struct.Struct("!BBHHH")
STAMP = struct.Struct("@ll")
SO_TIMESTAMPNS = 35
ICMP_FILTER, SOL_RAW = 1, 255
LINGER = 0.2
"""Seconds after SIGTERM for answers that are on their way."""
BUFFER = 8 << 20


class Output:
    """Standard output that never blocks: what the pipe does not take at once is kept and offered again."""

    def __init__(self) -> None:
        os.set_blocking(1, False)
        self.waiting = bytearray()

    def put(self, kind: bytes, number: int, sequence: int, first: int, second: int, content: bytes = b"") -> None:
        """Append one record."""
        self.waiting += RECORD.pack(kind, number, len(content), sequence & 0xFFFFFFFF, first, second) + content

    def flush(self) -> None:
        """Hand over what the reader takes now."""
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: os.write(1, self.waiting)]

    def finish(self) -> None:
        """Hand over everything; blocks."""
        os.set_blocking(1, True)
        self.flush()


def checksum(packet: bytes) -> int:
    """The internet checksum of a packet of even length. Source: RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, sequence: int, target: int) -> bytes:
    """An echo request that carries its full sequence number and its target's."""
    content = struct.pack("!QQ", sequence, target)
    bare = ECHO.pack(8, 0, 0, identifier, sequence & 0xFFFF) + content
    return ECHO.pack(8, 0, checksum(bare), identifier, sequence & 0xFFFF) + content


def arrival(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the kernel took a packet in, in nanoseconds of CLOCK_REALTIME."""
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = STAMP.unpack(content[: STAMP.size])
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


def stamped(raw: socket.socket) -> socket.socket:
    """Ask for kernel stamps and room for bursts."""
    raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    raw.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
    raw.setblocking(False)
    return raw


class Pinger:
    """Sends on a fixed schedule; records answers as they come."""

    def __init__(self, interval: float, targets: list[str]) -> None:
        self.interval = int(interval * 1e9)
        self.targets = targets
        self.identifier = os.getpid() & 0xFFFF
        self.output = Output()
        self.raw = stamped(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
        # Echo replies only: bit n set means that ICMP type n is not wanted.
        self.raw.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", 0xFFFFFFFE))

    def run(self) -> None:
        """Until SIGTERM, and LINGER beyond."""
        begin_clock(self.output)
        due = time.monotonic_ns()
        sequence = 0
        while not ending():
            now = time.monotonic_ns()
            if now >= due:
                self.send(sequence, now - due)
                sequence += 1
                # Slots that were slept through stay empty: a burst would measure nothing.
                due += self.interval * max(1, -(-(now - due) // self.interval))
            self.output.flush()
            self.receive(max(0, due - time.monotonic_ns()) / 1e9)
        deadline = time.monotonic() + LINGER
        while (left := deadline - time.monotonic()) > 0:
            self.receive(left)
        self.output.finish()

    def send(self, sequence: int, late: int) -> None:
        """One request to each target."""
        for number, target in enumerate(self.targets):
            packet = echo_request(self.identifier, sequence, number)
            self.output.put(b"S", number, sequence, time.time_ns(), late)
            try:
                self.raw.sendto(packet, (target, 0))
            except OSError as error:
                # No neighbour, no buffer: a request that did not get out is a request that is not answered.
                if error.errno not in {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOBUFS, errno.EAGAIN}:
                    raise

    def receive(self, seconds: float) -> None:
        """Wait so long for answers; record those that came."""
        if not select.select([self.raw], [], [], seconds)[0]:
            return
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, ancillary, _, _ = self.raw.recvmsg(256, 128)
                start = (packet[0] & 15) * 4  # the IP header comes with it
                if len(packet) < start + 24 or ECHO.unpack_from(packet, start)[3] != self.identifier:
                    continue
                sequence, number = struct.unpack_from("!QQ", packet, start + 8)
                self.output.put(b"R", number, sequence, arrival(ancillary), 0)


def heartbeats(port: int) -> None:
    """Record every packet that comes to a UDP port."""
    output = Output()
    beats = stamped(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    beats.bind(("", port))
    begin_clock(output)
    while not ending():
        if select.select([beats], [], [], 0.05)[0]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    take_beat(beats, output)
        output.flush()
    output.finish()


def take_beat(beats: socket.socket, output: Output) -> None:
    """Record one packet. Raises BlockingIOError where none waits."""
    content, ancillary, _, (address, _) = beats.recvmsg(65535, 128)
    output.put(b"H", 0, 0, arrival(ancillary), int.from_bytes(socket.inet_aton(address)), content)


def begin_clock(output: Output) -> None:
    """Tell both clocks; the first sign that recording has begun."""
    output.put(b"C", 0, 0, time.time_ns(), time.monotonic_ns())
    output.flush()


def ending() -> bool:
    """Whether SIGTERM came."""
    return signal.SIGTERM in signal.sigpending()


def main() -> NoReturn:
    """See the module."""
    # Blocked and looked for: no handler runs in the middle of anything.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    gc.disable()
    with contextlib.suppress(PermissionError):  # then departures may be late; each record says by how much
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    match sys.argv[1:]:
        case ["ping", seconds, *targets]:
            Pinger(float(seconds), targets).run()
        case ["heartbeats", port]:
            heartbeats(int(port))
        case _:
            sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
