"""What the fleet's planners answer, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from limosa.cli.table import pairs, table
from limosa.fleet.constraints import Left
from limosa.fleet.inventory import Inventory
from limosa.fleet.plan import Plan, Price, Role
from limosa.fleet.simulate import Outcome
from limosa.units import format_count, format_duration, format_size

SHOWN = 12
"""Lines of a list before the rest is only counted."""


def simulation_page(fleet: Inventory, plans: Sequence[Plan], outcome: Outcome) -> str:
    """What `limosa fleet simulate` prints."""
    parts = [f"{format_count(len(fleet.hosts), 'host')}, {format_count(len(fleet.guests), 'guest')}"]
    parts += (plan_page(plan, number if len(plans) > 1 else None) for number, plan in enumerate(plans, 1))
    parts.append("played through\n" + pairs(_went(outcome)))
    left = [*(line for plan in plans for line in _left(plan.left)), *_unmoved(outcome)]
    if left:
        parts.append(table(("LEFT", "ON", "WHY", "HOSTS"), left, right=("HOSTS",)))
    return "\n\n".join(parts)


def plan_page(plan: Plan, number: int | None = None) -> str:
    """A plan in a few lines: moves, time, what it frees, what waits."""
    title = f"{plan.operation}" if number is None else f"{plan.operation}, group {number}"
    rows = [
        ("moves", f"{len(plan.moves)}{_roles(plan)}"),
        ("predicted", f"{format_duration(plan.prediction.seconds)}, {format_size(plan.prediction.bytes)}"),
    ]
    if waits := sum(bool(planned.after) for planned in plan.moves):
        rows.append(("in order", f"{format_count(waits, 'move waits', 'moves wait')} for others"))
    if plan.prediction.emptied:
        rows.append(
            (
                "emptied",
                f"{len(plan.freed)} of {format_count(len(plan.prediction.emptied), 'host')}{_price(plan.price)}",
            )
        )
    rows += [("left", format_count(len(plan.left), "guest"))] if plan.left else []
    rows += [("assumed", text) for text in plan.prediction.assumed]
    if plan.prediction.doubtful:
        dirty = format_count(len(plan.prediction.doubtful), "guest dirties", "guests dirty")
        rows.append(("doubtful", f"{dirty} memory faster than the links carry"))
    rows += [("note", text) for text in plan.notes]
    return f"{title}\n{pairs(rows)}"


def _roles(plan: Plan) -> str:
    helpers = sum(planned.role is Role.MAKE_ROOM for planned in plan.moves)
    return f", {helpers} of them to make room" if helpers else ""


def _price(price: Price) -> str:
    told = [f"{price.watts:.0f} W"] if price.watts else []
    told += [f"{price.money_per_hour:.2f} an hour"] if price.money_per_hour else []
    unknown = max(price.unpriced, price.unmetered)
    told += [f"{format_count(unknown, 'host')} without figures"] if unknown else []
    return f" ({', '.join(told)})" if told else ""


def _went(outcome: Outcome) -> list[tuple[str, str]]:
    moved = format_count(outcome.moved, "guest")
    rows = [
        (
            "moved",
            f"{moved} in {format_duration(outcome.seconds)}, {format_size(outcome.bytes)} sent",
        ),
        ("failed", format_count(outcome.failed, "try", "tries")),
        ("emptied", format_count(len(outcome.emptied), "host")),
    ]
    rows += [("BROKEN", text) for text in outcome.broken]
    return rows


def _left(left: Iterable[Left]) -> Iterator[tuple[str, str, str, str]]:
    for guest in left:
        name, host = str(guest.name), str(guest.host)
        for refusal in guest.refusals[:SHOWN]:
            yield name, host, f"{refusal.constraint}: {refusal.why}", str(len(refusal.hosts))
            name = host = ""
        if len(guest.refusals) > SHOWN:
            yield "", "", f"and {len(guest.refusals) - SHOWN} more reasons (--json)", ""


def _unmoved(outcome: Outcome) -> Iterator[tuple[str, str, str, str]]:
    return ((str(guest.guest), str(guest.host), guest.why, "") for guest in outcome.unmoved)
