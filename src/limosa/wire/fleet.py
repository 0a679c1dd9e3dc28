"""What a controller says of the fleet, and what it is asked: the bodies of its REST API."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from limosa.wire.moves import MoveState

NAME = r"^[^\x00-\x1f\x7f]+$"
"""No control characters: they forge lines of logs, and PostgreSQL keeps no NUL."""
NO_NUL = r"^[^\x00]*$"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=NAME)]
Words = Annotated[str, msgspec.Meta(max_length=2000, pattern=NO_NUL)]
Many = msgspec.Meta(max_length=10_000)
"""Of a list: as many as a fleet has guests, or hosts."""


class Role(StrEnum):
    """What a token allows; each includes the ones before it."""

    VIEWER = "viewer"
    """See everything."""
    OPERATOR = "operator"
    """Order and steer operations."""
    ADMIN = "admin"
    """Set what hosts and guests are for, and make tokens."""


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What operators say of a host."""

    rack: Annotated[str, msgspec.Meta(max_length=253, pattern=NO_NUL)] = ""
    labels: tuple[Name, ...] = ()
    storages: tuple[Name, ...] = ()
    """Shared storages that it reaches."""
    watts: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    price_per_hour: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    max_in: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    max_out: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    link: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0
    """Bytes per second of its migration link, where its driver does not say, or says too much; 0: as reported."""


class GuestRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What operators say of a guest."""

    groups: tuple[Name, ...] = ()
    """Anti-affinity: no two guests of a group share a host."""
    pin_hosts: tuple[Name, ...] = ()
    pin_labels: tuple[Name, ...] = ()
    priority: Annotated[int, msgspec.Meta(ge=-1000, le=1000)] = 0
    """Higher ones leave first."""


class FleetHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host; bytes, bytes per second, seconds."""

    name: str
    state: str
    """`active`, `draining`, `drained`, `maintenance` or `lost`."""
    reason: str
    """Why it is in this state, as whoever set it said."""
    settings: HostSettings
    silent_for: float
    """Seconds without a word from its agent; 0 while it talks."""
    trouble: str
    """Why it is silent."""
    guests: int
    """As last seen."""
    cores: int | None = None
    memory: int | None = None
    memory_free: int | None = None
    disk: int | None = None
    disk_free: int | None = None
    link: float | None = None
    version: str = ""
    qemu_versions: tuple[str, ...] = ()
    processor: str = ""


class FleetGuest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest, as it was last seen; bytes, seconds."""

    id: str
    """Its UUID, or its name where it was started without one."""
    name: str
    host: str
    state: str
    memory: int | None
    vcpus: int | None
    disk: int
    load: float | None
    epoch: int
    blocked: tuple[str, ...]
    """What stands against any move of it."""
    rules: GuestRules
    home: str | None
    """Where it belongs, where an operation moved it away."""
    silent_for: float
    """Seconds since its host's agent last spoke; 0 while it talks."""
    owners: tuple[str, ...] = ()
    """The hosts that each say that they own it, where more than one does."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a guest could go to a host."""

    host: str
    fits: bool
    reasons: tuple[str, ...]
    """Why not."""


class TwoOwners(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that more than one host claims."""

    id: str
    name: str
    hosts: tuple[str, ...]


class OperationKind(StrEnum):
    """What an operation does."""

    DRAIN = "drain"
    RESTORE = "restore"
    REBALANCE = "rebalance"
    CONSOLIDATE = "consolidate"
    MOVE = "move"


class LimitsAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one operation; None leaves the controller's own."""

    moves_in: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    moves_out: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    moves: Annotated[int, msgspec.Meta(ge=1, le=10000)] | None = None
    bandwidth: Annotated[float, msgspec.Meta(gt=0, le=1e15)] | None = None
    """Bytes per second of all moves together."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    """Attempts at one guest after its first."""


class MoveAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One move of a move set."""

    guest: Name
    to: Name


class OperationAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/operations and /v1/plans."""

    kind: OperationKind
    hosts: Annotated[tuple[Name, ...], Many] = ()
    """To drain, or to restore; to rebalance or consolidate among (none: all)."""
    moves: Annotated[tuple[MoveAsked, ...], Many] = ()
    """Of a move set."""
    why: Words = ""
    limits: LimitsAsked = LimitsAsked()
    approved: bool = False
    """False: it waits, planned, for an approval."""


class Phase(StrEnum):
    """Where an operation stands."""

    PLANNED = "planned"
    """Waits to be approved."""
    RUNNING = "running"
    PAUSED = "paused"
    """Starts no more moves; those in flight go on."""
    CANCELLING = "cancelling"
    """Moves in flight that have not committed are being aborted."""
    DONE = "done"
    PARTLY = "partly done"
    """Over, and guests are left."""
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """True when nothing more will happen."""
        return self in {Phase.DONE, Phase.PARTLY, Phase.CANCELLED}


class ItemState(StrEnum):
    """Where one planned move stands."""

    WAITING = "waiting"
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"
    """Given up: its attempts are used up, or it makes no sense to repeat it."""
    REROUTED = "rerouted"
    """Given up for another destination: a later item of the same guest goes there."""
    CANCELLED = "cancelled"


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One move of an operation."""

    guest: str
    name: str
    source: str
    destination: str
    epoch: int = 0
    """Of the guest's ownership when this was planned; a report with no higher one is older than the move."""
    after: tuple[int, ...] = ()
    """Places, in the operation, of the moves that must have ended well before this one starts."""
    role: str = ""
    """Why it is in the plan: `leave`, `make room`, `even out`, `go home` or `as asked`."""
    expected_bytes: int = 0
    """What it is predicted to send."""
    expected_end: float | None = None
    """When it is predicted to end, in seconds from the start of its plan."""
    state: ItemState = ItemState.WAITING
    attempts: int = 0
    """Of this guest, to other destinations too."""
    before: int = 0
    """Attempts among them that had another destination."""
    tried: tuple[str, ...] = ()
    """The other destinations."""
    not_before: float = 0.0
    """Unix time before which it is not tried again."""
    move: str = ""
    """Id of the latest attempt, on the source's agent."""
    move_state: MoveState | None = None
    said: str = ""
    """Why the latest attempt failed."""
    code: str = ""
    """The code of that error."""
    remedy: str = ""
    began: float | None = None
    ended: float | None = None
    blackout_ms: float | None = None
    bytes: int = 0
    rate: float | None = None
    """Bytes per second that it may send, as its agent was told last; None for what its links give."""

    @property
    def over(self) -> bool:
        """True when nothing more will happen to it."""
        return self.state not in {ItemState.WAITING, ItemState.MOVING}


class LeftGuest(msgspec.Struct, frozen=True, kw_only=True):
    """A guest that stays where it should not, and why: host by host, or in one sentence."""

    guest: str
    name: str
    host: str
    why: str
    hosts: dict[str, str] = {}


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is expected to cost: bytes, seconds, watts, money per hour."""

    bytes: int = 0
    seconds: float | None = None
    hosts_freed: tuple[str, ...] = ()
    watts: float = 0.0
    per_hour: float = 0.0
    notes: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """An operation: what was asked, its plan, and how far it is."""

    id: str
    kind: OperationKind
    hosts: tuple[str, ...]
    who: str
    why: str
    created: float
    phase: Phase
    items: tuple[Item, ...]
    left: tuple[LeftGuest, ...]
    forecast: Forecast
    limits: LimitsAsked = LimitsAsked()
    began: float | None = None
    ended: float | None = None
    number: int = 0
    """Grows with every change."""


class AboutItem(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a move where many operations are named."""

    name: str
    destination: str


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation is about: of `Operation` all that never changes and is read where many are named."""

    id: str
    kind: OperationKind
    hosts: tuple[str, ...]
    items: tuple[AboutItem, ...]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened: `host`, `guest.moved`, `operation`, `audit`."""

    number: int
    at: float
    kind: str
    subject: str
    body: dict[str, str | int | float | bool | None] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log."""

    number: int
    at: float
    who: str
    what: str
    subject: str
    why: str


class StateAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PUT /v1/hosts/{host}/state."""

    state: Literal["active", "maintenance", "lost"]
    why: Words = ""


class TokenAsked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/tokens."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,100}$")]
    role: Role


class TokenShown(msgspec.Struct, frozen=True, kw_only=True):
    """A token; its word is told once, when it is made."""

    name: str
    role: Role
    created: float
    word: str = ""
