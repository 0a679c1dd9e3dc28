"""Each move that is over is told of once to whoever counts them, whatever befell it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from limosa.errors import BY_CODE
from limosa.migration.moves import Moves
from limosa.testing.model.verdict import FAULTS
from limosa.testing.model.world import Setting, play
from limosa.wire.moves import MoveState, MoveStatus

ONE_DISK = Setting(disks=1, nics=1)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[MoveStatus]:
    """What every agent of the model tells."""
    reports: list[MoveStatus] = []
    plain: Callable[..., None] = Moves.__init__

    def listened_to(self: Moves, *args: object, **more: object) -> None:
        plain(self, *args, **more)
        self.when_over(reports.append)

    monkeypatch.setattr(Moves, "__init__", listened_to)
    return reports


def test_a_move_that_completes_is_told_of_by_its_source_with_what_it_measured(
    told: list[MoveStatus], tmp_path: Path
) -> None:
    play(ONE_DISK, {}, tmp_path)
    assert [(each.state, each.source) for each in told] == [(MoveState.COMPLETED, "a")]
    assert told[0].measured is not None


@pytest.mark.parametrize("fault", ["peer link reset", "peer link cut", "twin killed", "abort", "agent a killed"])
def test_a_move_that_is_broken_off_is_told_of_once_with_its_cause(
    fault: str, told: list[MoveStatus], tmp_path: Path
) -> None:
    middle = len(play(ONE_DISK, {}, tmp_path / "whole").trace) // 2
    told.clear()
    play(ONE_DISK, {middle: [FAULTS[fault]]}, tmp_path / "broken")
    assert [each.source for each in told] == ["a"]
    assert told[0].state is (MoveState.ABORTED if fault == "abort" else MoveState.FAILED)
    assert told[0].error is not None
    assert told[0].error["code"] in BY_CODE
