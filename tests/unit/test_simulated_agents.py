"""Agents in memory keep the promises that real ones give to a controller."""

import asyncio

import pytest

from limosa.errors import Blocked, Fenced, NotFound, PeerError
from limosa.fleet.inventory import Inventory
from limosa.fleet.simulated.agents import SimulatedAgents
from limosa.fleet.simulated.processors import SERVERS, processors
from limosa.testing.fleets import guest, host
from limosa.units import HostName
from limosa.wire.history import HistoryAsk, HistoryTold, Mark
from limosa.wire.moves import MoveRequest, MoveState
from limosa.wire.reports import Deed, Hand, Known, Order, Outcome, Report, ReportAsk

FLEET = Inventory(hosts=(host(0, 8), host(1, 8)), guests=(guest(0, 0, 1),))
GUEST = FLEET.guests[0].uuid
A, B = HostName("h0"), HostName("h1")


HAND = Hand("drain-1", 1)


def order(hand: Hand = HAND, deed: str = "g#1") -> Order:
    return Order(hand=hand, deed=deed, request=MoveRequest(guest=GUEST, to=B))


def quick(**how: float) -> SimulatedAgents:
    return SimulatedAgents(FLEET, hurry=1000.0, **how)  # type: ignore[arg-type]


async def over(agents: SimulatedAgents, deed: str = "g#1") -> MoveState:
    """How a move ended."""
    async with asyncio.timeout(60):
        while True:
            told = await (await agents.link(A)).call("fleet.status", Deed(hand=Hand("drain-1", 1), deed=deed), Outcome)
            assert told.status
            if told.status.state.over:
                return told.status.state
            await asyncio.sleep(0.05)


async def report(agents: SimulatedAgents, where: HostName, known: Known | None = None) -> Report:
    link = await agents.link(where)
    return await link.call("fleet.report", ReportAsk(known=known, wait=0.0, kept=Mark("", 0)), Report)


async def test_a_guest_arrives_once_with_a_new_owner_and_the_move_is_kept() -> None:
    agents = quick()
    first = await agents.start(A, order())
    assert (await agents.start(A, order())).move == first.move
    assert await over(agents) is MoveState.COMPLETED
    assert (await report(agents, A)).guests == ()
    (there,) = (await report(agents, B)).guests
    assert (there.here, there.epoch, there.shown.state) == (True, 1, "running")
    link = await agents.link(A)
    kept = await link.call("fleet.history", HistoryAsk(after=Mark("", 0)), HistoryTold)
    assert [each.status.id for each in kept.records] == [first.move]
    assert (await link.call("fleet.history", HistoryAsk(after=kept.mark), HistoryTold)).records == ()


async def test_while_it_moves_its_twin_owns_nothing() -> None:
    agents = SimulatedAgents(FLEET)
    await agents.start(A, order())
    (source,), (twin,) = (await report(agents, A)).guests, (await report(agents, B)).guests
    assert (source.here, source.shown.state, twin.here, twin.shown.state) == (True, "moving", False, "arriving")
    with pytest.raises(Blocked):
        await agents.start(A, order(deed="g#2"))
    await agents.abort(A, Deed(hand=Hand("drain-1", 1), deed="g#1"))


async def test_a_move_that_fails_or_is_aborted_leaves_the_guest_where_it_was() -> None:
    agents = quick(trouble=1.0)
    await agents.start(A, order())
    assert await over(agents) is MoveState.FAILED
    slow = SimulatedAgents(FLEET)
    await slow.start(A, order())
    told = await slow.abort(A, Deed(hand=Hand("drain-1", 1), deed="g#1"))
    assert told.status
    assert told.status.state is MoveState.ABORTED
    for each in (agents, slow):
        (there,) = (await report(each, A)).guests
        assert (there.here, there.shown.state, there.epoch) == (True, "running", 0)
        assert (await report(each, B)).guests == ()


async def test_a_controller_that_was_replaced_is_not_obeyed() -> None:
    agents = quick()
    await agents.start(A, order(Hand("drain-1", 2)))
    with pytest.raises(Fenced):
        await agents.start(A, order(Hand("drain-1", 1)))
    await over_with(agents)


async def over_with(agents: SimulatedAgents) -> None:
    await agents.abort(A, Deed(hand=Hand("drain-1", 2), deed="g#1"))


async def test_only_what_changed_is_told_and_it_is_waited_for() -> None:
    agents = quick()
    first = await report(agents, A)
    known = Known(first.incarnation, first.number)
    link = await agents.link(A)
    waiting = asyncio.create_task(
        link.call("fleet.report", ReportAsk(known=known, kept=first.kept, wait=60.0), Report, timeout=60.0)
    )
    await asyncio.sleep(0)
    assert not waiting.done()
    await agents.start(A, order())
    told = await waiting
    assert (told.since, told.machine, [each.shown.state for each in told.guests]) == (first.number, None, ["moving"])
    assert await over(agents) is MoveState.COMPLETED


async def test_who_is_silent_or_unknown_cannot_be_called() -> None:
    agents = SimulatedAgents(FLEET, silent=[A])
    with pytest.raises(PeerError):
        await agents.link(A)
    with pytest.raises(NotFound):
        await agents.link(HostName("nobody"))


def test_there_is_a_processor_for_every_server_model() -> None:
    found = processors()
    assert tuple(cpu.host for cpu in found) == SERVERS
    assert all({"vmx", "svm"} & set(cpu.flags) for cpu in found)
