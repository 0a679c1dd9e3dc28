"""Operations on DBOS: begun once, begun again after a crash, taken over from a controller that is dead.

DBOS keeps which operations are to run, and by whom; how far one is lies in our own table, saved before each order
(docs/decisions/0003). So its workflow is one step: to carry the operation on from where the table says it is.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from dbos import DBOS, DBOSConfig, SetWorkflowID
from sqlalchemy.engine import URL

from limosa.errors import Fenced

QUEUE = "limosa-operations"
VERSION = "1"
"""Fixed: DBOS resumes only workflows of its own version, and ours is one step that any version can begin again."""
QUEUE_THREADS = "queue-worker-"
"""How DBOS names the threads that take workflows from its queues, one for each (dbos 3.4, `queue_thread`)."""
STOP_SECONDS = 10.0
"""For which a stop waits for such a thread, whose database may not answer."""

Work = Callable[[str], Awaitable[object]]

_log = structlog.get_logger()


class Durable:
    """The operations of one process. Use it from the loop it is made in.

    Args:
        url: the controller's database; on SQLite DBOS keeps its tables in a file of its own beside it.
        controller: this controller's name: after a crash it takes up what it had in hand.
        work: carries an operation on, from wherever it is, to its end.
    """

    def __init__(self, url: URL, controller: str, work: Work) -> None:
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Task[object]] = set()
        self._closing = False
        config = DBOSConfig(
            name="limosa",
            system_database_url=_system_url(url),
            application_version=VERSION,
            executor_id=controller,
            log_level="WARNING",
            enable_otlp=False,
        )
        logging.getLogger("dbos").propagate = False
        self._dbos = DBOS(config=config)
        self._workflow = self._register()

    def _register(self) -> Callable[[str], Coroutine[Any, Any, None]]:
        @DBOS.step(name="carry on")
        async def carry_on(operation: str) -> None:
            # DBOS runs workflows in a loop of its own; database and peer links live in ours.
            future = asyncio.run_coroutine_threadsafe(self._tracked(operation), self._loop)
            await asyncio.wrap_future(future)

        @DBOS.workflow(name="operation", max_recovery_attempts=None)
        async def operation_workflow(operation: str) -> None:
            await carry_on(operation)

        return operation_workflow

    # DBOS's synchronous calls, in threads of ours: its asynchronous ones make its own pool of threads the loop's, and
    # DBOS.destroy shuts that down under whoever else uses it.

    async def launch(self) -> None:
        """Begin; what this controller had in hand when it died goes on."""
        await asyncio.to_thread(DBOS.launch)
        await asyncio.to_thread(DBOS.register_queue, QUEUE, polling_interval_sec=0.5)

    async def close(self) -> None:
        """Stop; what is in hand stays in hand, and goes on where somebody launches again."""
        self._closing = True
        await asyncio.to_thread(self._take_nothing_more)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)

    def _take_nothing_more(self) -> None:
        """Wait until DBOS's queues hand out no more workflows.

        DBOS.destroy closes the loop that workflows run in before the threads that start them there have ended
        (dbos 3.4, `DBOS._destroy`): what is just being taken from a queue would be started in a closed loop.
        """
        for event in self._dbos.background_thread_stop_events:
            event.set()
        for thread in threading.enumerate():
            if thread.name.startswith(QUEUE_THREADS):
                thread.join(STOP_SECONDS)

    async def begin(self, operation: str) -> None:
        """Have an operation carried out; a second call does nothing."""
        with SetWorkflowID(operation):
            await asyncio.to_thread(DBOS.enqueue_workflow, QUEUE, self._workflow, operation)

    async def take_over(self, operation: str) -> None:
        """Carry on what a dead controller had in hand."""
        await asyncio.to_thread(DBOS.resume_workflow, operation, queue_name=QUEUE)

    async def _tracked(self, operation: str) -> None:
        if not self._closing and await self._ended(operation):
            return
        # Whatever ended here would be ended for DBOS: for whoever carries it on, or for the next start.
        await asyncio.Event().wait()

    async def _ended(self, operation: str) -> bool:
        """Carry an operation on; whether to its end."""
        task = asyncio.ensure_future(self._work(operation))
        self._running.add(task)
        try:
            await task
        except Fenced as fenced:
            _log.info("let go of an operation", operation=operation, why=fenced.what)
        except asyncio.CancelledError:
            _log.info("an operation stays in hand until the next start", operation=operation)
        else:
            return True
        finally:
            self._running.discard(task)
        return False


def _system_url(url: URL) -> str:
    """DBOS's own database: the same one, in a schema of its own; for SQLite a second file, which two writers need."""
    if url.get_backend_name() != "sqlite":
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    database = url.database or "controller.db"
    return f"sqlite:///{database.removesuffix('.db')}-dbos.db"
