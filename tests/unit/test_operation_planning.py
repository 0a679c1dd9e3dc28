"""What an operation makes of the fleet at its end: who came since, who stays, and what reports do not know yet."""

import msgspec
import pytest

from limosa.cpu.compat import CpuFinding, compatible
from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.fleet import constraints
from limosa.fleet.inventory import Guest, Inventory
from limosa.fleet.operations.planning import fits, plan, replanned
from limosa.testing.fleets import guest, host
from limosa.wire.fleet import ItemState, Operation, OperationAsked, OperationKind

DRAIN = OperationAsked(kind=OperationKind.DRAIN, hosts=("h0",))


def fleet(*guests: Guest) -> Inventory:
    return Inventory(hosts=(host(0, 8), host(1, 8)), guests=guests)


def done(before: Inventory) -> Operation:
    """A drain of h0 of which every move has ended well."""
    planned = plan(DRAIN, before, name="drain-1", who="test", now=0.0)
    items = tuple(msgspec.structs.replace(item, state=ItemState.DONE) for item in planned.items)
    return msgspec.structs.replace(planned, items=items)


def fresh(drained: Operation, now: Inventory) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Moves that come behind those that are done, and guests that stay, as it is now."""
    items, left = replanned(drained, now)
    moves = [(item.name, item.source, item.destination) for item in items[len(drained.items) :]]
    return moves, [(each.name, each.host, each.why) for each in left]


def test_a_guest_that_has_left_is_not_left_behind_because_its_old_host_has_not_said_so() -> None:
    before = fleet(guest(0, 0, 2))
    late = fleet(guest(0, 0, 2, blocked=("a move to h1 is under way",)))
    assert fresh(done(before), late) == ([], [])


def test_a_guest_that_somebody_brought_back_is_left() -> None:
    back = fleet(guest(0, 0, 2, epoch=2))
    moves, left = fresh(done(fleet(guest(0, 0, 2))), back)
    assert moves == []
    assert left == [("g0", "h0", "this operation has moved it, or given it up")]


def test_a_guest_that_came_meanwhile_leaves_too() -> None:
    grown = fleet(guest(0, 1, 2, epoch=1), guest(1, 0, 2))
    assert fresh(done(fleet(guest(0, 0, 2))), grown) == ([("g1", "h0", "h1")], [])


def test_a_guest_that_could_not_leave_at_first_leaves_when_it_can() -> None:
    drained = done(fleet(guest(0, 0, 2), guest(1, 0, 2, blocked=("a move to h1 is under way",))))
    assert [left.name for left in drained.left] == ["g1"]
    assert fresh(drained, fleet(guest(0, 1, 2, epoch=1), guest(1, 0, 2))) == ([("g1", "h0", "h1")], [])


def test_where_a_guest_fits_is_asked_once_of_each_kind_of_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[HostCpu] = []

    def counted(sees: GuestCpu, there: HostCpu) -> tuple[CpuFinding, ...]:
        asked.append(there)
        return compatible(sees, there)

    monkeypatch.setattr(constraints, "compatible", counted)
    many = Inventory(hosts=tuple(host(n, 8, kind=n % 3) for n in range(60)), guests=(guest(0, 0, 2, kind=1),))
    assert sum(each.fits for each in fits(many, "g0")) == 40
    assert len(asked) == 3
