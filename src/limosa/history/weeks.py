"""Finished moves added up by ISO week, UTC. Pure.

Watt-hours and money are those of hosts that a consolidation emptied, for as long as they stayed empty: what they would
draw and cost if they ran. Whether somebody switched them off is not known here.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from limosa.errors import UsageError
from limosa.wire.history import Cause, Distribution, FreedHost, PastMove, Week
from limosa.wire.moves import MoveState

MILLISECONDS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0)
SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
"""Upper bounds of the classes in which pauses and total times are counted."""

HOUR, WEEK = 3600.0, 7 * 86400.0
_NAME = re.compile(r"(19[7-9]\d|[2-8]\d{3})-W(\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """A host that a consolidation emptied; seconds since 1970."""

    host: str
    operation: str
    since: float
    until: float | None
    """When it was put to use again; None while it is empty."""
    watts: float
    price_per_hour: float


def week_name(at: float) -> str:
    """The ISO week of a moment, such as `2026-W48`."""
    year, week, _ = datetime.fromtimestamp(at, UTC).isocalendar()
    return f"{year}-W{week:02}"


def week_begins(name: str) -> float:
    """Monday, 00:00 UTC, of a week.

    Raises:
        UsageError: there is no such week.
    """
    year, week = map(int, found.groups()) if (found := _NAME.fullmatch(name)) else (0, 0)
    try:
        monday = date.fromisocalendar(year, week, 1)
    except ValueError as error:
        raise UsageError(f"{name!r} is no week", remedy="write a week as 2026-W48") from error
    return datetime.combine(monday, time(), UTC).timestamp()


def weeks_back(now: float, count: int, latest: str = "") -> tuple[str, ...]:
    """Names of a week (empty: this one) and the ones before it, latest first. Raises UsageError as `week_begins`."""
    today = datetime.fromtimestamp(week_begins(latest) if latest else now, UTC)
    return tuple(week_name((today - timedelta(weeks=back)).timestamp()) for back in range(count))


def weeks(moves: Iterable[PastMove], freed: Sequence[Freed], names: Sequence[str], now: float) -> tuple[Week, ...]:
    """Add moves up.

    Args:
        moves: finished ones; each counts in the week of its end, and those of other weeks not at all.
        freed: hosts that consolidations emptied; each counts in every week that it was empty in.
        names: the weeks that are wanted, in their order; one without moves is there too.
        now: seconds since 1970; the future saves nothing yet.
    """
    ended: dict[str, list[PastMove]] = {name: [] for name in names}
    for move in moves:
        if (name := week_name(move.ended)) in ended:
            ended[name].append(move)
    return tuple(_week(name, ended[name], freed, now) for name in names)


def _week(name: str, moves: Sequence[PastMove], freed: Sequence[Freed], now: float) -> Week:
    begins = week_begins(name)
    completed = [move for move in moves if move.state is MoveState.COMPLETED]
    hosts = tuple(host for each in freed if (host := _freed(each, begins, now)) is not None)
    return Week(
        week=name,
        begins=begins,
        ends=begins + WEEK,
        moves=len(moves),
        causes=causes(moves),
        blackout_ms=distribution([m.blackout_ms for m in completed if m.blackout_ms is not None], MILLISECONDS),
        qemu_downtime_ms=distribution(
            [m.qemu_downtime_ms for m in completed if m.qemu_downtime_ms is not None], MILLISECONDS
        ),
        total_seconds=distribution([m.seconds for m in completed], SECONDS),
        ram_bytes=sum(move.ram_bytes for move in moves),
        disk_bytes=sum(move.disk_bytes for move in moves),
        guest_hours=sum(move.seconds for move in moves) / HOUR,
        freed=hosts,
        hosts_freed_hours=sum(host.hours for host in hosts),
        watt_hours=sum(host.watt_hours for host in hosts),
        money=sum(host.money for host in hosts),
    )


def _freed(each: Freed, begins: float, now: float) -> FreedHost | None:
    """As much of it as lies in a week; None if nothing does."""
    until = min(now if each.until is None else each.until, now, begins + WEEK)
    hours = (until - max(each.since, begins)) / HOUR
    if hours <= 0:
        return None
    return FreedHost(
        host=each.host,
        operation=each.operation,
        hours=hours,
        watt_hours=hours * each.watts,
        money=hours * each.price_per_hour,
        metered=each.watts > 0,
        priced=each.price_per_hour > 0,
    )


def causes(moves: Sequence[PastMove]) -> tuple[Cause, ...]:
    """How they ended, and why: completed ones first, then the most frequent."""
    latest = {(move.state, move.cause): move.what for move in sorted(moves, key=lambda move: move.ended)}
    counted = Counter((move.state, move.cause) for move in moves)
    order = sorted(counted, key=lambda each: (each[0] is not MoveState.COMPLETED, -counted[each], *each))
    return tuple(Cause(state=s, cause=c, count=counted[s, c], example=latest[s, c]) for s, c in order)


def distribution(values: Sequence[float], bounds: Sequence[float]) -> Distribution | None:
    """How values are spread over classes; None where there are none.

    Args:
        values: in any order.
        bounds: upper bounds of the classes, ascending; what is beyond all of them is counted last.
    """
    if not values:
        return None
    ordered = sorted(values)
    counts = [0] * (len(bounds) + 1)
    for value in ordered:
        counts[next((place for place, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    return Distribution(
        count=len(ordered),
        bounds=tuple(bounds),
        counts=tuple(counts),
        p50=_percentile(ordered, 50),
        p90=_percentile(ordered, 90),
        p99=_percentile(ordered, 99),
        largest=ordered[-1],
    )


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The nearest rank: the smallest value that at least so many percent do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
