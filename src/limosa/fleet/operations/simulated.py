"""A fleet in memory behind the port of operations: agents simulated at their calls, time passed by sleeping.

    world = World(inventory, seconds=lambda item: 5.0, fails=lambda item: False)
    await carry_out(world.add(operation), world.port("controller-1"))

Its agents keep the promises of real ones: an order that is repeated meets the move that it began, one of a controller
that was replaced is refused, and a guest is in one move at a time.
"""

from collections.abc import Callable, Mapping

import msgspec

from limosa.errors import Blocked, Fenced, NotFound
from limosa.fleet.bandwidth import Way
from limosa.fleet.inventory import GuestId, Host, HostState, Inventory, Limits, Move
from limosa.fleet.operations.advance import Wish, deed_of
from limosa.units import GuestName, HostName, Side
from limosa.wire.fleet import Item, Operation
from limosa.wire.moves import MoveState, MoveStatus, Stage
from limosa.wire.reports import Hand, Outcome


class World:
    """Everything that outlives a controller: the database, the agents, the guests, and the clock.

    Args:
        inventory: the fleet before the first move.
        seconds: how long an item's move takes.
        fails: whether this attempt of it fails.
        retries: attempts at one guest after its first.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        seconds: Callable[[Item], float],
        fails: Callable[[Item], bool],
        retries: int = 3,
    ) -> None:
        self.inventory = inventory
        self.retries = retries
        self.clock = 0.0
        self.operations: dict[str, Operation] = {}
        self.wishes: dict[str, Wish] = {}
        self.epochs: dict[str, int] = {}
        self.moved: list[Move] = []
        """Moves that ended well, in their order."""
        self.most_at_once = 0
        self.rates: dict[tuple[str, str], float | None] = {}
        """What each move was told that it may send, by operation and deed."""
        self._seconds = seconds
        self._fails = fails
        self._moves: dict[tuple[str, str], tuple[float, MoveState, Item]] = {}
        self._obeyed: dict[tuple[str, str], int] = {}

    def add(self, operation: Operation) -> str:
        """Keep a new operation; its id."""
        self.operations[operation.id] = operation
        self.wishes[operation.id] = Wish.RUN
        return operation.id

    def port(self) -> "SimulatedPort":
        """What one controller sees of the world."""
        return SimulatedPort(self)

    def pass_time(self, seconds: float) -> None:
        """Let moves come to their ends."""
        self.clock += seconds
        for key, (end, state, item) in self._moves.items():
            if state is MoveState.RUNNING and end <= self.clock:
                self._moves[key] = (end, self._end(item), item)

    def _end(self, item: Item) -> MoveState:
        if self._fails(item):
            return MoveState.FAILED
        move = Move(GuestId(item.guest), GuestName(item.name), HostName(item.source), HostName(item.destination))
        self.inventory = self.inventory.replayed([move])
        self.moved.append(move)
        return MoveState.COMPLETED

    # -- one agent's calls ------------------------------------------------------------------------------------

    def order(self, hand: Hand, item: Item) -> Outcome:
        """Start a move, once. Raises Fenced, NotFound or Blocked."""
        self._obey(hand, item.source)
        key = hand.operation, deed_of(item)
        if key not in self._moves:
            self._require_free(item)
            self._moves[key] = self.clock + self._seconds(item), MoveState.RUNNING, item
            self.rates[key] = item.rate
            flying = sum(state is MoveState.RUNNING for _, state, _ in self._moves.values())
            self.most_at_once = max(self.most_at_once, flying)
        return self.outcome(hand, item)

    def outcome(self, hand: Hand, item: Item) -> Outcome:
        """What became of a move. Raises Fenced."""
        self._obey(hand, item.source)
        known = self._moves.get((hand.operation, deed_of(item)))
        return Outcome(move=deed_of(item), status=known and _status(item, known[1]))

    def take_back(self, hand: Hand, item: Item) -> None:
        """Abort a move that has not ended. Raises Fenced."""
        self._obey(hand, item.source)
        key = hand.operation, deed_of(item)
        end, state, moving = self._moves.get(key, (0.0, MoveState.COMPLETED, item))
        if state is MoveState.RUNNING:
            self._moves[key] = end, MoveState.ABORTED, moving

    def pace(self, hand: Hand, item: Item) -> None:
        """Change what a move may send. Raises Fenced."""
        self._obey(hand, item.source)
        self.rates[hand.operation, deed_of(item)] = item.rate

    def running(self) -> list[tuple[str, Item, float | None]]:
        """Moves in flight: operation, item, and what it was told that it may send."""
        flying = ((key, item) for key, (_, state, item) in self._moves.items() if state is MoveState.RUNNING)
        return [(key[0], item, self.rates[key]) for key, item in flying]

    def _obey(self, hand: Hand, host: str) -> None:
        known = self._obeyed.get((host, hand.operation), -1)
        if hand.epoch < known:
            raise Fenced(f"{host} obeys another controller in {hand.operation}")
        self._obeyed[host, hand.operation] = hand.epoch

    def _require_free(self, item: Item) -> None:
        guest = self.inventory.by_uuid.get(GuestId(item.guest))
        if guest is None or guest.host != item.source:
            raise NotFound(f"no guest {item.name} on {item.source}")
        flying = {moving.guest for _, state, moving in self._moves.values() if state is MoveState.RUNNING}
        if item.guest in flying:
            raise Blocked(f"{item.name} is in a move already")


class SimulatedPort:
    """A `limosa.fleet.operations.port.Port` on a world in memory."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def claim(self, operation: str) -> Hand:
        """Take the operation in hand."""
        if operation not in self._world.operations:
            raise NotFound(f"there is no operation {operation}")
        epoch = self._world.epochs[operation] = self._world.epochs.get(operation, 0) + 1
        return Hand(operation, epoch)

    async def load(self, operation: str) -> tuple[Operation, Wish]:
        """The operation, and what is wanted of it."""
        return self._world.operations[operation], self._world.wishes[operation]

    async def save(self, hand: Hand, operation: Operation) -> None:
        """Save it."""
        if hand.epoch != self._world.epochs[hand.operation]:
            raise Fenced(f"another controller carries {hand.operation} on")
        self._world.operations[operation.id] = msgspec.structs.replace(operation, number=operation.number + 1)
        if operation.phase.over:
            self._world.inventory = self._world.inventory.in_state(
                HostState.DRAINED, [HostName(h) for h in operation.hosts if not self._world.inventory.on(HostName(h))]
            )

    async def start(self, hand: Hand, item: Item) -> Outcome:
        """Order a move."""
        return self._world.order(hand, item)

    async def status(self, hand: Hand, item: Item) -> Outcome:
        """Ask for a move."""
        return self._world.outcome(hand, item)

    async def abort(self, hand: Hand, item: Item) -> None:
        """Take a move back."""
        self._world.take_back(hand, item)

    async def speed(self, hand: Hand, item: Item) -> None:
        """Tell a move its rate."""
        self._world.pace(hand, item)

    async def others(self, operation: str) -> tuple[Way, ...]:
        """Moves of other operations."""
        flying = (item for name, item, _ in self._world.running() if name != operation)
        return tuple(Way(item.source, item.destination) for item in flying)

    async def host_of(self, guest: str) -> str:
        """Where a guest is."""
        found = self._world.inventory.by_uuid.get(GuestId(guest))
        return found.host if found else ""

    async def hosts(self) -> Mapping[str, Host]:
        """Its hosts."""
        return {host.name: host for host in self._world.inventory.hosts}

    async def inventory(self) -> Inventory:
        """The fleet."""
        return self._world.inventory

    @property
    def limits(self) -> Limits:
        """The fleet's limits."""
        return self._world.inventory.limits

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return self._world.retries

    def now(self) -> float:
        """The world's clock."""
        return self._world.clock

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._world.pass_time(seconds)


def _status(item: Item, state: MoveState) -> MoveStatus:
    error = {"code": "move-failed", "what": "the link broke"} if state is MoveState.FAILED else None
    return MoveStatus(
        id=deed_of(item),
        guest=item.name,
        uuid=item.guest,
        source=item.source,
        destination=item.destination,
        state=state,
        stage=Stage.RETIRE if state is MoveState.COMPLETED else Stage.COPY,
        guest_runs=Side.DESTINATION if state is MoveState.COMPLETED else Side.SOURCE,
        elapsed=0.0,
        error=error,
    )
