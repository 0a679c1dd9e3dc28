"""Operations of a fleet as pages to read: the plan before, the list of what is left after. Pure.

Times are in seconds since 1970, or as they are named.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from limosa.cli.table import pairs, table
from limosa.errors import Blocked, LimosaError, MoveAborted, MoveFailed, PartlyDone
from limosa.units import format_count, format_duration, format_rate, format_size
from limosa.wire.fleet import Forecast, Item, ItemState, LeftGuest, LimitsAsked, Operation, OperationKind, Phase
from limosa.wire.moves import MoveState

SHOWN = 40
"""Lines of a list before the rest is only counted; --json has all of them."""
NAMED = 4
"""Hosts that are named before the rest is only counted."""


NOUNS = {
    OperationKind.DRAIN: "drain",
    OperationKind.RESTORE: "restore",
    OperationKind.REBALANCE: "rebalancing",
    OperationKind.CONSOLIDATE: "consolidation",
    OperationKind.MOVE: "move",
}


def title(operation: Operation) -> str:
    """`drain of a, b`: what it is, and what it is about."""
    noun = NOUNS[operation.kind]
    match operation.kind:
        case OperationKind.MOVE:
            named = [*(item.name for item in operation.items), *(left.name for left in operation.left)]
            names = few(dict.fromkeys(named))
            return f"{noun} of {names}" if names else noun
        case OperationKind.CONSOLIDATE if operation.hosts:
            return f"{noun} that frees {few(operation.hosts)}"
        case _:
            return f"{noun} of {few(operation.hosts) or 'the fleet'}"


def standing(operation: Operation) -> tuple[Item, ...]:
    """One item for each guest: of one that was planned again, the later."""
    return tuple({item.guest: item for item in operation.items}.values())


def few(names: Iterable[str]) -> str:
    """The names, and a number where they are many."""
    known = list(names)
    more = len(known) - NAMED
    return ", ".join(known) if more <= 1 else f"{', '.join(known[:NAMED])} and {more} more"


def guests(number: int) -> str:
    """`1 guest`, `2 guests`."""
    return format_count(number, "guest")


def plan_page(operation: Operation, now: float) -> str:
    """What an operation would do: its moves, what it takes and frees, and who cannot move.

    Args:
        operation: as planned.
        now: when it would begin.
    """
    parts = [f"{title(operation)}: {_verdict(operation)}"]
    if operation.items:
        parts.append(_moves(operation.items))
    if operation.items or operation.forecast.notes:
        parts.append(pairs(_forecast(operation, now)))
    if operation.left:
        parts.append(f"cannot move: {guests(len(operation.left))}\n\n{left_table(operation.left)}")
    return "\n\n".join(parts)


def _verdict(operation: Operation) -> str:
    moving, left = len(operation.items), len(operation.left)
    if not moving and not left:
        return "there is no guest to move"
    if not moving:
        return f"no guest can move, {format_count(left, 'stays', 'stay')}"
    words = f"{guests(moving)} to move"
    return f"{words}, {left} cannot" if left else words


def _moves(items: Sequence[Item]) -> str:
    rows = [
        (
            item.name,
            item.source,
            item.destination,
            format_size(item.expected_bytes),
            "" if item.expected_end is None else f"+{format_duration(item.expected_end)}",
            _why(item, items),
        )
        for item in items[:SHOWN]
    ]
    heads = ("GUEST", "FROM", "TO", "SIZE", "DONE", "WHY")
    return table(heads, rows, right=("SIZE", "DONE"), indent="  ") + _rest(len(items), "moves")


def _rest(number: int, of: str) -> str:
    return f"\n  and {number - SHOWN} more {of} (--json lists all)" if number > SHOWN else ""


def _why(item: Item, items: Sequence[Item]) -> str:
    after = few(dict.fromkeys(items[place].name for place in item.after))
    return ", ".join(word for word in (item.role, f"after {after}" if after else "") if word)


def _forecast(operation: Operation, now: float) -> Iterator[tuple[str, str]]:
    forecast, items = operation.forecast, operation.items
    if items and forecast.seconds is not None:
        length = f"{format_size(forecast.bytes)} in {format_duration(forecast.seconds)}"
        yield "predicted", f"{length}: done at {time_of_day(now + forecast.seconds, now)} if it begins now"
    if waits := sum(bool(item.after) for item in items):
        yield "in order", f"{format_count(waits, 'of the moves waits', 'of the moves wait')} for others"
    if forecast.hosts_freed:
        yield "frees", few(forecast.hosts_freed) + _price(forecast)
    if limits := limit_words(operation.limits):
        yield "limits", limits
    for note in forecast.notes:
        yield "note", note


def _price(forecast: Forecast) -> str:
    told = [f"{forecast.watts:.0f} W"] if forecast.watts else []
    told += [f"{forecast.per_hour:.2f} an hour"] if forecast.per_hour else []
    return f" ({', '.join(told)})" if told else ""


def limit_words(limits: LimitsAsked) -> str:
    """The limits that were asked for; empty where the controller's own hold."""
    retries = "more attempt" if limits.retries == 1 else "more attempts"
    told = [
        (limits.moves_in, "into a host at once"),
        (limits.moves_out, "out of a host at once"),
        (limits.moves, "at once"),
        (limits.retries, f"{retries} at a guest"),
    ]
    words = [f"{number} {what}" for number, what in told if number is not None]
    words += [format_rate(limits.bandwidth)] if limits.bandwidth is not None else []
    return ", ".join(words)


def time_of_day(at: float, now: float) -> str:
    """`16:42`, with the date where that is another day; local time."""
    then, today = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def left_table(left: Iterable[LeftGuest]) -> str:
    """Guests that cannot go, and why: one line for each reason, with the hosts that give it."""
    rows = []
    for each in left:
        name, host = each.name, each.host
        for why, hosts in _reasons(each):
            rows.append((name, host, why, few(hosts)))
            name = host = ""
    shown = table(("LEFT", "ON", "WHY", "HOSTS"), rows[:SHOWN], indent="  ")
    return shown + _rest(len(rows), "reasons")


def _reasons(left: LeftGuest) -> list[tuple[str, list[str]]]:
    said: dict[str, list[str]] = {}
    for host, why in left.hosts.items():
        if host != left.host:  # that it runs there is no news
            said.setdefault(why, []).append(host)
    return list(said.items()) or [(left.why, [])]


def final_page(operation: Operation) -> str:
    """What an operation came to; what is left, and why."""
    parts = [f"{title(operation)}: {operation.phase}, {counts(operation)}"]
    if done := [item for item in standing(operation) if item.state is ItemState.DONE]:
        parts.append(pairs(_measured(operation, done)))
    if table_ := remaining(operation):
        parts.append(table_)
    return "\n\n".join(parts)


def counts(operation: Operation) -> str:
    """`5 of 12 guests moved, 2 failed`."""
    states = Counter(item.state for item in standing(operation))
    words = [f"{states[ItemState.DONE]} of {guests(states.total())} moved"]
    named = (ItemState.MOVING, ItemState.WAITING, ItemState.FAILED, ItemState.CANCELLED)
    words += [f"{states[state]} {state}" for state in named if states[state]]
    if operation.left:
        words.append(f"{len(operation.left)} could not move")
    return ", ".join(words)


def _measured(operation: Operation, done: Sequence[Item]) -> Iterator[tuple[str, str]]:
    if operation.began is not None and operation.ended is not None:
        predicted = operation.forecast.seconds
        beside = "" if predicted is None else f" (predicted {format_duration(predicted)})"
        yield "took", format_duration(operation.ended - operation.began) + beside
    yield "sent", format_size(sum(item.bytes for item in done))
    pauses = [item.blackout_ms for item in done if item.blackout_ms is not None]
    if pauses:
        yield "blackout", f"{max(pauses):.0f} ms at the longest"


def remaining(operation: Operation) -> str:
    """Guests that are not where they should be, and why; empty where there is none."""
    parts = []
    stay = [item for item in standing(operation) if item.over and item.state is not ItemState.DONE]
    if stay:
        rows = [(item.name, item.source, item.destination, _end(item), item.remedy) for item in stay[:SHOWN]]
        heads = ("NOT MOVED", "ON", "TO", "WHY", "TO DO")
        parts.append(table(heads, rows, indent="  ") + _rest(len(stay), "guests"))
    if operation.left:
        parts.append(left_table(operation.left))
    return "\n\n".join(parts)


def _end(item: Item) -> str:
    if item.state is ItemState.CANCELLED:
        return "cancelled"
    attempts = f" ({format_count(item.attempts, 'attempt')})" if item.attempts > 1 else ""
    return (item.said or "failed") + attempts


def stuck(planned: Operation) -> Blocked | None:
    """The error of a plan that would do nothing: guests should move and none can, and no host is empty already."""
    if planned.items or not planned.left or _empty_already(planned):
        return None
    return Blocked(
        f"{title(planned)}: no guest can move",
        remedy="mend one of the reasons; `limosa host set HOST --state maintenance` closes a host as it is",
    )


def _empty_already(planned: Operation) -> bool:
    """Whether a host that is to be drained has no guest."""
    return planned.kind is OperationKind.DRAIN and not set(planned.hosts) <= {left.host for left in planned.left}


def failure_of(operation: Operation) -> LimosaError | None:
    """The error of an operation that is over; None where it did all."""
    match operation.phase:
        case Phase.PARTLY if operation.kind is OperationKind.MOVE and len(operation.items) == 1:
            return _move_failure(operation.items[0])
        case Phase.PARTLY:
            remedy = f"mend what is said of each; {_again(operation)}"
            return PartlyDone(f"{title(operation)} is partly done: {counts(operation)}", remedy=remedy)
        case Phase.CANCELLED:
            return MoveAborted(f"{title(operation)} was cancelled: {counts(operation)}", remedy=_again(operation))
        case _:
            return None


def _move_failure(item: Item) -> LimosaError:
    kind = Blocked if item.move_state is MoveState.BLOCKED else MoveFailed
    what = f"{item.name} did not move to {item.destination}: {item.said or 'it failed'}"
    return kind(what, remedy=item.remedy or f"look at {item.source}'s agent: limosa doctor, there")


def _again(operation: Operation) -> str:
    match operation.kind:
        case OperationKind.MOVE:
            return "order what is left again"
        case OperationKind.DRAIN | OperationKind.RESTORE:
            words = " ".join((operation.kind, *operation.hosts))
        case _:
            words = str(operation.kind)
    return f"`limosa {words}` goes on with those that are left"


def place_of(operation: Operation) -> str:
    """Where the guests of an operation that is over run, as far as their agents said."""
    done = sum(item.state is ItemState.DONE for item in standing(operation))
    told = f"{guests(done)} at the destination, the others where they were" if done else "every guest where it was"
    unsure = [item.name for item in standing(operation) if item.state is ItemState.FAILED and not _at_rest(item)]
    return f"{told}; of {few(unsure)} no agent said so: see limosa ls" if unsure else told


def _at_rest(item: Item) -> bool:
    return item.attempts == 0 or (item.move_state is not None and item.move_state.over)


def operations_table(operations: Iterable[Operation], now: float) -> str:
    """What `limosa operations` prints."""
    rows = [
        (
            each.id,
            str(each.phase),
            title(each),
            f"{sum(item.state is ItemState.DONE for item in standing(each))}/{len(standing(each))}",
            str(sum(item.state is ItemState.FAILED for item in standing(each)) + len(each.left)),
            time_of_day(each.created, now),
            each.who,
            each.why,
        )
        for each in operations
    ]
    return table(("ID", "PHASE", "WHAT", "MOVED", "LEFT", "FROM", "WHO", "WHY"), rows, right=("MOVED", "LEFT"))


def operation_page(operation: Operation, now: float) -> str:
    """What `limosa operations show` prints."""
    if operation.phase is Phase.PLANNED:
        head = f"{operation.id} waits for approval: limosa operations approve {operation.id}"
        return f"{head}\n\n{plan_page(operation, now)}"
    rows = [
        ("id", operation.id),
        ("asked by", f"{operation.who} at {time_of_day(operation.created, now)}" + _because(operation)),
        *([("began", time_of_day(operation.began, now))] if operation.began else []),
        *([("ended", time_of_day(operation.ended, now))] if operation.ended else []),
        *([("limits", words)] if (words := limit_words(operation.limits)) else []),
    ]
    moves = [
        (item.name, item.source, item.destination, str(item.state), item.move_state or "", item.said)
        for item in operation.items[:SHOWN]
    ]
    parts = [final_page(operation), pairs(rows)]
    if moves:
        heads = ("GUEST", "FROM", "TO", "STATE", "MOVE", "SAID")
        parts.append(table(heads, moves, indent="  ") + _rest(len(operation.items), "moves"))
    return "\n\n".join(parts)


def _because(operation: Operation) -> str:
    return f": {operation.why}" if operation.why else ""
