"""`limosa report` asked of a real controller: what it says is what the API says."""

import json
import time
from pathlib import Path

import msgspec
import pytest

from limosa.testing.moves import record
from limosa.wire.fleet import Item, ItemState, OperationAsked, OperationKind, Phase
from limosa.wire.history import HistoryTold, Mark, MoveRecord
from limosa.wire.moves import MoveState

from .test_cli import Fleet, fleet, on_sqlite

__all__ = ["fleet"]

pytestmark = on_sqlite
DRAIN = "drain-0badcafe"


async def drained(fleet: Fleet) -> tuple[MoveRecord, ...]:
    """A drain that is over: one guest's move was tried twice, another one's is known to its agent only."""
    now = time.time()
    moves = (
        record("m00000001", began=now - 60, state=MoveState.FAILED, operation=DRAIN),
        record("m00000002", began=now - 40, operation=DRAIN),
    )
    await fleet.controller.history.take("a", HistoryTold(mark=Mark("one", 2), records=moves))
    items = tuple(
        Item(guest=name, name=name, source="a", destination="b", state=ItemState.DONE, move=move, attempts=2)
        for name, move in (("web1", "m00000002"), ("web2", "m00000003"))
    )
    planned = await fleet.controller.plan(OperationAsked(kind=OperationKind.DRAIN, hosts=("a",)), "ada")
    ended = {"phase": Phase.DONE, "items": items, "left": (), "began": now - 70, "ended": now}
    await fleet.controller.store.add(msgspec.structs.replace(planned, id=DRAIN, **ended))
    return moves


async def test_a_move_is_told_by_its_id_and_by_its_guest(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    moves = await drained(fleet)
    for name in ("m00000002", "web1"):
        assert await fleet.limosa("report", name, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["record"] == json.loads(msgspec.json.encode(moves[1]))
        assert sorted(told["log"]["silent"]) == ["a", "b"]
    assert await fleet.limosa("report", "m00000001") == 0
    page = capsys.readouterr().out
    assert "the link between the hosts is gone" in page
    assert "nothing of b's log" in page


async def test_an_operation_is_told_with_every_attempt_that_is_known(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    moves = await drained(fleet)
    file = tmp_path / "drain.html"
    assert await fleet.limosa("report", DRAIN, "--json", "--html", str(file)) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["status"]["id"] for each in told["records"]] == [move.status.id for move in reversed(moves)]
    assert {(cause["state"], cause["count"]) for cause in told["causes"]} == {("completed", 1), ("failed", 1)}
    assert told["blackout_ms"]["count"] == 1
    assert DRAIN in file.read_text()
    assert await fleet.limosa("report", DRAIN) == 0
    assert "2 of 2 guests moved" in capsys.readouterr().out


async def test_a_week_has_the_moves_of_the_whole_fleet(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    await drained(fleet)
    foreign = record("m00000009", source="b", destination="a", began=time.time() - 30)
    await fleet.controller.history.take("b", HistoryTold(mark=Mark("two", 1), records=(foreign,)))
    assert await fleet.limosa("report", "--week", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["week"]["moves"] == len(told["moves"])
    assert {"m00000009"} <= {move["id"] for move in told["moves"]}
    assert await fleet.limosa("report", "--week") == 0
    assert told["week"]["week"] in capsys.readouterr().out


async def test_what_nobody_knows_is_refused(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert await fleet.limosa("report", "web9") == 2
    assert "no moved guest web9" in capsys.readouterr().err
