"""When each move of a plan runs, and what it sends: the plan played through in its limits. Pure.

Moves share bandwidth as they do when the plan is carried out (bandwidth.py).
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from limosa.fleet.bandwidth import Gate, capacity
from limosa.fleet.bandwidth import gates as gates_of
from limosa.fleet.inventory import Guest, Host, Inventory, Limits
from limosa.fleet.plan import Emptied, Planned, Prediction, Timed
from limosa.migration.predict import ASSUMED_RATE, SETUP_SECONDS
from limosa.units import Bytes, HostName, Seconds, format_count, format_rate

LEAST_PROGRESS = 0.1
"""Share of a link that pre-copy gains at least: below it, the guest is throttled until it does, or its move fails."""

LAST = 1 << 62
"""Rank of a move that failed: behind every priority."""


@dataclass(slots=True)
class _Job:
    """A move that runs: what was left of it at a time."""

    guest: Guest
    gates: tuple[Gate, ...]
    start: float
    at: float
    disk: float
    ram: float
    setup: float = SETUP_SECONDS
    sent: float = 0.0
    rate: float = 1.0

    @property
    def gain(self) -> float:
        """Bytes per second by which the RAM that is still to be sent shrinks."""
        return max(self.rate - (self.guest.dirty_rate or 0.0), LEAST_PROGRESS * self.rate)

    @property
    def end(self) -> float:
        """When it ends, at this rate."""
        return self.at + self.setup + self.disk / self.rate + self.ram / self.gain

    def pass_until(self, now: float) -> None:
        """Time passes."""
        seconds, self.at = now - self.at, now
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
    hosts: Mapping[str, Host]
    """By name."""
    running: dict[int, _Job] = field(default_factory=dict)
    crossing: dict[Gate, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Moves that run, by what they cross."""
    bandwidth: dict[Gate, float] = field(default_factory=dict)
    ready: list[tuple[int, int]] = field(default_factory=list)
    """A heap of (minus priority, place)."""
    held: dict[Gate, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Moves that are ready but for the limit of a host, by the gate that has to open."""
    ends: list[tuple[float, int]] = field(default_factory=list)
    """A heap of (end, place); an end that has since become another one is passed over."""


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


class Run(NamedTuple):
    """One try of a move: its place in the plan, and whether it went well."""

    place: int
    timed: Timed
    well: bool


Fate = Callable[[int, int], bool]
"""Place of a move in the plan, number of the try from 1 on -> does it go well?"""


def simulate(inventory: Inventory, plan: Sequence[Planned]) -> tuple[Timed, ...]:
    """Start and end of each move, in the plan's order."""
    done = {run.place: run.timed for run in play(inventory, plan, lambda _place, _number: True, tries=1)}
    return tuple(done[place] for place in range(len(plan)))


def play(inventory: Inventory, plan: Sequence[Planned], fate: Fate, *, tries: int) -> Iterator[Run]:
    """Every try of every move, in the order in which they end.

    A move that fails takes as long as one that does not, and is tried again when nothing else is ready. What waits for
    a move that fails to the last never starts.
    """
    course = _Course(inventory, plan, {str(host.name): host for host in inventory.hosts})
    waiting, numbers = [len(planned.after) for planned in plan], [0] * len(plan)
    followers: dict[int, list[int]] = defaultdict(list)
    for place, planned in enumerate(plan):
        for before in planned.after:
            followers[before].append(place)
    for place, count in enumerate(waiting):
        if not count:
            heapq.heappush(course.ready, _rank(course, place))
    _start(course, 0.0)
    while course.running:
        now, place = _next_end(course)
        timed = _end(course, place, now)
        numbers[place] += 1
        well = fate(place, numbers[place])
        yield Run(place, timed, well)
        if not well and numbers[place] < tries:
            heapq.heappush(course.ready, (LAST, place))
        for follower in followers[place] if well else ():
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(course.ready, _rank(course, follower))
        _start(course, now)


def _rank(course: _Course, place: int) -> tuple[int, int]:
    return -course.inventory.by_uuid[course.plan[place].move.guest].priority, place


def _next_end(course: _Course) -> tuple[float, int]:
    while True:
        end, place = heapq.heappop(course.ends)
        if place in course.running and course.running[place].end == end:
            return end, place


def _start(course: _Course, now: float) -> None:
    """Start what may start, the highest priority first."""
    while course.ready and len(course.running) < max(1, course.inventory.limits.moves):
        rank = heapq.heappop(course.ready)
        move = course.plan[rank[1]].move
        source, destination = course.inventory.by_name[move.source], course.inventory.by_name[move.destination]
        closed = _closed(course, source, destination)
        if closed is not None:
            course.held[closed].append(rank)
            continue
        guest, gates = course.inventory.by_uuid[move.guest], gates_of(course.inventory.limits, source, destination)
        course.running[rank[1]] = _Job(guest, gates, start=now, at=now, disk=guest.disk, ram=guest.memory)
        for gate in gates:
            course.crossing[gate].add(rank[1])
        _share_again(course, gates, now)


def _closed(course: _Course, source: Host, destination: Host) -> Gate | None:
    """The end of a move that has as many moves as it may have; one at least, or a plan would not end."""
    limits = course.inventory.limits
    going, coming = ("out", source.name), ("in", destination.name)
    if len(course.crossing[going]) >= max(1, limits.out_of(source)):
        return going
    if len(course.crossing[coming]) >= max(1, limits.into(destination)):
        return coming
    return None


def _end(course: _Course, place: int, now: float) -> Timed:
    job = course.running[place]
    job.pass_until(now)
    del course.running[place]
    for gate in job.gates:
        course.crossing[gate].discard(place)
        for rank in course.held.pop(gate, ()):
            heapq.heappush(course.ready, rank)
    _share_again(course, job.gates, now)
    return Timed(Seconds(job.start), Seconds(now), Bytes(round(job.sent)))


def _share_again(course: _Course, gates: Iterable[Gate], now: float) -> None:
    """Give every move that crosses one of these gates its share of bandwidth anew."""
    for place in {place for gate in gates for place in course.crossing[gate]}:
        job = course.running[place]
        job.pass_until(now)
        job.rate = min([_bandwidth(course, gate) / len(course.crossing[gate]) for gate in job.gates])
        heapq.heappush(course.ends, (job.end, place))


def _bandwidth(course: _Course, gate: Gate) -> float:
    """Bytes per second that moves may send through a gate."""
    if gate not in course.bandwidth:
        limits = course.inventory.limits
        course.bandwidth[gate] = capacity(limits, course.hosts, gate) or _assumed_capacity(limits, gate)
    return course.bandwidth[gate]


def _assumed_capacity(limits: Limits, gate: Gate) -> float:
    return limits.link_share * ASSUMED_RATE if gate[0] in {"out", "in"} else ASSUMED_RATE


def _link(hosts: Mapping[HostName, Host], name: HostName) -> float:
    return hosts[name].link or ASSUMED_RATE


def _assumed(inventory: Inventory, plan: Sequence[Planned]) -> Iterator[str]:
    ends = {name for planned in plan for name in (planned.move.source, planned.move.destination)}
    if unknown := sum(not inventory.by_name[name].link for name in ends):
        yield f"nobody knows the link of {format_count(unknown, 'host')}: {format_rate(ASSUMED_RATE)} each"
    if unknown := sum(inventory.by_uuid[planned.move.guest].dirty_rate is None for planned in plan):
        yield f"nobody measured the dirty rate of {format_count(unknown, 'guest')}: taken for idle"


def _doubtful(inventory: Inventory, plan: Sequence[Planned]) -> Iterator[str]:
    for planned in plan:
        guest = inventory.by_uuid[planned.move.guest]
        links = (_link(inventory.by_name, name) for name in (planned.move.source, planned.move.destination))
        if (guest.dirty_rate or 0.0) >= inventory.limits.link_share * min(links):
            yield guest.name
