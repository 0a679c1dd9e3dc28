"""Operations on the real DBOS, on SQLite and PostgreSQL."""

import asyncio
import logging
import time
from typing import Any

import pytest
from dbos import DBOS
from dbos._core import execute_dequeued_workflow

from limosa.errors import Fenced
from limosa.fleet.db.engine import url_of
from limosa.fleet.operations.durable import Durable


class Work:
    """Something that takes until it is told to end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.entered, self.ends = asyncio.Event(), asyncio.Event()

    async def __call__(self, operation: str) -> None:
        self.begun.append(operation)
        self.entered.set()
        await self.ends.wait()


async def test_what_was_in_hand_at_a_stop_goes_on_after_the_next_start(database_url: str) -> None:
    work, url = Work(), url_of(database_url)
    first = Durable(url, "fleet-1", work)
    await first.launch()
    await first.begin("drain-1")
    await first.begin("drain-1")
    await asyncio.wait_for(work.entered.wait(), 20)
    await first.close()
    work.entered.clear()
    again = Durable(url, "fleet-1", work)
    await again.launch()
    await asyncio.wait_for(work.entered.wait(), 20)
    assert work.begun == ["drain-1", "drain-1"]
    work.ends.set()
    await again.close()


async def test_a_live_controller_takes_over_what_a_dead_one_had_in_hand(database_url: str) -> None:
    work, url = Work(), url_of(database_url)
    dead = Durable(url, "fleet-1", work)
    await dead.launch()
    await dead.begin("drain-1")
    await asyncio.wait_for(work.entered.wait(), 20)
    await dead.close()
    work.entered.clear()
    live = Durable(url, "fleet-2", work)
    await live.launch()
    await live.take_over("drain-1")
    await asyncio.wait_for(work.entered.wait(), 20)
    assert work.begun == ["drain-1", "drain-1"]
    work.ends.set()
    await live.close()


async def test_who_is_fenced_off_does_not_end_the_operation_for_others(database_url: str) -> None:
    url, entered, count = url_of(database_url), asyncio.Event(), 0

    async def fenced(_operation: str) -> None:
        nonlocal count
        count += 1
        entered.set()
        raise Fenced("somebody else has it")

    old = Durable(url, "fleet-1", fenced)
    await old.launch()
    await old.begin("drain-1")
    await asyncio.wait_for(entered.wait(), 20)
    await old.close()
    entered.clear()
    again = Durable(url, "fleet-1", fenced)
    await again.launch()
    await asyncio.wait_for(entered.wait(), 20)
    await again.close()
    assert count == 2


async def test_a_stop_while_an_operation_is_being_taken_from_the_queue_leaves_it_for_the_next_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work, url = Work(), url_of(database_url)
    taken, loop = asyncio.Event(), asyncio.get_running_loop()

    def slowly(instance: DBOS, *row: Any) -> Any:
        loop.call_soon_threadsafe(taken.set)
        # Until the loop that it is to be started in is closed, which is what a stop must not do meanwhile.
        until, workflows = time.monotonic() + 2, instance._background_event_loop._loop
        assert workflows is not None
        while not workflows.is_closed() and time.monotonic() < until:
            time.sleep(0.01)
        return execute_dequeued_workflow(instance, *row)

    first = Durable(url, "fleet-1", work)
    logging.getLogger("dbos").addHandler(caplog.handler)
    await first.launch()
    with monkeypatch.context() as patched:
        patched.setattr("dbos._queue.execute_dequeued_workflow", slowly)
        await first.begin("drain-1")
        await asyncio.wait_for(taken.wait(), 20)
        await first.close()
    logging.getLogger("dbos").removeHandler(caplog.handler)
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []
    assert work.begun == []
    again = Durable(url, "fleet-1", work)
    await again.launch()
    await asyncio.wait_for(work.entered.wait(), 20)
    assert work.begun == ["drain-1"]
    work.ends.set()
    await again.close()
