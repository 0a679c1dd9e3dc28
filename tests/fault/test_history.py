"""What an agent keeps of its moves: over faults and restarts, and told over its socket to the command line."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import msgspec
import pytest
import structlog
from structlog.testing import LogCapture

from limosa.agent.api import Api, Engine, Sight
from limosa.agent.config import load
from limosa.agent.history import History
from limosa.cargo.kind import HostFacts
from limosa.cli import limosa
from limosa.cli.lazy import run
from limosa.errors import NotFound, StateDiskError
from limosa.migration.archive import DAY, DEFAULT_RETENTION, Archive, Retention
from limosa.migration.diary import FIRST, LAST, LONGEST, Diary, keep
from limosa.migration.moves import Moves
from limosa.migration.store import Store
from limosa.testing.model.host import ModelStore
from limosa.testing.model.verdict import FAULTS, complaints
from limosa.testing.model.world import Setting, World, play
from limosa.testing.moves import record
from limosa.units import MoveId
from limosa.wire.history import HistoryAsk, Mark, MoveLog, RecordAsk
from limosa.wire.moves import MoveState

TWO_DISKS = Setting(disks=2, nics=1)
NOTHING = MoveLog(lines=())


@pytest.fixture
def written() -> Iterator[LogCapture]:
    """A log that passes its lines through diaries, as an agent's does."""
    before, capture = structlog.get_config(), LogCapture()
    structlog.configure(processors=[structlog.processors.add_log_level, keep, capture], cache_logger_on_first_use=False)
    yield capture
    structlog.configure(**before)


@pytest.fixture
def ground() -> Iterator[Path]:
    with TemporaryDirectory(prefix="lm-") as name:
        yield Path(name)


def archive(world: World, host: str) -> Archive:
    return Archive(ModelStore(world.hardware(host)), DEFAULT_RETENTION)


def test_both_ends_keep_a_move_that_went_well_and_the_source_its_record(ground: Path, written: LogCapture) -> None:
    world = play(TWO_DISKS, {}, ground)
    (status,) = world.statuses
    kept = archive(world, "a").record(status.id)
    assert kept.status == status
    assert kept.ended == pytest.approx(kept.began + status.elapsed)
    assert kept.pause is not None
    assert kept.stages[-1].ended == pytest.approx(status.elapsed, abs=0.5)
    assert archive(world, "b").past() == ()
    for host, said in (("a", {"move begins", "step made", "move completed"}), ("b", {"a guest is to arrive"})):
        log = archive(world, host).log(status.id)
        assert log is not None
        assert said <= {line.event for line in log.lines}
        assert {line.host for line in log.lines} == {host}
    made = [
        line.facts["step"] for line in cast("MoveLog", archive(world, "a").log(status.id)).lines if "step" in line.facts
    ]
    assert made == [step.name for step in status.steps]
    assert {event["move"] for event in written.entries if "step" in event} == {status.id}


def test_nothing_is_logged_by_a_move_while_its_guest_is_paused(ground: Path) -> None:
    paused: list[bool] = []

    def listen(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event["event"].startswith(("step", "move", "arrival")):
            paused.append(not world_now[0].executing())
        raise structlog.DropEvent

    world_now: list[World] = []
    schedule: Any = {1: [world_now.append]}
    before = structlog.get_config()
    structlog.configure(processors=[listen], cache_logger_on_first_use=False)
    try:
        play(TWO_DISKS, schedule, ground)
    finally:
        structlog.configure(**before)
    assert len(paused) > 10
    assert not any(paused)


@pytest.mark.parametrize("fault", ["abort", "peer link cut", "agent a killed"])
def test_a_move_that_ended_badly_is_kept_with_its_error(fault: str, ground: Path) -> None:
    for number in (40, 90):
        world = play(TWO_DISKS, {number: [FAULTS[fault]]}, ground)
        assert complaints(world) == ()
        for status in world.statuses:
            kept = archive(world, status.source).record(status.id)
            assert kept.status.state is status.state
            assert (kept.status.error or {}).get("code") == (status.error or {}).get("code")


# -- the archive itself ------------------------------------------------------------------------------------------


def opened(path: Path, retention: Retention = DEFAULT_RETENTION) -> Archive:
    return Archive(Store(path / "journal.db"), retention)


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    opened(tmp_path).keep(record("m1"), NOTHING)
    again = opened(tmp_path)
    assert again.record("m1") == record("m1")
    assert again.record("web1") == record("m1")
    assert [past.id for past in again.past()] == ["m1"]
    with pytest.raises(NotFound):
        again.record("m2")


def test_the_latest_move_of_a_guest_is_meant_by_its_name(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for name in ("m1", "m2"):
        kept.keep(record(name), NOTHING)
    assert kept.record("web1").status.id == "m2"
    assert kept.record("m1").status.id == "m1"


def test_only_so_many_moves_are_kept_and_only_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = opened(tmp_path, Retention(moves=3, seconds=10 * DAY))
    for number in range(5):
        kept.keep(record(f"m{number}"), NOTHING)
    assert [past.id for past in kept.past()] == ["m4", "m3", "m2"]
    later = time.time() + 11 * DAY
    monkeypatch.setattr(time, "time", lambda: later)
    kept.keep_log(MoveId("m9"), "db1", "u", NOTHING)
    assert kept.past() == ()
    assert kept.log("m9") == NOTHING


def test_whoever_follows_an_archive_hears_of_each_move_once_and_of_all_where_it_was_begun_anew(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for number in range(3):
        kept.keep(record(f"m{number}"), NOTHING)
        kept.keep_log(MoveId(f"x{number}"), "db1", "u", NOTHING)
    told = kept.after(Mark("", 0))
    assert [each.status.id for each in told.records] == ["m0", "m1", "m2"]
    assert told.mark == kept.mark()
    assert kept.after(told.mark).records == ()
    kept.keep(record("m3"), NOTHING)
    assert [each.status.id for each in kept.after(told.mark).records] == ["m3"]
    (other := tmp_path / "other").mkdir()
    anew = opened(other)
    anew.keep(record("m7"), NOTHING)
    assert [each.status.id for each in anew.after(told.mark).records] == ["m7"]


def test_a_large_archive_is_told_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limosa.migration.archive.LARGEST_ANSWER", 1)
    kept = opened(tmp_path)
    for number in range(3):
        kept.keep(record(f"m{number}"), NOTHING)
    found, mark = [], Mark("", 0)
    while (told := kept.after(mark)).records:
        found += [each.status.id for each in told.records]
        mark = told.mark
    assert found == ["m0", "m1", "m2"]


def test_what_cannot_be_kept_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "journal.db")
    store.close()
    with pytest.raises(StateDiskError):
        Archive(store, DEFAULT_RETENTION).keep(record("m1"), NOTHING)


# -- the diary ---------------------------------------------------------------------------------------------------


def test_a_diary_keeps_the_beginning_and_the_end_and_counts_the_rest(written: LogCapture) -> None:
    diary, log = Diary(MoveId("m1"), "a"), structlog.get_logger()
    with diary.open():
        for number in range(1000):
            log.info("line", number=number, long="x" * 5000, odd=Path("/srv"))
    told = diary.log()
    assert [line.facts["number"] for line in told.lines] == [*range(FIRST), *range(1000 - LAST, 1000)]
    assert told.dropped == 1000 - FIRST - LAST
    assert {len(str(line.facts["long"])) for line in told.lines} == {LONGEST}
    assert told.lines[0].facts["odd"] == "/srv"


async def test_tasks_write_into_the_diary_they_were_begun_in_and_no_longer_than_it_is_open(written: LogCapture) -> None:
    log, go = structlog.get_logger(), asyncio.Event()

    async def beside(name: str) -> None:
        log.info("before", name=name)
        await go.wait()
        log.info("after", name=name)

    diaries = [Diary(MoveId(name), "a") for name in ("m1", "m2")]
    tasks = []
    for diary in diaries:
        with diary.open():
            tasks.append(asyncio.create_task(beside(diary.move)))
    log.info("of nothing")
    await asyncio.sleep(0)
    diaries[0].close()
    go.set()
    await asyncio.gather(*tasks)
    assert [[line.event for line in diary.log().lines] for diary in diaries] == [["before"], ["before", "after"]]
    assert [event.get("move") for event in written.entries] == [None, "m1", "m2", None, "m2"]


# -- over the socket ---------------------------------------------------------------------------------------------


class Agent:
    """An agent's API over moves that are over, on a socket of its own."""

    def __init__(self, directory: Path) -> None:
        config = load(
            directory / "etc", overrides={"host": "a", "run_dir": str(directory), "state_dir": str(directory)}
        )
        facts = HostFacts(
            name="a", migration_address="", state_dir=str(directory), run_dir=str(directory), machine_id="a"
        )
        self.moves = Moves(facts, link=cast("Any", None), qemu_binaries=(), ports=range(0), cargo={})
        self.history = History(self.moves)
        self.socket = config.socket
        self.api = Api(config, cast("Engine", self.moves), cast("Sight", None), self.history.routes())

    async def command(self, *words: str) -> int:
        return await asyncio.to_thread(run, limosa, ["--socket", str(self.socket), *words])


@pytest.fixture
async def agent(ground: Path) -> AsyncIterator[Agent]:
    there = Agent(ground)
    now = time.time()
    there.moves.archive.keep(record("m1", began=now - 60), MoveLog(lines=(), dropped=1))
    there.moves.archive.keep(record("m2", guest="db1", began=now - 30, state=MoveState.FAILED), NOTHING)
    await there.api.open()
    yield there
    await there.api.close()


async def test_the_command_tells_of_a_kept_move_as_text_as_json_and_as_a_page(
    agent: Agent, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert await agent.command("report", "m1") == 0
    page = capsys.readouterr().out
    assert "web1 moved from a to b" in page
    assert "the pause of 60.0 ms" in page
    assert await agent.command("report", "web1", "--json", "--html", str(tmp_path / "move.html")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["record"] == json.loads(msgspec.json.encode(agent.moves.archive.record("m1")))
    assert told["log"]["dropped"] == 1
    assert (tmp_path / "move.html").read_text().startswith("<!doctype html>")


async def test_the_command_adds_up_a_week_of_this_host(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    assert await agent.command("report", "--week", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    ended = [move["id"] for move in told["moves"]]
    assert told["week"]["moves"] == len(ended)
    assert set(ended) <= {"m1", "m2"}  # a week may have ended between the two
    assert await agent.command("report", "--week", "2020-W01") == 0
    assert "0, 0 completed" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["m9"], [], ["m1", "--week"], ["--week", "2020-W99"], ["m1", "--html", "/proc/x"]])
async def test_the_command_refuses_what_it_cannot_tell(
    words: list[str], agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await agent.command("report", *words) == 2
    assert "to do:" in capsys.readouterr().err


async def test_controllers_hear_the_same_and_a_question_for_news_waits_no_longer_than_it_is_told(agent: Agent) -> None:
    handlers = agent.history.handlers()
    (_, ask), (_, log), (_, after) = (handlers[name] for name in ("fleet.move", "fleet.log", "fleet.history"))
    caller = cast("Any", "fleet-1")
    kept = agent.moves.archive.record("m1")
    assert await ask(RecordAsk(move="m1"), caller) == kept
    assert await ask(RecordAsk(move="m1", seen=kept.number, wait=20), caller) == kept  # it is over: nothing will come
    assert (await log(RecordAsk(move="m1"), caller)).dropped == 1
    assert [each.status.id for each in (await after(HistoryAsk(after=Mark("", 0)), caller)).records] == ["m1", "m2"]
    with pytest.raises(NotFound):
        await log(RecordAsk(move="m9"), caller)
