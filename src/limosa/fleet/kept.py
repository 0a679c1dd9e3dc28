"""Answers that are dear to find: found once for all who ask meanwhile, and given again for some seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """One such answer.

    Args:
        find: finds it.
        seconds: for which it is given again.
        beside: give the old answer while a new one is looked for, so that only the first caller waits. A search that
            fails is then told to whoever asks next.
    """

    def __init__(self, find: Callable[[], Awaitable[T]], seconds: float, *, beside: bool = False) -> None:
        self._find = find
        self._seconds = seconds
        self._beside = beside
        self._known: tuple[T] | None = None
        self._until = 0.0
        self._finding: asyncio.Task[T] | None = None
        self._failure: Exception | None = None

    async def get(self) -> T:
        """The answer. Raises what finding it raises; then the next one who asks has it looked for anew."""
        if (failure := self._failure) is not None:
            self._failure = None
            raise failure
        old = self._known is None or asyncio.get_running_loop().time() >= self._until
        if old and self._finding is None:
            self._finding = asyncio.create_task(self._look(), name="an answer that is kept")
        if self._known is not None and (self._beside or not old):
            return self._known[0]
        assert self._finding is not None
        return await asyncio.shield(self._finding)

    async def close(self) -> None:
        """Look no further."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.gather(self._finding, return_exceptions=True)

    async def _look(self) -> T:
        try:
            found = await self._find()
        except Exception as error:
            if not self._beside or self._known is None:
                raise
            self._failure = error
            return self._known[0]
        finally:
            self._finding = None
        self._known, self._until = (found,), asyncio.get_running_loop().time() + self._seconds
        return found
