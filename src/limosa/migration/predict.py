"""What a move is expected to cost, before it starts. Pure."""

from limosa.units import MIB, format_rate
from limosa.wire.moves import Prediction

SETUP_SECONDS = 1.5
"""Twin, checks and handshakes; a median of moves in the lab, the same for small and large guests."""

ASSUMED_RATE = 110 * MIB
"""Bytes per second where no rate is known: a gigabit link, less its overhead."""


def predict(
    *, memory: int, disks: int, rate: float | None, dirty_rate: float | None, downtime_limit: float, running: bool
) -> Prediction:
    """Predict duration, bytes and blackout of a live move.

    Args:
        memory: bytes of RAM that hold data.
        disks: allocated bytes of the disks that are copied.
        rate: bytes per second that the link carries, None when unknown.
        dirty_rate: bytes per second that the guest dirties, None when unknown.
        downtime_limit: milliseconds the operator allows.
        running: False for a paused guest, which dirties nothing and notices no pause.

    Source:
        A pass that copies x bytes leaves x * dirty/rate for the next: a geometric series.
    """
    speed = rate or ASSUMED_RATE
    dirty = (dirty_rate or 0.0) if running else 0.0
    share = dirty / speed
    known = "measured" if dirty_rate is not None or not running else "not measured"
    if share >= 1:
        return Prediction(
            seconds=None,
            bytes=memory + disks,
            blackout_ms=1000 * memory / speed,
            converges=False,
            why=f"the guest dirties {format_rate(dirty)}, the link carries {format_rate(speed)}",
        )
    ram = memory / (1 - share)
    return Prediction(
        seconds=SETUP_SECONDS + (ram + disks) / speed,
        bytes=int(ram + disks),
        blackout_ms=min(downtime_limit, 10.0) + 20.0 if running else 0.0,
        converges=True,
        why=f"link {format_rate(speed)}{'' if rate else ' (assumed)'}, dirty rate {format_rate(dirty)} ({known})",
    )
