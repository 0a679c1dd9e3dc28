"""What an agent tells Prometheus: some of it counted as it happens (`meters.py`), the rest read while it is asked.

A scrape reads `/proc`, the journal and the certificates. It asks no QEMU, and while a guest is paused for its
switch-over it takes no time for `/proc` and the state disk: to be watched shall cost a guest nothing.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from limosa.agent import pki
from limosa.agent.config import Config
from limosa.agent.dial import Peers
from limosa.agent.hosts import Hosts
from limosa.agent.meters import CallMeters, MoveMeters, alone, exposed, gauge, of_hooks
from limosa.agent.peer import PeerServer
from limosa.agent.reports import Reporter
from limosa.errors import NotFound, StateDiskError, UsageError
from limosa.guest.discover import find_guests
from limosa.guest.profile import FoundGuest
from limosa.migration.moves import Moves
from limosa.migration.store import Held, Store, identity_of
from limosa.units import Side
from limosa.wire.hooks import HookShown
from limosa.wire.moves import MoveState, Stage

PROVE_EVERY = 60.0
"""Seconds between two writes that prove that the state disk takes them."""
ARRIVING = "arriving"
CONFLICTS = "limosa_ownership_conflicts"
"""The same at an agent and at a controller, each as far as it sees."""

_PAUSING = frozenset({Stage.SWITCH_OVER, Stage.COMMIT, Stage.RESUME})
_IN_FLIGHT = (*(state for state in MoveState if not state.over), ARRIVING)


class Metrics:
    """One agent's registry; nothing of it is global, so that agents can share a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.moves = MoveMeters(self.registry)
        self.calls = CallMeters(self.registry)
        self._state: AgentState | None = None

    def read(self, state: "AgentState") -> None:
        """From now on, tell this state too."""
        self.registry.register(state)
        self._state = state

    async def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        if self._state is not None:
            await self._state.look()
        return exposed(self.registry)


class AgentState(Collector):
    """Reads the state of an agent. Call it in the agent's own thread: its journal belongs to that."""

    def __init__(
        self,
        config: Config,
        hosts: Hosts,
        peers: Peers,
        moves: Moves,
        reporter: Reporter,
        server: Callable[[], PeerServer | None],
        hooks: Callable[[], Iterable[HookShown]],
    ) -> None:
        self._config = config
        self._hosts = hosts
        self._peers = peers
        self._moves = moves
        self._reporter = reporter
        self._server = server
        self._hooks = hooks
        self._disk = DiskProof(moves.store)
        self._guests: tuple[FoundGuest, ...] = ()

    async def look(self) -> None:
        """See which QEMUs are here, and try the state disk; while a guest is paused, what was seen last counts."""
        if any(status.stage in _PAUSING for status in self._moves.flying()):
            return
        self._disk.look()
        self._guests = await asyncio.to_thread(find_guests)

    def collect(self) -> Iterator[Metric]:
        """Read it."""
        yield from self._of_agent()
        yield from self._of_guests()
        yield from self._of_journal()
        yield from of_hooks(self._hooks())
        yield from certificates(self._config.pki_dir)

    def _of_agent(self) -> Iterator[Metric]:
        told = {"version": version("limosa"), "host": self._config.host}
        yield InfoMetricFamily("limosa_agent", "The agent.", value=told)
        server = self._server()
        yield alone(
            "limosa_agent_peer_port_open", "1 where other hosts can reach this agent.", float(server is not None)
        )
        links = {"in": len(server.links) if server else 0, "out": len(self._peers.open)}
        words = "Links to other hosts, by who opened them."
        yield gauge("limosa_agent_peer_links", words, _each(links), ("direction",))
        yield alone(
            "limosa_agent_known_hosts", "Other hosts in hosts.toml; NaN where it cannot be read.", self._known()
        )
        words = "When a controller last asked this agent for a report; 0 before the first time."
        yield alone("limosa_agent_controller_asked_timestamp_seconds", words, self._reporter.asked_at)

    def _known(self) -> float:
        try:
            return len(self._hosts.known().keys() - {self._config.host})
        except UsageError:
            return float("nan")

    def _of_guests(self) -> Iterator[Metric]:
        yield alone("limosa_agent_guests", "QEMU processes on this host.", len(self._guests))
        words = "QEMUs here of guests that this host's journal gave up to another host."
        yield alone(CONFLICTS, words, sum(self._given_up(guest) for guest in self._guests))

    def _given_up(self, guest: FoundGuest) -> bool:
        owner = self._moves.store.owner(identity_of(guest.uuid or "", guest.name))
        return owner is not None and owner.state is Held.GIVEN_UP and self._moves.hold(guest.pid) is None

    def _of_journal(self) -> Iterator[Metric]:
        states = Counter({str(state): 0 for state in _IN_FLIGHT})
        states.update(str(status.state) for status in self._moves.flying())
        states[ARRIVING] = len(self._moves.arriving())
        yield gauge("limosa_moves_in_flight", "Moves by state.", _each(states), ("state",))
        store = self._moves.store
        sides = Counter({str(side): 0 for side in (Side.SOURCE, Side.DESTINATION)})
        sides.update(str(record.side) for record in store.open_moves())
        yield gauge("limosa_journal_open_moves", "Moves that the journal has open.", _each(sides), ("side",))
        if (since := store.open_since()) is not None:
            words = "When the oldest move that is open was recorded; absent where none is."
            yield alone("limosa_journal_oldest_open_timestamp_seconds", words, since)
        yield alone("limosa_journal_writable", "1 where the state disk takes records.", self._disk.holds)
        size = store.path.stat().st_size if store.path.exists() else 0
        yield alone("limosa_journal_size_bytes", "Size of the journal.", size)


class DiskProof:
    """Whether the state disk takes records, proved by one, but not at each question."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._next = clock()
        self.holds = float("nan")
        """1 or 0, as it was when it was tried last; NaN before."""

    def look(self) -> None:
        """Try it, if that was not done in the last `PROVE_EVERY` seconds."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + PROVE_EVERY
        try:
            self._store.prove()
        except StateDiskError:
            self.holds = 0.0
        else:
            self.holds = 1.0


def certificates(pki_dir: Path) -> Iterator[Metric]:
    """From when until when the certificates of a directory hold; what is missing there is missing here."""
    begins, ends = [], []
    for name, file in (("ca", pki.CA_CERT), ("host", pki.HOST_CERT)):
        try:
            certificate = pki.load_certificate(pki_dir / file)
        except (NotFound, UsageError):
            continue
        begins.append(((name,), certificate.not_valid_before_utc.timestamp()))
        ends.append(((name,), certificate.not_valid_after_utc.timestamp()))
    labels = ("certificate",)
    yield gauge("limosa_certificate_not_before_timestamp_seconds", "When a certificate begins to hold.", begins, labels)
    yield gauge("limosa_certificate_not_after_timestamp_seconds", "When a certificate expires.", ends, labels)


def _each(counts: dict[str, int] | Counter[str]) -> list[tuple[tuple[str, ...], float]]:
    return [((name,), count) for name, count in counts.items()]
