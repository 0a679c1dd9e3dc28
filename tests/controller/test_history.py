"""Finished moves in a controller's database, and the API over them; the agents are not there."""

import time
from typing import Any

import msgspec
import pytest

from limosa.errors import NotFound, PeerError
from limosa.fleet.controller import Controller
from limosa.fleet.history import History
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.registry import Registry
from limosa.history.select import Wanted, page
from limosa.history.weeks import weeks_back
from limosa.migration.archive import past_move
from limosa.testing.fleet import guest, report
from limosa.testing.moves import record
from limosa.wire.fleet import OperationAsked, OperationKind, Phase
from limosa.wire.history import HistoryPage, HistoryTold, Mark, MoveRecord, RecordAsk
from limosa.wire.moves import MoveState

from .test_api import Api, api

__all__ = ["api"]

NOW = time.time()


def told(*records: MoveRecord, number: int = 0) -> HistoryTold:
    return HistoryTold(mark=Mark("one", number or len(records)), records=records)


def some(count: int) -> list[MoveRecord]:
    """Moves of the last hours, from two hosts, every third one failed."""
    return [
        record(
            f"m{number:08x}",
            guest=f"web{number % 4}",
            source="ab"[number % 2],
            destination="ba"[number % 2],
            began=NOW - 600 * (count - number),
            state=MoveState.FAILED if number % 3 == 0 else MoveState.COMPLETED,
            operation="drain-1" if number % 5 == 0 else "",
        )
        for number in range(count)
    ]


async def kept(controller: Controller, records: list[MoveRecord]) -> None:
    for host in ("a", "b"):
        await controller.history.take(host, told(*(each for each in records if each.status.source == host)))


async def test_what_agents_told_is_found_again_whole_and_told_twice_it_is_there_once(api: Api) -> None:
    records = some(6)
    for _ in range(2):
        await kept(api.controller, records)
    assert len((await api.viewer.get("/v1/history")).json()["items"]) == 6
    answer = await api.viewer.get(f"/v1/moves/{records[1].status.id}")
    assert msgspec.json.decode(answer.content, type=MoveRecord) == records[1]
    assert await api.controller.history.mark("a") == Mark("one", 3)
    assert await api.controller.history.mark("nobody") == Mark("", 0)


async def test_pages_and_filters_choose_as_the_pure_rules_do(api: Api) -> None:
    records = some(14)
    await kept(api.controller, records)
    past = [past_move(each) for each in records]
    middle = past[7].ended
    queries: tuple[dict[str, Any], ...] = (
        {},
        {"guest": "web1"},
        {"guest": past[2].uuid},
        {"host": "b"},
        {"outcome": "failed"},
        {"operation": "drain-1"},
        {"since": middle},
        {"until": middle},
        {"host": "a", "outcome": "completed", "since": middle},
    )
    for query in queries:
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            asked = {**query, "limit": 3, "after": after}
            wanted = msgspec.convert(asked, Wanted)
            answer = await api.viewer.get("/v1/history", params=asked)
            shown = msgspec.json.decode(answer.content, type=HistoryPage)
            assert shown == page(past, wanted), query
            found += [move.id for move in shown.items]
            after = shown.next
        assert len(found) == len(set(found)) == sum(map(wanted.fits, past))


async def test_an_agent_tells_of_its_own_finished_moves_only(api: Api) -> None:
    foreign = record("m00000001", source="b")
    flying = msgspec.structs.replace(record("m00000002", source="a"), ended=None)
    endless = record("m" + "0" * 100, source="a")
    await api.controller.history.take("a", told(foreign, flying, endless))
    assert (await api.viewer.get("/v1/history")).json()["items"] == []


async def test_old_moves_are_forgotten(api: Api) -> None:
    old = record("m00000001", source="a", began=NOW - 500 * 86400)
    await api.controller.history.take("a", told(old, record("m00000002", source="a", began=NOW)))
    assert [item["id"] for item in (await api.viewer.get("/v1/history")).json()["items"]] == ["m00000002"]


async def test_a_move_that_nobody_knows_is_not_found_anywhere(api: Api) -> None:
    for path in ("", "/events", "/log"):
        answer = await api.viewer.get(f"/v1/moves/m0{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert (await api.viewer.get("/v1/history", params={"after": "m0"})).status_code == 404
    for odd in ("%00", "a b", "%F0%9F%98%80", "m" * 65):
        assert (await api.viewer.get(f"/v1/moves/{odd}")).status_code in {400, 404}
        assert (await api.viewer.get(f"/v1/history?guest={odd}")).status_code in {200, 400}
    for week in ("2026-W54", "0001-W01", "x"):
        assert (await api.viewer.get("/v1/history/weeks", params={"week": week})).status_code == 422


async def test_the_log_of_a_move_names_the_hosts_that_do_not_answer(api: Api) -> None:
    await kept(api.controller, [record("m00000001", source="a")])
    log = (await api.viewer.get("/v1/moves/m00000001/log")).json()
    assert (log["lines"], sorted(log["silent"])) == ([], ["a", "b"])


async def test_the_events_of_a_finished_move_are_its_final_record(api: Api) -> None:
    final = record("m00000001", source="a")
    await kept(api.controller, [final])
    answer = await api.viewer.get("/v1/moves/m00000001/events")
    data = [line[5:].strip() for line in answer.text.splitlines() if line.startswith("data:")]
    assert [msgspec.json.decode(each, type=MoveRecord) for each in data] == [final]


async def test_weeks_say_the_same_as_the_moves_in_them(api: Api) -> None:
    await kept(api.controller, some(9))
    weeks = (await api.viewer.get("/v1/history/weeks", params={"last": 2})).json()
    assert len(weeks) == 2
    assert sum(week["moves"] for week in weeks) == 9
    causes = [cause for week in weeks for cause in week["causes"]]
    assert sum(cause["count"] for cause in causes if cause["state"] == "completed") == 6
    assert {cause["cause"] for cause in causes} == {"", "move-failed"}
    assert (await api.viewer.get("/v1/history/weeks", params={"last": 0})).status_code == 400


async def test_a_host_that_a_consolidation_emptied_saves_what_its_settings_say_until_it_is_used_again(api: Api) -> None:
    for host in "abc":
        settings = {"watts": 200.0, "price_per_hour": 0.5}
        assert (await api.admin.put(f"/v1/hosts/{host}/settings", json=settings)).status_code == 200
    # Host c is empty as it is: nothing has to move, so no agent has to answer.
    await _consolidated(api)
    later = time.time() + 3600
    freed = [each for week in await api.controller.history.weeks(weeks_back(later, 2), later) for each in week.freed]
    assert {each.host for each in freed} == {"c"}
    assert sum(each.hours for each in freed) == pytest.approx(1, abs=0.1)
    assert sum(each.watt_hours for each in freed) == pytest.approx(200 * sum(each.hours for each in freed))
    assert sum(each.money for each in freed) == pytest.approx(0.5 * sum(each.hours for each in freed))
    await api.admin.put("/v1/hosts/c/state", json={"state": "active", "why": "needed"})
    weeks = await api.controller.history.weeks(weeks_back(later, 2), later)
    assert sum(week.hosts_freed_hours for week in weeks) < 0.1


async def _consolidated(api: Api) -> None:
    asked = OperationAsked(kind=OperationKind.CONSOLIDATE)
    planned = await api.controller.plan(asked, "test")
    ended = msgspec.structs.replace(planned, phase=Phase.DONE, hosts=("c",), items=(), left=(), ended=time.time())
    await api.controller.store.add(ended)


async def test_the_database_of_one_controller_is_the_history_of_the_next(api: Api) -> None:
    final = record("m00000001", source="a")
    await kept(api.controller, [final])
    database = api.controller.database
    again = History(database, OperationStore(database, "x"), Registry(database), api.controller._peers, 86400.0 * 900)
    assert await again.record("m00000001") == final
    with pytest.raises(NotFound):
        await again.record("m00000009")


class Source:
    """The agent that drives a move: at each question for news it has gone on a little, and at last it is over."""

    def __init__(self, final: MoveRecord) -> None:
        flying = msgspec.structs.replace(final.status, state=MoveState.RUNNING, measured=None)
        going = [msgspec.structs.replace(final, ended=None, status=flying, number=number) for number in range(3)]
        self.story = [*going, final]
        self.told = 0
        self.silent = False

    async def answer(self, host: str, ask: RecordAsk) -> MoveRecord:
        if self.silent:
            raise PeerError(f"{host} does not answer")
        if host != "a" or ask.move != self.story[0].status.id:
            raise NotFound(f"there is no move {ask.move} here")
        if ask.seen == self.story[self.told].number:
            self.told += 1
        return self.story[self.told]


@pytest.fixture
async def source(api: Api, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A move that nobody ordered from the controller is in flight from a to b; both report its guest."""
    there = Source(record("m0000f001", source="a", destination="b"))
    for host in ("b", "a"):
        moving = guest("web1", host)
        shown = msgspec.structs.replace(moving.shown, move="m0000f001")
        await api.controller.registry.take(host, report(host, msgspec.structs.replace(moving, shown=shown)), NOW)
    monkeypatch.setattr(api.controller.history, "_ask", there.answer)
    monkeypatch.setattr("limosa.api.history.SPACING", 0.0)
    return there


async def test_a_move_in_flight_is_told_by_its_source_until_it_is_over(api: Api, source: Source) -> None:
    first = await api.viewer.get("/v1/moves/m0000f001")
    assert msgspec.json.decode(first.content, type=MoveRecord) == source.story[0]
    answer = await api.viewer.get("/v1/moves/m0000f001/events")
    data = [line[5:].strip() for line in answer.text.splitlines() if line.startswith("data:")]
    assert [msgspec.json.decode(each, type=MoveRecord) for each in data] == source.story


async def test_a_silent_source_is_no_answer_but_no_end_of_the_move_either(api: Api, source: Source) -> None:
    changes = api.controller.history.changes("m0000f001")
    assert await anext(changes) == source.story[0]
    source.silent = True
    assert [await anext(changes) for _ in range(3)] == [None, None, None]
    answer = await api.viewer.get("/v1/moves/m0000f001")
    assert (answer.status_code, answer.json()["code"]) == (502, PeerError.code)
    source.silent = False
    assert [each async for each in changes] == source.story[1:]
