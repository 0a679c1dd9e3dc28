"""When each move of a plan runs, and what it sends: the plan played through in its limits. Pure.

Each end of a move, each rack and the whole fleet share their bandwidth equally among the moves that cross them; a
move gets the least of its shares. What one move cannot use is not given to another, so that predictions err on the
late side.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from limosa.fleet.inventory import Guest, Host, Inventory
from limosa.fleet.plan import Emptied, Planned, Prediction, Timed
from limosa.migration.predict import ASSUMED_RATE, SETUP_SECONDS
from limosa.units import Bytes, HostName, Seconds, format_rate

LEAST_PROGRESS = 0.1
"""Share of a link that pre-copy gains at least: below it, the guest is throttled until it does, or its move fails."""

Gate = tuple[str, str]
"""What moves share: ("out", host), ("in", host), ("rack out", rack), ("rack in", rack) or ("all", "")."""
EVERYWHERE: Gate = ("all", "")


@dataclass(slots=True)
class _Job:
    """A move that runs: what is left of it."""

    place: int
    gates: tuple[Gate, ...]
    setup: float
    disk: float
    ram: float
    dirty: float
    start: float
    sent: float = 0.0
    rate: float = 0.0

    @property
    def gain(self) -> float:
        """Bytes per second by which the RAM that is still to be sent shrinks."""
        return max(self.rate - self.dirty, LEAST_PROGRESS * self.rate)

    @property
    def seconds(self) -> float:
        """Until it ends, at this rate."""
        return self.setup + self.disk / self.rate + self.ram / self.gain

    def pass_by(self, seconds: float) -> None:
        """Time passes."""
        waited = min(seconds, self.setup)
        self.setup -= waited
        self.sent += (seconds - waited) * self.rate
        copied = min(seconds - waited, self.disk / self.rate)
        self.disk = max(0.0, self.disk - copied * self.rate)
        self.ram = max(0.0, self.ram - (seconds - waited - copied) * self.gain)


@dataclass(slots=True)
class _Course:
    """The plan in the middle of being played."""

    inventory: Inventory
    plan: Sequence[Planned]
    running: dict[int, _Job] = field(default_factory=dict)
    crossing: Counter[Gate] = field(default_factory=Counter)
    ready: list[tuple[int, int]] = field(default_factory=list)
    """A heap of (minus priority, place)."""
    held: dict[Gate, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Moves that are ready but for the limit of a host, by the gate that has to open."""


def predict(inventory: Inventory, plan: Sequence[Planned], emptied: Sequence[HostName] = ()) -> Prediction:
    """Play a plan through.

    Args:
        inventory: the fleet before it.
        plan: its moves.
        emptied: hosts of which to tell when they are empty.
    """
    timed = simulate(inventory, plan)
    last = {planned.move.source: 0.0 for planned in plan}
    for planned, times in zip(plan, timed, strict=True):
        last[planned.move.source] = max(last[planned.move.source], times.end)
    return Prediction(
        seconds=Seconds(max((times.end for times in timed), default=0.0)),
        bytes=Bytes(sum(times.bytes for times in timed)),
        moves=timed,
        emptied=tuple(Emptied(host, Seconds(last.get(host, 0.0))) for host in emptied),
        assumed=tuple(_assumed(inventory, plan)),
        doubtful=tuple(_doubtful(inventory, plan)),
    )


def simulate(inventory: Inventory, plan: Sequence[Planned]) -> tuple[Timed, ...]:
    """Start and end of each move, in the plan's order."""
    course = _Course(inventory, plan)
    waiting = {place: len(planned.after) for place, planned in enumerate(plan)}
    followers: dict[int, list[int]] = defaultdict(list)
    for place, planned in enumerate(plan):
        for before in planned.after:
            followers[before].append(place)
    for place, count in waiting.items():
        if not count:
            heapq.heappush(course.ready, _rank(course, place))
    now, done = 0.0, dict[int, Timed]()
    _start(course, now)
    while course.running:
        job = min(course.running.values(), key=lambda running: (running.seconds, running.place))
        now += (step := job.seconds)
        for other in course.running.values():
            other.pass_by(step)
        done[job.place] = Timed(Seconds(job.start), Seconds(now), Bytes(round(job.sent)))
        _end(course, job)
        for place in followers[job.place]:
            waiting[place] -= 1
            if not waiting[place]:
                heapq.heappush(course.ready, _rank(course, place))
        _start(course, now)
    return tuple(done[place] for place in range(len(plan)))


def _rank(course: _Course, place: int) -> tuple[int, int]:
    return -course.inventory.by_uuid[course.plan[place].move.guest].priority, place


def _start(course: _Course, now: float) -> None:
    """Start what may start, the highest priority first."""
    while course.ready and course.crossing[EVERYWHERE] < max(1, course.inventory.limits.moves):
        rank = heapq.heappop(course.ready)
        move = course.plan[rank[1]].move
        source, destination = course.inventory.by_name[move.source], course.inventory.by_name[move.destination]
        closed = _closed(course, source, destination)
        if closed is not None:
            course.held[closed].append(rank)
            continue
        gates = gates_of(source, destination)
        course.crossing.update(gates)
        course.running[rank[1]] = _job(rank[1], gates, course.inventory.by_uuid[move.guest], now)
    shares = {gate: _bandwidth(course.inventory, gate) / count for gate, count in course.crossing.items() if count}
    for job in course.running.values():
        job.rate = min([shares[gate] for gate in job.gates])


def _closed(course: _Course, source: Host, destination: Host) -> Gate | None:
    """The end of a move that has as many moves as it may have; one at least, or a plan would not end."""
    limits = course.inventory.limits
    going, coming = ("out", source.name), ("in", destination.name)
    if course.crossing[going] >= max(1, limits.moves_out if source.max_out is None else source.max_out):
        return going
    if course.crossing[coming] >= max(1, limits.moves_in if destination.max_in is None else destination.max_in):
        return coming
    return None


def _job(place: int, gates: tuple[Gate, ...], guest: Guest, now: float) -> _Job:
    dirty = float(guest.dirty_rate or 0.0)
    return _Job(place, gates, SETUP_SECONDS, float(guest.disk), float(guest.memory), dirty, now)


def _end(course: _Course, job: _Job) -> None:
    del course.running[job.place]
    course.crossing.subtract(job.gates)
    for gate in job.gates:
        for rank in course.held.pop(gate, ()):
            heapq.heappush(course.ready, rank)


def gates_of(source: Host, destination: Host) -> tuple[Gate, ...]:
    """What a move crosses; racks only where it leaves one."""
    gates: tuple[Gate, ...] = (EVERYWHERE, ("out", source.name), ("in", destination.name))
    if source.rack != destination.rack:
        gates += (("rack out", source.rack), ("rack in", destination.rack))
    return gates


def _bandwidth(inventory: Inventory, gate: Gate) -> float:
    """Bytes per second that moves may send through a gate."""
    limits, (way, name) = inventory.limits, gate
    match way:
        case "all":
            return float("inf") if limits.bandwidth is None else limits.bandwidth
        case "out" | "in":
            return limits.link_share * _link(inventory.by_name, HostName(name))
        case _:
            return float("inf") if limits.rack_bandwidth is None else limits.rack_bandwidth


def _link(hosts: Mapping[HostName, Host], name: HostName) -> float:
    return hosts[name].link or ASSUMED_RATE


def _assumed(inventory: Inventory, plan: Sequence[Planned]) -> Iterator[str]:
    ends = {name for planned in plan for name in (planned.move.source, planned.move.destination)}
    if unknown := sum(not inventory.by_name[name].link for name in ends):
        yield f"links of {unknown} hosts are not known: {format_rate(ASSUMED_RATE)} each"
    if unknown := sum(inventory.by_uuid[planned.move.guest].dirty_rate is None for planned in plan):
        yield f"dirty rates of {unknown} guests are not measured: taken for idle"


def _doubtful(inventory: Inventory, plan: Sequence[Planned]) -> Iterator[str]:
    for planned in plan:
        guest = inventory.by_uuid[planned.move.guest]
        links = (_link(inventory.by_name, name) for name in (planned.move.source, planned.move.destination))
        if (guest.dirty_rate or 0.0) >= inventory.limits.link_share * min(links):
            yield guest.name
