"""HTTP/1.1 with a limit to everything that a client may keep us waiting for.

uvicorn limits how long an idle connection is kept after a request, and nothing else: a request whose head or body
never ends, and an answer that nobody reads, stay for ever; and idle connections use up the process's files.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

SLOW_REQUEST = 20.0
"""Seconds in which a request must have come, head and body, from the moment it could begin."""
STUCK_ANSWER = 30.0
"""Seconds for which a client may leave what was sent to it unread."""
CONNECTIONS = 2000
"""Connections at a time; beyond, the one that has been idle for longest is closed for the new one."""


class Patient(H11Protocol):
    """One connection. Memory is bounded by h11 (head, 64 KiB) and by uvicorn's flow control both ways."""

    slow_request, stuck_answer, most = SLOW_REQUEST, STUCK_ANSWER, CONNECTIONS

    idle_since = 0.0
    """When it last began to wait for a request, on the loop's clock."""
    _deadline: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no answer is owed."""
        return self.conn.our_state not in {h11.SEND_RESPONSE, h11.SEND_BODY}

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request; make room where there are too many connections."""
        super().connection_made(transport)
        self.idle_since = self.loop.time()
        self._await_request()
        if len(self.connections) > self.most:
            self._close_idlest()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        super().data_received(data)
        self._await_request()

    def on_response_complete(self) -> None:
        """Be idle again. What is left of a refused request is read and dropped until its deadline."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read; give it some time."""
        super().pause_writing()
        self._call_off_stuck()
        self._stuck = self.loop.call_later(self.stuck_answer, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._call_off_stuck()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._call_off_deadline()
        self._call_off_stuck()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        """Have a deadline exactly while a request, or the rest of one, is due."""
        due = self.conn.their_state in {h11.IDLE, h11.SEND_BODY} and not self.transport.is_closing()
        if not due:
            self._call_off_deadline()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.slow_request, self.transport.abort)

    def _call_off_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _call_off_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _close_idlest(self) -> None:
        others = (each for each in self.connections if isinstance(each, Patient) and each is not self)
        idlest = min((each for each in others if each.idle), key=lambda each: each.idle_since, default=self)
        idlest.transport.abort()
