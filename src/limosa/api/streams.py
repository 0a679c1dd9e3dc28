"""Server-sent events that end when their token does."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from litestar import Request
from litestar.datastructures import State
from litestar.response import ServerSentEvent, ServerSentEventMessage

from limosa.api.auth import Caller, still_known
from limosa.fleet.chronicle import PAGE

EVENTS = "text/event-stream"
SILENCE = 10.0
"""Seconds after which a stream without news says that it lives."""
RECHECK = 5.0
"""Seconds between two looks at whether the token of a stream still opens anything."""

News = AsyncIterator[list[ServerSentEventMessage]]
"""What is new at each look, often nothing; a source that ends ends the stream."""


def stream(request: Request[Caller, str, State], news: News, every: float) -> ServerSentEvent:
    """Tell the news to whoever asked, for as long as his token is known.

    Args:
        request: what asked for it.
        news: what is new, look by look.
        every: seconds between two looks.
    """
    return ServerSentEvent(_told(news, every, lambda: still_known(request)))


async def _told(
    news: News, every: float, allowed: Callable[[], Awaitable[bool]], now: Callable[[], float] = time.monotonic
) -> AsyncIterator[ServerSentEventMessage]:
    spoke = checked = now()
    async for messages in news:
        if now() - checked >= RECHECK:
            checked = now()
            if not await allowed():
                return
        for message in messages:
            spoke = now()
            yield message
        if now() - spoke >= SILENCE:
            spoke = now()
            yield ServerSentEventMessage(data=None, comment="alive")
        if len(messages) < PAGE:  # a full page has more behind it
            await asyncio.sleep(every)
