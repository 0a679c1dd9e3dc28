"""What a controller counts while it happens, for Prometheus; what it reads when it is asked is in `exposition.py`."""

import time
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from sqlalchemy.ext.asyncio import AsyncEngine

from limosa.agent.meters import CallMeters

LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: from a row of SQLite to a database that nobody can work with."""

_BEGAN = "limosa_began"


class Meters:
    """One controller's registry; nothing of it is global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.calls = CallMeters(self.registry)
        self.requests = Counter(
            "limosa_controller_http_requests",
            "Requests that were answered.",
            ("method", "code"),
            registry=self.registry,
        )
        self.answers = Histogram(
            "limosa_controller_http_answer_seconds",
            "Time to an answer; event streams are left out.",
            buckets=LATENCIES,
            registry=self.registry,
        )
        self.streams = Gauge(
            "limosa_controller_event_streams", "Clients that listen to events.", registry=self.registry
        )
        self._statements = Histogram(
            "limosa_controller_database_seconds",
            "Time of one statement.",
            buckets=LATENCIES,
            registry=self.registry,
        )
        self._failed = Counter("limosa_controller_database_errors", "Statements that failed.", registry=self.registry)

    def watch(self, engine: AsyncEngine) -> None:
        """Measure every statement of a database."""
        sa.event.listen(engine.sync_engine, "before_cursor_execute", self._before)
        sa.event.listen(engine.sync_engine, "after_cursor_execute", self._after)
        sa.event.listen(engine.sync_engine, "handle_error", self._error)

    def _before(self, connection: sa.Connection, *_statement: Any) -> None:
        connection.info[_BEGAN] = time.perf_counter()

    def _after(self, connection: sa.Connection, *_statement: Any) -> None:
        self._statements.observe(time.perf_counter() - connection.info.pop(_BEGAN))

    def _error(self, _context: sa.ExceptionContext) -> None:
        self._failed.inc()
