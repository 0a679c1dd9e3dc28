"""Following a move on a terminal or in a pipe, and Ctrl-C while it lasts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from limosa.cli.view import History, Line, PlainView, lines
from limosa.errors import LimosaError
from limosa.wire.moves import MoveStatus

if TYPE_CHECKING:
    from rich.text import Text

    from limosa.cli.client import AgentClient

_COLOURS = {"": "", "dim": "dim", "good": "green", "bad": "bold red", "now": "cyan", "name": "bold"}


class LookLater(LimosaError):
    """Somebody stopped watching; the move goes on."""

    code = "look-later"
    exit_status = 75


class Screen(Protocol):
    """Where statuses are drawn."""

    def draw(self, status: MoveStatus) -> None:
        """Show the latest status."""


class LiveScreen:
    """A view that is drawn over itself, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._status: MoveStatus | None = None
        self._history = History()
        self._heard = time.monotonic()
        # The view goes to standard error, so that the report alone is on standard output.
        console = Console(stderr=True, highlight=False, soft_wrap=False)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def draw(self, status: MoveStatus) -> None:
        """Show the latest status; the clock and silence are drawn anew meanwhile."""
        self._status, self._heard = status, time.monotonic()
        self._history.add(status)
        self._live.refresh()

    def _render(self) -> Text:
        from rich.text import Text

        if self._status is None:
            return Text("")
        silent_for = time.monotonic() - self._heard
        return Text("\n").join(_rich(line) for line in lines(self._status, self._history, silent_for))


def _rich(line: Line) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    for span in line:
        text.append(span.text, _COLOURS[span.style] or None)
    return text


class PlainScreen:
    """Lines as things change, on standard error."""

    def __init__(self) -> None:
        self._view = PlainView()

    def draw(self, status: MoveStatus) -> None:
        """Print what is new."""
        for line in self._view.next(status):
            click.echo(line, err=True)


class JsonScreen:
    """Every status as one line of JSON on standard output, or none at all."""

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def draw(self, status: MoveStatus) -> None:
        """Print the status if every one is wanted, or if it is the last."""
        import msgspec

        if self._every or status.state.over:
            click.echo(msgspec.json.encode(status))


@contextmanager
def screen_for(*, as_json: bool, every: bool = False) -> Iterator[Screen]:
    """The screen that fits where the output goes."""
    if as_json:
        yield JsonScreen(every=every)
    elif sys.stderr.isatty():
        with LiveScreen() as live:
            yield live
    else:
        yield PlainScreen()


def follow(agent: AgentClient, move: str, screen: Screen, *, abort_on_interrupt: bool) -> MoveStatus:
    """Draw a move until it is over.

    The first Ctrl-C asks for an abort and goes on watching for its answer, because an abort before commit
    rolls back and one after it comes too late; the second one leaves the move to itself.

    Raises:
        LookLater: somebody stopped watching before the end.
        LimosaError: the agent's, or that it is gone.
    """
    asked = not abort_on_interrupt
    while True:
        try:
            return _to_the_end(agent, move, screen)
        except KeyboardInterrupt:
            if asked:
                raise LookLater(
                    f"move {move} goes on without being watched"
                    + (", its abort was asked for" if abort_on_interrupt else ""),
                    remedy=f"limosa watch {move}",
                ) from None
            asked = True
            click.echo("asking for an abort, waiting for its answer (Ctrl-C again: leave it alone) …", err=True)
            agent.ask_abort(move)


def _to_the_end(agent: AgentClient, move: str, screen: Screen) -> MoveStatus:
    status = None
    for status in agent.events(move):
        screen.draw(status)
    if status is None:
        return agent.move(move)
    return status
