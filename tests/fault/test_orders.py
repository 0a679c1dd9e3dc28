"""What a controller orders of moves, and what becomes of it where it is late, repeated or replaced."""

from pathlib import Path
from typing import Any, cast

import pytest

from limosa.agent.orders import Orders, move_of
from limosa.errors import Fenced, NotFound
from limosa.migration.moves import Moves
from limosa.testing.moves import status
from limosa.units import HostName, Side
from limosa.wire.moves import MoveState, MoveStatus
from limosa.wire.reports import Hand, Outcome

FLEET = HostName("fleet-1")
HAND = Hand("drain-1", 1)


class OneMove:
    """A host's moves: one, known by its id or not at all."""

    def __init__(self, state: MoveState | None) -> None:
        self.rates: list[float | None] = []
        self._state = state

    def get(self, move: str) -> MoveStatus:
        if self._state is None:
            raise NotFound(f"no move {move}")
        return status(self._state, id=move, guest_runs=Side.SOURCE)

    async def set_speed(self, move: str, rate: float | None) -> MoveStatus:
        self.rates.append(rate)
        return self.get(move)

    @property
    def store(self) -> "OneMove":
        return self

    def is_known(self, _move: str, _side: Side) -> bool:
        return False

    def ending(self, _move: str, _side: Side) -> str:
        return ""


async def speed(moves: OneMove, tmp_path: Path, rate: float | None, hand: Hand = HAND) -> Outcome:
    kind, handler = Orders(cast("Moves", moves), tmp_path).handlers()["fleet.speed"]
    pace: Any = kind(hand=hand, deed="u1#1", rate=rate)
    answer: Outcome = await handler(pace, FLEET)
    return answer


async def test_a_move_in_flight_is_told_its_rate(tmp_path: Path) -> None:
    moves = OneMove(MoveState.RUNNING)
    assert (await speed(moves, tmp_path, 5e6)).move == move_of(HAND, "u1#1")
    await speed(moves, tmp_path, None)
    assert moves.rates == [5e6, None]


@pytest.mark.parametrize("state", [MoveState.COMPLETED, MoveState.FAILED, None])
async def test_a_move_that_is_over_or_unknown_is_told_nothing(tmp_path: Path, state: MoveState | None) -> None:
    moves = OneMove(state)
    outcome = await speed(moves, tmp_path, 5e6)
    assert moves.rates == []
    assert (outcome.status and outcome.status.state) == state


async def test_a_controller_that_was_replaced_changes_no_rate(tmp_path: Path) -> None:
    moves = OneMove(MoveState.RUNNING)
    await speed(moves, tmp_path, 5e6, Hand("drain-1", 2))
    with pytest.raises(Fenced):
        await speed(moves, tmp_path, 9e9, HAND)
    assert moves.rates == [5e6]
