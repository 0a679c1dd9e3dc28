"""The port of operations on the real fleet: database, peer links, clock."""

import asyncio
import time
from collections.abc import Mapping

from limosa.fleet import picture
from limosa.fleet.agents import Links
from limosa.fleet.bandwidth import Way
from limosa.fleet.inventory import Host, Inventory, Limits
from limosa.fleet.operations.advance import Wish, deed_of
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.registry import Registry
from limosa.units import HostName
from limosa.wire.fleet import Item, Operation
from limosa.wire.moves import MoveRequest
from limosa.wire.reports import Deed, Hand, Order, Outcome, Pace

ORDER_SECONDS = 20.0
ABORT_SECONDS = 120.0
"""An abort answers when the move is rolled back."""


class LivingPort:
    """A `limosa.fleet.operations.port.Port` on the fleet that a controller follows."""

    def __init__(self, store: OperationStore, registry: Registry, peers: Links, limits: Limits, retries: int) -> None:
        self._store = store
        self._registry = registry
        self._peers = peers
        self._limits = limits
        self._retries = retries
        self._drawn = picture.Drawn()

    async def claim(self, operation: str) -> Hand:
        """Take the operation in hand."""
        return await self._store.claim(operation)

    async def load(self, operation: str) -> tuple[Operation, Wish]:
        """The operation, and what is wanted of it."""
        return await self._store.load(operation)

    async def save(self, hand: Hand, operation: Operation) -> None:
        """Save it."""
        await self._store.save(hand, operation, self.now())

    async def start(self, hand: Hand, item: Item) -> Outcome:
        """Order a move."""
        request = MoveRequest(guest=item.guest, to=item.destination, bandwidth=item.rate)
        order = Order(hand=hand, deed=deed_of(item), request=request)
        return await self._call(item, "fleet.start", order, ORDER_SECONDS)

    async def status(self, hand: Hand, item: Item) -> Outcome:
        """Ask for a move."""
        return await self._call(item, "fleet.status", Deed(hand=hand, deed=deed_of(item)), ORDER_SECONDS)

    async def abort(self, hand: Hand, item: Item) -> None:
        """Take a move back."""
        await self._call(item, "fleet.abort", Deed(hand=hand, deed=deed_of(item)), ABORT_SECONDS)

    async def speed(self, hand: Hand, item: Item) -> None:
        """Tell a move its rate."""
        await self._call(item, "fleet.speed", Pace(hand=hand, deed=deed_of(item), rate=item.rate), ORDER_SECONDS)

    async def others(self, operation: str) -> tuple[Way, ...]:
        """Moves in flight of operations that any controller carries."""
        return await self._store.in_flight(but=operation)

    async def _call(self, item: Item, method: str, params: Order | Deed | Pace, seconds: float) -> Outcome:
        link = await self._peers.link(HostName(item.source))
        return await link.call(method, params, Outcome, timeout=seconds)

    async def host_of(self, guest: str) -> str:
        """Where a guest was last reported."""
        return picture.host_of(await self._registry.census(), guest)

    async def hosts(self) -> Mapping[str, Host]:
        """Its hosts."""
        return picture.hosts(await self._registry.census(), self.now())

    async def inventory(self) -> Inventory:
        """The fleet as the database has it."""
        return picture.inventory(await self._registry.census(), self._limits, self.now(), self._drawn)

    @property
    def limits(self) -> Limits:
        """The controller's own limits."""
        return self._limits

    @property
    def retries(self) -> int:
        """The controller's own number of retries."""
        return self._retries

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)
