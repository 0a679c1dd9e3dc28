"""Finished moves, one by one and by week. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from markupsafe import Markup

from limosa.history.bars import causes_plot, spread_plot
from limosa.history.canvas import milliseconds_text, seconds_text
from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.table import Choice, choices
from limosa.web.views.states import Sign, of_move
from limosa.wire.history import Distribution, HistoryPage, PastMove, Week
from limosa.wire.moves import MoveState

WEEKS = 12
"""Weeks that are shown beside each other."""
PAGE = 100
OUTCOMES = (MoveState.COMPLETED, MoveState.FAILED, MoveState.ABORTED, MoveState.BLOCKED)


@dataclass(frozen=True, slots=True)
class PastRow:
    """One finished move."""

    id: str
    href: str
    guest: str
    guest_href: str
    source: str
    source_href: str
    destination: str
    destination_href: str
    sign: Sign
    why: str
    ended: words.Moment
    took: str
    blackout: str
    sent: str
    operation: str
    operation_href: str


@dataclass(frozen=True, slots=True)
class WeekRow:
    """One week."""

    name: str
    href: str
    chosen: bool
    moves: str
    completed: str
    share: float | None
    p50: str
    p99: str
    sent: str
    freed: str
    energy: str
    money: str


@dataclass(frozen=True, slots=True)
class Past:
    """The page."""

    empty: bool
    week: str
    causes: Markup
    blackout: Markup
    total: Markup
    facts: tuple[tuple[str, str], ...]
    weeks: tuple[WeekRow, ...]
    trend: str
    """Moves and pauses by week, for a plot: JSON; empty where there is one week only."""
    rows: tuple[PastRow, ...]
    outcomes: tuple[Choice, ...]
    filters: tuple[tuple[str, str], ...]
    """What only is shown, besides the outcome."""
    all: str
    next: str


def past(weeks: Sequence[Week], chosen: Week, page: HistoryPage, query: Query, now: float) -> Past:
    """Finished moves.

    Args:
        weeks: the latest ones, latest first, as GET /v1/history/weeks says them.
        chosen: the week of the figures.
        page: moves, as GET /v1/history says them.
        query: `week`, `outcome`, `guest`, `host`, `operation`, `after`.
        now: seconds since 1970.
    """
    options = (("", "all"), *((str(state), str(state)) for state in OUTCOMES))
    return Past(
        empty=not any(week.moves for week in weeks) and not page.items,
        week=chosen.week,
        # Plots escape what they are given by themselves.
        causes=Markup(causes_plot(chosen.causes) if chosen.causes else ""),  # noqa: S704
        blackout=_spread("blackout", "Pauses of the week's moves", chosen.blackout_ms),
        total=_spread("total", "How long moves took", chosen.total_seconds),
        facts=_facts(chosen),
        weeks=tuple(_week(week, chosen.week, query) for week in _since_the_first(weeks)),
        trend=_trend(weeks),
        rows=tuple(_row(move, now) for move in page.items),
        outcomes=choices("outcome", options, "/history", {**query, "after": ""}),
        filters=tuple((name, query[name]) for name in ("guest", "host", "operation") if query.get(name)),
        all=address("/history", query, guest="", host="", operation="", after=""),
        next=address("/history", query, after=page.next) if page.next else "",
    )


def _since_the_first(weeks: Sequence[Week]) -> Sequence[Week]:
    """Without the empty weeks before the first move."""
    last = max((place for place, week in enumerate(weeks) if week.moves), default=0)
    return weeks[: last + 1]


def _spread(key: str, title: str, spread: Distribution | None) -> Markup:
    said = seconds_text if key == "total" else milliseconds_text
    return Markup(spread_plot(key, title, spread, said) if spread else "")  # noqa: S704


def _facts(week: Week) -> tuple[tuple[str, str], ...]:
    pauses = week.blackout_ms
    facts = {
        "moves": f"{week.moves:,}, {week.completed:,} completed",
        "pause, half of them at most": words.milliseconds(pauses.p50) if pauses else "",
        "pause, 99 of 100 at most": words.milliseconds(pauses.p99) if pauses else "",
        "longest pause": words.milliseconds(pauses.largest) if pauses else "",
        "RAM sent": words.size(week.ram_bytes),
        "disks sent": words.size(week.disk_bytes),
        "guests were moving for": f"{words.lasting(week.guest_hours * 3600)}, all together",
        "hosts stood empty for": f"{week.hosts_freed_hours:,.0f} h" if week.freed else "",
        "saved": _energy(week.watt_hours) if week.watt_hours else "",
        "saved money": f"{week.money:,.2f}" if week.money else "",
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _energy(watt_hours: float) -> str:
    return f"{watt_hours:,.0f} Wh" if watt_hours < 10_000 else f"{watt_hours / 1000:,.1f} kWh"


def _week(week: Week, chosen: str, query: Query) -> WeekRow:
    pauses = week.blackout_ms
    return WeekRow(
        name=week.week,
        href=address("/history", query, week=week.week, after=""),
        chosen=week.week == chosen,
        moves=f"{week.moves:,}",
        completed=words.percent(week.completed / week.moves) if week.moves else words.NONE,
        share=week.completed / week.moves if week.moves else None,
        p50=words.milliseconds(pauses.p50 if pauses else None),
        p99=words.milliseconds(pauses.p99 if pauses else None),
        sent=words.size(week.ram_bytes + week.disk_bytes) if week.moves else words.NONE,
        freed=f"{week.hosts_freed_hours:,.0f} h" if week.freed else words.NONE,
        energy=_energy(week.watt_hours) if week.watt_hours else words.NONE,
        money=f"{week.money:,.2f}" if week.money else words.NONE,
    )


def _trend(weeks: Sequence[Week]) -> str:
    known = [week for week in reversed(weeks) if week.blackout_ms is not None]
    if len(known) < 2:
        return ""
    spreads = [week.blackout_ms for week in known if week.blackout_ms is not None]
    told = {
        "x": "week",
        "y": "pause, ms",
        "time": True,
        "series": ["half at most", "99 of 100 at most"],
        "data": [
            [week.begins for week in known],
            [spread.p50 for spread in spreads],
            [spread.p99 for spread in spreads],
        ],
    }
    return msgspec.json.encode(told).decode()


def _row(move: PastMove, now: float) -> PastRow:
    return PastRow(
        id=move.id,
        href=path("moves", move.id),
        guest=move.guest,
        guest_href=path("guests", move.uuid or move.guest),
        source=move.source,
        source_href=path("hosts", move.source),
        destination=move.destination,
        destination_href=path("hosts", move.destination),
        sign=of_move(move.state),
        why=move.what,
        ended=words.moment(move.ended, now),
        took=words.lasting(move.seconds),
        blackout=words.milliseconds(move.blackout_ms),
        sent=words.size(move.ram_bytes + move.disk_bytes) if move.ram_bytes + move.disk_bytes else words.NONE,
        operation=move.operation,
        operation_href=path("operations", move.operation) if move.operation else "",
    )


def outcome_asked(query: Query) -> MoveState | None:
    """The outcome that is asked for; None for all, and for what is none."""
    return next((state for state in OUTCOMES if state == query.get("outcome")), None)
