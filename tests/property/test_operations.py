"""Operations on a fleet in memory: whatever fails and whoever crashes, they end, and nothing is done twice."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limosa.errors import Fenced
from limosa.fleet.inventory import Guest, GuestId, Host, Inventory, Limits
from limosa.fleet.operations.advance import BACK_OFF, Wish
from limosa.fleet.operations.carry_out import carry_out
from limosa.fleet.operations.simulated import SimulatedPort, World
from limosa.units import Bytes, BytesPerSecond, GuestName, HostName
from limosa.wire.fleet import Forecast, Item, ItemState, Operation, OperationKind, Phase


def fleet(guests: int, limits: Limits = Limits()) -> Inventory:  # noqa: B008  (frozen)
    hosts = tuple(
        Host(name=HostName(name), cores=64, memory=Bytes(1 << 40), link=BytesPerSecond(1e9)) for name in "abc"
    )
    made = tuple(
        Guest(uuid=GuestId(f"u{n}"), name=GuestName(f"g{n}"), host=HostName("a"), vcpus=1, memory=Bytes(1 << 30))
        for n in range(guests)
    )
    return Inventory(hosts=hosts, guests=made, limits=limits)


def away_from_a(inventory: Inventory) -> Operation:
    items = tuple(
        Item(guest=guest.uuid, name=guest.name, source="a", destination="bc"[place % 2])
        for place, guest in enumerate(inventory.guests)
    )
    return Operation(
        id="move-1",
        kind=OperationKind.MOVE,
        hosts=(),
        who="test",
        why="",
        created=0.0,
        phase=Phase.RUNNING,
        items=items,
        left=(),
        forecast=Forecast(),
    )


class Crash(Exception):
    """The controller is killed."""


class Mortal(SimulatedPort):
    """A controller that dies before or after one of its calls."""

    def __init__(self, world: World, lives_for: int, *, before: bool) -> None:
        super().__init__(world)
        self._left, self._before = lives_for, before

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in {"claim", "load", "save", "start", "status", "abort"}:
            return found

        async def mortal(*arguments: Any) -> Any:
            self._left -= 1
            if self._left <= 0 and self._before:
                raise Crash
            answer = await found(*arguments)
            if self._left <= 0:
                raise Crash
            return answer

        return mortal


@settings(deadline=None, max_examples=150)
@given(
    guests=st.integers(0, 6),
    at_once=st.integers(1, 4),
    lives=st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=20),
    failing=st.sets(st.tuples(st.integers(0, 5), st.integers(1, 4))),
)
def test_a_controller_killed_at_any_call_loses_nothing_and_repeats_nothing(
    guests: int, at_once: int, lives: list[tuple[int, bool]], failing: set[tuple[int, int]]
) -> None:
    inventory = fleet(guests, Limits(moves=at_once, moves_in=at_once, moves_out=at_once))
    world = World(
        inventory, seconds=lambda _: 3.0, fails=lambda item: (int(item.guest[1:]), item.attempts) in failing, retries=2
    )
    operation = world.add(away_from_a(inventory))

    async def live_and_die() -> Operation:
        for lives_for, before in lives:
            try:
                return await carry_out(operation, Mortal(world, lives_for, before=before))
            except Crash:
                world.pass_time(1.0)
        return await carry_out(operation, world.port())

    ended = asyncio.run(live_and_die())
    assert ended.phase.over
    assert world.most_at_once <= at_once
    assert all(count == 1 for count in Counter(move.guest for move in world.moved).values())
    for item in world.operations[operation].items:
        hopeless = all((int(item.guest[1:]), attempt) in failing for attempt in (1, 2, 3))
        assert item.state is (ItemState.FAILED if hopeless else ItemState.DONE)
        assert world.inventory.by_uuid[GuestId(item.guest)].host == ("a" if hopeless else item.destination)
    assert ended.phase is (Phase.DONE if all(i.state is ItemState.DONE for i in ended.items) else Phase.PARTLY)


async def test_a_stopped_controller_that_goes_on_later_is_fenced_off() -> None:
    inventory = fleet(3)
    world = World(inventory, seconds=lambda _: 30.0, fails=lambda _: False)
    operation = world.add(away_from_a(inventory))
    goes_on, gone_on = asyncio.Event(), asyncio.Event()

    class Stopped(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            await goes_on.wait()

    class Taking(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            if not goes_on.is_set():
                goes_on.set()
                await gone_on.wait()
            await super().sleep(seconds)

    old = asyncio.create_task(carry_out(operation, Stopped(world)))
    await asyncio.sleep(0)
    new = asyncio.create_task(carry_out(operation, Taking(world)))
    with pytest.raises(Fenced):
        await old
    gone_on.set()
    assert (await new).phase is Phase.DONE
    assert len(world.moved) == 3


async def test_a_pause_starts_nothing_and_a_cancellation_takes_back_what_can_be() -> None:
    inventory = fleet(4, Limits(moves=2))
    world = World(inventory, seconds=lambda _: 10.0, fails=lambda _: False)
    operation = world.add(away_from_a(inventory))
    seen: list[tuple[Phase, int]] = []

    class Steered(SimulatedPort):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            now = self._world.operations[operation]
            seen.append((now.phase, sum(item.state is ItemState.MOVING for item in now.items)))
            self._world.wishes[operation] = (
                Wish.RUN if self._world.clock < 5 else Wish.PAUSE if self._world.clock < 30 else Wish.CANCEL
            )
            if self._world.clock == 29:
                self._world.wishes[operation] = Wish.RUN

    ended = await carry_out(operation, Steered(world))
    assert [phase for phase, _ in dict.fromkeys(seen)][:3] == [Phase.RUNNING, Phase.PAUSED, Phase.PAUSED]
    assert (Phase.PAUSED, 0) in seen
    assert ended.phase is Phase.CANCELLED
    assert [item.state for item in ended.items] == [ItemState.DONE] * 2 + [ItemState.CANCELLED] * 2
    assert [move.guest for move in world.moved] == ["u0", "u1"]


async def test_who_waits_for_one_that_stays_stays_too_and_says_so() -> None:
    inventory = fleet(2)
    world = World(inventory, seconds=lambda _: 1.0, fails=lambda item: item.guest == "u0", retries=0)
    asked = away_from_a(inventory)
    first, second = asked.items
    chained = msgspec.structs.replace(asked, items=(first, msgspec.structs.replace(second, after=(0,))))
    ended = await carry_out(world.add(chained), world.port())
    assert ended.phase is Phase.PARTLY
    assert [item.said for item in ended.items] == ["the link broke", "it waits for g0, which stays on a"]
    assert world.moved == []


async def test_attempts_back_off() -> None:
    inventory = fleet(1)
    world = World(inventory, seconds=lambda _: 1.0, fails=lambda item: item.attempts < 3)
    ended = await carry_out(world.add(away_from_a(inventory)), world.port())
    assert (ended.phase, ended.items[0].attempts) == (Phase.DONE, 3)
    assert world.clock > BACK_OFF * 3
