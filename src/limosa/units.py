"""Bytes, seconds and names as types of their own, and how people write and read them."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import NewType

Bytes = NewType("Bytes", int)
BytesPerSecond = NewType("BytesPerSecond", float)
Seconds = NewType("Seconds", float)
Milliseconds = NewType("Milliseconds", float)

HostName = NewType("HostName", str)
GuestName = NewType("GuestName", str)
MoveId = NewType("MoveId", str)
NodeName = NewType("NodeName", str)
"""A block node's name inside one QEMU (`node-name`)."""

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4

_FACTORS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[BKMGT]?)(?:iB|B)?(?:/s)?", re.IGNORECASE)


class Side(StrEnum):
    """One end of a move; also the answer to "where does the guest run now?"."""

    SOURCE = "source"
    DESTINATION = "destination"
    UNKNOWN = "unknown"


def parse_size(text: str) -> Bytes:
    """Read `512`, `64M`, `1.5GiB` or `100 MiB/s`; units are powers of 1024, as in QEMU and qemu-img.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 512, 64M or 1.5GiB")
    return Bytes(int(float(match["number"]) * _FACTORS[match["unit"].upper()]))


def format_size(size: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size) >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def format_rate(rate: float) -> str:
    """Bytes per second for people: `12.0 MiB/s`."""
    return f"{format_size(rate)}/s"


def format_time(at: float) -> str:
    """Seconds since 1970 as a time of day with its date: `2026-03-01 12:00 UTC`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def format_count(number: int, what: str, many: str = "") -> str:
    """`1 host`, `1,204 hosts`; `many` where it is not `what` and an s."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"


def format_duration(seconds: float) -> str:
    """`5 h 02 min`, `12 min 05 s` or `14 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
