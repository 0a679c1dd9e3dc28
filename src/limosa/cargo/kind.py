"""The contract of a kind of cargo: five questions, and the two ends that answer them.

Each kind is one file. The engine knows no device by name; it asks each kind

1. which parts of a profile are yours?                     `claims`
2. what must be true at both ends?                         `check_source`, `offer`
3. what does the twin get on its command line?             `rewrite`
4. which steps do you add, in which stage?                 `steps`
5. how is each done, and undone?                           `make`, `unmake`

Questions 1, 3 and 4 are pure. Kinds are found through the entry-point group `limosa.cargo`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec

from limosa.guest.profile import Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding
from limosa.wire.moves import MoveRequest, Progress

ENTRY_POINTS = "limosa.cargo"


class When(StrEnum):
    """Where in the sequence a cargo step belongs."""

    BEFORE_TWIN = "before twin"
    """Destination objects that the twin's command line names: disks, taps. Guest runs."""
    COPY = "copy"
    """After the twin was compared: exports, mirrors. Guest runs."""
    BEFORE_RAM = "before ram"
    """Copies are in sync and turned synchronous, just before RAM is copied. Guest runs."""
    PAUSED = "paused"
    """At pre-switchover, before the last RAM is sent: mirrors finished and verified, source NICs down.
    Every millisecond here is blackout."""
    BEFORE_CONT = "before cont"
    """After commit, at the destination, before the vCPUs run: NICs up. Blackout too."""
    ANNOUNCE = "announce"
    """Just after the guest runs at the destination."""
    RETIRE = "retire"
    """After the source QEMU has quit: what it left behind."""


def plain(value: Any) -> Any:
    """A value as the plain JSON values that it is on the wire: structs as dicts, tuples as lists."""
    return msgspec.json.decode(msgspec.json.encode(value))


class CargoStep(msgspec.Struct, frozen=True, kw_only=True, tag="cargo"):
    """A step that a kind of cargo adds.

    `deed` and `arguments` say all that is needed to do and to undo it: names were chosen before, so a
    step alone suffices, even after the process that made it is gone. `arguments` are plain JSON values.
    """

    kind: str
    deed: str
    side: Side
    when: When
    summary: str
    arguments: dict[str, Any]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A destination's answer to one kind: what it found, and the names it chose, as plain JSON values."""

    kind: str
    findings: tuple[Finding, ...] = ()
    chosen: dict[str, Any] = {}


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind learned at the source that a destination must know (sizes, identities), as JSON values."""

    kind: str
    findings: tuple[Finding, ...] = ()
    learned: dict[str, Any] = {}


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One host as cargo sees it: from its configuration and itself."""

    name: str
    migration_address: str
    state_dir: str
    run_dir: str
    machine_id: str
    """Distinguishes two hosts that share a kernel or a file system from one host seen twice."""
    storage: tuple[str, ...] = ()
    """Directories in which limosa may create disks whose old path is not usable here; first fit."""
    bridges: dict[str, str] = {}
    """Bridge at the source -> bridge here, where the names differ."""
    cpu_remove: tuple[str, ...] = ()
    """CPU flags that no guest shall rely on here, although the processor has them."""


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """How bulk data of this move flows: where the destination listens, and under which credentials."""

    address: str
    nbd_port: int
    migration_port: int
    tls_creds: str | None
    """Id of the tls-creds-psk object, the same in both QEMUs; None for plaintext."""
    round_trip: float = 0.0
    """Seconds to the destination and back, as the agents' link measures it."""


class Here(Protocol):
    """One end of one move, as a kind's deeds see it on the host where they are done."""

    @property
    def side(self) -> Side:
        """Which end this is."""

    @property
    def move(self) -> MoveId:
        """The move this is for; part of every name that is created for it."""

    @property
    def host(self) -> HostFacts:
        """This host."""

    @property
    def directory(self) -> Path:
        """This move's own runtime directory on this host (mode 0700); gone when the move is over."""

    @property
    def monitor(self) -> Monitor:
        """The guest's monitor at the source, the twin's at the destination.

        Raises:
            MonitorLost: there is no such QEMU (any more).
        """

    @property
    def streams(self) -> Streams:
        """The move's bulk streams."""

    def tell(self, progress: Progress) -> None:
        """Report progress of a copy; cheap, call it as often as a reading is taken."""


class Kind(Protocol):
    """A kind of cargo. Instances hold no state: the engine may ask any process, at any time."""

    name: str

    def claims(self, profile: Profile) -> frozenset[str]:
        """Parts of the profile (`limosa.guest.parts`) that this kind carries."""

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Look at the source, change nothing."""

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Look at the destination, choose every name, change nothing."""

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """The profile with this kind's host-side names as the destination has them. Pure."""

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """This kind's steps, in order. Pure."""

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """(what, name) of everything a step creates on its host: `file`, `tap`, `export`, `node`, ... Pure.

        It is noted in the ledger before it exists, so that `limosa doctor` finds strays.
        """

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Do one step on the side it names; repeating it is harmless. Returns facts for the report."""

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Undo one step. Safe to repeat, and safe if the step never happened, also after a restart."""


class NoDeeds:
    """Base for kinds that need nothing at either end: claimed, carried on the command line or in the stream."""

    name = ""

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Nothing to look at."""
        return Survey(kind=self.name)

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Nothing to choose."""
        return Offer(kind=self.name)

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """Nothing host-side to rewrite."""
        return profile

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """No steps."""
        return ()

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Nothing that outlives QEMU."""
        return ()

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Never asked: this kind adds no steps."""
        raise LookupError(f"{self.name} has no step {step.deed}")

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Never asked: this kind adds no steps."""
        raise LookupError(f"{self.name} has no step {step.deed}")


Deed = Callable[[CargoStep, Here], Awaitable[Mapping[str, Any]]]


@cache
def kinds() -> dict[str, Kind]:
    """Every installed kind by name, ours and third parties', in a fixed order.

    Raises:
        ValueError: two entry points carry the same name.
    """
    found: dict[str, Kind] = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda e: e.name):
        kind: Kind = entry.load()()
        if kind.name in found:
            raise ValueError(f"two kinds of cargo are called {kind.name}")
        found[kind.name] = kind
    return found
