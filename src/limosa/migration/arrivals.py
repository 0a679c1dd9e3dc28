"""Every move that comes to this host: checks, promises, and the calls that sources make."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog

from limosa.cargo.kind import HostFacts, Kind, Streams
from limosa.cpu.facts import HostCpu
from limosa.destination.binaries import Binary, choose
from limosa.destination.launch import Twin
from limosa.errors import Blocked, GuestLost, LaunchError, LimosaError, MoveFailed, StateDiskError
from limosa.guest.assemble import cpu_target
from limosa.guest.profile import FoundGuest, Profile
from limosa.migration.archive import Archive
from limosa.migration.arrival import LOST, Arrival, Luggage
from limosa.migration.credentials import CREDS
from limosa.migration.diary import Diary
from limosa.migration.ends import (
    CloseAsk,
    KeyAsk,
    ListenAsk,
    MoveAsk,
    OfferAnswer,
    OfferAsk,
    ReserveAsk,
    Settled,
    StartAsk,
    StepAsk,
    TakeAsk,
    Told,
)
from limosa.migration.fault_points import AFTER, reach
from limosa.migration.qemus import Qemus
from limosa.migration.store import Held, Store, identity_of, insist
from limosa.units import HostName, MoveId, Side, format_size
from limosa.wire.findings import Finding, Severity
from limosa.wire.history import MoveLog
from limosa.wire.rpc import Handler

_log = structlog.get_logger()

HEADROOM = 64 * 1024**2
"""Bytes that a QEMU process needs beside its guest's RAM."""


Deed = Callable[[Any, HostName], Awaitable[Any]]


class Arrivals:
    """The destination side of an agent."""

    def __init__(
        self,
        host: HostFacts,
        kinds: Mapping[str, Kind],
        store: Store,
        archive: Archive,
        qemus: Qemus,
        *,
        qemu_binaries: Sequence[str],
        ports: range,
        at_rest: Callable[[], None],
    ) -> None:
        self._host = host
        self._at_rest = at_rest
        self._store = store
        self._archive = archive
        self._qemus = qemus
        self._kinds = kinds
        self._binaries = qemu_binaries
        self._ports = ports
        self._open: dict[MoveId, Arrival] = {}
        self._records: set[asyncio.Task[None]] = set()

    def handlers(self) -> dict[str, Handler]:
        """What sources may call, for the peer link."""
        calls: dict[str, Handler] = {
            "move.offer": (OfferAsk, self._offer),
            "move.reserve": (ReserveAsk, self._reserve),
            "move.key": (KeyAsk, self._on(Arrival.keep_key)),
            "move.start": (StartAsk, self._on(Arrival.start)),
            "move.listen": (ListenAsk, self._on(Arrival.listen)),
            "move.make": (StepAsk, self._make),
            "move.unmake": (StepAsk, self._unmake),
            "move.stop-twin": (MoveAsk, self._stop_twin),
            "move.arrived": (MoveAsk, self._bare(Arrival.arrived)),
            "move.take-over": (TakeAsk, self._take_over),
            "move.resume": (MoveAsk, self._resume),
            "move.settle": (MoveAsk, self._settle),
            "move.attend": (MoveAsk, self._bare(Arrival.attend)),
            "move.close": (CloseAsk, self._close),
        }
        return {name: (params, self._written_down(name, deed)) for name, (params, deed) in calls.items()}

    def _written_down(self, call: str, deed: Deed) -> Deed:
        """The same deed, what it logs kept with its move."""

        async def answer(ask: Any, peer: HostName) -> Any:
            arrival = self._open.get(ask.move)
            with arrival.diary.open() if arrival else contextlib.nullcontext():
                try:
                    return await deed(ask, peer)
                except LimosaError as trouble:
                    _log.warning("a call of the source failed", call=call, why=trouble.what)
                    raise

        return answer

    def log(self, move: MoveId) -> MoveLog | None:
        """What was logged so far of a move that this host takes part in; None where it takes no part."""
        return self._open[move].diary.log() if move in self._open else None

    @property
    def open(self) -> frozenset[MoveId]:
        """Moves that this host takes part in now."""
        return frozenset(self._open)

    def waiting(self) -> dict[MoveId, Twin]:
        """The QEMUs that guests arrive in now."""
        return {move: arrival.twin for move, arrival in self._open.items() if arrival.twin is not None}

    async def close(self) -> None:
        """The agent stops: whatever has not been taken over is removed."""
        for arrival in tuple(self._open.values()):
            if not arrival.committed:
                await arrival.clear()

    async def _offer(self, ask: OfferAsk, peer: HostName) -> OfferAnswer:
        profile = ask.profile
        surveys = {survey.kind: survey for survey in ask.surveys}
        offers = [
            await kind.offer(profile, surveys[kind.name], self._host, ask.request, ask.move)
            for kind in self._kinds.values()
            if kind.name in surveys
        ]
        able = await self._qemus.binaries(self._binaries)
        binary = choose(
            able, machine=profile.machine.type, version=profile.qemu.version, target=cpu_target(profile.cpu.type)
        )
        cpu, unable = await self._cpu(binary, profile.machine.accel)
        return OfferAnswer(
            host=self._host,
            cpu=cpu,
            binary=binary.path,
            version=binary.version,
            offers=tuple(offers),
            streams=self._streams(plaintext=ask.request.insecure_plaintext),
            monitor=f"{self._host.run_dir}/guests/{ask.move}/qmp",
            findings=(
                *_misnamed(ask.source, peer),
                *self._room(profile.memory.size),
                *_already_here(profile, self._qemus.found()),
                *unable,
            ),
        )

    async def _cpu(self, binary: Binary, accel: str) -> tuple[HostCpu | None, tuple[Finding, ...]]:
        """What this program can give a guest here; or why it does not start under the guest's accelerator."""
        try:
            return await self._qemus.host_cpu(self._host, binary, accel), ()
        except LaunchError as error:
            finding = Finding(
                severity=Severity.BLOCKS,
                kind="cpu",
                what=f"{binary.path} on {self._host.name} does not start under {accel}: {error.detail.strip()}",
                remedy=f"make {accel} work there, or choose another host",
                side=Side.DESTINATION,
            )
            return None, (finding,)

    async def _reserve(self, ask: ReserveAsk, peer: HostName) -> None:
        if short := self._room(ask.memory):
            raise Blocked(short[0].what, guest_runs=Side.SOURCE, remedy=short[0].remedy)
        if self._store.is_known(ask.move, Side.DESTINATION):
            raise MoveFailed(f"{self._host.name} has a move {ask.move} already", guest_runs=Side.SOURCE)
        if self._store.refused(ask.move):
            raise MoveFailed(f"{self._host.name} has refused the move {ask.move}", guest_runs=Side.SOURCE)
        self._store.check()
        self._refuse_older(ask)
        arrival = self._arriving(Luggage(ask=ask, source=peer))
        arrival.open()
        self._open[ask.move] = arrival
        with arrival.diary.open():
            _log.info("a guest is to arrive", guest=ask.name, source=peer, memory=ask.memory, binary=ask.binary)
            arrival.open_alone()

    def _refuse_older(self, ask: ReserveAsk) -> None:
        known = self._store.owner(identity_of(ask.uuid, ask.name))
        if known is not None and known.state is Held.HERE and known.epoch > ask.epoch:
            raise Blocked(
                f"{self._host.name} has recorded that it owns {ask.name} since a later move "
                f"(epoch {known.epoch}, the source is at {ask.epoch})",
                guest_runs=Side.SOURCE,
                remedy="`limosa doctor` on both hosts shows who owns it",
            )

    async def restore(self, *, taken_only: bool = False) -> None:
        """Settle what was open when this agent stopped: forward what it had taken over, back what not.

        Args:
            taken_only: leave what was not taken over as it is: nothing can be promised while nothing can be recorded.
        """
        for move in self._store.open_moves():
            if move.side is not Side.DESTINATION or move.id in self._open:
                continue
            if taken_only and self._taken(move.id) is None:
                continue
            arrival = self._arriving(msgspec.json.decode(move.baggage, type=Luggage))
            self._open[move.id] = arrival
            if self._taken(move.id) is not None:
                arrival.go_on_with()
            with arrival.diary.open():
                await self._settled(arrival)

    async def _settled(self, arrival: Arrival) -> None:
        _log.info("an arrival is taken up again", guest=arrival.ask.name, taken_over=arrival.committed)
        try:
            await (arrival.go_on() if arrival.committed else arrival.clear())
        except (LimosaError, OSError):
            arrival.leave_alone()  # one that cannot be settled yet must not keep the agent from starting

    async def _make(self, ask: StepAsk, peer: HostName) -> Told:
        if self._taken(ask.move) is not None and ask.move not in self._open:
            return Told()  # this host has finished the move by itself
        return await self._arrival(ask.move, peer).make(ask)

    async def _take_over(self, ask: TakeAsk, peer: HostName) -> None:
        if ask.move in self._open or self._taken(ask.move) is None:
            await self._arrival(ask.move, peer).take_over(ask)
        await reach(ask.move, "grant", AFTER)

    async def _resume(self, ask: MoveAsk, peer: HostName) -> Told:
        if self._taken(ask.move) is not None and ask.move not in self._open:
            if self._lost(ask.move):
                raise GuestLost(f"the QEMU of the guest of {ask.move} has died on {self._host.name}")
            return Told()
        return await self._arrival(ask.move, peer).resume()

    async def _settle(self, ask: MoveAsk, peer: HostName) -> Settled:
        if ask.move in self._open:
            await self._arrival(ask.move, peer).give_back()
        taken = self._taken(ask.move)
        if taken is None:
            self._store.refuse(ask.move)
            if ask.move in self._open:
                arrival = self._arrival(ask.move, peer)
                try:
                    await arrival.clear()
                except (LimosaError, OSError):
                    arrival.leave_alone()  # the promise stands; what is left over goes later
        return Settled(taken=taken is not None, epoch=taken or 0, lost=self._lost(ask.move))

    def _taken(self, move: MoveId) -> int | None:
        """The epoch that this host took over with a move; also when the guest has moved on since."""
        return self._store.taken(move)

    def _lost(self, move: MoveId) -> bool:
        """Whether the guest of a move was taken over, and its QEMU died before the move ended."""
        if (arrival := self._open.get(move)) is not None:
            return arrival.lost
        return self._store.ending(move, Side.DESTINATION) == LOST

    def _arriving(self, luggage: Luggage) -> Arrival:
        diary = Diary(luggage.ask.move, self._host.name)
        return Arrival(self._host, luggage, self._kinds, self._store, self._qemus, self._forget, diary)

    async def _unmake(self, ask: StepAsk, peer: HostName) -> None:
        if ask.move in self._open:
            await self._arrival(ask.move, peer).unmake(ask)

    async def _stop_twin(self, ask: MoveAsk, peer: HostName) -> None:
        if ask.move in self._open:
            await self._arrival(ask.move, peer).stop_twin()

    async def _close(self, ask: CloseAsk, peer: HostName) -> Told:
        return await self._arrival(ask.move, peer).close(ask.blackout_ms) if ask.move in self._open else Told()

    def _forget(self, move: MoveId) -> None:
        if (arrival := self._open.pop(move, None)) is not None:
            arrival.diary.close()
            ask, log = arrival.ask, arrival.diary.log()
            record = partial(self._archive.keep_log, move, ask.name, ask.uuid, log)
            try:
                record()
            except StateDiskError:
                self._records.add(asyncio.create_task(insist(record), name=f"log of {move}"))
        self._at_rest()

    def _arrival(self, move: MoveId, peer: HostName) -> Arrival:
        found = self._open.get(move)
        if found is None or found.source != peer:
            raise MoveFailed(f"{self._host.name} knows of no move {move} from {peer}", guest_runs=Side.SOURCE)
        return found

    def _on(self, deed: Callable[[Arrival, Any], Awaitable[Any]]) -> Callable[[Any, HostName], Awaitable[Any]]:
        async def answer(ask: Any, peer: HostName) -> Any:
            return await deed(self._arrival(ask.move, peer), ask)

        return answer

    def _bare(self, deed: Callable[[Arrival], Awaitable[None]]) -> Callable[[MoveAsk, HostName], Awaitable[None]]:
        async def answer(ask: MoveAsk, peer: HostName) -> None:
            await deed(self._arrival(ask.move, peer))

        return answer

    def _room(self, memory: int) -> tuple[Finding, ...]:
        free = self._qemus.free_memory() - sum(a.ask.memory for a in self._open.values() if not a.committed)
        if memory + HEADROOM <= free:
            return ()
        return (
            Finding(
                severity=Severity.BLOCKS,
                kind="memory",
                what=f"{self._host.name} has {format_size(free)} of memory free, the guest needs {format_size(memory)}",
                remedy="choose a host with more memory, or move another guest away first",
                side=Side.DESTINATION,
            ),
        )

    def _streams(self, *, plaintext: bool) -> Streams:
        taken = {p for a in self._open.values() for p in (a.streams.nbd_port, a.streams.migration_port)}
        free = (
            port
            for port in self._ports
            if port not in taken and self._qemus.port_free(self._host.migration_address, port)
        )
        try:
            nbd, migration = next(free), next(free)
        except StopIteration:
            raise Blocked(
                f"{self._host.name} has no two free ports between {self._ports.start} and {self._ports.stop - 1}",
                guest_runs=Side.SOURCE,
                remedy="wait for other moves to end, or widen `ports` in its agent.toml",
            ) from None
        return Streams(
            address=self._host.migration_address,
            nbd_port=nbd,
            migration_port=migration,
            tls_creds=None if plaintext else CREDS,
        )


def _misnamed(source: HostFacts, peer: HostName) -> tuple[Finding, ...]:
    if source.name == peer:
        return ()
    return (
        Finding(
            severity=Severity.BLOCKS,
            kind="limosa",
            what=f"the source calls itself {source.name}, but its certificate says {peer}",
            remedy="correct `host` in the source's agent.toml, or issue it a certificate of that name",
            side=Side.SOURCE,
        ),
    )


def _already_here(profile: Profile, guests: Sequence[FoundGuest]) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            severity=Severity.BLOCKS,
            kind="limosa",
            what=f"a QEMU with the UUID of {profile.name} is here already: {guest.name}, pid {guest.pid}",
            remedy="find out which one is the guest; `limosa ls` on both hosts shows them",
            side=Side.DESTINATION,
        )
        for guest in guests
        if guest.uuid == profile.uuid
    )
