"""What `limosa doctor` says of hooks. Pure."""

from collections.abc import Iterable, Iterator

from limosa.migration.outbox import KEPT
from limosa.units import format_count
from limosa.wire.findings import Finding, Severity
from limosa.wire.hooks import HookShown, stamp


def findings(hooks: Iterable[HookShown], now: float) -> Iterator[Finding]:
    """Hooks that fail, and events that somebody was never told of.

    Args:
        hooks: as they fare.
        now: seconds since 1970.
    """
    for hook in hooks:
        if hook.waiting and hook.last_error:
            since = f" since {stamp(hook.oldest_waiting)}" if hook.oldest_waiting is not None else ""
            yield _warning(
                f"hook {hook.name} was not told of {format_count(hook.waiting, 'event')}{since}: {hook.last_error}",
                f"mend its receiver, then `limosa hooks test '{hook.name}'`; limosa goes on trying",
            )
        if hook.last_given_up is not None and now - hook.last_given_up < KEPT:
            yield _warning(
                f"hook {hook.name} was never told of {format_count(hook.given_up, 'event')}, "
                f"the last of them {hook.given_up_event}, given up at {stamp(hook.last_given_up)}",
                "bring what it serves up to date by hand; `limosa ls` on each host says which guests are there",
            )


def _warning(what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.WARNING, kind="hooks", what=what, remedy=remedy)
