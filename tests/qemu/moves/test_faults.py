"""A fixed choice of the fault matrix, one cell for each fault, spread over the steps; `make faults` runs all cells."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from limosa.lab.faults_bench import Bench, bench
from limosa.lab.faults_main import steps_of
from limosa.lab.faults_matrix import Fault, cells, sample
from limosa.lab.faults_run import run_cell

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

TURNS = 1
"""Cells for each fault. A third of the matrix would be 19."""


class Benches:
    """One bench for all cells, built anew after a cell that failed."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._built = 0
        self.steps: tuple[str, ...] = ()
        self._bench: Bench | None = None

    async def bench(self) -> Bench:
        if self._bench is None:
            self._built += 1
            name = f"t-faults-{os.getpid()}-{self._built}"
            self._bench = await self._stack.enter_async_context(bench(name))
            self.steps = await steps_of(self._bench)
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


@pytest.mark.parametrize("turn", range(TURNS * len(Fault)), ids=[str(fault) for fault in Fault] * TURNS)
async def test_whatever_breaks_one_guest_runs_and_nothing_is_left(benches: Benches, turn: int) -> None:
    made = await benches.bench()
    cell = sample(cells(benches.steps), TURNS * len(Fault))[turn]
    result = await run_cell(made, cell, benches.steps)
    if result.wrong:
        await benches.spoiled()
    assert not result.wrong, result
