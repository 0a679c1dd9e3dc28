"""CP-SAT beside the planners: it never makes a plan worse, and finds what they miss."""

import subprocess
import sys

import msgspec
import pytest

from limosa.fleet import solver
from limosa.fleet.assignment import NOWHERE, Answer, Item, Problem
from limosa.fleet.consolidate import consolidate
from limosa.fleet.drain import drain
from limosa.fleet.inventory import Inventory, Limits
from limosa.fleet.solver import improve_consolidation, improve_drain, installed
from limosa.testing.fleets import guest, host
from limosa.units import HostName

needs_solver = pytest.mark.skipif(not installed(), reason="OR-Tools is not installed (extra `solver`)")

TIGHT = Inventory(
    hosts=(host(0, 8), host(1, 8), host(2, 8)),
    guests=(guest(0, 0, 6), guest(1, 1, 4), guest(2, 2, 4)),
)
"""h0 drains: its guest fits only where the other one moves away first."""
H0 = (HostName("h0"),)


@needs_solver
def test_a_guest_that_was_left_finds_its_place() -> None:
    without = drain(TIGHT, H0, chains=False)
    assert len(without.left) == 1
    better, said = improve_drain(TIGHT, without, H0, seconds=5)
    assert better.left == ()
    assert better.freed == H0
    assert len(better.moves) == 2
    assert said == "the solver looked at 2 hosts, exhaustively; its plan is better"


@needs_solver
def test_a_plan_that_cannot_be_better_comes_back() -> None:
    plan = drain(TIGHT, H0)
    assert improve_drain(TIGHT, plan, H0, seconds=5).plan == plan


@needs_solver
def test_more_hosts_are_freed_than_the_planner_found() -> None:
    sizes = ((0, 2), (0, 2), (1, 3), (2, 3), (2, 4), (3, 4), (3, 2), (4, 3))
    fleet = Inventory(
        hosts=tuple(host(number, 8) for number in range(5)),
        guests=tuple(guest(number, where, vcpus) for number, (where, vcpus) in enumerate(sizes)),
        limits=Limits(reserve=0),
    )
    plan = consolidate(fleet)
    better, _ = improve_consolidation(fleet, plan, seconds=5)
    assert (len(plan.freed), len(better.freed)) == (1, 2)
    done = fleet.replayed(planned.move for planned in better.moves)
    assert all(not done.on(name) for name in better.freed)


def test_without_the_solver_the_plan_stays_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "installed", lambda: False)
    plan = drain(TIGHT, H0, chains=False)
    same, said = improve_drain(TIGHT, plan, H0)
    assert same is plan
    assert said == "the solver is not installed: pip install 'limosa[solver]'"


def test_a_solver_that_fails_leaves_the_plan_and_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "installed", lambda: True)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    plan = drain(TIGHT, H0, chains=False)
    same, said = improve_drain(TIGHT, plan, H0)
    assert same is plan
    assert said.startswith("the solver failed")


@needs_solver
def test_the_process_answers_one_problem() -> None:
    item = Item(need=(1, 1, 0), hosts=(0,), costs=(1,), left=10, groups=(), hint=NOWHERE)
    problem = Problem((item, item), rooms=((1, 5, 0),), on=(0,), seconds=5.0, workers=1)
    done = subprocess.run(
        [sys.executable, "-m", "limosa.fleet.cpsat"],
        input=msgspec.json.encode(problem),
        capture_output=True,
        check=True,
    )
    answer = msgspec.json.decode(done.stdout, type=Answer)
    assert sorted(answer.hosts) == [NOWHERE, 0]
    assert answer.proven
