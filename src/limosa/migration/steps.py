"""The steps of a live move, as data.

Each step is frozen and says all that is needed to do it and to undo it. `plan` prints them, the journal keeps
them, the live view draws them. The engine's own steps are matched exhaustively in make.py; a step that cargo
adds names its kind, and is handed to it.
"""

from typing import assert_never

import msgspec

from limosa.cargo.kind import CargoStep, When
from limosa.units import Side
from limosa.wire.moves import Stage


class Reserve(msgspec.Struct, frozen=True, tag=True):
    """The destination promises memory and ports, and opens its side of the move."""

    memory: int


class ShareKey(msgspec.Struct, frozen=True, tag=True):
    """A one-time TLS-PSK key goes over the peer link; both QEMUs get credentials made of it."""

    creds: str


class StartTwin(msgspec.Struct, frozen=True, tag=True):
    """The same machine, built at the destination, waiting for state (`-incoming defer -S`)."""

    monitor: str
    """limosa's monitor socket at the destination."""


class CompareTwin(msgspec.Struct, frozen=True, tag=True):
    """The twin is read back and held against the original, property by property."""


class CheckShape(msgspec.Struct, frozen=True, tag=True):
    """The guest is still the machine that was planned: nothing plugged, unplugged, resized or ejected since."""


class Precopy(msgspec.Struct, frozen=True, tag=True):
    """RAM is copied while the guest runs; ends at pre-switchover, with the guest paused."""

    uri: str
    channels: int
    """multifd channels; 0 sends one stream."""


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """The last RAM and the devices' state are sent; nobody executes."""


class Commit(msgspec.Struct, frozen=True, tag=True):
    """The source gives the guest up and the destination takes it: the point of no return."""


class ResumeThere(msgspec.Struct, frozen=True, tag=True):
    """The vCPUs run at the destination, unless the guest was paused to begin with."""

    cont: bool


class RetireSource(msgspec.Struct, frozen=True, tag=True):
    """The source QEMU quits."""


class Close(msgspec.Struct, frozen=True, tag=True):
    """Both sides put away what they kept for this move: keys, directories, reservations."""


OwnStep = (
    Reserve
    | ShareKey
    | StartTwin
    | CompareTwin
    | CheckShape
    | Precopy
    | HandOver
    | Commit
    | ResumeThere
    | RetireSource
    | Close
)
Step = OwnStep | CargoStep

_CARGO_STAGES = {
    When.BEFORE_TWIN: Stage.PREPARE,
    When.COPY: Stage.COPY,
    When.BEFORE_RAM: Stage.COPY,
    When.PAUSED: Stage.SWITCH_OVER,
    When.BEFORE_CONT: Stage.RESUME,
    When.ANNOUNCE: Stage.RESUME,
    When.RETIRE: Stage.RETIRE,
}


def stage_of(step: Step) -> Stage:
    """The stage that a step belongs to."""
    match step:
        case CargoStep(when=when):
            return _CARGO_STAGES[when]
        case Reserve():
            return Stage.RESERVE
        case ShareKey() | StartTwin() | CompareTwin():
            return Stage.PREPARE
        case CheckShape() | Precopy():
            return Stage.COPY
        case HandOver():
            return Stage.SWITCH_OVER
        case Commit():
            return Stage.COMMIT
        case ResumeThere():
            return Stage.RESUME
        case RetireSource() | Close():
            return Stage.RETIRE
        case _:
            assert_never(step)


def side_of(step: Step) -> Side:
    """The host on which most of a step happens."""
    match step:
        case CargoStep(side=side):
            return side
        case Reserve() | StartTwin() | ResumeThere():
            return Side.DESTINATION
        case _:
            return Side.SOURCE


def name_of(step: Step) -> str:
    """Short name: `precopy`, or `disks: mirror`."""
    if isinstance(step, CargoStep):
        return f"{step.kind}: {step.deed}"
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in type(step).__name__)
    return words.strip()


def summary_of(step: Step) -> str:
    """One sentence for people."""
    if isinstance(step, CargoStep):
        return step.summary
    return (type(step).__doc__ or "").strip().splitlines()[0].rstrip(".")
