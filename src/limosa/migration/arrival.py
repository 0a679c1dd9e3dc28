"""The destination end of a move: what answers the source's calls, and cleans up when the source is gone."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from limosa.cargo.kind import HostFacts, Kind, Streams, When
from limosa.destination.argv import TwinShape
from limosa.destination.launch import Twin
from limosa.errors import (
    GuestLost,
    LaunchError,
    LimosaError,
    MonitorError,
    MonitorLost,
    MoveFailed,
    QmpError,
    StateDiskError,
)
from limosa.migration.credentials import write_key
from limosa.migration.diary import Diary
from limosa.migration.ends import KeyAsk, ListenAsk, ReserveAsk, StartAsk, Started, StepAsk, TakeAsk, Told
from limosa.migration.news import Ended
from limosa.migration.qemus import Qemus
from limosa.migration.store import Held, OpenMove, Owner, Store, identity_of, insist
from limosa.qmp.monitor import Monitor
from limosa.units import HostName, MoveId, Side
from limosa.wire.hooks import HookEvent
from limosa.wire.moves import Progress

LOST = "lost"
"""How a move ended on this side whose guest was taken over, and whose QEMU then died."""
ARRIVED = frozenset({"arrived", LOST})
"""How a move ended on this side whose guest was taken over."""

_log = structlog.get_logger()

AGAIN = 1.0
"""Seconds until what could not be finished alone is tried again."""

UNATTENDED = 30.0
"""Seconds within which a source that opened a move stays on the line; it does so at once."""

CAPABILITIES = ("events", "validate-uuid")
"""What a twin needs to say when it is complete, and to refuse another guest's state."""


class Luggage(msgspec.Struct, frozen=True, kw_only=True):
    """What the destination's journal keeps of a move: enough to go on, or to clean up, after a restart."""

    ask: ReserveAsk
    source: HostName
    cont: bool | None = None
    """Whether the vCPUs shall run; None until this host has taken the guest over."""


@dataclass(slots=True)
class Arrival:
    """One guest on its way to this host; also the `Here` of cargo's deeds at the destination."""

    host: HostFacts
    luggage: Luggage
    kinds: Mapping[str, Kind]
    store: Store
    qemus: Qemus
    ended: Callable[[MoveId], None]
    diary: Diary
    side: Side = Side.DESTINATION
    committed: bool = False
    _twin: Twin | None = None
    _words: str = ""
    """What the twin had written to its standard error when it was destroyed."""
    _started: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False
    _lost: bool = False
    _resumed: bool = False
    _blackout_ms: float | None = None
    """As the source measured it; None until it has told, and where it never does."""
    _may_have_run: bool = False
    """Whether the vCPUs were ever told to run here, as far as this agent process can know."""
    _said: Started | None = None
    _attended: bool = False
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _alone: asyncio.Task[None] | None = None
    _recording: asyncio.Task[None] | None = None

    @property
    def ask(self) -> ReserveAsk:
        """What the source asked for when it opened the move."""
        return self.luggage.ask

    @property
    def source(self) -> HostName:
        """The host the guest comes from."""
        return self.luggage.source

    @property
    def directory(self) -> Path:
        """This move's own directory here."""
        return Path(self.host.run_dir) / "moves" / f"{self.move}-in"

    @property
    def move(self) -> MoveId:
        """The move this is the end of."""
        return self.ask.move

    @property
    def streams(self) -> Streams:
        """Where bulk data comes in."""
        return self.ask.streams

    @property
    def monitor(self) -> Monitor:
        """The twin's monitor.

        Raises:
            MonitorLost: there is no twin.
        """
        if self._twin is None:
            raise MonitorLost(f"there is no twin of {self.ask.name} on {self.host.name}", guest_runs=Side.SOURCE)
        return self._twin.monitor

    def tell(self, progress: Progress) -> None:
        """Copies are driven, and told of, by the source."""

    async def keep_key(self, ask: KeyAsk) -> None:
        """Store the one-time key for the twin that will be started."""
        async with self._turn:
            self._require_open()
            write_key(self.directory, ask.key)

    async def start(self, ask: StartAsk) -> Started:
        """Start the twin of a profile, and read it back. Repeating it returns what was read.

        Raises:
            LaunchError: it did not start; `detail` is its stderr.
        """
        async with self._turn:
            self._require_open()
            if self._said is None:
                self._twin, line = await self.qemus.start(
                    ask.profile, self._shape(), binary=self.ask.binary, monitor=self.ask.monitor
                )
                self._started.set()
                await self.qemus.finish(self._twin, ask.profile)
                profile = await self.qemus.introspect(self._twin.monitor, self._twin.pid)
                _log.info("twin started", pid=self._twin.pid, guest=self.ask.name)
                self._said = Started(pid=self._twin.pid, profile=profile, argv=line)
            return self._said

    async def stop_twin(self) -> None:
        """Destroy the twin, which has never executed.

        Raises:
            MoveFailed: this host has taken the guest over; the twin is the guest now.
        """
        if self.committed:
            raise MoveFailed(
                f"{self.ask.name} was taken over by {self.host.name}: it is not destroyed",
                guest_runs=Side.DESTINATION,
                remedy=f"look at the guest on {self.host.name}",
            )
        if self._twin is not None:
            twin, self._twin = self._twin, None
            self._words = twin.stderr()
            await self.qemus.stop(twin)

    async def listen(self, ask: ListenAsk) -> None:
        """Let the twin listen for RAM."""
        capabilities = [*CAPABILITIES, *(["multifd"] if ask.channels else [])]
        await self.monitor.execute(
            "migrate-set-capabilities",
            {"capabilities": [{"capability": c, "state": True} for c in capabilities]},
        )
        parameters: dict[str, Any] = {"tls-creds": ask.tls_creds or ""}
        if ask.channels:
            parameters["multifd-channels"] = ask.channels
        await self.monitor.execute("migrate-set-parameters", parameters)
        await self.monitor.execute("migrate-incoming", {"uri": ask.uri})

    def open(self) -> None:
        """Record this move and everything that will be created for it; then make its directory.

        Raises:
            StateDiskError: the journal cannot be written.
        """
        objects = [thing for step in self.ask.steps for thing in self.kinds[step.kind].creates(step)]
        self.store.open_move(
            OpenMove(
                id=self.move,
                side=self.side,
                guest=self.ask.name,
                identity=self.identity,
                peer=self.source,
                baggage=msgspec.json.encode(self.luggage),
                outcomes={},
            ),
            (*objects, *self._own_objects()),
        )
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def identity(self) -> str:
        """What the guest is known by."""
        return identity_of(self.ask.uuid, self.ask.name)

    async def make(self, ask: StepAsk) -> Told:
        """Make a cargo step here."""
        async with self._turn:
            self._require_open()
            return Told(facts=dict(await self.kinds[ask.step.kind].make(ask.step, self)))

    async def unmake(self, ask: StepAsk) -> None:
        """Undo a cargo step here; what was taken over is not undone any more."""
        async with self._turn:
            if not self.committed and not self._closed:
                await self.kinds[ask.step.kind].unmake(ask.step, self)

    def _require_open(self) -> None:
        """What arrives late, or once more, after this host has let go of the move must leave no trace.

        Raises:
            MoveFailed: it has.
        """
        if self._closed or self.store.refused(self.move):
            raise MoveFailed(f"{self.host.name} has ended the move {self.move}", guest_runs=Side.SOURCE)

    async def arrived(self) -> None:
        """Return when the twin has loaded everything.

        Raises:
            LaunchError: it could not, and exited; `detail` is its stderr.
        """
        monitor = self.monitor
        try:
            event = await monitor.events.wait(
                lambda e: e.name == "MIGRATION" and e.data["status"] in {"completed", "failed"}, since=0
            )
        except MonitorLost as lost:
            raise self._died() from lost
        if event.data["status"] == "failed":
            raise self._died()

    async def take_over(self, grant: TakeAsk) -> None:
        """This host owns the guest from here on: one durable record, made while the guest is paused.

        Raises:
            MoveFailed: this host has refused the guest for good, or the grant is for another epoch.
            LaunchError: the twin is dead.
            StateDiskError: it could not be recorded; nothing was taken.
        """
        if self.committed:
            return
        check_grant(grant, self.ask, self.store.owner(self.identity), refused=self.store.refused(self.move))
        if self._twin is None or self._twin.monitor.lost:
            raise self._died()
        self.luggage = msgspec.structs.replace(self.luggage, cont=grant.cont)
        owner = Owner(
            identity=self.identity,
            epoch=grant.epoch,
            state=Held.HERE,
            move=self.move,
            peer=self.source,
            token=grant.token,
        )
        self.store.take(owner, msgspec.json.encode(self.luggage))
        self.committed = True

    async def resume(self) -> Told:
        """Let the guest run here. Repeating it is harmless.

        Raises:
            MoveFailed: this host has not taken the guest over.
            GuestLost: its QEMU died.
        """
        async with self._turn:
            return await self._resume()

    async def _resume(self) -> Told:
        if not self.committed:
            raise MoveFailed(
                f"{self.host.name} does not own {self.ask.name}, so it does not run it", guest_runs=Side.SOURCE
            )
        if self.lost:
            raise lost_here(self.ask.name, self.host.name)
        stands = (await self.monitor.execute("query-status"))["status"] != "running"
        self._may_have_run = True
        if self.luggage.cont and stands:
            await _running(self.monitor)
        self._resumed = True
        return Told()

    def go_on_with(self) -> None:
        """Take up what an earlier agent process had taken over: it may have let the guest run."""
        self.committed = self._may_have_run = True

    async def give_back(self) -> None:
        """Refuse after all a guest that was taken over, if its QEMU died before it ever executed here.

        The source has all of it, paused: so it is not lost yet. A guest that may have run has acted on the world,
        and its disks here have moved on; that one is lost.

        Raises:
            StateDiskError: it could not be recorded; nothing was given back.
        """
        async with self._turn:
            self._give_back()

    def _give_back(self) -> bool:
        if not self.lost or self._may_have_run or self._closed or self._twin is None or _has_run(self._twin.monitor):
            return False
        self.store.give_back(self.move, self.identity)
        self.committed = False
        return True

    @property
    def lost(self) -> bool:
        """Whether this host took the guest over, and its QEMU is known to be gone."""
        return self.committed and (self._lost or (self._twin is not None and self._twin.monitor.lost))

    def open_alone(self) -> None:
        """Give the source its time to come on the line, and clean up if it never does."""
        asyncio.get_running_loop().call_later(UNATTENDED, self._unattended)

    def _unattended(self) -> None:
        if not self._attended:
            self.leave_alone()

    def leave_alone(self) -> asyncio.Task[None]:
        """Bring this end to rest without the source, however often it takes; in the background."""
        if self._alone is None or self._alone.done():
            self._alone = asyncio.create_task(self._come_to_rest(), name=f"arrival-{self.move}")
        return self._alone

    async def _come_to_rest(self) -> None:
        while not self._closed:
            try:
                await (self.go_on() if self.committed else self.clear())
            except (LimosaError, OSError) as trouble:
                _log.warning("an arrival cannot be brought to rest yet", move=self.move, why=str(trouble))
                await asyncio.sleep(AGAIN)  # a disk, a QEMU or a network that works again tells nobody

    async def attend(self) -> None:
        """Stay on the line until the twin dies. When the caller is gone: clean up, or go on alone after commit.

        Raises:
            LaunchError: the twin died.
        """
        self._attended = True
        try:
            await self._started.wait()
            await self.monitor.gone()
            # The source ends the move when it hears this; it may not live to hear it.
            asyncio.get_running_loop().call_later(UNATTENDED, self.leave_alone)
            raise self._died()
        except asyncio.CancelledError:
            # The runner of the source cancels this call only after it closed the move, so the line is dead.
            await asyncio.shield(self.leave_alone())
            raise

    async def close(self, blackout_ms: float | None = None) -> Told:
        """End this move here: keep the guest if it was taken over, remove everything if not.

        Args:
            blackout_ms: milliseconds for which nobody ran the guest, as the source measured them.
        """
        self._blackout_ms = blackout_ms
        words = self._twin.stderr() if self._twin else self._words
        try:
            await (self._let_go() if self.committed else self.clear())
        except (LimosaError, OSError):
            self.leave_alone()
            raise
        return Told(facts={"stderr": words} if words else {})

    async def clear(self) -> None:
        """Refuse the guest for good, and remove everything that was made here for it.

        Raises:
            StateDiskError: the refusal cannot be recorded; nothing was removed.
            LimosaError: something could not be removed, and is still in the ledger.
        """
        async with self._turn:
            if self.committed or self._closed:
                return
            # First the promise, then the deed: whoever asks after a crash in between gets the same answer.
            self.store.refuse(self.move)
            troubles: list[LimosaError | OSError] = []
            for step in reversed(self.ask.steps):
                try:
                    await self.kinds[step.kind].unmake(step, self)
                except MonitorError:
                    continue  # the twin is going away anyhow
                except (LimosaError, OSError) as trouble:
                    troubles.append(trouble)
            await self.stop_twin()
            # One that an earlier agent started, or that never greeted.
            self.qemus.kill(self.ask.monitor)
            if troubles:
                raise troubles[0]
            shutil.rmtree(Path(self.ask.monitor).parent, ignore_errors=True)
            self._put_away("rolled back")

    async def go_on(self) -> None:
        """Finish a move after this host has taken the guest over: what is left of it, with or without its source.

        Raises:
            LimosaError: something could not be done yet.
        """
        async with self._turn:
            if self._closed:
                return
            await self._find_twin()
            if self._give_back():
                raise self._died()
            if not self.lost and not self._resumed:
                await self._make_all(When.BEFORE_CONT)
                await self._resume()
                await self._make_all(When.ANNOUNCE)
            await self._make_all(When.RETIRE)
            await self._hand_to_agent()

    async def _let_go(self) -> None:
        async with self._turn:
            if not self._closed:
                await self._hand_to_agent()

    async def _make_all(self, when: When) -> None:
        for step in self.ask.steps:
            if step.when is when:
                await self.kinds[step.kind].make(step, self)

    async def _find_twin(self) -> None:
        """After a restart of this agent; there may be none."""
        if self._twin is None:
            self._twin = await self.qemus.find_twin(self.ask.monitor)
            self._lost = self._twin is None

    @property
    def twin(self) -> Twin | None:
        """The QEMU that waits here for the guest, or has taken it."""
        return None if self._closed else self._twin

    async def _hand_to_agent(self) -> None:
        if self._twin is not None:
            with contextlib.suppress(MonitorLost):  # a guest that ended meanwhile needs no tidying
                await self._leave_as_started(self._twin.monitor)
        lost = self.lost
        if self._twin is not None:
            await self._twin.monitor.close()
        ended = self._told_of()
        self._put_away(LOST if lost else "arrived", ended.lost() if lost else ended.moved())

    def _told_of(self) -> Ended:
        """This move as hooks hear of it: its guest is here."""
        now = time.time()
        return Ended(
            guest=self.ask.name,
            uuid=self.ask.uuid,
            macs=self.ask.macs,
            move=self.move,
            source=self.source,
            destination=HostName(self.host.name),
            teller=HostName(self.host.name),
            epoch=self.ask.epoch + 1,
            began=self.store.opened(self.move, self.side) or now,
            ended=now,
            blackout_ms=self._blackout_ms,
        )

    async def _leave_as_started(self, monitor: Monitor) -> None:
        """Take back what only this move needed: the guest's owner may migrate it by other means."""
        await monitor.execute("migrate-set-parameters", {"tls-creds": ""})
        off = [{"capability": name, "state": False} for name in (*CAPABILITIES, "multifd")]
        await monitor.execute("migrate-set-capabilities", {"capabilities": off})
        if self.streams.tls_creds:
            with contextlib.suppress(QmpError):  # it was tidied before
                await monitor.execute("object-del", {"id": self.streams.tls_creds})

    def _put_away(self, ending: str, news: HookEvent | None = None) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self._closed = True
        _log.info(f"arrival ended: {ending}", guest=self.ask.name)
        record = partial(self._record_end, ending, news)
        try:
            record()
        except StateDiskError:
            self._recording = asyncio.create_task(insist(record), name=f"end of {self.move}")
        self.ended(self.move)

    def _record_end(self, ending: str, news: HookEvent | None) -> None:
        self.store.strike(self.move)
        self.store.close_move(self.move, self.side, ending, news)

    def _own_objects(self) -> tuple[tuple[str, str], ...]:
        return (("process", self.ask.monitor), ("directory", str(self.directory)))

    def _shape(self) -> TwinShape:
        creds = self.streams.tls_creds
        key = {
            "qom-type": "tls-creds-psk",
            "id": creds,
            "dir": str(self.directory / "psk"),
            "endpoint": "server",
        }
        return TwinShape(monitor=self.ask.monitor, extra_objects=(key,) if creds else ())

    def _died(self) -> LimosaError:
        words = self._twin.stderr() if self._twin else ""
        return LaunchError(
            f"the twin of {self.ask.name} on {self.host.name} died",
            guest_runs=Side.SOURCE,
            remedy="QEMU's own words above say why; nothing is lost at the source",
            detail=words,
        )


def lost_here(guest: str, host: str) -> GuestLost:
    """What to say of a guest that was taken over, and whose QEMU then died."""
    return GuestLost(
        f"{guest} was taken over by {host}, and its QEMU there has died",
        remedy=f"start it again on {host}: its disks there are whole",
    )


def check_grant(grant: TakeAsk, ask: ReserveAsk, known: Owner | None, *, refused: bool) -> None:
    """Whether a grant may be honoured. Pure.

    Args:
        grant: what the source sent.
        ask: what it announced when it opened the move.
        known: what this host has recorded of the guest.
        refused: whether this host has promised never to take the guest of this move.

    Raises:
        MoveFailed: it may not; the guest stays the source's.
    """
    if refused:
        why = "it has refused this move for good"
    elif grant.epoch != ask.epoch + 1:
        why = f"the grant is for epoch {grant.epoch}, but {ask.epoch + 1} was announced"
    elif known is not None and known.epoch >= grant.epoch and known.token != grant.token:
        why = f"it has recorded epoch {known.epoch} of this guest already"
    else:
        return
    raise MoveFailed(f"the destination does not take {ask.name}: {why}", guest_runs=Side.SOURCE)


def _has_run(monitor: Monitor) -> bool:
    """Whether the vCPUs ran since this agent knows the QEMU; its owner has a monitor too."""
    return any(event.name == "RESUME" for event in monitor.events.since(0))


async def _running(monitor: Monitor) -> None:
    """Say `cont`, and return when the vCPUs run: QEMU's answer comes only after it has announced the guest.

    The event is 0.5-4 ms away, the answer 10-20 ms (docs/qemu-notes.md).
    """
    mark = monitor.events.position
    answer = asyncio.ensure_future(monitor.execute("cont"))
    event = asyncio.ensure_future(monitor.events.wait("RESUME", since=mark, timeout=30))
    try:
        await asyncio.wait({answer, event}, return_when=asyncio.FIRST_COMPLETED)
        if not event.done():
            await answer  # a refusal ends it here
        await event
    finally:
        event.cancel()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
