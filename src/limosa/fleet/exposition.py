"""What a controller tells Prometheus of its fleet: read when it is asked.

Series grow with hosts and with operations under way, not with guests: of those only the ones with the fewest
compatible hosts are named, as many as `[metrics] guests` says.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from limosa.agent.meters import alone, exposed, gauge, of_hooks
from limosa.agent.metrics import CONFLICTS, certificates
from limosa.fleet.controller import Controller
from limosa.fleet.inventory import HostState, Inventory
from limosa.fleet.kept import Kept
from limosa.fleet.mobility import Mobility, survey
from limosa.fleet.progress import Head, open_heads, predicted_end
from limosa.wire.fleet import FleetHost, ItemState, OperationKind, Phase

READ_EVERY = 10.0
"""Seconds for which what was read of a fleet is told again: two Prometheus servers cost no more than one."""
SURVEY_EVERY = 60.0
"""Seconds between two looks at where every guest could go."""

Survey = Callable[[Inventory], Mobility]


class Read(NamedTuple):
    """What is read of hosts and guests."""

    hosts: Sequence[FleetHost]
    guests: Mapping[str, int]
    """By state."""
    conflicts: int


class Seen(NamedTuple):
    """The fleet at one moment."""

    fleet: Read
    operations: Sequence[Head]
    controllers: int
    mobility: Mobility
    now: float


class Exposition:
    """Answers scrapes of one controller.

    Args:
        controller: whose fleet it is.
        survey: finds out how well guests could leave; may take its time.
    """

    def __init__(self, controller: Controller, survey: Survey = survey) -> None:
        self._controller = controller
        self._survey = survey
        self._read = Kept(self._read_now, READ_EVERY)
        self._mobility = Kept(self._survey_now, SURVEY_EVERY, beside=True)

    async def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        controller = self._controller
        seen = Seen(
            fleet=await self._read.get(),
            operations=await open_heads(controller.database),
            controllers=await controller.count_living(),
            mobility=await self._mobility.get(),
            now=time.time(),
        )
        return exposed(_Together(controller, seen))

    async def _read_now(self) -> Read:
        controller = self._controller
        guests = Counter(guest.state for guest in await controller.guests())
        return Read(await controller.hosts(), guests, len(await controller.owners()))

    async def _survey_now(self) -> Mobility:
        return await asyncio.to_thread(self._survey, await self._controller.inventory())


class _Together(Collector):
    """One scrape: what was counted, and what was read."""

    def __init__(self, controller: Controller, seen: Seen) -> None:
        self._controller = controller
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        controller, seen = self._controller, self._seen
        yield from controller.meters.registry.collect()
        yield from _of_controller(controller, seen)
        yield from _of_hosts(seen.fleet.hosts)
        yield from _of_guests(seen, controller.config.named_guests)
        yield from of_operations(seen.operations, seen.now)
        yield from of_hooks(controller.hooks.told)
        yield from certificates(controller.config.pki_dir)


def _of_controller(controller: Controller, seen: Seen) -> Iterator[Metric]:
    told = {"version": version("limosa"), "controller": controller.config.host}
    yield InfoMetricFamily("limosa_controller", "The controller.", value=told)
    yield alone("limosa_controller_leader", "1 where this controller follows the agents.", float(controller.leads))
    yield alone("limosa_fleet_controllers", "Controllers of this fleet that are alive.", seen.controllers)
    following = controller.following
    words = "Hosts whose agents this controller hears; 0 where it does not lead."
    yield alone("limosa_controller_followed_hosts", words, len(following))
    words = "Longest time since one of those agents said something."
    lag = max((seen.now - heard for heard in following.values()), default=0.0)
    yield alone("limosa_controller_follower_lag_seconds", words, lag)


def _of_hosts(hosts: Sequence[FleetHost]) -> Iterator[Metric]:
    states = Counter({str(state): 0 for state in HostState})
    states.update(host.state for host in hosts)
    yield gauge("limosa_fleet_hosts", "Hosts by state.", [((s,), n) for s, n in states.items()], ("state",))
    words = "Time without a word from a host's agent; 0 while it talks."
    silent = [((host.name, host.state), host.silent_for) for host in hosts]
    yield gauge("limosa_fleet_host_silent_seconds", words, silent, ("host", "state"))


def _of_guests(seen: Seen, named: int) -> Iterator[Metric]:
    states = [((state,), count) for state, count in seen.fleet.guests.items()]
    yield gauge("limosa_fleet_guests", "Guests by state.", states, ("state",))
    yield alone(CONFLICTS, "Guests that more than one host claims.", seen.fleet.conflicts)
    stuck = [((str(constraint),), count) for constraint, count in seen.mobility.stuck.items()]
    words = "Guests that no host can take now, by what takes the last host away."
    yield gauge("limosa_fleet_guests_stuck", words, stuck, ("constraint",))
    classes = [((word,), count) for word, count in seen.mobility.classes.items()]
    words = "Guests by how many other hosts could take them if they had room."
    yield gauge("limosa_fleet_guests_by_compatible_hosts", words, classes, ("hosts",))
    chosen = seen.mobility.compatible[: named if named >= 0 else None]
    # Guests that were started without a UUID can share a name: one series tells of the most bound of them.
    fewest = {(bound.name, bound.guest): bound.hosts for bound in reversed(chosen)}
    words = "Other hosts that could take a guest if they had room; of the guests with the fewest."
    yield gauge("limosa_guest_compatible_hosts", words, fewest.items(), ("guest", "uuid"))


def of_operations(heads: Sequence[Head], now: float) -> Iterator[Metric]:
    """Operations that are not over."""
    kinds = Counter({(str(kind), str(phase)): 0 for kind in OperationKind for phase in Phase if not phase.over})
    kinds.update((str(head.kind), str(head.phase)) for head in heads)
    words = "Operations that are not over."
    yield gauge("limosa_fleet_operations", words, kinds.items(), ("kind", "phase"))
    flying = sum(head.states[ItemState.MOVING] for head in heads)
    yield alone("limosa_fleet_moves_in_flight", "Moves that operations have under way.", flying)
    begun = [head for head in heads if head.phase is not Phase.PLANNED]
    items = [((h.id, str(h.kind), str(state)), n) for h in begun for state, n in h.states.items()]
    words = "Moves of an operation that is under way."
    yield gauge("limosa_operation_moves", words, items, ("operation", "kind", "state"))
    left = [((h.id, str(h.kind)), len(h.left)) for h in begun]
    words = "Guests that an operation leaves where they should not be."
    yield gauge("limosa_operation_guests_left", words, left, ("operation", "kind"))
    ends = [((h.id, str(h.kind)), end) for h in begun if (end := predicted_end(h, now)) is not None]
    words = "When an operation that runs will probably be over."
    yield gauge("limosa_operation_predicted_end_timestamp_seconds", words, ends, ("operation", "kind"))
