"""Answers that are found once for all who ask."""

import asyncio

import pytest

from limosa.fleet.kept import Kept


class Search:
    """Gives numbers, one for each search; waits until it is let, and fails where it is told to."""

    def __init__(self) -> None:
        self.number = 0
        self.fails = False
        self.let = asyncio.Event()
        self.let.set()

    async def __call__(self) -> int:
        self.number += 1
        number = self.number
        await self.let.wait()
        if self.fails:
            raise ValueError("a defect")
        return number


async def after(kept: Kept[int], old: int) -> int:
    """The first answer that is another one."""
    for _ in range(1000):
        if (found := await kept.get()) != old:
            return found
        await asyncio.sleep(0)
    raise AssertionError(old)


async def test_all_who_ask_meanwhile_and_soon_after_get_one_answer() -> None:
    kept = Kept(Search(), 3600)
    assert await asyncio.gather(*(kept.get() for _ in range(5))) == [1] * 5
    assert await kept.get() == 1


async def test_an_old_answer_is_found_anew() -> None:
    kept = Kept(Search(), 0)
    assert [await kept.get() for _ in range(3)] == [1, 2, 3]


async def test_beside_the_old_answer_is_given_until_there_is_a_new_one() -> None:
    search = Search()
    kept = Kept(search, 0, beside=True)
    assert await kept.get() == 1
    search.let.clear()
    assert [await kept.get() for _ in range(3)] == [1, 1, 1]
    await asyncio.sleep(0)
    assert search.number == 2, "one search for all of them"
    search.let.set()
    assert await after(kept, 1) == 2


async def test_a_failure_is_told_once_and_then_it_is_tried_anew() -> None:
    search = Search()
    kept = Kept(search, 0, beside=True)
    assert await kept.get() == 1
    search.fails = True
    with pytest.raises(ValueError, match="a defect"):
        await after(kept, 1)
    search.fails = False
    assert await after(kept, 1) > 1


async def test_a_failure_of_the_first_search_is_told_to_all_who_wait() -> None:
    search = Search()
    search.fails = True
    kept = Kept(search, 3600)
    found = await asyncio.gather(kept.get(), kept.get(), return_exceptions=True)
    assert [type(each) for each in found] == [ValueError] * 2
    search.fails = False
    assert await kept.get() == 2


async def test_a_caller_that_leaves_does_not_end_the_search_of_the_others() -> None:
    search = Search()
    search.let.clear()
    kept = Kept(search, 3600)
    leaves, stays = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    leaves.cancel()
    search.let.set()
    assert await stays == 1
