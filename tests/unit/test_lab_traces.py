"""What an observer wrote, read again; and the largest hole in it."""

import math
import struct

from hypothesis import given
from hypothesis import strategies as st

from limosa.lab.observe import RECORD, arrival, checksum, echo_request
from limosa.lab.traces import Clock, Gap, HeartbeatRecord, Parser, PingRecord, gaps, largest
from limosa.units import Milliseconds

MS = 1_000_000


def record(kind: bytes, number: int, sequence: int, first: int, second: int, content: bytes = b"") -> bytes:
    return RECORD.pack(kind, number, len(content), sequence, first, second) + content


def test_largest_gap_lies_between_two_arrivals() -> None:
    assert largest(gaps([30, 0, 10, 95])) == Gap(30, 95)
    assert largest(gaps([0, 10], until=50)) == Gap(10, 50)
    assert largest(gaps([7])) is None
    assert largest(gaps([], until=9)) is None


def test_pings_are_counted_and_silence_is_measured() -> None:
    pings = PingRecord(["10.66.0.11"])
    pings.feed(record(b"C", 0, 0, 1_000 * MS, 10 * MS))
    for sequence in range(5):
        pings.feed(record(b"S", 0, sequence, (1_000 + 5 * sequence) * MS, 0))
    for sequence, at in ((0, 1_001), (1, 1_006), (4, 1_051), (4, 1_052)):
        pings.feed(record(b"R", 0, sequence, at * MS, 0))
    assert (pings.sent, pings.received, pings.lost) == (5, 3, 2)
    assert pings.largest_gap_ms == Milliseconds(45)
    assert pings.timeline[0] == (0.0, 1.0)
    assert pings.timeline[2] == (0.01, None)
    assert pings.clock == Clock(1_000 * MS, 10 * MS)


def test_a_target_that_stops_answering_is_silent_to_the_last_request() -> None:
    pings = PingRecord(["x"])
    for sequence in range(101):
        pings.feed(record(b"S", 0, sequence, sequence * MS, 0))
    pings.feed(record(b"R", 0, 0, MS, 0))
    assert pings.largest_gap_ms == Milliseconds(99)


def test_a_target_that_never_answered_is_infinitely_silent() -> None:
    pings = PingRecord(["up", "dead"])
    for number in (0, 1):
        pings.feed(record(b"S", number, 0, 0, 3 * MS))
    pings.feed(record(b"R", 0, 0, 1, 0))
    assert math.isinf(pings.largest_gap_ms)
    assert pings.traces["up"].received == 1
    assert pings.worst_late_ms == Milliseconds(3)


def test_an_answer_nobody_asked_for_counts_nothing() -> None:
    pings = PingRecord(["x"])
    pings.feed(record(b"R", 0, 9, 1, 0))
    assert (pings.sent, pings.received) == (0, 0)


def test_heartbeats_are_told_apart_by_their_sender() -> None:
    beats = HeartbeatRecord()
    for at, last in ((0, 11), (1, 12), (50, 11), (51, 12), (52, 11)):
        beats.feed(record(b"H", 0, 0, at * MS, int.from_bytes(bytes([10, 66, 0, last])), b"n%d" % at))
    assert beats.largest_gap_ms("10.66.0.11") == Milliseconds(50)
    assert beats.largest_gap_ms() == Milliseconds(49)
    assert [beat.content for beat in beats.of("10.66.0.12")] == [b"n1", b"n51"]
    assert beats.largest_gap("10.66.0.12", until=200 * MS) == Gap(51 * MS, 200 * MS)
    assert math.isinf(beats.largest_gap_ms("10.66.0.13"))


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
def test_records_are_whole_however_the_stream_is_cut(contents: list[bytes], step: int) -> None:
    stream = b"".join(record(b"H", 0, number, number, 0, content) for number, content in enumerate(contents))
    parser = Parser()
    found = [each for start in range(0, len(stream), step) for each in parser.feed(stream[start : start + step])]
    assert [(each[2], each[5]) for each in found] == list(enumerate(contents))


@given(st.integers(), st.integers(), st.integers())
def test_clocks_translate_both_ways(realtime: int, monotonic: int, moment: int) -> None:
    clock = Clock(realtime, monotonic)
    assert clock.to_realtime(clock.to_monotonic(moment)) == moment


@given(st.integers(0, 0xFFFF), st.integers(0, 1 << 40), st.integers(0, 255))
def test_echo_requests_have_a_valid_checksum_and_carry_their_number(
    identifier: int, sequence: int, target: int
) -> None:
    packet = echo_request(identifier, sequence, target)
    assert checksum(packet) == 0
    assert struct.unpack("!QQ", packet[8:]) == (sequence, target)


def test_arrivals_are_the_kernels() -> None:
    assert arrival([(1, 35, struct.pack("@ll", 3, 7))]) == 3_000_000_007
