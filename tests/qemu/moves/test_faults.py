"""A fixed third of the fault matrix, on labs that stand side by side; `make faults` runs all cells."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from limosa.lab.faults_bench import Bench, bench
from limosa.lab.faults_matrix import Cell, third
from limosa.lab.faults_run import run_cell

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

PARTS = 6
"""The cells go to workers in so many parts: few labs are built, and no worker is left alone with them at the end."""


class Benches:
    """One bench for all cells, built anew after a cell that failed."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._built = 0
        self._bench: Bench | None = None

    async def bench(self) -> Bench:
        if self._bench is None:
            self._built += 1
            name = f"t-faults-{os.getpid()}-{self._built}"
            self._bench = await self._stack.enter_async_context(bench(name))
        return self._bench

    async def spoiled(self) -> None:
        await self._stack.aclose()
        self._bench = None


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def benches() -> AsyncIterator[Benches]:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    async with AsyncExitStack() as stack:
        yield Benches(stack)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=cell.name, marks=pytest.mark.xdist_group(f"faults {number % PARTS}"))
        for number, cell in enumerate(third())
    ],
)
async def test_whatever_breaks_one_guest_runs_and_nothing_is_left(benches: Benches, cell: Cell) -> None:
    made = await benches.bench()
    wrong: tuple[str, ...] = ("it did not come to an end",)
    try:
        result = await run_cell(made, cell)
        wrong = result.wrong
    finally:
        if wrong:
            await benches.spoiled()
    if wrong:
        pytest.fail("\n".join((*wrong, f"the guest: {result.outcome}; the move: {result.state}; {result.said}")))
