"""Where a guest is, in words that name its hosts. Pure."""

from limosa.errors import GuestLost, GuestPoweredOff
from limosa.units import Side
from limosa.wire.moves import MoveStatus

NOWHERE = frozenset({GuestPoweredOff.code, GuestLost.code})
"""Errors that say for certain that nobody executes the guest."""


def place_of(status: MoveStatus) -> str:
    """Where the guest runs, with the host's name."""
    if status.error is not None and status.error["code"] in NOWHERE:
        return f"{status.guest} runs nowhere; its disks are on {status.source}, as it left them"
    match status.guest_runs:
        case Side.SOURCE:
            return f"{status.guest} runs on {status.source}, the source, as before"
        case Side.DESTINATION:
            return f"{status.guest} runs on {status.destination}, the destination"
        case _:
            return (
                f"it could not be confirmed whether {status.guest} runs on {status.source} or {status.destination}: "
                "start it nowhere by hand"
            )
