from collections import Counter

import pytest

from limosa.lab.faults_matrix import STEPS, Cell, Fault, Outcome, cells, expected, points, third


def cell(fault: Fault, name: str) -> Cell:
    return Cell(fault, next(point for point in points() if point.name == name))


def test_the_matrix_has_every_fault_before_and_after_every_step_and_within_the_commit() -> None:
    assert len(points()) == 2 * len(STEPS) + 2
    assert len({each.name for each in cells()}) == len(Fault) * len(points())


def test_the_fixed_third_is_a_third_of_each_fault_and_of_each_point() -> None:
    chosen = third()
    assert set(chosen) <= set(cells())
    assert {len(cells()) // 3, len(cells()) // 3 + 1} >= {len(chosen)}
    for counted, size in ((Counter(c.fault for c in chosen), len(points())), (Counter(c.point for c in chosen), 16)):
        assert set(counted.values()) <= {size // 3, size // 3 + 1}


@pytest.mark.parametrize(
    ("fault", "point", "outcomes"),
    [
        (Fault.SOURCE_QEMU, "before 18 hand over", {Outcome.LOST}),
        (Fault.SOURCE_QEMU, "after 18 hand over", {Outcome.LOST, Outcome.DESTINATION}),
        (Fault.SOURCE_HOST, "after grant", {Outcome.DESTINATION}),
        (Fault.DESTINATION_QEMU, "before 07 start twin", {Outcome.SOURCE, Outcome.DESTINATION}),
        (Fault.DESTINATION_QEMU, "before grant", {Outcome.SOURCE}),
        (Fault.DESTINATION_QEMU, "before 21 resume there", {Outcome.SOURCE}),
        (Fault.DESTINATION_QEMU, "after 21 resume there", {Outcome.LOST}),
        (Fault.DESTINATION_HOST, "before 21 resume there", {Outcome.LOST}),
        (Fault.PEER_LINK, "before grant", {Outcome.SOURCE, Outcome.DESTINATION}),
        (Fault.PEER_LINK, "after grant", {Outcome.DESTINATION}),
    ],
)
def test_what_may_come_of_a_fault_depends_on_who_has_all_of_the_guest(
    fault: Fault, point: str, outcomes: set[Outcome]
) -> None:
    assert expected(cell(fault, point)) == outcomes
