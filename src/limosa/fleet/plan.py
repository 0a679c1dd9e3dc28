"""What a planner answers: moves, what they wait for, what is left and why, and what it takes. Pure.

Moves of a plan run side by side, in any order in which each starts after those that it waits for (`after`) have ended
well. In every such order, and in the middle of it, each guest that starts to move finds room where it goes
(sequence.py).
"""

from enum import StrEnum

import msgspec

from limosa.fleet.constraints import Left
from limosa.fleet.inventory import Move
from limosa.units import Bytes, HostName, Seconds


class Operation(StrEnum):
    """What operators ask of a fleet."""

    DRAIN = "drain"
    RESTORE = "restore"
    REBALANCE = "rebalance"
    CONSOLIDATE = "consolidate"
    MOVE_SET = "move set"


class Role(StrEnum):
    """Why a move is in a plan."""

    LEAVE = "leave"
    """It leaves a host that is emptied."""
    MAKE_ROOM = "make room"
    EVEN_OUT = "even out"
    GO_HOME = "go home"
    AS_ASKED = "as asked"


class Planned(msgspec.Struct, frozen=True):
    """One move of a plan."""

    move: Move
    role: Role
    after: tuple[int, ...] = ()
    """Places in the plan of the moves that must have ended well before this one starts."""


class Timed(msgspec.Struct, frozen=True):
    """When a move is expected to run; seconds from the start of the plan."""

    start: Seconds
    end: Seconds
    bytes: Bytes


class Emptied(msgspec.Struct, frozen=True):
    """When the last guest is expected to have left a host; seconds from the start of the plan."""

    host: HostName
    end: Seconds


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What carrying out a plan is expected to take."""

    seconds: Seconds
    bytes: Bytes
    moves: tuple[Timed, ...]
    """As many as the plan has, in its order."""
    emptied: tuple[Emptied, ...]
    assumed: tuple[str, ...]
    """What was not known and had to be assumed, in words."""
    doubtful: tuple[str, ...] = ()
    """Guests that dirty memory faster than their links carry it: their moves may not end without throttling."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan frees, from the figures that operators configured."""

    hosts: int
    watts: float
    money_per_hour: float
    unpriced: int
    """Hosts among them of which no price is configured."""
    unmetered: int
    """Hosts among them of which no watts are configured."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of a planner."""

    operation: Operation
    moves: tuple[Planned, ...]
    left: tuple[Left, ...]
    freed: tuple[HostName, ...]
    """Hosts that have no guests at the end and were to be emptied."""
    prediction: Prediction
    price: Price
    notes: tuple[str, ...] = ()
    """What else the operator should know, in words."""


class Rolling(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts that are emptied group after group; those of one group go together and are back before the next one."""

    groups: tuple[tuple[HostName, ...], ...]
    plans: tuple[Plan, ...]
    """One for each group."""
