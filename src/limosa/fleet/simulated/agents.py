"""The agents of a simulated fleet: they report, and carry moves out, when a controller calls them.

    agents = SimulatedAgents(inventory)
    async with Controller.running(config, agents) as controller, agents.living():
        ...

They keep the promises of real ones: an order that is repeated meets the move that it began, one of a controller that
was replaced is refused, and a guest is in one move at a time.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec

from limosa.agent.orders import move_of
from limosa.errors import Blocked, Fenced, NotFound, PeerError
from limosa.fleet.inventory import Guest, Host, Inventory
from limosa.fleet.simulated.moves import SimulatedMove, state_of, status
from limosa.fleet.simulated.records import log, record
from limosa.units import HostName
from limosa.wire.doctor import Facts, Qemu
from limosa.wire.guests import GuestShown
from limosa.wire.history import HistoryAsk, HistoryTold, Mark, MoveLog, MoveRecord, RecordAsk
from limosa.wire.moves import MoveState
from limosa.wire.reports import Deed, GuestReport, Hand, MachineReport, Order, Outcome, Pace, Report, ReportAsk

T = TypeVar("T")

INCARNATION = "simulated"
LEAST_RATE = 125e6
"""Bytes per second of a link that nobody measured."""
DRIFT_EVERY = 1.0
DRIFTING = 8
"""Hosts on which the load of a guest changes, each second."""


class SimulatedAgents:
    """All agents of one fleet; a `limosa.fleet.agents.Agents`.

    Args:
        inventory: the fleet before the first move.
        hurry: how much faster than on the fleet's links moves are.
        trouble: share of moves whose link breaks, 0 to 1.
        silent: hosts whose agents do not answer.
        past: moves that are over already, earlier ones first.
        drift: hosts on which the load of a guest changes, each second.
        seed: of what happens by chance.
    """

    def __init__(
        self,
        inventory: Inventory,
        *,
        hurry: float = 1.0,
        trouble: float = 0.0,
        silent: Iterable[HostName] = (),
        past: Iterable[SimulatedMove] = (),
        drift: int = DRIFTING,
        seed: int = 1,
    ) -> None:
        self._hosts = inventory.by_name
        self._hurry, self._trouble, self._drift_rate = hurry, trouble, drift
        self._dice = random.Random(seed)  # noqa: S311 - chance in a simulation, not a secret
        self._there: dict[HostName, dict[str, Guest]] = {name: {} for name in self._hosts}
        for guest in inventory.guests:
            self._there[guest.host][guest.uuid] = guest
        self._number = 1
        self._changed: dict[HostName, dict[str, int]] = defaultdict(dict)
        """For each host the guests that came, went or changed, and the number of the report that tells it."""
        self._news: dict[HostName, asyncio.Event] = defaultdict(asyncio.Event)
        self._moves: dict[str, SimulatedMove] = {}
        self._flying: dict[str, str] = {}
        """For each guest in a move the move's id."""
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._kept: dict[HostName, list[MoveRecord]] = defaultdict(list)
        """For each host the moves from it that are over, oldest first."""
        self._obeyed: dict[tuple[HostName, str], int] = {}
        self._silent = frozenset(silent)
        for move in past:
            self._moves[move.id] = move
            self._kept[move.guest.host].append(record(move, move.ends))

    # -- for a controller ---------------------------------------------------------------------------------------

    def known(self) -> Mapping[HostName, Host]:
        """The hosts."""
        return self._hosts

    async def link(self, host: HostName) -> "SimulatedLink":
        """Calls to one agent. Raises NotFound, PeerError."""
        if host not in self._hosts:
            raise NotFound(f"the fleet has no host {host}")
        if host in self._silent:
            raise PeerError(f"{host} cannot be reached: no route to host")
        return SimulatedLink(self, host)

    async def close(self) -> None:
        """Nothing is open."""

    # -- time passes --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """While the block runs, loads drift."""
        drifting = asyncio.create_task(self._drift(), name="drift")
        try:
            yield
        finally:
            drifting.cancel()
            await asyncio.gather(drifting, return_exceptions=True)

    async def _drift(self) -> None:
        names = list(self._hosts)
        while True:
            await asyncio.sleep(DRIFT_EVERY)
            for host in self._dice.sample(names, min(self._drift_rate, len(names))):
                if there := list(self._there[host].values()):
                    guest = self._dice.choice(there)
                    load = round(guest.vcpus * self._dice.betavariate(2, 4), 2)
                    self._there[host][guest.uuid] = msgspec.structs.replace(guest, load=load)
                    self._tell(host, guest.uuid)

    def _tell(self, host: HostName, guest: str) -> None:
        self._number += 1
        self._changed[host][guest] = self._number
        self._news[host].set()

    # -- one agent's calls --------------------------------------------------------------------------------------

    async def report(self, host: HostName, asked: ReportAsk) -> Report:
        """What changed since the report that the controller has, waited for."""
        if asked.known is None or asked.known.incarnation != INCARNATION:
            return self._everything(host)
        since = asked.known.number
        if not self._after(host, since) and asked.kept == self._mark(host):
            self._news[host].clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news[host].wait(), asked.wait)
        told = self._after(host, since)
        here = [self._there[host][guest] for guest in told if guest in self._there[host]]
        return Report(
            incarnation=INCARNATION,
            number=max(told.values(), default=since),
            since=since,
            machine=None,
            guests=tuple(self._guest(host, guest) for guest in here),
            gone=tuple(guest for guest in told if guest not in self._there[host]),
            kept=self._mark(host),
        )

    def _after(self, host: HostName, number: int) -> dict[str, int]:
        return {guest: at for guest, at in self._changed[host].items() if at > number}

    def _everything(self, host: HostName) -> Report:
        guests = tuple(self._guest(host, guest) for guest in self._there[host].values())
        return Report(
            incarnation=INCARNATION,
            number=self._number,
            since=0,
            machine=_machine(self._hosts[host], self._there[host].values()),
            guests=guests,
            gone=(),
            kept=self._mark(host),
        )

    def _mark(self, host: HostName) -> Mark:
        return Mark(INCARNATION, len(self._kept[host]))

    def _guest(self, host: HostName, guest: Guest) -> GuestReport:
        move = self._moves[self._flying[guest.uuid]] if guest.uuid in self._flying else None
        arriving = move is not None and move.destination == host
        shown = GuestShown(
            name=guest.name,
            uuid=guest.uuid,
            pid=1,
            host=host,
            state="running" if move is None else "arriving" if arriving else "moving",
            memory=guest.memory,
            vcpus=guest.vcpus,
            owner="limosa",
            monitor=None,
            movable="; ".join(guest.blocked) or "yes",
            move=None if move is None else move.id,
        )
        return GuestReport(
            key=guest.uuid,
            shown=shown,
            epoch=guest.epoch,
            here=not arriving,
            cpu=guest.cpu,
            disk=guest.disk,
            networks=guest.networks,
            load=guest.load,
            blocked=guest.blocked,
        )

    async def start(self, host: HostName, order: Order) -> Outcome:
        """Begin a move, once. Raises Fenced, NotFound, Blocked."""
        self._obey(order.hand, host)
        move = move_of(order.hand, order.deed)
        if move not in self._moves:
            self._begin(host, move, order)
        return self._outcome(move)

    def _begin(self, host: HostName, move: str, order: Order) -> None:
        guest = self._there[host].get(order.request.guest)
        if guest is None:
            raise NotFound(f"no guest {order.request.guest} on {host}")
        if guest.uuid in self._flying:
            raise Blocked(f"{guest.name} is in a move already")
        destination = HostName(order.request.to)
        began = self._moves[move] = SimulatedMove(
            id=move,
            guest=guest,
            destination=destination,
            began=time.time(),
            operation=order.hand.operation,
            rate=self._hurry * min(order.request.bandwidth or float("inf"), self._rate(host, destination)),
            fails=self._dice.random() < self._trouble,
        )
        self._flying[guest.uuid] = move
        self._there[destination][guest.uuid] = guest
        self._tell(host, guest.uuid)
        self._tell(destination, guest.uuid)
        loop = asyncio.get_running_loop()
        self._ends[move] = loop.call_later(began.ends - began.began, self._end, move)

    def _rate(self, *hosts: HostName) -> float:
        return min(self._hosts[host].link or LEAST_RATE for host in hosts)

    def _end(self, name: str) -> None:
        move = self._moves[name]
        self._ends.pop(name).cancel()
        del self._flying[move.guest.uuid]
        source, destination = move.guest.host, HostName(move.destination)
        gone = destination
        if state_of(move, move.ends) is MoveState.COMPLETED:
            gone = source
            now = self._there[source][move.guest.uuid]
            arrived = msgspec.structs.replace(now, host=destination, epoch=now.epoch + 1)
            self._there[destination][move.guest.uuid] = arrived
        self._there[gone].pop(move.guest.uuid, None)
        self._kept[source].append(record(move, move.ends))
        self._tell(source, move.guest.uuid)
        self._tell(destination, move.guest.uuid)

    async def outcome(self, host: HostName, deed: Deed) -> Outcome:
        """What became of a move. Raises Fenced."""
        self._obey(deed.hand, host)
        return self._outcome(move_of(deed.hand, deed.deed))

    async def abort(self, host: HostName, deed: Deed) -> Outcome:
        """Take back a move that has not committed. Raises Fenced."""
        self._obey(deed.hand, host)
        name, now = move_of(deed.hand, deed.deed), time.time()
        move = self._moves.get(name)
        if move is not None and state_of(move, now) is MoveState.RUNNING and now < move.commits:
            self._moves[name] = msgspec.structs.replace(move, aborted=now)
            self._end(name)
        return self._outcome(name)

    async def speed(self, host: HostName, pace: Pace) -> Outcome:
        """A simulated move keeps the rate that it began with. Raises Fenced."""
        return await self.outcome(host, Deed(hand=pace.hand, deed=pace.deed))

    async def facts(self, host: HostName, _asked: None) -> Facts:
        """What there is for a doctor to see."""
        qemus = (
            Qemu(pid=1, name=guest.name, uuid=guest.uuid, state="running", move=self._flying.get(guest.uuid), ours=True)
            for guest in self._there[host].values()
            if guest.host == host
        )
        return Facts(host=host, qemus=tuple(qemus))

    def _outcome(self, name: str) -> Outcome:
        move = self._moves.get(name)
        return Outcome(move=name, status=None if move is None else status(move, time.time()))

    async def history(self, host: HostName, asked: HistoryAsk) -> HistoryTold:
        """Finished moves after a mark."""
        behind = asked.after.number if asked.after.archive == INCARNATION else 0
        return HistoryTold(mark=self._mark(host), records=tuple(self._kept[host][behind:]))

    async def move(self, host: HostName, asked: RecordAsk) -> MoveRecord:
        """One move of this host, as it stands. Raises NotFound."""
        found = self._moves.get(asked.move)
        if found is None or found.guest.host != host:
            raise NotFound(f"{host} knows no move {asked.move}")
        return record(found, time.time())

    async def log(self, host: HostName, asked: RecordAsk) -> MoveLog:
        """What this host logged of a move. Raises NotFound."""
        found = self._moves.get(asked.move)
        if found is None or host not in {found.guest.host, found.destination}:
            raise NotFound(f"{host} knows no move {asked.move}")
        return log(found, host, time.time())

    def _obey(self, hand: Hand, host: HostName) -> None:
        if hand.epoch < self._obeyed.get((host, hand.operation), -1):
            raise Fenced(f"{host} obeys another controller in {hand.operation}")
        self._obeyed[host, hand.operation] = hand.epoch


class SimulatedLink:
    """Calls to one agent; a `limosa.fleet.agents.Link`."""

    def __init__(self, agents: SimulatedAgents, host: HostName) -> None:
        self._host = host
        self._methods: dict[str, Any] = {
            "fleet.report": agents.report,
            "fleet.start": agents.start,
            "fleet.status": agents.outcome,
            "fleet.abort": agents.abort,
            "fleet.speed": agents.speed,
            "fleet.doctor": agents.facts,
            "fleet.history": agents.history,
            "fleet.move": agents.move,
            "fleet.log": agents.log,
        }

    async def call(
        self, method: str, params: msgspec.Struct | None, result: type[T], *, timeout: float | None = None
    ) -> T:
        """Ask it."""
        if method not in self._methods:
            raise NotFound(f"a simulated agent knows no {method}")
        async with asyncio.timeout(timeout):
            answer = await self._methods[method](self._host, params)
        return msgspec.convert(answer, result, from_attributes=True)


def _machine(host: Host, guests: Any) -> MachineReport:
    return MachineReport(
        host=host.name,
        version="simulated",
        cores=host.cores,
        memory=host.memory,
        memory_free=max(0, host.memory - sum(guest.memory for guest in guests)),
        disk=host.disk,
        disk_free=host.disk_free,
        link=host.link or 0.0,
        networks=host.networks,
        qemu_versions=("10.0.2",),
        cpu=host.cpu,
    )
