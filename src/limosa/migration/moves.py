"""All moves of one agent: those that leave this host, and those that come to it."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import structlog

from limosa.cargo.kind import HostFacts, Kind, kinds
from limosa.errors import Blocked, NotFound, StateDiskError, UsageError
from limosa.guest.attach import attach, pick
from limosa.guest.introspect import introspect
from limosa.guest.profile import FoundGuest, Profile
from limosa.migration.archive import DEFAULT_RETENTION, Archive, Retention
from limosa.migration.arrival import ARRIVED
from limosa.migration.arrivals import Arrivals
from limosa.migration.departure import Luggage
from limosa.migration.hold import Hold
from limosa.migration.move import Link, Move
from limosa.migration.qemus import Qemus
from limosa.migration.store import OpenMove, Store, identity_of, insist
from limosa.migration.survey import obstacles
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding
from limosa.wire.history import MoveLog, MoveRecord
from limosa.wire.moves import MoveRequest, MoveState, MoveStatus, PlanShown
from limosa.wire.rpc import Handler

MIN_EVIDENCE = 4
"""Words that evidence has at least; it is recorded for whoever looks into the matter later."""

_log = structlog.get_logger()

KEPT = 200
"""Reports of ended moves that are kept in memory."""


class Moves:
    """What an agent can do with guests.

    Args:
        host: this host.
        link: gives the peer link to a host by its name.
        qemu_binaries: programs that may run arriving guests.
        ports: TCP ports for bulk data of arriving guests, two for each.
        cargo: kinds of cargo by name; every installed one when None.
        store: the journal; the file in the host's state directory when None.
        qemus: the QEMUs of this host.
        retention: how many finished moves the journal keeps, and for how long.
    """

    def __init__(
        self,
        host: HostFacts,
        *,
        link: Link,
        qemu_binaries: Sequence[str],
        ports: range,
        cargo: Mapping[str, Kind] | None = None,
        store: Store | None = None,
        qemus: Qemus | None = None,
        retention: Retention = DEFAULT_RETENTION,
    ) -> None:
        self._host = host
        self._link = link
        self._kinds = kinds() if cargo is None else cargo
        self._store = store or Store(Path(host.state_dir) / "journal.db", Path(host.run_dir))
        self._qemus = qemus or Qemus()
        self.archive = Archive(self._store, retention)
        self._arrivals = Arrivals(
            host,
            self._kinds,
            self._store,
            self.archive,
            self._qemus,
            qemu_binaries=qemu_binaries,
            ports=ports,
            at_rest=self._tell_at_rest,
        )
        self._told_at_rest: list[Callable[[], None]] = []
        self._told_over: list[Callable[[MoveStatus], None]] = []
        self._moves: dict[MoveId, Move] = {}
        self._rehearsed: dict[MoveId, Move] = {}
        self._waiting: asyncio.Task[None] | None = None

    async def restore(self) -> None:
        """Settle what was open when this agent stopped: arrivals at once, departures as their peers answer.

        Called once, before the peer link is served. While the state disk refuses, guests that were taken over go on
        all the same, and the rest waits for the disk.
        """
        try:
            self._store.prove()
        except StateDiskError as trouble:
            _log.error("open moves wait for the state disk", why=trouble.what, remedy=trouble.remedy)
            await self._arrivals.restore(taken_only=True)
            self._waiting = asyncio.create_task(self._restore_later(), name="open moves")
        else:
            await self._restore()

    async def _restore_later(self) -> None:
        await insist(self._store.prove)
        await self._restore()

    async def _restore(self) -> None:
        await self._arrivals.restore()
        leaving = [record for record in self._store.open_moves() if record.side is Side.SOURCE]
        latest = {record.identity: record for record in leaving}
        for record in leaving:
            if record is latest[record.identity]:
                self._take_up(record)
            else:  # it had ended before the next began, and only that could not be recorded
                self._store.close_move(record.id, record.side, "superseded")

    def _take_up(self, record: OpenMove) -> None:
        luggage = msgspec.json.decode(record.baggage, type=Luggage)
        move = self._moves[record.id] = Move(
            record.id,
            luggage.request,
            luggage.guest,
            self._host,
            self._store,
            self._qemus,
            archive=self.archive,
            cpus=os.cpu_count() or 1,
        )
        move.take_up(record, self._link, self._kinds, partial(self._departed, move))

    def resolve(self, guest: str, who: str, evidence: str) -> MoveStatus:
        """Take a guest back whose move is in doubt, on somebody's word that the other host is fenced.

        Raises:
            NotFound: no such move.
            Blocked: it is not in doubt.
            UsageError: there is no evidence.
            StateDiskError: it could not be recorded who said what; nothing was changed.
        """
        if len(evidence.split()) < MIN_EVIDENCE:
            raise UsageError(
                "say how you know that the other host does not run the guest, in a sentence",
                remedy="--fence-evidence 'b was switched off at its power supply by me at 14:05'",
            )
        move = self._doubted(guest)
        self._store.say(identity_of(move.status().uuid, move.guest.name), who, evidence)
        move.resolve()
        return move.status()

    def _doubted(self, wanted: str) -> Move:
        meant = [m for m in self._moves.values() if wanted in {m.id, m.guest.name, m.guest.uuid, str(m.guest.pid)}]
        flying = [m for m in meant if not m.state.over]
        for move in flying:
            move.require_doubt()
            return move
        raise Blocked(
            f"nothing is in doubt about {wanted}: no move of it is in flight here",
            remedy="ask the agent of the host that the guest came from; `limosa doctor` shows moves in doubt",
        )

    def handlers(self) -> dict[str, Handler]:
        """The destination end, for the peer link."""
        return self._arrivals.handlers()

    async def plan(self, request: MoveRequest) -> PlanShown:
        """Check and rehearse a move; nothing is left changed.

        Raises:
            LimosaError: the checks could not be made.
        """
        move = self._new(request)
        self._rehearsed[move.id] = move
        try:
            return await move.plan(self._link, self._kinds)
        finally:
            del self._rehearsed[move.id]

    async def start(self, request: MoveRequest, move_id: MoveId | None = None) -> MoveStatus:
        """Begin a move; it goes on by itself.

        Args:
            request: what is wanted.
            move_id: its id, for who must know it beforehand; nothing here has it yet.

        Raises:
            NotFound: no such guest.
            Blocked: it is in a move already.
            StateDiskError: it could not be recorded.
        """
        move = self._new(request, move_id)
        self._store.check()
        self._moves[move.id] = move
        move.start(self._link, self._kinds, partial(self._departed, move))
        self._forget_old()
        return move.status()

    def get(self, move: str) -> MoveStatus:
        """Status, or final report.

        Raises:
            NotFound: no such move.
        """
        found = self._known(move)
        return found.status() if found else self.archive.record(move).status

    def record(self, move: str) -> MoveRecord:
        """A move over its time, in flight or kept. Raises NotFound."""
        found = self._known(move)
        return found.record() if found else self.archive.record(move)

    async def record_after(self, move: str, seen: int) -> MoveRecord:
        """The same, once it is another one than that of number `seen`, or the last. Raises NotFound."""
        if (found := self._known(move)) is not None:
            await found.changed(seen)
        return self.record(move)

    def log(self, move: str) -> MoveLog:
        """What this host logged of a move that left it, or came to it. Raises NotFound."""
        found = self._moves.get(MoveId(move))
        told = found.log() if found else self._arrivals.log(MoveId(move)) or self.archive.log(move)
        if told is None:
            raise NotFound(f"nothing is kept here of the log of move {move}", remedy="see this host's own log")
        return told

    def all(self) -> tuple[MoveStatus, ...]:
        """Every move that is remembered, oldest first."""
        return tuple(move.status() for move in self._moves.values())

    def flying(self) -> tuple[MoveStatus, ...]:
        """Moves out of this host that are not over, oldest first."""
        return tuple(move.status() for move in self._moves.values() if not move.state.over)

    def watch(self, move: str) -> AsyncIterator[MoveStatus]:
        """Status at every change, up to and including the final one."""
        return self._find(move).watch()

    async def abort(self, move: str) -> MoveStatus:
        """End a move before its commit, and wait until it is rolled back."""
        found = self._find(move)
        await found.abort()
        return found.status()

    async def set_speed(self, move: str, rate: float | None) -> MoveStatus:
        """Cap a move at `rate` bytes per second from now on; None or 0 lifts the cap."""
        found = self._find(move)
        await found.set_bandwidth(rate or None)
        return found.status()

    def in_move(self, pid: int) -> MoveStatus | None:
        """The move that a guest's process is in, if any."""
        return next((m.status() for m in self._moves.values() if m.guest.pid == pid and not m.state.over), None)

    @property
    def store(self) -> Store:
        """The journal; whoever is not a move only reads it, and strikes from its ledger what is gone."""
        return self._store

    def rehearsed(self) -> frozenset[MoveId]:
        """Moves that are only planned: no journal here has them, but they have a directory and a twin for a while."""
        return frozenset(self._rehearsed)

    def arriving(self) -> frozenset[MoveId]:
        """Moves whose guests are on their way to this host."""
        return self._arrivals.open

    def at_rest(self, call: Callable[[], None]) -> None:
        """Have something called whenever a move has come to its end here, on either side."""
        self._told_at_rest.append(call)

    def when_over(self, call: Callable[[MoveStatus], None]) -> None:
        """Have something called with the report of each move out of this host that is over."""
        self._told_over.append(call)

    def _departed(self, move: Move) -> None:
        if move.state.over:  # else it waits in the journal for this agent's next start
            report = move.status()
            for call in self._told_over:
                call(report)
        self._tell_at_rest()

    def _tell_at_rest(self) -> None:
        for call in self._told_at_rest:
            call()

    def arrived(self) -> frozenset[MoveId]:
        """Moves that brought a guest here and are closed; what became of the guest since is not told."""
        endings = self._store.endings()
        return frozenset(MoveId(m) for (m, side), end in endings.items() if side is Side.DESTINATION and end in ARRIVED)

    def busy_directories(self) -> frozenset[Path]:
        """Directories of guests that a move has in hand, or that the journal keeps open: they are the move's."""
        guests = Path(self._host.run_dir) / "guests"
        arriving = {guests / move for move in self._arrivals.open}
        opened = {guests / record.id for record in self._store.open_moves() if record.side is Side.DESTINATION}
        leaving = (move.guest for move in self._moves.values() if not move.state.over)
        return frozenset(
            arriving | opened | {Path(m.path).parent for guest in leaving for m in guest.monitors if m.path}
        )

    def hold(self, pid: int) -> Hold | None:
        """How a process is in hand, if a move has it: as the guest that leaves, or the twin that waits for one."""
        for move in (*self._moves.values(), *self._rehearsed.values()):
            if move.guest.pid == pid and not move.state.over:
                return move.hold()
        for arriving, twin in self._arrivals.waiting().items():
            if twin.pid == pid:
                return Hold(arriving, "arriving", twin.monitor, None)
        return None

    def doubts(self) -> tuple[tuple[FoundGuest, Hold], ...]:
        """Guests in doubt; the QEMU of one may be gone."""
        return tuple((m.guest, m.hold()) for m in self._moves.values() if m.state is MoveState.IN_DOUBT)

    async def close(self) -> None:
        """Roll back what has not committed, at both ends. What waits for another host stays in the journal."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
        running = [m for m in self._moves.values() if not m.state.over]
        await asyncio.gather(*(self._leave(move) for move in running))
        await self._arrivals.close()

    async def _leave(self, move: Move) -> None:
        if not move.committed and move.state is not MoveState.SETTLING:
            await move.abort()
            return
        async for status in move.watch():
            if status.state in {MoveState.SETTLING, MoveState.IN_DOUBT}:
                await move.leave()
                return

    async def examine(self, guest: FoundGuest) -> tuple[Profile, tuple[Finding, ...]]:
        """A guest's profile, and what stands against any move of it; its monitor is borrowed.

        Raises:
            MonitorError: it cannot be asked.
        """
        monitor = await attach(guest)
        try:
            profile = await introspect(monitor, pid=guest.pid)
            return profile, await obstacles(profile, monitor, self._host, self._kinds)
        finally:
            await monitor.close()

    def _new(self, request: MoveRequest, move_id: MoveId | None = None) -> Move:
        if request.to == self._host.name:
            raise UsageError(
                f"{request.guest} is on {request.to} already", remedy="name another host; see `limosa hosts`"
            )
        self.require_no_doubt(request.guest)
        guest = pick(self._qemus.found(), request.guest)
        self._refuse_second(guest)
        return Move(
            move_id or MoveId(f"m{secrets.token_hex(4)}"),
            request,
            guest,
            self._host,
            self._store,
            self._qemus,
            archive=self.archive,
            cpus=os.cpu_count() or 1,
            rate=self._rate_to(request.to),
        )

    def require_no_doubt(self, wanted: str) -> None:
        """Raise what is said of a guest in doubt; its QEMU may be gone, so it is known by its move.

        Raises:
            MoveInDoubt: the guest `wanted` (name, UUID or pid) is in doubt.
        """
        for move in self._moves.values():
            known = {move.guest.name, move.guest.uuid, str(move.guest.pid)}
            if move.state is MoveState.IN_DOUBT and move.error is not None and wanted in known:
                raise move.error

    def _rate_to(self, host: str) -> float | None:
        """Bytes per second that the last move to a host reached; None before the first."""
        for move in reversed(self._moves.values()):
            measured = move.status().measured
            if move.request.to == host and measured is not None and measured.throughput:
                return measured.throughput
        return None

    def _refuse_second(self, guest: FoundGuest) -> None:
        if (other := self.in_move(guest.pid)) is not None:
            raise Blocked(
                f"{guest.name} is in a move to {other.destination} already: {other.id}",
                guest_runs=Side.SOURCE,
                remedy=f"limosa watch {other.id}, or limosa abort {other.id}",
            )

    def _known(self, move: str) -> Move | None:
        if (found := self._moves.get(MoveId(move))) is not None:
            return found
        return next((each for each in reversed(self._moves.values()) if each.guest.name == move), None)

    def _find(self, move: str) -> Move:
        if (found := self._known(move)) is not None:
            return found
        raise NotFound(f"there is no move {move} here", remedy="`limosa watch` lists the moves of this host")

    def _forget_old(self) -> None:
        over = [i for i, m in self._moves.items() if m.state.over]
        for old in over[: max(0, len(over) - KEPT)]:
            del self._moves[old]
