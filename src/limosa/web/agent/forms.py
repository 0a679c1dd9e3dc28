"""What forms do: abort a move, cap its rate, leave, choose colours. Nothing else is done from a page."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from limosa.errors import UsageError
from limosa.units import MIB
from limosa.web.agent.visit import Visit
from limosa.web.links import path

MOST_MIB = 10**9
_log = structlog.get_logger()
Form = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Action:
    """A form's address and what it does; it leads to an address."""

    where: str
    does: Callable[[Visit, Form], Awaitable[str]]


async def abort(visit: Visit, form: Form) -> str:
    """Roll a move back, and wait for it. Raises NotFound, UsageError, LimosaError."""
    move = visit.named["move"]
    if form.get("sure") != "yes":
        raise UsageError("nobody said that the move shall be aborted", remedy="tick the box beside the button")
    _log.info("a page asks to abort a move", move=move, who=visit.caller.who)
    return path("moves", (await visit.asked.agent.moves.abort(move)).id)


async def speed(visit: Visit, form: Form) -> str:
    """Cap a move's rate. Raises NotFound, UsageError, LimosaError."""
    move, told = visit.named["move"], form.get("mib", "")
    if not (told.isascii() and told.isdigit() and int(told) <= MOST_MIB):
        raise UsageError(f"{told[:20]!r} is no rate", remedy="write MiB/s, such as 200; 0 lifts the cap")
    _log.info("a page caps a move's rate", move=move, mib=int(told), who=visit.caller.who)
    return path("moves", (await visit.asked.agent.moves.set_speed(move, float(int(told) * MIB) or None)).id)


async def leave(visit: Visit, _form: Form) -> str:
    """End the session."""
    if visit.caller.leave is not None:
        visit.caller.leave()
        _log.info("a browser left", who=visit.caller.who)
    return "/"


ACTIONS = (
    Action("/moves/{move}/abort", abort),
    Action("/moves/{move}/speed", speed),
    Action("/sign-out", leave),
)
