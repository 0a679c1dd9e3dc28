"""What the two ends of a move say to each other over the peer link.

The source drives. `Destination` is its view of the other end; arrival.py is what answers there.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from limosa.cargo.kind import CargoStep, HostFacts, Offer, Streams, Survey
from limosa.cpu.facts import HostCpu
from limosa.guest.profile import Profile
from limosa.units import MoveId
from limosa.wire.findings import Finding
from limosa.wire.moves import MoveRequest
from limosa.wire.rpc import Caller

T = TypeVar("T")


class OfferAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What would arrive; the destination looks, chooses names, and changes nothing."""

    move: MoveId
    request: MoveRequest
    profile: Profile
    surveys: tuple[Survey, ...]
    source: HostFacts


class OfferAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination found and chose."""

    host: HostFacts
    binary: str
    version: tuple[int, int, int]
    offers: tuple[Offer, ...]
    streams: Streams
    monitor: str
    """Socket that limosa's monitor of the twin will have."""
    findings: tuple[Finding, ...]
    cpu: HostCpu | None = None
    """What this binary can give the guest; None from an agent that does not look yet, or where it does not start."""


class ReserveAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Open the destination's side of a move."""

    move: MoveId
    request: MoveRequest
    uuid: str
    name: str
    memory: int
    epoch: int
    """Epoch of the source's ownership; the destination's will be one more."""
    binary: str
    monitor: str
    streams: Streams
    steps: tuple[CargoStep, ...]
    """Every step that will be made at the destination. Names were chosen before, and undoing what never
    happened is harmless: so this list is all that is needed to clean up, also after a restart."""
    macs: tuple[str, ...] = ()
    """MAC addresses of the guest's NICs, for hooks; none from an agent that does not say yet."""


class TakeAsk(msgspec.Struct, frozen=True, kw_only=True):
    """The grant: the source has recorded that it gave the guest up. Good for one move, once."""

    move: MoveId
    epoch: int
    token: str
    cont: bool
    """False for a guest that was paused to begin with."""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A destination's binding answer about a move: it has taken the guest over, or it never will."""

    taken: bool
    epoch: int
    lost: bool = False
    """Taken over, but its QEMU died there before the move had ended."""


class KeyAsk(msgspec.Struct, frozen=True, kw_only=True):
    """The one-time key, hexadecimal. It exists in memory and in this move's directories only."""

    move: MoveId
    key: str


class StartAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Start the twin of this profile, whose host-side names are the destination's already."""

    move: MoveId
    profile: Profile


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A twin that waits for state, as it was read back."""

    pid: int
    profile: Profile
    argv: tuple[str, ...]


class ListenAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Let the twin listen for RAM."""

    move: MoveId
    uri: str
    channels: int
    tls_creds: str | None


class StepAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Make or unmake a cargo step at the destination."""

    move: MoveId
    step: CargoStep


class MoveAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that needs no more than the move's id."""

    move: MoveId


class CloseAsk(msgspec.Struct, frozen=True, kw_only=True):
    """The move is over; with what only the source could measure, for the destination's hooks."""

    move: MoveId
    blackout_ms: float | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Facts for the report, as plain JSON values."""

    facts: dict[str, Any] = {}


class Destination:
    """The other end, as the source sees it: one method for each call that a destination answers.

    Every method raises what the other end raised, or PeerError when it cannot be reached.
    """

    def __init__(self, link: Callable[[], Awaitable[Caller]], move: MoveId) -> None:
        self._link = link
        self._move = move

    async def _call(self, method: str, ask: msgspec.Struct, result: type[T], *, timeout: float | None = None) -> T:
        # The link is asked for each time: after it was lost, the next call opens it anew.
        return await (await self._link()).call(method, ask, result, timeout=timeout)

    async def offer(self, ask: OfferAsk) -> OfferAnswer:
        """Checks and names; changes nothing there."""
        return await self._call("move.offer", ask, OfferAnswer, timeout=60)

    async def reserve(self, ask: ReserveAsk) -> None:
        """Open this move there."""
        await self._call("move.reserve", ask, type(None), timeout=30)

    async def keep_key(self, key: str) -> None:
        """Store the one-time key there."""
        await self._call("move.key", KeyAsk(move=self._move, key=key), type(None), timeout=30)

    async def start(self, profile: Profile) -> Started:
        """Start the twin and read it back."""
        return await self._call("move.start", StartAsk(move=self._move, profile=profile), Started, timeout=120)

    async def stop_twin(self) -> None:
        """Destroy the twin, if there is one. It has never executed."""
        await self._call("move.stop-twin", self._ask, type(None), timeout=60)

    async def listen(self, ask: ListenAsk) -> None:
        """Let the twin listen for RAM."""
        await self._call("move.listen", ask, type(None), timeout=30)

    async def make(self, step: CargoStep) -> Mapping[str, Any]:
        """Make a cargo step there."""
        return (await self._call("move.make", StepAsk(move=self._move, step=step), Told)).facts

    async def unmake(self, step: CargoStep) -> None:
        """Undo a cargo step there."""
        await self._call("move.unmake", StepAsk(move=self._move, step=step), type(None), timeout=120)

    async def arrived(self) -> None:
        """Return when the twin has loaded everything; raise with its stderr when it could not."""
        await self._call("move.arrived", self._ask, type(None))

    async def take_over(self, grant: TakeAsk) -> None:
        """The destination takes the guest: from here on it only goes forward. Repeating it is harmless."""
        await self._call("move.take-over", grant, type(None), timeout=30)

    async def resume(self) -> Mapping[str, Any]:
        """Let the guest run there. Repeating it is harmless."""
        return (await self._call("move.resume", self._ask, Told, timeout=30)).facts

    async def settle(self) -> Settled:
        """Ask for good whether the destination took the guest; if it did not, it destroys the twin and never will."""
        return await self._call("move.settle", self._ask, Settled, timeout=90)

    async def close(self, blackout_ms: float | None = None) -> Mapping[str, Any]:
        """Put away what was kept for this move there; returns what it has to say for the report.

        Args:
            blackout_ms: milliseconds for which nobody ran the guest, where they were measured.
        """
        ask = CloseAsk(move=self._move, blackout_ms=blackout_ms)
        return (await self._call("move.close", ask, Told, timeout=60)).facts

    async def attend(self) -> None:
        """Stay on the line: raises as soon as the twin dies or the link is lost.

        The destination holds this call too: when it is cancelled there before commit, the source is gone,
        and the destination cleans up on its own.
        """
        await self._call("move.attend", self._ask, type(None))

    @property
    def _ask(self) -> MoveAsk:
        return MoveAsk(move=self._move)
