"""Screens for what lasts, on a terminal or in a pipe; following a move on one, and Ctrl-C while it lasts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import click

from limosa.cli.failure import LookLater
from limosa.cli.printable import printable
from limosa.cli.view import Line, MoveView, PlainView
from limosa.wire.moves import MoveStatus

if TYPE_CHECKING:
    from rich.text import Text

    from limosa.cli.client import AgentClient

_COLOURS = {"": "", "dim": "dim", "good": "green", "bad": "bold red", "now": "cyan", "name": "bold"}


Told = TypeVar("Told")
Told_contra = TypeVar("Told_contra", contravariant=True)


class Screen(Protocol[Told_contra]):
    """Where what is told is drawn."""

    def draw(self, told: Told_contra) -> None:
        """Show the latest."""


class View(Protocol[Told_contra]):
    """What a live screen draws."""

    def add(self, told: Told_contra) -> None:
        """Take the latest."""

    def lines(self, silent_for: float) -> tuple[Line, ...]:
        """All of it, after so many seconds without a word."""


class News(Protocol[Told_contra]):
    """What a log is told."""

    def next(self, told: Told_contra) -> tuple[str, ...]:
        """Lines about what is new."""


class LiveScreen(Generic[Told]):
    """A view that is drawn over itself, on a terminal."""

    def __init__(self, view: View[Told]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._view = view
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

    def draw(self, told: Told) -> None:
        """Show the latest; the clock and silence are drawn anew meanwhile."""
        self._view.add(told)
        self._heard = time.monotonic()
        self._live.refresh()

    def _render(self) -> Text:
        from rich.text import Text

        return Text("\n").join(_rich(line) for line in self._view.lines(time.monotonic() - self._heard))


def _rich(line: Line) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis")
    for span in line:
        text.append(printable(span.text), _COLOURS[span.style] or None)
    return text


class PlainScreen(Generic[Told]):
    """Lines as things change, on standard error."""

    def __init__(self, news: News[Told]) -> None:
        self._news = news

    def draw(self, told: Told) -> None:
        """Print what is new."""
        for line in self._news.next(told):
            click.echo(printable(line), err=True)


class JsonScreen(Generic[Told]):
    """Each change as one line of JSON on standard output, or only the end."""

    def __init__(self, over: Callable[[Told], bool], *, every: bool) -> None:
        self._over = over
        self._every = every
        self._last: Told | None = None

    def draw(self, told: Told) -> None:
        """Print what is new if every change is wanted, or if it is the last."""
        import msgspec

        if told != self._last and (self._every or self._over(told)):
            click.echo(msgspec.json.encode(told))
        self._last = told


@contextmanager
def screen_for(*, as_json: bool, every: bool = False) -> Iterator[Screen[MoveStatus]]:
    """The screen for a move that fits where the output goes."""
    if as_json:
        yield JsonScreen(lambda status: status.state.over, every=every)
    elif sys.stderr.isatty():
        with LiveScreen(MoveView()) as live:
            yield live
    else:
        yield PlainScreen(PlainView())


def follow(agent: AgentClient, move: str, screen: Screen[MoveStatus], *, abort_on_interrupt: bool) -> MoveStatus:
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


def _to_the_end(agent: AgentClient, move: str, screen: Screen[MoveStatus]) -> MoveStatus:
    status = None
    for status in agent.events(move):
        screen.draw(status)
    if status is None:
        return agent.move(move)
    return status
