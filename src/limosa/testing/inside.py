"""A dashboard in a thread of this process: a test changes what it shows, and sees from within what it served."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from limosa.agent.config import Endpoint
from limosa.fleet.controller import Controller
from limosa.web.controller.simulated import bound, server_of
from limosa.wire.fleet import Role

T = TypeVar("T")

Running = Callable[[], AbstractAsyncContextManager[tuple[Controller, Mapping[Role, str]]]]
"""Makes a controller that runs, and the words of its tokens."""
PATIENCE = 120.0
"""Seconds that one thing may take in there."""


@dataclass(frozen=True, slots=True)
class Inside:
    """A dashboard that is served.

    Attributes:
        url: where, with a slash at the end.
        tokens: the word of a token of each role.
        controller: to be touched in its own loop only.
    """

    url: str
    tokens: Mapping[Role, str]
    controller: Controller
    _loop: asyncio.AbstractEventLoop
    _over: asyncio.Event
    _held: dict[str, asyncio.Event]

    def do(self, deed: Coroutine[Any, Any, T]) -> T:
        """Have something done in there; returns when it is. Raises what it raises."""
        return asyncio.run_coroutine_threadsafe(deed, self._loop).result(PATIENCE)

    @contextmanager
    def holding(self, path: str) -> Iterator[Callable[[], None]]:
        """Until the block is left, or what it is given is called, no request for this path is answered."""
        gate = self._held[path] = asyncio.Event()

        def let_go() -> None:
            self._loop.call_soon_threadsafe(gate.set)

        try:
            yield let_go
        finally:
            let_go()
            del self._held[path]

    def end(self) -> None:
        """Serve no longer."""
        self._loop.call_soon_threadsafe(self._over.set)


@contextmanager
def inside(running: Running) -> Iterator[Inside]:
    """Serve a controller's dashboard on loopback until the block is left. Raises what keeps it from running."""
    told: Future[Inside] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(running, told)), name="dashboard")
    thread.start()
    try:
        made = told.result(PATIENCE)
        try:
            yield made
        finally:
            made.end()
    finally:
        thread.join()


async def _serve(running: Running, told: "Future[Inside]") -> None:
    try:
        async with running() as (controller, tokens):
            with bound(Endpoint("127.0.0.1", 0)) as listening:
                server, over, held = server_of(controller), asyncio.Event(), dict[str, asyncio.Event]()
                server.config.app = _gated(server.config.app, held)
                serving = asyncio.create_task(server.serve(sockets=[listening]))
                url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
                told.set_result(Inside(url, tokens, controller, asyncio.get_running_loop(), over, held))
                await over.wait()
                server.should_exit = True
                await serving
    except Exception as error:
        if told.done():
            raise
        told.set_exception(error)


def _gated(app: Any, held: Mapping[str, asyncio.Event]) -> Callable[[Any, Any, Any], Coroutine[Any, Any, None]]:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if (gate := held.get(scope.get("path", ""))) is not None:
            await gate.wait()
        await app(scope, receive, send)

    return answer
