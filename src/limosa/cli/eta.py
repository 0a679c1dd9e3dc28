"""How long a copy will still take, as an honest range. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limosa.wire.moves import Progress

READINGS = 20
"""How many of the latest readings a range looks back on."""

_ENDLESS_STATES = frozenset({"not converging", "stalled"})


class Eta(NamedTuple):
    """Seconds at the least and at the most; `most` is None where no end can be promised."""

    least: float
    most: float | None


def eta(readings: Sequence[Progress]) -> Eta | None:
    """When the thing that these readings are of will be copied; None where nothing can be said.

    The range spans what the latest rates would give: the fastest of them undisturbed, the slowest of them
    less what the guest dirties meanwhile.
    """
    now = readings[-1]
    remaining = now.total - now.done
    if now.state in {"done", "in sync"} or remaining <= 0:
        return Eta(0.0, 0.0)
    rates = [reading.rate for reading in readings[-READINGS:] if reading.rate > 0]
    if now.state == "stalled" or not rates:
        return None if now.eta is None else Eta(now.eta, None)
    least = remaining / max(rates)
    net = min(rates) - now.dirty_rate
    if now.state in _ENDLESS_STATES or net <= 0:
        return Eta(least, None)
    return Eta(least, remaining / net)


def latest(etas: Sequence[Eta | None]) -> Eta | None:
    """The range of several copies that run side by side: the slowest decides."""
    known = [one for one in etas if one is not None]
    if not known or len(known) < len(etas):
        return Eta(max(one.least for one in known), None) if known else None
    ends = [one.most for one in known]
    return Eta(max(one.least for one in known), None if None in ends else max(end for end in ends if end is not None))


def eta_words(range_: Eta | None) -> str:
    """`4-6 s left`, `at least 40 s left`, or nothing."""
    if range_ is None or range_.most == 0:
        return ""
    least = _duration(range_.least)
    if range_.most is None:
        return f"at least {least} left"
    most = _duration(range_.most)
    if least == most:
        return f"{most} left"
    return f"{least.removesuffix(' s') if most.endswith(' s') else least}-{most} left"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    if seconds < 120:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
