"""Numbers and times as pages say them: with their unit, and relative with the exact one beside. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from limosa.units import format_count, format_rate, format_size

count = format_count
"""`1 host`, `1,204 hosts`."""

MINUTE, HOUR, DAY = 60, 3600, 86400
NONE = "—"
"""Stands where nothing is known, or nothing is to be said."""
SIZES = 4000
"""Sizes that are kept as they are said: of a fleet's guests most have the same few."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time: for programs, exactly, and as seen from now."""

    iso: str
    exact: str
    said: str


def moment(at: float, now: float) -> Moment:
    """A time as pages show it; both in seconds since 1970."""
    when = datetime.fromtimestamp(at, UTC)
    return Moment(when.isoformat(timespec="seconds"), f"{when:%Y-%m-%d %H:%M:%S} UTC", ago(now - at))


def maybe(at: float | None, now: float) -> Moment | None:
    """The same for a time that may not have come."""
    return None if at is None else moment(at, now)


def ago(seconds: float) -> str:
    """`just now`, `3 min ago`; `in 3 min` for what is to come."""
    if abs(seconds) < 5:
        return "just now"
    return f"in {roughly(-seconds)}" if seconds < 0 else f"{roughly(seconds)} ago"


def roughly(seconds: float) -> str:
    """A length of time in its largest unit: `40 s`, `3 min`, `5 h`, `2 d`."""
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * size or (unit != "d" and seconds >= size):
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def lasting(seconds: float | None) -> str:
    """A length of time: `0.41 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02} s"
    if whole < 2 * DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def milliseconds(value: float | None) -> str:
    """A pause: `71 ms`, `1.4 s`."""
    if value is None:
        return NONE
    return f"{value:.0f} ms" if value < 1000 else lasting(value / 1000)


@lru_cache(SIZES)
def size(value: float | None) -> str:
    """Bytes: `1.5 GiB`."""
    return NONE if value is None else format_size(value)


def rate(value: float | None) -> str:
    """Bytes per second: `112.0 MiB/s`; nothing is known of a rate of 0."""
    return format_rate(value) if value else NONE


def drawn(share: float | None) -> float | None:
    """A share as exact as a bar can show it, so that many rows have the same bar."""
    return None if share is None else round(share, 3)


def percent(share: float | None) -> str:
    """`0.456` -> `46 %`."""
    return NONE if share is None else f"{share * 100:.0f} %"


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first of some names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def cores(value: float | None) -> str:
    """Cores that are busy: `3.4 cores`."""
    return NONE if value is None else f"{value:.1f} cores"
