"""The fault matrix: which faults, at which moments of a move, and what may come of each. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

SHARE = 3
"""`make test` runs one of SHARE cells."""

STEPS = (
    "reserve",
    "share key",
    "consoles: directories",
    *("disks: create",) * 2,
    *("nics: tap",) * 2,
    "start twin",
    "compare twin",
    "disks: export",
    "disks: mirror",
    "nics: wire",
    "disks: synchronise",
    "check shape",
    "precopy",
    "disks: finish",
    "disks: seal",
    "nics: shut",
    "hand over",
    "commit",
    "nics: open",
    "resume there",
    "nics: announce",
    "retire source",
    "disks: keep",
    "disks: leave",
    "nics: leave",
    "close",
)
"""Of the move that is cut: two local disks, a shared volume, two NICs. The bench refuses to run if its plan differs."""


class Fault(StrEnum):
    """What breaks."""

    SOURCE_AGENT = "source agent killed"
    DESTINATION_AGENT = "destination agent killed"
    BOTH_AGENTS = "both agents killed"
    CLI = "command killed"
    SOURCE_QEMU = "source QEMU killed"
    DESTINATION_QEMU = "destination QEMU killed"
    SOURCE_HOST = "source host unplugged"
    DESTINATION_HOST = "destination host unplugged"
    BOTH_HOSTS = "both hosts unplugged"
    PEER_LINK = "peer link cut"
    MIGRATION_LINK = "migration link cut"
    BOTH_LINKS = "both links cut"
    PACKETS = "packets dropped"
    DISK_FULL = "destination disk full"
    DISK_FAILING = "destination disk failing"
    FROZEN = "destination frozen"


class Outcome(StrEnum):
    """Where the guest is in the end."""

    SOURCE = "source"
    DESTINATION = "destination"
    LOST = "lost"
    """Its own QEMU, or the host of it, was what was killed."""


KILLS_SOURCE = frozenset({Fault.SOURCE_QEMU, Fault.SOURCE_HOST, Fault.BOTH_HOSTS})
KILLS_DESTINATION = frozenset({Fault.DESTINATION_QEMU, Fault.DESTINATION_HOST, Fault.BOTH_HOSTS})

HAND_OVER, COMMIT, GRANT, RESUME = "hand over", "commit", "grant", "resume there"


class Point(msgspec.Struct, frozen=True):
    """A moment of a move: before or after a step; or, within the commit, before the grant is sent or after it is taken.

    `number` is the step's in the plan, -1 for the two moments of the grant.
    """

    number: int
    step: str
    moment: str

    @property
    def name(self) -> str:
        """As in the table: `before 07 disks: mirror`."""
        return f"{self.moment} {self.number:02d} {self.step}" if self.number >= 0 else f"{self.moment} {self.step}"


class Cell(msgspec.Struct, frozen=True):
    """One fault at one point."""

    fault: Fault
    point: Point

    @property
    def name(self) -> str:
        """Key of the cell in the results."""
        return f"{self.fault} / {self.point.name}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a cell. `settled` is the seconds from healing to rest; `wrong` is empty where all checks hold."""

    cell: str
    fault: Fault
    point: str
    outcome: str
    state: str
    settled: float
    took: float
    wrong: tuple[str, ...] = ()
    said: str = ""
    """The move's own words where it failed: what, where, what to do."""


def points(steps: Sequence[str] = STEPS) -> tuple[Point, ...]:
    """Before and after every step of a plan, and the two moments of the grant, in their order."""
    found: list[Point] = []
    for number, step in enumerate(steps):
        found.append(Point(number, step, "before"))
        if step == COMMIT:
            found += [Point(-1, GRANT, "before"), Point(-1, GRANT, "after")]
        found.append(Point(number, step, "after"))
    return tuple(found)


def cells(steps: Sequence[str] = STEPS) -> tuple[Cell, ...]:
    """Every cell, fault by fault."""
    return tuple(Cell(fault, point) for fault in Fault for point in points(steps))


def third(steps: Sequence[str] = STEPS) -> tuple[Cell, ...]:
    """The fixed part of all cells that `make test` runs: every third point of a fault, every third fault at a point."""
    faults, places = list(Fault), points(steps)
    return tuple(
        Cell(fault, point)
        for number, point in enumerate(places)
        for place, fault in enumerate(faults)
        if (number + place) % SHARE == 0
    )


def sample(all_cells: Sequence[Cell], count: int) -> tuple[Cell, ...]:
    """A fixed choice of about `count` cells: faults in turn, walking through the points with a stride."""
    by_fault = [[cell for cell in all_cells if cell.fault is fault] for fault in Fault]
    places = len(by_fault[0])
    chosen: dict[Cell, None] = {}
    for turn in range(count):
        row = by_fault[turn % len(by_fault)]
        # 0.618…: successive turns fall evenly over the points, whatever their number.
        chosen[row[int(places * ((turn * 0.6180339887) % 1))]] = None
    return tuple(chosen)


def taken(point: Point, steps: Sequence[str] = STEPS) -> bool:
    """Whether the destination has recorded, at this point, that it owns the guest."""
    return point.moment == "after" if point.number < 0 else _past(point, COMMIT, steps)


def expected(cell: Cell, steps: Sequence[str] = STEPS) -> frozenset[Outcome]:
    """What may come of a cell; one QEMU executes in all cases but LOST."""
    if taken(cell.point, steps):
        if cell.fault is Fault.DESTINATION_QEMU and not _past(cell.point, RESUME, steps):
            return frozenset({Outcome.SOURCE})  # it has never executed there, and the source has all of it
        return frozenset({Outcome.LOST} if cell.fault in KILLS_DESTINATION else {Outcome.DESTINATION})
    if cell.fault in KILLS_SOURCE:
        # The destination may take what is complete already; it must never start what is half-copied.
        complete = cell.point.number < 0 or _past(cell.point, HAND_OVER, steps)
        return frozenset({Outcome.LOST, Outcome.DESTINATION} if complete else {Outcome.LOST})
    if cell.fault in KILLS_DESTINATION:
        return frozenset({Outcome.SOURCE, Outcome.DESTINATION} if _no_twin_yet(cell.point, steps) else {Outcome.SOURCE})
    return frozenset({Outcome.SOURCE, Outcome.DESTINATION})


def _past(point: Point, step: str, steps: Sequence[str]) -> bool:
    """Whether a step has been made at this point. The two moments of the grant, within a step, count as before any."""
    made = list(steps).index(step)
    return point.number > made or (point.number == made and point.moment == "after")


def _no_twin_yet(point: Point, steps: Sequence[str] = STEPS) -> bool:
    start = list(steps).index("start twin")
    return 0 <= point.number < start or (point.number == start and point.moment == "before")


def page(results: Iterable[Result], *, heading: str, seconds: float, steps: Sequence[str] = STEPS) -> str:
    """docs/faults.md: totals, what is wrong, the table.

    Args:
        results: one for each cell that was run.
        heading: date and versions.
        seconds: what all of it took.
        steps: of the move that is cut.
    """
    found = {result.cell: result for result in results}
    wrong = [result for result in found.values() if result.wrong]
    outcomes = Counter(result.outcome for result in found.values())
    total = len(cells(steps))
    lines = [
        "# The fault matrix",
        "",
        "Written by `make faults`; how it works, and how to run one cell: [faults-how.md](faults-how.md).",
        "",
        heading,
        "",
        f"{len(found)} of {total} cells run in {seconds / 60:.0f} minutes: {len(found) - len(wrong)} hold, "
        f"{len(wrong)} do not. The guest ended at the "
        + ", ".join(f"{name} in {count}" for name, count in sorted(outcomes.items()))
        + ".",
        "",
    ]
    if found:
        settled = sorted(result.settled for result in found.values())
        lines += [
            f"Seconds from healing to rest: median {settled[len(settled) // 2]:.1f}, longest {settled[-1]:.1f}.",
            "",
        ]
    for result in wrong:
        lines += [f"- **{result.cell}**: {'; '.join(result.wrong)}"]
    lines += ["", *_table(found, steps)]
    return "\n".join(lines) + "\n"


def _table(found: dict[str, Result], steps: Sequence[str] = STEPS) -> list[str]:
    """A row for each point, a column for each fault: S, D or L with the seconds; `!` marks what does not hold."""
    faults = list(Fault)
    lines = [
        "S: the guest runs at the source; D: at the destination; L: lost with its own QEMU or host, reported so, disks",
        "whole. The number is the seconds from healing to rest; `!` marks a cell whose checks do not all hold.",
        "",
        "| point | " + " | ".join(faults) + " |",
        "| --- |" + " --- |" * len(faults),
    ]
    for point in points(steps):
        told = [_short(found.get(Cell(fault, point).name)) for fault in faults]
        lines.append(f"| {point.name} | " + " | ".join(told) + " |")
    return lines


def _short(result: Result | None) -> str:
    if result is None:
        return ""
    return f"{result.outcome[:1].upper()} {result.settled:.1f}{' !' if result.wrong else ''}"
