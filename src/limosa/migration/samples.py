"""Readings of a copy over its time, a bounded number of them. Pure."""

from dataclasses import dataclass, field

from limosa.wire.history import Series
from limosa.wire.moves import Progress

MOST_POINTS = 300
"""Readings of one item that are kept."""
SPACING = 0.25
"""Seconds between two kept readings, to begin with; after 75 s it is twice that, and so on."""

_Reading = tuple[float, Progress]


@dataclass(slots=True)
class Track:
    """Readings of one item: at most one in each `spacing` seconds, and the latest one always."""

    spacing: float = SPACING
    kept: list[_Reading] = field(default_factory=list)
    latest: _Reading | None = None

    def add(self, at: float, reading: Progress) -> None:
        """Take a reading in; `at` in seconds, and never less than before."""
        self.latest = at, reading
        if self.kept and at - self.kept[-1][0] < self.spacing:
            return
        self.kept.append(self.latest)
        if len(self.kept) >= MOST_POINTS:  # the latest one may come on top
            self.spacing *= 2
            self.kept = self.kept[::2]

    def readings(self) -> list[_Reading]:
        """What is kept, in order; the last one is the latest that came."""
        if self.latest is None or (self.kept and self.kept[-1] is self.latest):
            return self.kept
        return [*self.kept, self.latest]


class Samples:
    """Readings of all that a move copies."""

    def __init__(self) -> None:
        self._tracks: dict[str, Track] = {}

    def add(self, at: float, reading: Progress) -> None:
        """Take a reading in; `at` in seconds since the move's start."""
        self._tracks.setdefault(reading.item, Track()).add(at, reading)

    def series(self) -> tuple[Series, ...]:
        """All of them, in the order in which their copies began."""
        return tuple(_series(item, track.readings()) for item, track in self._tracks.items())


def _series(item: str, readings: list[_Reading]) -> Series:
    return Series(
        item=item,
        total=readings[-1][1].total,
        at=tuple(round(at, 3) for at, _ in readings),
        done=tuple(one.done for _, one in readings),
        sent=tuple(one.done if one.sent is None else one.sent for _, one in readings),
        rate=tuple(round(one.rate, 1) for _, one in readings),
        dirty_rate=tuple(round(one.dirty_rate, 1) for _, one in readings),
    )
