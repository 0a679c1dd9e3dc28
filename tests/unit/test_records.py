import io
import zlib
from pathlib import Path

import pytest

from limosa.lab import records
from limosa.lab.records import Layout

LAYOUT = Layout("data1", slots=4)


def record(number: int, name: str = "data1", size: int = 4096) -> bytes:
    head = records.RECORD_MAGIC + number.to_bytes(8, "little") + bytes(8) + name.encode().ljust(32, b"\0")
    block = (head + size.to_bytes(4, "little") + bytes(4)).ljust(size, bytes([number % 251]))
    return block[:60] + zlib.crc32(block).to_bytes(4, "little") + block[64:]


def disk(*slots: bytes) -> io.BytesIO:
    return io.BytesIO(LAYOUT.to_bytes() + b"".join(slot.ljust(4096, b"\0") for slot in slots))


def test_a_layout_survives_its_header_block() -> None:
    layout = Layout("sys", ring_offset=8192, slots=77, block_size=65536)
    assert Layout.from_bytes(layout.to_bytes()) == layout


def test_a_header_with_one_bit_turned_is_refused() -> None:
    block = bytearray(LAYOUT.to_bytes())
    block[40] ^= 1
    with pytest.raises(records.DiskUnreadable):
        Layout.from_bytes(bytes(block))


def test_all_records_present_is_intact() -> None:
    verdict = records.verify(disk(record(1), record(2), record(3), b""), 3)
    assert verdict == records.Verdict("data1", 3, 3, 3, ())
    assert verdict.intact


def test_a_full_ring_holds_the_newest_records_and_the_one_in_flight_is_no_fault() -> None:
    assert records.verify(disk(record(5), record(6), record(3), record(4)), 6).intact
    assert records.verify(disk(record(5), record(6), record(7), record(4)), 6).intact


def test_an_acknowledged_record_that_is_older_than_its_slot_should_hold_is_named() -> None:
    verdict = records.verify(disk(record(5), record(2), record(3), record(4)), 6)
    assert verdict.faults == ("data1: record 6 is missing; its slot holds record 2",)


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        (b"", "its slot holds zeros"),
        (b"rubbish", "its slot holds no record"),
        (record(2)[:-1] + b"?", "its slot holds a spoiled record 2"),
        (record(2, name="data2"), "its slot holds record 2 of disk data2"),
    ],
)
def test_each_way_to_lose_a_record_is_told(slot: bytes, said: str) -> None:
    assert records.verify(disk(record(1), slot, b"", b""), 2).faults == (f"data1: record 2 is missing; {said}",)


def test_a_disk_without_header_is_not_taken_for_an_empty_one() -> None:
    with pytest.raises(records.DiskUnreadable):
        records.verify(io.BytesIO(bytes(65536)), 0)


def test_a_new_disk_has_a_ring_and_known_contents_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    content = records.create(path, "raw", 1 << 20, LAYOUT, content=8192)
    assert path.stat().st_size == 1 << 20
    assert content.offset == LAYOUT.end
    assert records.verify_image(path, "raw", 0).intact
    with pytest.raises(FileExistsError):
        records.create(path, "raw", 1 << 20, LAYOUT)


def test_a_disk_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(records.DiskUnreadable, match="do not hold"):
        records.create(tmp_path / "small", "raw", 8192, LAYOUT)
