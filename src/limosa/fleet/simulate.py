"""Carry plans out on the model, move by move, some of them failing. Pure: time and chance are passed in.

Every start of a move is held against the rule of constraints.py as the fleet is in that moment: other moves in flight
take room on both of their hosts. What breaks it is listed, and there is a bug then.
"""

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from limosa.fleet.board import Board
from limosa.fleet.drain import rolling
from limosa.fleet.inventory import GuestId, HostState, Inventory
from limosa.fleet.plan import Emptied, Operation, Plan
from limosa.fleet.scenario import Trouble
from limosa.fleet.schedule import Run, play
from limosa.units import Bytes, GuestName, HostName, Seconds, format_count


class Unmoved(msgspec.Struct, frozen=True):
    """A guest that is left although it was to move, and why."""

    guest: GuestName
    host: HostName
    why: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it went."""

    seconds: Seconds
    bytes: Bytes
    """Sent, by tries that failed too."""
    moved: int
    failed: int
    """Tries."""
    unmoved: tuple[Unmoved, ...]
    emptied: tuple[Emptied, ...]
    broken: tuple[str, ...]
    """Constraints that were broken along the way."""
    ends: Inventory
    """The fleet afterwards."""


def carry_out(inventory: Inventory, plan: Plan, trouble: Trouble) -> Outcome:
    """Carry one plan out."""
    return _carried_out(_opened(_closed(inventory, plan), plan), plan, _dice(trouble), trouble, 0.0)


def carry_out_rolling(
    inventory: Inventory, hosts: Iterable[HostName], largest: int | None, trouble: Trouble
) -> tuple[tuple[Plan, ...], Outcome]:
    """Carry out a rolling drain, each group planned on the fleet as the one before it left it.

    Returns:
        The plans that were carried out, and how they went together.
    """
    dice, fleet, clock, waiting = _dice(trouble), inventory, 0.0, tuple(hosts)
    plans, parts, moved = list[Plan](), list[Outcome](), set[GuestId]()
    while waiting:
        answer = rolling(fleet, waiting, largest=largest, moved=moved)
        plan, group = answer.plans[0], answer.groups[0]
        # No host that is still to be drained takes anybody, whichever group it is in.
        part = _carried_out(_drained(fleet, waiting), plan, dice, trouble, clock)
        plans.append(plan)
        parts.append(part)
        clock = part.seconds
        moved |= {planned.move.guest for planned in plan.moves}
        back = [told.host for told in part.emptied]
        waiting = tuple(name for name in waiting if name not in group)
        fleet = part.ends.in_state(HostState.ACTIVE, [*waiting, *back])
    return tuple(plans), _together(parts, fleet)


def _dice(trouble: Trouble) -> random.Random:
    return random.Random(trouble.seed)  # noqa: S311 - the same failures for the same seed, not a secret


def _together(parts: Sequence[Outcome], ends: Inventory) -> Outcome:
    return Outcome(
        seconds=Seconds(max((part.seconds for part in parts), default=0.0)),
        bytes=Bytes(sum(part.bytes for part in parts)),
        moved=sum(part.moved for part in parts),
        failed=sum(part.failed for part in parts),
        unmoved=tuple(unmoved for part in parts for unmoved in part.unmoved),
        emptied=tuple(emptied for part in parts for emptied in part.emptied),
        broken=tuple(broken for part in parts for broken in part.broken),
        ends=ends,
    )


def _drained(fleet: Inventory, hosts: Iterable[HostName]) -> Inventory:
    """Active hosts among these drain."""
    return fleet.in_state(HostState.DRAINING, [n for n in hosts if fleet.by_name[n].state is HostState.ACTIVE])


def _closed(fleet: Inventory, plan: Plan) -> Inventory:
    """Hosts that are being emptied take nobody."""
    return _drained(fleet, [told.host for told in plan.prediction.emptied])


def _opened(fleet: Inventory, plan: Plan) -> Inventory:
    """Hosts that guests go home to are back."""
    if plan.operation is not Operation.RESTORE:
        return fleet
    homes = {planned.move.destination for planned in plan.moves}
    return fleet.in_state(HostState.ACTIVE, homes)


def _carried_out(fleet: Inventory, plan: Plan, dice: random.Random, trouble: Trouble, clock: float) -> Outcome:
    runs = list(play(fleet, plan.moves, lambda _place, _number: dice.random() >= trouble.chance, tries=trouble.tries))
    well = [run.place for run in runs if run.well]
    ends = fleet.replayed(plan.moves[place].move for place in well)
    last: dict[HostName, float] = defaultdict(float)
    for run in runs:
        source = plan.moves[run.place].move.source
        last[source] = max(last[source], run.timed.end)
    return Outcome(
        seconds=Seconds(clock + max((run.timed.end for run in runs), default=0.0)),
        bytes=Bytes(sum(run.timed.bytes for run in runs)),
        moved=len(well),
        failed=len(runs) - len(well),
        unmoved=tuple(_unmoved(plan, runs)),
        emptied=tuple(
            Emptied(told.host, Seconds(clock + last[told.host]))
            for told in plan.prediction.emptied
            if not ends.on(told.host) and not ends.arriving_at(told.host)
        ),
        broken=tuple(_broken(fleet, plan, runs)),
        ends=ends,
    )


def _unmoved(plan: Plan, runs: Sequence[Run]) -> Iterator[Unmoved]:
    tried = Counter(run.place for run in runs)
    well = {run.place for run in runs if run.well}
    for place, planned in enumerate(plan.moves):
        if place in well:
            continue
        before = [plan.moves[other].move.name for other in planned.after if other not in well]
        why = (
            f"its move failed {format_count(tried[place], 'time')}"
            if tried[place]
            else f"it waits for {', '.join(before)}"
        )
        yield Unmoved(planned.move.name, planned.move.source, why)


def _broken(fleet: Inventory, plan: Plan, runs: Sequence[Run]) -> Iterator[str]:
    """Constraints that were broken at the start of a move, while others were in flight."""
    board = Board(fleet)
    guests = {guest.uuid: place for place, guest in enumerate(fleet.guests)}
    # Ends come before starts of the same moment: a move starts because another one ended.
    events = [(run.timed.end, 0, number) for number, run in enumerate(runs)]
    events += [(run.timed.start, 1, number) for number, run in enumerate(runs)]
    heapq.heapify(events)
    while events:
        now, starts, number = heapq.heappop(events)
        run = runs[number]
        move = plan.moves[run.place].move
        guest, host = guests[move.guest], board.index[move.destination]
        if starts:
            if not board.hosts_for(guest)[host]:
                yield f"{move.name} started to {move.destination} at {now:.0f} s, and may not be there"
            board.promise(guest, host)
        elif run.well:
            board.arrive(guest, host)
        else:
            board.promise(guest, host, -1)
