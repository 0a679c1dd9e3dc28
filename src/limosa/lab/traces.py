"""What an observer saw, as values: replies and heartbeats over time, and the largest hole in them.

All times are nanoseconds of CLOCK_REALTIME, arrivals as the kernel stamped them; `Clock` lays them beside an agent's
CLOCK_MONOTONIC.
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from limosa.lab.observe import RECORD
from limosa.units import Milliseconds


@dataclass(frozen=True, slots=True)
class Clock:
    """Both clocks, read at one moment on this machine."""

    realtime: int
    monotonic: int

    def to_monotonic(self, realtime: int) -> int:
        """A recorded time as CLOCK_MONOTONIC; exact as long as nobody sets the machine's clock meanwhile."""
        return realtime - self.realtime + self.monotonic

    def to_realtime(self, monotonic: int) -> int:
        """A CLOCK_MONOTONIC time as recorded times are."""
        return monotonic - self.monotonic + self.realtime


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without a sign of life, between two arrivals; or up to the recording's end."""

    start: int
    end: int

    @property
    def ms(self) -> Milliseconds:
        """Its length."""
        return Milliseconds((self.end - self.start) / 1e6)


@dataclass(frozen=True, slots=True)
class Probe:
    """One echo request: when it left, how late against its schedule, when its answer came."""

    sent: int
    late: int
    replied: int | None

    @property
    def rtt_ms(self) -> Milliseconds | None:
        """Round trip time; None if no answer came."""
        return None if self.replied is None else Milliseconds((self.replied - self.sent) / 1e6)


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat: when it came in, from whom, with what."""

    time: int
    source: str
    content: bytes


def gaps(arrivals: Iterable[int], until: int | None = None) -> Iterator[Gap]:
    """The stretches between arrivals, in order of time; with `until`, the last one reaches that far."""
    times = sorted(arrivals)
    yield from (Gap(start, end) for start, end in pairwise(times))
    if times and until is not None and until > times[-1]:
        yield Gap(times[-1], until)


def largest(found: Iterable[Gap]) -> Gap | None:
    """The longest of them; None if there is none."""
    return max(found, key=lambda gap: gap.end - gap.start, default=None)


@dataclass(slots=True)
class PingTrace:
    """All requests to one target, by sequence number."""

    target: str
    probes: dict[int, Probe] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """How many requests left."""
        return len(self.probes)

    @property
    def received(self) -> int:
        """How many were answered, however late."""
        return sum(probe.replied is not None for probe in self.probes.values())

    @property
    def lost(self) -> int:
        """How many were not."""
        return self.sent - self.received

    @property
    def largest_gap(self) -> Gap | None:
        """The longest silence: between two arrivals, or from the last one to the last request. None without replies.

        It holds the interval between two requests, so it is never shorter than that.
        """
        arrivals = [probe.replied for probe in self.probes.values() if probe.replied is not None]
        return largest(gaps(arrivals, max((probe.sent for probe in self.probes.values()), default=None)))

    @property
    def largest_gap_ms(self) -> Milliseconds:
        """Length of the longest silence; infinite where nothing ever answered."""
        gap = self.largest_gap
        return gap.ms if gap else Milliseconds(float("inf"))

    @property
    def worst_late_ms(self) -> Milliseconds:
        """How late the latest request left: what a busy machine may have added to a gap."""
        return Milliseconds(max((probe.late for probe in self.probes.values()), default=0) / 1e6)

    @property
    def timeline(self) -> list[tuple[float, Milliseconds | None]]:
        """Each request: seconds since the first one, and its round trip time or None."""
        if not self.probes:
            return []
        start = min(probe.sent for probe in self.probes.values())
        return [((probe.sent - start) / 1e9, probe.rtt_ms) for probe in self.probes.values()]


class Parser:
    """Cuts an observer's output into records; keeps an unfinished one for the next call."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int, int, int, int, bytes]]:
        """Kind, number, sequence, both times and content of each record that is complete."""
        self._rest += data
        start = 0
        while start + RECORD.size <= len(self._rest):
            kind, number, length, sequence, first, second = RECORD.unpack_from(self._rest, start)
            end = start + RECORD.size + length
            if end > len(self._rest):
                break
            yield kind, number, sequence, first, second, bytes(self._rest[start + RECORD.size : end])
            start = end
        del self._rest[:start]


class Recording(ABC):
    """What an observer has written so far."""

    def __init__(self) -> None:
        self.clock: Clock | None = None
        self._parser = Parser()

    def feed(self, data: bytes) -> None:
        """Take in more of the observer's output."""
        for kind, number, sequence, first, second, content in self._parser.feed(data):
            if kind == b"C":
                self.clock = Clock(first, second)
            else:
                self.take(kind, number, sequence, (first, second), content)

    @abstractmethod
    def take(self, kind: bytes, number: int, sequence: int, times: tuple[int, int], content: bytes) -> None:
        """Take in one record."""


class PingRecord(Recording):
    """Pings to one target or several. For one target its trace's values are here too."""

    def __init__(self, targets: Sequence[str]) -> None:
        super().__init__()
        self.traces = {target: PingTrace(target) for target in targets}
        self._numbered = list(self.traces.values())

    def take(self, kind: bytes, number: int, sequence: int, times: tuple[int, int], content: bytes) -> None:
        """A request, or its answer."""
        del content
        probes = self._numbered[number].probes
        if kind == b"S":
            probes[sequence] = Probe(times[0], times[1], None)
        elif (probe := probes.get(sequence)) is not None and probe.replied is None:
            probes[sequence] = Probe(probe.sent, probe.late, times[0])

    @property
    def sent(self) -> int:
        """Requests, over all targets."""
        return sum(trace.sent for trace in self._numbered)

    @property
    def received(self) -> int:
        """Answers, over all targets."""
        return sum(trace.received for trace in self._numbered)

    @property
    def lost(self) -> int:
        """Requests without an answer, over all targets."""
        return self.sent - self.received

    @property
    def largest_gap_ms(self) -> Milliseconds:
        """The longest silence of any target."""
        return max(trace.largest_gap_ms for trace in self._numbered)

    @property
    def worst_late_ms(self) -> Milliseconds:
        """How late the latest request left."""
        return max(trace.worst_late_ms for trace in self._numbered)

    @property
    def timeline(self) -> list[tuple[float, Milliseconds | None]]:
        """The first target's requests over time."""
        return self._numbered[0].timeline


class HeartbeatRecord(Recording):
    """Heartbeats from any number of guests."""

    def __init__(self) -> None:
        super().__init__()
        self.beats: list[Beat] = []

    def take(self, kind: bytes, number: int, sequence: int, times: tuple[int, int], content: bytes) -> None:
        """One heartbeat."""
        del kind, number, sequence
        self.beats.append(Beat(times[0], socket.inet_ntoa(times[1].to_bytes(4)), content))

    def of(self, source: str | None = None) -> list[Beat]:
        """The heartbeats of one guest, by its address; or all."""
        return [beat for beat in self.beats if source in {None, beat.source}]

    def largest_gap(self, source: str | None = None, *, until: int | None = None) -> Gap | None:
        """The longest silence between two heartbeats, or up to `until`; None with fewer than two."""
        return largest(gaps((beat.time for beat in self.of(source)), until))

    def largest_gap_ms(self, source: str | None = None) -> Milliseconds:
        """Its length; infinite with fewer than two heartbeats."""
        gap = self.largest_gap(source)
        return gap.ms if gap else Milliseconds(float("inf"))
