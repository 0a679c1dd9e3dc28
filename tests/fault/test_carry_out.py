"""The runner over a model of two hosts that fails before or after any one deed, or is aborted there."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limosa.cargo.kind import CargoStep, Streams, When
from limosa.errors import MoveFailed
from limosa.migration.carry_out import carry_out
from limosa.migration.journal import Journal, Outcome
from limosa.migration.plan import arrange
from limosa.migration.steps import (
    Close,
    Commit,
    HandOver,
    Precopy,
    Reserve,
    ResumeThere,
    RetireSource,
    ShareKey,
    StartTwin,
    Step,
)
from limosa.units import Side

STREAMS = Streams(address="10.0.0.2", nbd_port=49152, migration_port=49153, tls_creds="limosa-tls")


@dataclass
class TwoHosts:
    """Who executes, and what exists, as deeds happen. Fails at the deed with number `cut`."""

    cut: int
    before: bool
    abort: bool
    deeds: int = 0
    source_runs: bool = True
    source_exists: bool = True
    destination_runs: bool = False
    twin: bool = False
    owner: Side = Side.SOURCE
    things: set[str] = field(default_factory=set)
    both_ran: bool = False

    async def make(self, step: Step) -> Mapping[str, Any]:
        self.deeds += 1
        fails = self.deeds == self.cut
        if fails and self.before:
            self._fail()
        self._happen(step)
        self.both_ran |= self.source_runs and self.destination_runs
        if fails:
            self._fail()
        return {}

    def _fail(self) -> None:
        raise asyncio.CancelledError if self.abort else MoveFailed("cut")

    def _happen(self, step: Step) -> None:
        match step:
            case CargoStep(summary=summary):
                self.things.add(summary)
            case Reserve() | ShareKey():
                self.things.add(type(step).__name__)
            case StartTwin():
                self.twin = True
            case Precopy():
                self.source_runs = False
            case Commit():
                self.owner = Side.DESTINATION
            case ResumeThere():
                assert self.owner is Side.DESTINATION
                self.destination_runs = True
            case RetireSource():
                assert self.destination_runs, "retired while nobody ran"
                self.source_exists = False
            case Close():
                self.things.clear()
            case _:
                pass

    async def unmake(self, step: Step) -> None:
        match step:
            case CargoStep(summary=summary):
                self.things.discard(summary)
            case Reserve() | ShareKey():
                self.things.discard(type(step).__name__)
            case StartTwin():
                assert not self.destination_runs
                self.twin = False
            case Precopy() | HandOver():
                self.source_runs = True
            case _:
                pass


def plan_of(disks: int) -> tuple[Step, ...]:
    cargo = [
        CargoStep(kind="disks", deed=when.name, side=side, when=when, summary=f"{when} {side} {n}", arguments={"n": n})
        for n in range(disks)
        for when, side in [
            (When.BEFORE_TWIN, Side.DESTINATION),
            (When.COPY, Side.SOURCE),
            (When.PAUSED, Side.SOURCE),
            (When.BEFORE_CONT, Side.DESTINATION),
            (When.ANNOUNCE, Side.DESTINATION),
        ]
    ]
    return arrange(cargo, STREAMS, memory=1, monitor="/run/x.qmp", channels=0, running=True)


async def unguarded(deed: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
    return await deed


async def run(plan: tuple[Step, ...], hosts: TwoHosts) -> Journal:
    journal = Journal(plan, asyncio.get_running_loop().time, lambda: None)
    try:
        await carry_out(journal, hosts.make, hosts.unmake, unguarded)
    except (MoveFailed, asyncio.CancelledError):
        assert not journal.committed
    return journal


@given(cut=st.integers(0, 40), before=st.booleans(), abort=st.booleans(), disks=st.integers(0, 3))
def test_one_side_runs_the_guest_wherever_the_move_is_cut(cut: int, before: bool, abort: bool, disks: int) -> None:
    hosts = TwoHosts(cut, before, abort)
    journal = asyncio.run(run(plan_of(disks), hosts))
    assert hosts.source_runs != hosts.destination_runs
    assert not hosts.both_ran
    if hosts.source_runs:
        assert (hosts.source_exists, hosts.twin, hosts.things) == (True, False, set())
        assert not journal.intended
    else:
        assert hosts.owner is Side.DESTINATION
        assert not hosts.source_exists
        assert not hosts.things


@pytest.mark.parametrize("first", [Precopy, HandOver])
def test_the_same_check_fails_when_the_guest_resumes_before_it_is_committed(first: type) -> None:
    plan = list(plan_of(0))
    resume = next(s for s in plan if isinstance(s, ResumeThere))
    plan.remove(resume)
    plan.insert(next(i for i, s in enumerate(plan) if isinstance(s, first)), resume)
    with pytest.raises(AssertionError):
        asyncio.run(run(tuple(plan), TwoHosts(0, before=True, abort=False)))


async def test_what_cannot_be_undone_does_not_keep_the_rest_from_being_undone() -> None:
    hosts = TwoHosts(cut=9, before=True, abort=False)
    plan = plan_of(2)

    async def stubborn(step: Step) -> None:
        if isinstance(step, StartTwin):
            raise MoveFailed("the twin will not die")
        await hosts.unmake(step)

    journal = Journal(plan, asyncio.get_running_loop().time, lambda: None)
    with pytest.raises(MoveFailed) as caught:
        await carry_out(journal, hosts.make, stubborn, unguarded)
    assert caught.value.__notes__ == ["could not undo start twin: the twin will not die"]
    assert not hosts.things
    assert [e.step for e in journal.intended] == [s for s in plan if isinstance(s, StartTwin)]


async def test_a_second_abort_does_not_interrupt_the_roll_back() -> None:
    hosts = TwoHosts(cut=0, before=True, abort=False)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(step: Step) -> None:
        reached.set()
        await go_on.wait()
        await hosts.unmake(step)

    async def hang_at_precopy(step: Step) -> Mapping[str, Any]:
        if isinstance(step, Precopy):
            await asyncio.Event().wait()
        return await hosts.make(step)

    journal = Journal(plan_of(1), asyncio.get_running_loop().time, lambda: None)
    task = asyncio.create_task(carry_out(journal, hang_at_precopy, slow, unguarded))
    await asyncio.sleep(0)
    task.cancel()
    await reached.wait()
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {e.outcome for e in journal.entries} == {Outcome.PLANNED, Outcome.UNDONE}
