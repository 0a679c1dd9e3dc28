"""What carrying out an operation needs of the world: the same code runs on a fleet, and on a simulated one."""

from collections.abc import Mapping
from typing import Protocol

from limosa.fleet.bandwidth import Way
from limosa.fleet.inventory import Host, Inventory, Limits
from limosa.fleet.operations.advance import Wish
from limosa.wire.fleet import Item, Operation
from limosa.wire.reports import Hand, Outcome


class Port(Protocol):
    """The world of one operation."""

    async def claim(self, operation: str) -> Hand:
        """Take the operation in hand; whoever had it before is fenced off from now on.

        Raises:
            NotFound: there is no such operation.
        """

    async def load(self, operation: str) -> tuple[Operation, Wish]:
        """The operation as it was saved last, and what operators want of it now."""

    async def save(self, hand: Hand, operation: Operation) -> None:
        """Save it, durably; also what follows for hosts and guests of an item that is done, and of the last phase.

        Raises:
            Fenced: somebody else has claimed it since.
        """

    async def start(self, hand: Hand, item: Item) -> Outcome:
        """Order an item's move.

        Raises:
            Fenced: the agent obeys somebody else in this operation.
            PeerError: the agent cannot be reached: what was ordered may have happened.
            LimosaError: the agent refuses.
        """

    async def status(self, hand: Hand, item: Item) -> Outcome:
        """What became of an ordered move. Raises as `start` does."""

    async def abort(self, hand: Hand, item: Item) -> None:
        """Take an ordered move back. Raises as `start` does."""

    async def speed(self, hand: Hand, item: Item) -> None:
        """Tell an ordered move its rate. Raises as `start` does."""

    async def others(self, operation: str) -> tuple[Way, ...]:
        """Moves of other operations that are in flight."""

    async def host_of(self, guest: str) -> str:
        """Where a guest was last reported; empty where it is not known."""

    async def hosts(self) -> Mapping[str, Host]:
        """The hosts of that fleet, by name: asked for at each look, unlike all of it."""

    async def inventory(self) -> Inventory:
        """The fleet as it is known now, with the controller's limits."""

    @property
    def limits(self) -> Limits:
        """The controller's own limits."""

    @property
    def retries(self) -> int:
        """The controller's own number of retries."""

    def now(self) -> float:
        """Seconds since 1970."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
