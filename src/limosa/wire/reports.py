"""What an agent tells a controller about its host and the guests on it, and how a controller orders moves.

A controller asks for what changed since the report that it has, and waits for it. An answer names the report it
builds on; one that does not build on what the controller has is a gap, and then it asks for everything.
"""

from typing import NamedTuple

import msgspec

from limosa.cpu.facts import GuestCpu, HostCpu
from limosa.wire.guests import GuestShown
from limosa.wire.history import Mark
from limosa.wire.moves import MoveRequest, MoveStatus


class Known(msgspec.Struct, frozen=True):
    """Which report of an agent a controller has."""

    incarnation: str
    """Names one run of the agent; its numbers start anew with each."""
    number: int


class ReportAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `fleet.report`; `wait` in seconds."""

    known: Known | None = None
    """None asks for everything."""
    kept: Mark | None = None
    """The latest finished move that the caller has heard of; a later one is news."""
    wait: float = 10.0
    """How long to wait for news; an empty report after that is a sign of life."""


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    """A host; bytes, and bytes per second."""

    host: str
    version: str
    """Of limosa."""
    cores: int
    memory: int
    memory_free: int
    disk: int
    """Of the file systems that local disks are made on."""
    disk_free: int
    link: float
    """What the migration link carries each way; 0 where its driver does not say."""
    networks: tuple[str, ...]
    """Bridges."""
    qemu_versions: tuple[str, ...]
    cpu: HostCpu | None
    """None where no QEMU could be asked."""


class GuestReport(msgspec.Struct, frozen=True, kw_only=True):
    """A guest; bytes."""

    key: str
    """Its UUID, or its name where it was started without one."""
    shown: GuestShown
    epoch: int
    """Of its ownership; 0 for one that limosa has never moved."""
    here: bool
    """False where the journal says that it was given up to another host."""
    cpu: GuestCpu | None
    """None where it was never asked: its monitor is held by somebody, or it answers none."""
    disk: int
    """Bytes allocated on disks of this host that a move copies."""
    networks: tuple[str, ...]
    """Bridges it is plugged into."""
    load: float | None
    """Cores it keeps busy; None before the second look."""
    blocked: tuple[str, ...]
    """What stands against any move of it."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, or what changed since `since`."""

    incarnation: str
    number: int
    since: int
    """Number of the report it builds on; 0 for one that is everything."""
    machine: MachineReport | None
    """None where it did not change."""
    guests: tuple[GuestReport, ...]
    gone: tuple[str, ...]
    """Keys of guests that are no longer here."""
    kept: Mark | None = None
    """The latest finished move in this agent's archive, as `fleet.history` numbers them."""


class Hand(NamedTuple):
    """Whose order it is: an operation, and how often it has changed hands between controllers."""

    operation: str
    epoch: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `fleet.start`: a move that is started once, however often it is ordered."""

    hand: Hand
    deed: str
    """Names the move within its operation, such as `GUEST#1` for a guest's first attempt."""
    request: MoveRequest


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `fleet.status` and `fleet.abort`."""

    hand: Hand
    deed: str


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `fleet.speed`: what an ordered move may send from now on."""

    hand: Hand
    deed: str
    rate: float | None
    """Bytes per second; None for what its links give."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent knows of an ordered move."""

    move: str
    """Its id, which follows from operation and deed."""
    status: MoveStatus | None
    """None where this agent keeps no record of it: it was restarted in the middle, or it is long ago."""
    ending: str = ""
    """What its journal says then; empty: it was never recorded, so nothing came of it."""
