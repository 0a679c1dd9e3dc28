"""Lays out disks for the guest's numbered records, and verifies afterwards that none of them is missing.

A disk that takes records starts with a header block of 4096 bytes that tells where a ring of records lies; the rest of
the disk is free for other contents. Record n lies in slot (n - 1) modulo the number of slots. The guest writes each
record with O_DIRECT and O_DSYNC and only then counts it as acknowledged, so after any move every acknowledged record
that the ring still holds must be there, whole. The other end is `guest/records.c`.
"""

import hashlib
import os
import random
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from limosa.errors import LimosaError
from limosa.lab import assets

HEADER_SIZE = 4096
DISK_MAGIC = b"limosdsk"
RECORD_MAGIC = b"limosrec"
_HEADER = struct.Struct("<8sIIQQ32s")
_RECORD = struct.Struct("<8sQQ32sII")


class DiskUnreadable(LimosaError):
    """A disk image could not be read, or is not laid out for records."""

    code = "disk-unreadable"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a disk's records lie; bytes.

    Attributes:
        name: written into each record, so that records of another disk are noticed; up to 31 bytes.
        ring_offset: start of slot 0; a multiple of 4096.
        slots: number of slots.
        block_size: bytes of a record and of a slot; a multiple of 4096, up to 1 MiB.
    """

    name: str
    ring_offset: int = HEADER_SIZE
    slots: int = 4096
    block_size: int = 4096

    @property
    def end(self) -> int:
        """The first byte behind the ring."""
        return self.ring_offset + self.slots * self.block_size

    def slot_of(self, number: int) -> int:
        """The slot of record `number`, which counts from 1."""
        return (number - 1) % self.slots

    def to_bytes(self) -> bytes:
        """The header block."""
        head = _HEADER.pack(DISK_MAGIC, 1, self.block_size, self.ring_offset, self.slots, self.name.encode())
        body = head.ljust(HEADER_SIZE - 4, b"\0")
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def from_bytes(cls, block: bytes) -> Self:
        """Read a header block.

        Raises:
            DiskUnreadable: no header, or a spoiled one.
        """
        magic, version, block_size, ring_offset, slots, name = _HEADER.unpack_from(block)
        sound = zlib.crc32(block[: HEADER_SIZE - 4]) == int.from_bytes(block[HEADER_SIZE - 4 : HEADER_SIZE], "little")
        if magic != DISK_MAGIC or version != 1 or not sound:
            raise DiskUnreadable("the disk is not laid out for records", remedy="lay it out with records.create()")
        return cls(name.rstrip(b"\0").decode(), ring_offset, slots, block_size)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a disk holds, next to what the guest was told is stable.

    Attributes:
        name: the disk's, from its header.
        acknowledged: the last number the guest counted as stable.
        newest: the highest whole record found; may exceed `acknowledged` by the one in flight.
        checked: how many acknowledged records the ring can still hold; each was looked for.
        faults: one sentence for each record that is missing, spoiled, or of another disk.
    """

    name: str
    acknowledged: int
    newest: int
    checked: int
    faults: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Every acknowledged record is there."""
        return not self.faults


def verify(image: BinaryIO, acknowledged: int) -> Verdict:
    """Look for every record up to `acknowledged` in a raw image.

    Raises:
        DiskUnreadable: the disk has no header of ours.
    """
    image.seek(0)
    layout = Layout.from_bytes(image.read(HEADER_SIZE))
    found = dict(enumerate(_read_ring(image, layout)))
    newest = max((number for number, _ in found.values()), default=0)
    # The one in flight takes the slot of the oldest and may be half written when a host loses its power.
    oldest = max(1, acknowledged - layout.slots + 2)
    faults = []
    for number in range(oldest, acknowledged + 1):
        held, fault = found[layout.slot_of(number)]
        # A guest that was asked while it ran has gone on since.
        if held != number and not (held > acknowledged and layout.slot_of(held) == layout.slot_of(number)):
            faults.append(f"{layout.name}: record {number} is missing; its slot holds {fault or f'record {held}'}")
    return Verdict(layout.name, acknowledged, newest, acknowledged - oldest + 1, tuple(faults))


def _read_ring(image: BinaryIO, layout: Layout) -> Iterator[tuple[int, str]]:
    """For each slot: the number of the whole record in it, or 0 and what is wrong."""
    image.seek(layout.ring_offset)
    for _ in range(layout.slots):
        yield _examine(image.read(layout.block_size), layout)


def _examine(block: bytes, layout: Layout) -> tuple[int, str]:
    if len(block) < layout.block_size:
        return 0, "nothing: the disk ends before it"
    magic, number, _, name, size, crc = _RECORD.unpack_from(block)
    if magic != RECORD_MAGIC:
        return 0, "no record" if any(block) else "zeros"
    if size != layout.block_size or zlib.crc32(block[:60] + bytes(4) + block[64:]) != crc:
        return 0, f"a spoiled record {number}"
    if name.rstrip(b"\0").decode(errors="replace") != layout.name:
        return 0, f"record {number} of disk {name.rstrip(bytes(1)).decode(errors='replace')}"
    return number, ""


@contextmanager
def opened(path: Path, fmt: str, *, qemu_img: Path | None = None) -> Iterator[BinaryIO]:
    """A disk image as raw bytes; anything but raw is converted into a sparse temporary file first.

    No QEMU may have the image open for writing.

    Raises:
        DiskUnreadable: `qemu-img` failed; its words are the detail.
    """
    if fmt == "raw":
        with path.open("rb") as image:
            yield image
        return
    with tempfile.TemporaryDirectory(prefix="limosa-disk-") as scratch:
        raw = Path(scratch) / "raw"
        _qemu_img(qemu_img, "convert", "-f", fmt, "-O", "raw", str(path), str(raw))
        with raw.open("rb") as image:
            yield image


def verify_image(path: Path, fmt: str, acknowledged: int) -> Verdict:
    """`verify`, for an image file of any format that `qemu-img` reads."""
    with opened(path, fmt) as image:
        return verify(image, acknowledged)


@dataclass(frozen=True, slots=True)
class Content:
    """A stretch of a disk with known bytes: where, how many, and their SHA-256."""

    offset: int
    length: int
    sha256: str


def create(path: Path, fmt: str, size: int, layout: Layout, *, content: int = 0, seed: int = 1) -> Content:
    """Make a disk image that takes records and, behind the ring, holds `content` bytes of known pseudo-random data.

    Args:
        path: a file that must not exist yet.
        fmt: as for `qemu-img`: raw or qcow2.
        size: virtual size, bytes.
        layout: where the records go.
        content: bytes of data, a multiple of 4096; 0 for none.
        seed: what the data is made from.

    Raises:
        DiskUnreadable: the ring and the data do not fit, or `qemu-img` failed.
        FileExistsError: the image exists.
    """
    if layout.end + content > size:
        raise DiskUnreadable(f"{path.name}: {size} bytes do not hold the records and {content} bytes of data")
    raw = path if fmt == "raw" else path.with_name(path.name + ".raw")
    data = random.Random(seed).randbytes(content)  # noqa: S311 -- known bytes are the point
    with raw.open("xb") as image:
        os.truncate(image.fileno(), size)
        image.write(layout.to_bytes())
        image.seek(layout.end)
        image.write(data)
    if raw != path:
        try:
            _qemu_img(None, "convert", "-f", "raw", "-O", fmt, str(raw), str(path))
        finally:
            raw.unlink()
    return Content(layout.end, content, hashlib.sha256(data).hexdigest())


def _qemu_img(program: Path | None, *arguments: str) -> None:
    done = subprocess.run(
        [program or assets.qemu_img(), *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        raise DiskUnreadable(f"qemu-img {arguments[0]} failed", detail=done.stderr)
