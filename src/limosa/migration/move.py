"""One move from its request to its report, as the source's agent holds it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from limosa.cargo.kind import HostFacts, Kind
from limosa.errors import (
    Blocked,
    GuestLost,
    GuestPoweredOff,
    LimosaError,
    MonitorBusy,
    MonitorError,
    MoveFailed,
    StateDiskError,
)
from limosa.guest.profile import FoundGuest
from limosa.migration import verdicts
from limosa.migration.account import Account
from limosa.migration.archive import Archive
from limosa.migration.carry_out import carry_out, settle
from limosa.migration.departure import Departure, Luggage
from limosa.migration.diary import write_down
from limosa.migration.ends import Destination, Settled
from limosa.migration.fault_points import AFTER, BEFORE, reach
from limosa.migration.hold import Hold
from limosa.migration.journal import Journal, Outcome
from limosa.migration.make import Ends, deeds
from limosa.migration.news import Ended, macs
from limosa.migration.plan import rehearsal, rewrites
from limosa.migration.qemus import Qemus
from limosa.migration.report import measure
from limosa.migration.steps import Reserve, Step, name_of, side_of, stage_of
from limosa.migration.store import OpenMove, Store, insist
from limosa.migration.survey import Assessment, assess, predict_for, sample_dirty_rate
from limosa.migration.watch import Watch
from limosa.qmp.monitor import Monitor
from limosa.units import HostName, MoveId, Side
from limosa.wire.history import MoveLog, MoveRecord
from limosa.wire.hooks import HookEvent
from limosa.wire.moves import Measured, MoveRequest, MoveState, MoveStatus, PlanShown, Prediction, Stage
from limosa.wire.rpc import Caller

_FOREVER = 10 * 365 * 86400.0

ASK_AGAIN = 1.0
"""Seconds between two questions to a destination that does not say whether it took the guest."""

TRIES = 3
"""How often a step is undone at a source whose QEMU answers, but refuses."""

Link = Callable[[HostName], Awaitable[Caller]]

_log = structlog.get_logger()


class Move:
    """One move. `run` does it; `status` tells of it at any time; `abort` ends it before commit."""

    def __init__(
        self,
        move: MoveId,
        request: MoveRequest,
        guest: FoundGuest,
        host: HostFacts,
        store: Store,
        qemus: Qemus,
        *,
        archive: Archive,
        cpus: int,
        rate: float | None = None,
    ) -> None:
        self.id = move
        self.request = request
        self.guest = guest
        self.state = MoveState.PLANNING
        self.error: LimosaError | None = None
        self._account = Account(move, host.name)
        self._archive = archive
        self._host = host
        self._store = store
        self._qemus = qemus
        self._cpus = cpus
        self._rate = rate
        self._task: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self._departure: Departure | None = None
        self._assessment: Assessment | None = None
        self._measured: Measured | None = None
        self._prediction: Prediction | None = None
        self._warnings: tuple[str, ...] = ()
        self._took: float | None = None
        self._expired = False
        self._records: set[asyncio.Task[None]] = set()
        self._left = False
        self._resolved: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()

    async def plan(self, link: Link, kinds: Mapping[str, Kind]) -> PlanShown:
        """Check everything, start the real twin, compare it, and remove it again."""
        async with self._prepared(link, kinds) as (assessment, ends):
            sampling = asyncio.create_task(self._sample(assessment, ends.source.monitor))
            compared = 0
            differences: tuple[str, ...] = ()
            if assessment.steps:
                # A rehearsal never commits, so carrying it out ends in undoing it.
                await self._carry_out(Journal(rehearsal(assessment.steps), self._clock, self._account.tell), ends)
                comparison = ends.source.comparison
                assert comparison is not None
                compared = comparison.compared
                differences = tuple(str(d) for d in comparison.host_side)
            await sampling
            journal = Journal(assessment.steps, self._clock, self._account.tell)
            return PlanShown(
                guest=assessment.profile.name,
                uuid=assessment.profile.uuid,
                source=self._host.name,
                destination=self.request.to,
                possible=bool(assessment.steps),
                findings=assessment.findings,
                steps=journal.shown(),
                prediction=self._prediction,
                compared=compared,
                differences=differences,
                rewrites=rewrites(assessment.profile, assessment.twin_profile),
            )

    @property
    def committed(self) -> bool:
        """Whether it only goes forward from here on."""
        return self._journal is not None and self._journal.committed

    def start(self, link: Link, kinds: Mapping[str, Kind], at_rest: Callable[[], None]) -> None:
        """Begin the move; it goes on by itself, and calls `at_rest` when it is over."""
        self._go(self._run(link, kinds), at_rest)

    def _go(self, deed: Coroutine[Any, Any, None], at_rest: Callable[[], None]) -> None:
        self._task = asyncio.create_task(self._written_down(deed), name=f"move-{self.id}")
        self._task.add_done_callback(lambda _: at_rest())

    async def _written_down(self, deed: Coroutine[Any, Any, None]) -> None:
        with self._account.diary.open():
            await deed

    async def abort(self) -> None:
        """Ask for the end of the move and wait for its roll-back.

        Raises:
            Blocked: it has committed: it only goes forward now.
        """
        if self.state.over:
            return
        if self.state is MoveState.IN_DOUBT and self.error is not None:
            raise verdicts.doubt_stays(self.error)
        if self.committed:
            raise verdicts.too_late(self.guest.name, self._host.name, self.request.to, self._guest_runs())
        if self.state is MoveState.SETTLING:
            raise verdicts.rolling_back(self.guest.name, self.id)
        first = self.state is not MoveState.ABORTING
        self.state = MoveState.ABORTING
        self._account.tell()
        if self._task is not None:
            if first:
                self._task.cancel()
            await asyncio.wait({self._task})
        if not self.state.over:  # it had not even begun
            self._end(MoveState.ABORTED, verdicts.aborted(self.guest.name, self.request.to, timeout=None))

    async def leave(self) -> None:
        """Let go of a move that waits for another host: the journal tells the agent's next start how to go on."""
        self._left = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def set_bandwidth(self, rate: float | None) -> None:
        """Cap RAM and disks at `rate` bytes per second from now on; None lifts the cap.

        Raises:
            MoveFailed: the move is not copying.
        """
        departure = self._departure
        if self.state.over or departure is None:
            raise MoveFailed(f"move {self.id} is not copying anything", remedy="`limosa watch` shows where it stands")
        departure.request = msgspec.structs.replace(departure.request, bandwidth=rate)
        for job in await departure.monitor.execute("query-block-jobs"):
            if job["device"].startswith("limosa-"):
                await departure.monitor.execute(
                    "block-job-set-speed", {"device": job["device"], "speed": int(rate or 0)}
                )
        if departure.precopier is not None:
            await departure.precopier.set_bandwidth(rate)

    def status(self) -> MoveStatus:
        """Where the move stands now; its report when it is over."""
        journal, assessment = self._journal, self._assessment
        latest = (journal.latest or (journal.intended or (None,))[-1]) if journal else None
        return MoveStatus(
            id=self.id,
            guest=self.guest.name,
            uuid=assessment.profile.uuid if assessment else (self.guest.uuid or ""),
            source=self._host.name,
            destination=self.request.to,
            state=self.state,
            stage=stage_of(latest.step) if latest else Stage.CHECK,
            guest_runs=self._guest_runs(),
            elapsed=self._took if self._took is not None else self._account.elapsed,
            findings=assessment.findings if assessment else (),
            steps=journal.shown() if journal else (),
            progress=self._account.progress,
            prediction=self._prediction,
            measured=self._measured,
            error=self.error.to_wire() if self.error else None,
            undone=tuple(name_of(e.step) for e in journal.entries if e.outcome is Outcome.UNDONE) if journal else (),
            warnings=self._warnings,
            began=self._account.began_at,
            operation=self.request.operation,
        )

    def record(self) -> MoveRecord:
        """The move over its time, as far as it is."""
        return self._account.record(self.status())

    def log(self) -> MoveLog:
        """What was logged of it here."""
        return self._account.diary.log()

    async def changed(self, seen: int) -> None:
        """Return when the record is another one than that of this number, or is the last."""
        while self._account.is_known(seen) and not self.state.over:
            await self._account.news.wait()

    async def watch(self) -> AsyncIterator[MoveStatus]:
        """Status now, and again whenever something changed, up to and including the final one."""
        while True:
            changed = self._account.news
            now = self.status()
            yield now
            if now.state.over:
                return
            await changed.wait()

    def hold(self) -> Hold:
        """How this move has its guest in hand."""
        departure = self._departure
        words = {
            MoveState.PLANNING: "planning",
            MoveState.IN_DOUBT: "in doubt",
            MoveState.SETTLING: "settling",
        }
        doubt = self.error if self.state is MoveState.IN_DOUBT else None
        return Hold(
            self.id,
            words.get(self.state, "moving"),
            departure.qemu if departure else None,
            departure.profile if departure else None,
            doubt,
        )

    def take_up(self, record: OpenMove, link: Link, kinds: Mapping[str, Kind], at_rest: Callable[[], None]) -> None:
        """Go on with a move that this agent had open when it stopped; `at_rest` as in `start`."""
        self.state = MoveState.SETTLING
        self._account.begin_at(record.opened)
        self._go(self._take_up(record, link, kinds), at_rest)

    def require_doubt(self) -> None:
        """Raises Blocked where the move is not in doubt."""
        if self.state is not MoveState.IN_DOUBT or self._resolved.done():
            raise Blocked(
                f"the move of {self.guest.name} is not in doubt: it is {self.state}",
                guest_runs=self._guest_runs(),
                remedy=f"there is nothing to resolve; limosa watch {self.id} shows where it stands",
            )

    def resolve(self) -> None:
        """An operator vouches that the other host does not run the guest, and never will.

        Raises:
            Blocked: the move is not in doubt.
        """
        self.require_doubt()
        self._resolved.set_result(Settled(taken=False, epoch=0))

    async def _run(self, link: Link, kinds: Mapping[str, Kind]) -> None:
        timer = asyncio.get_running_loop().call_later(self.request.timeout or _FOREVER, self._expire)
        _log.info("move begins", guest=self.guest.name, to=self.request.to, operation=self.request.operation or None)
        try:
            async with self._prepared(link, kinds) as (assessment, ends):
                assessment.require_possible(self.request)
                journal = self._opened(assessment, ends.source)
                self.state = MoveState.RUNNING
                sampling = asyncio.create_task(self._sample(assessment, ends.source.monitor))
                try:
                    await self._travel(journal, ends)
                finally:
                    sampling.cancel()
        except asyncio.CancelledError:
            if self._left:
                raise
            timeout = self.request.timeout if self._expired else None
            self._end(MoveState.ABORTED, verdicts.aborted(self.guest.name, self.request.to, timeout=timeout))
        except LimosaError as error:
            self._end(MoveState.BLOCKED if self.state is MoveState.PLANNING else MoveState.FAILED, error)
        except Exception as surprise:
            self._end(MoveState.FAILED, verdicts.defect(self.guest.name, surprise, self._guest_runs()))
            raise  # a defect of ours ends in a report, and in the agent's log
        finally:
            timer.cancel()

    def _opened(self, assessment: Assessment, source: Departure) -> Journal:
        """Record the whole plan, before its first step.

        Raises:
            StateDiskError: the journal cannot be written; nothing was changed.
        """
        self._store.open_move(
            OpenMove(
                id=self.id,
                side=Side.SOURCE,
                guest=self.guest.name,
                identity=source.identity,
                peer=HostName(self.request.to),
                baggage=source.luggage(),
                outcomes={},
            )
        )
        self._journal = self._new_journal(assessment.steps)
        return self._journal

    def _new_journal(self, steps: tuple[Step, ...]) -> Journal:
        return Journal(steps, self._clock, self._account.tell, self._record, self._account.began)

    def _record(self, outcomes: dict[int, str]) -> None:
        """Make outcomes of steps durable, and tell of them; neither is ever asked for while the guest is paused."""
        if self._journal is not None:
            write_down(self._journal, outcomes)
        try:
            self._store.outcome(self.id, outcomes)
        except StateDiskError as trouble:
            # A full disk must not break a move in flight: the plan is on disk, and that is what settling needs.
            if trouble.what not in self._warnings:
                self._warnings = (*self._warnings, trouble.what)

    async def _travel(self, journal: Journal, ends: Ends) -> None:
        try:
            self._warnings = (*self._warnings, *await self._carry_out(journal, ends))
        except BaseException as trouble:
            notes = tuple(getattr(trouble, "__notes__", ()))
            self._warnings = (*self._warnings, *notes)
            await self._back_home(ends, trouble, notes)
            raise
        if not journal.resumed:
            await self._decide(journal, ends)
        self._measured = measure(journal, ends.source, checks=journal.began - self._account.began)
        self._close_record("completed")
        self._end(MoveState.COMPLETED, None)

    def _close_record(self, ending: str, news: HookEvent | None = None) -> None:
        self._record_at_last(partial(self._store.close_move, self.id, Side.SOURCE, ending, news))

    def _news(self, source: Departure, trouble: BaseException) -> HookEvent:
        """What hooks hear of a move that was rolled back because of `trouble`."""
        now = time.time()
        ended = Ended(
            guest=self.guest.name,
            uuid=source.profile.uuid,
            macs=macs(source.profile),
            move=self.id,
            source=HostName(self._host.name),
            destination=HostName(self.request.to),
            teller=HostName(self._host.name),
            epoch=source.epoch,
            began=self._store.opened(self.id, Side.SOURCE) or now,
            ended=now,
        )
        gone = not source.alive and not isinstance(trouble, GuestPoweredOff)
        return ended.lost() if gone else ended.failed(trouble)

    def _record_at_last(self, record: Callable[[], None]) -> None:
        """Make a record now, or as soon as the state disk takes it: without it the next start asks once more."""
        try:
            record()
        except StateDiskError as trouble:
            self._warnings = (*self._warnings, trouble.what)
            self._records.add(asyncio.create_task(insist(record), name=f"record of {self.id}"))

    async def _back_home(self, ends: Ends, trouble: BaseException, notes: tuple[str, ...]) -> None:
        """A move was rolled back: make sure that the guest is where it was.

        Raises:
            GuestLost: its QEMU died meanwhile.
            MoveInDoubt: it does not answer.
        """
        ends.source.put_away()  # not undone with its step where the destination was silent
        if not isinstance(trouble, GuestPoweredOff):
            await self._called_back(ends)
            await self._tidied_up(ends)
        self._close_record("rolled back", self._news(ends.source, trouble))
        if isinstance(trouble, GuestPoweredOff):
            return
        if not ends.source.alive:
            raise verdicts.lost(self.guest.name, self._host.name, ends.source.last_words()) from trouble
        if not await ends.source.is_back():
            raise verdicts.not_back(self.guest.name, self.request.to, trouble, notes) from trouble
        if isinstance(trouble, LimosaError):
            verdicts.complete(trouble, self._where(), ends.source.heard)

    async def _called_back(self, ends: Ends) -> None:
        """Where the twin has everything and its host is silent: keep calling until it lets go of the guest's disks.

        The guest was never given up, so the other host does not run it; but its twin may lock shared disks.
        """
        while ends.source.alive and await ends.source.is_handed_over():
            try:
                await ends.source.call_back(ends.destination)
                if not ends.source.running:
                    return  # paused, as it was, with its disks (docs/qemu-notes.md)
            except LimosaError as trouble:
                self.state = MoveState.SETTLING
                self.error = verdicts.held_there(self.guest.name, self.request.to, trouble)
                self._account.tell()
            await asyncio.sleep(ASK_AGAIN)

    async def _tidied_up(self, ends: Ends) -> None:
        """Undo once more what a QEMU that hung, or refused, left as it was: until it answers, then a few times."""
        assert self._journal is not None
        tries = 0
        while ends.source.alive and self._journal.left_at_source and tries < TRIES:
            try:
                await ends.source.monitor.execute("query-status", timeout=10)
                tries += 1
            except MonitorError as silence:
                self.state = MoveState.SETTLING
                self.error = verdicts.does_not_answer(self.guest.name, silence.what)
                self._account.tell()
                await asyncio.sleep(ASK_AGAIN)
                continue
            await settle(self._journal, *deeds(ends))

    def _where(self) -> str:
        """Stage, step and side of what was done last: `copy, disks: mirror, at the source`."""
        latest = self._journal.latest if self._journal else None
        if latest is None:
            return str(Stage.CHECK)
        return f"{stage_of(latest.step)}, {name_of(latest.step)}, at the {side_of(latest.step)}"

    async def _decide(self, journal: Journal, ends: Ends) -> None:
        """After a commit that broke off: ask the other end for good, and go the way it says.

        Raises:
            MoveFailed: the destination has promised never to take the guest; it is back at the source.
        """
        do, undo = deeds(ends)
        while not journal.resumed:
            # What could not be recorded as given up was not: then there is nothing to ask.
            answer = await self._answer(ends) if ends.source.gave_up else Settled(taken=False, epoch=0)
            if not answer.taken:
                # The destination's promise is durable there: a full disk here need not keep the guest paused.
                self._record_at_last(partial(ends.source.take_back, fenced=self._resolved.done()))
                journal.take_back()
                notes = await settle(journal, do, undo)
                say = verdicts.resolved if self._resolved.done() else verdicts.not_taken
                trouble = say(self.guest.name, self.request.to, notes)
                await self._back_home(ends, trouble, notes)
                raise trouble
            if answer.lost:
                journal.lost_there()
                self._warnings = (*self._warnings, *await settle(journal, do, undo))
                self._close_record("lost there")
                raise verdicts.lost_there(self.guest.name, self.request.to)
            troubles = await settle(journal, do, undo)
            if not journal.resumed:
                self._doubt("; ".join(troubles))
                await asyncio.sleep(ASK_AGAIN)
        self.state, self.error = MoveState.SETTLING, None

    async def _answer(self, ends: Ends) -> Settled:
        """The destination's binding answer, or the operator's word; asked for until one of them comes."""
        while not self._resolved.done():
            try:
                return await ends.destination.settle()
            except LimosaError as silence:
                self._doubt(silence.what)
            await asyncio.wait({self._resolved}, timeout=ASK_AGAIN)
        return self._resolved.result()

    def _doubt(self, why: str) -> None:
        self.state = MoveState.IN_DOUBT
        self.error = verdicts.in_doubt(self.guest.name, self._host.name, self.request.to, why)
        _log.warning("move in doubt", guest=self.guest.name, why=why)
        self._account.tell()

    async def _take_up(self, record: OpenMove, link: Link, kinds: Mapping[str, Kind]) -> None:
        _log.info("move is taken up again", guest=self.guest.name, to=self.request.to)
        luggage = msgspec.json.decode(record.baggage, type=Luggage)
        departure = self._departing(luggage, await self._found_again())
        ends = Ends(departure, Destination(self._line(link), self.id), kinds)
        journal = self._journal = self._new_journal(luggage.steps)
        journal.take_up(gave_up=departure.gave_up)
        try:
            if departure.gave_up:
                await self._decide(journal, ends)
                self._close_record("completed")
                self._end(MoveState.COMPLETED, None)
                return
            trouble = verdicts.interrupted(self.guest.name, self.request.to)
            self._warnings = await settle(journal, *deeds(ends))
            await self._back_home(ends, trouble, self._warnings)
            self._end(MoveState.FAILED, trouble)
        except LimosaError as error:
            self._end(MoveState.FAILED, error)
        finally:
            if departure.qemu is not None:
                await departure.qemu.close()

    async def _found_again(self) -> Monitor | None:
        """The guest's monitor; None where its QEMU is gone. One that hangs is waited for."""
        while True:
            try:
                return await self._qemus.attach_again(self.guest)
            except MonitorBusy as silence:
                self.error = verdicts.does_not_answer(self.guest.name, silence.what)
                self._account.tell()
                await asyncio.sleep(ASK_AGAIN)

    def _line(self, link: Link) -> Callable[[], Awaitable[Caller]]:
        return lambda: link(HostName(self.request.to))

    @contextlib.asynccontextmanager
    async def _prepared(self, link: Link, kinds: Mapping[str, Kind]) -> AsyncIterator[tuple[Assessment, Ends]]:
        caller = await link(HostName(self.request.to))
        monitor = await self._qemus.attach(self.guest)
        try:
            profile = await self._qemus.introspect(monitor, self.guest.pid)
            destination = Destination(self._line(link), self.id)
            found = await assess(
                self.request,
                self.id,
                profile,
                monitor,
                self._host,
                destination,
                kinds,
                caller=caller,
                cpus=self._cpus,
                rate=self._rate,
            )
            self._assessment, self._prediction = found, found.prediction
            luggage = Luggage(
                guest=self.guest,
                request=self.request,
                profile=profile,
                twin_profile=found.twin_profile,
                answer=found.answer,
                steps=found.steps,
                running=profile.status == "running",
            )
            yield found, Ends(self._departing(luggage, monitor), destination, kinds)
        finally:
            if self._departure is not None:
                self._departure.put_away()
            await monitor.close()

    def _departing(self, luggage: Luggage, monitor: Monitor | None) -> Departure:
        self._departure = Departure(
            move=self.id,
            host=self._host,
            qemu=monitor,
            guest=luggage.guest,
            request=luggage.request,
            profile=luggage.profile,
            twin_profile=luggage.twin_profile,
            answer=luggage.answer,
            steps=luggage.steps,
            store=self._store,
            qemus=self._qemus,
            progress=self._account.read,
            running=luggage.running,
            before=luggage.before,
        )
        return self._departure

    async def _carry_out(self, journal: Journal, ends: Ends) -> tuple[str, ...]:
        watch = Watch(ends.source, ends.destination)
        make_step, undo = deeds(ends)

        async def do(step: Step) -> Mapping[str, Any]:
            number = ends.source.steps.index(step)
            await reach(self.id, name_of(step), BEFORE, number)
            facts = await make_step(step)
            if isinstance(step, Reserve):
                watch.attend()
            await reach(self.id, name_of(step), AFTER, number)
            return facts

        try:
            troubles = await carry_out(journal, do, undo, watch.guard)
            return (*troubles, *(await settle(journal, do, undo) if not journal.committed else ()))
        finally:
            await watch.close()

    async def _sample(self, assessment: Assessment, monitor: Monitor) -> None:
        """Measure the guest's dirty rate while the move begins, and predict again with it."""
        rate = await sample_dirty_rate(assessment.profile, monitor)
        self._prediction = predict_for(
            self.request, assessment.profile, assessment.answer, rate=self._rate, dirty_rate=rate
        )
        self._account.tell()

    def _end(self, state: MoveState, error: LimosaError | None) -> None:
        self.state, self.error = state, error
        self._took = self._account.elapsed
        self._account.change()
        with self._account.diary.open() as diary:  # also where the move had not even begun
            say = _log.info if error is None else _log.warning
            say(f"move {state}", guest=self.guest.name, why=error.what if error else None)
            diary.close()
        record, log = self.record(), self.log()
        self._record_at_last(lambda: self._archive.keep(record, log))
        self._account.wake()

    def _expire(self) -> None:
        if self._task is not None and not self.committed:
            self._expired = True
            self._task.cancel()

    def _guest_runs(self) -> Side:
        if self.error is not None and self.error.guest_runs is not None:
            return self.error.guest_runs
        if isinstance(self.error, GuestPoweredOff | GuestLost):
            return Side.UNKNOWN
        # Any other error, such as a lost link, knows nothing of guests: the journal tells.
        if self._journal is None or not self._journal.committed:
            return Side.SOURCE
        return Side.DESTINATION if self._journal.resumed else Side.UNKNOWN

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()
