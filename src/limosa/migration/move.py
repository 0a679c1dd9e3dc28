"""One move from its request to its report, as the source's agent holds it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from limosa.cargo.kind import HostFacts, Kind
from limosa.errors import Blocked, GuestPoweredOff, LimosaError, MoveAborted, MoveFailed, MoveInDoubt
from limosa.guest.attach import attach
from limosa.guest.introspect import introspect
from limosa.guest.profile import FoundGuest
from limosa.migration.carry_out import carry_out, settle
from limosa.migration.departure import Departure
from limosa.migration.ends import Destination
from limosa.migration.journal import Journal, Outcome
from limosa.migration.make import Ends, make, unmake
from limosa.migration.plan import rehearsal, rewrites
from limosa.migration.report import measure
from limosa.migration.steps import Reserve, ResumeThere, Step, name_of, stage_of
from limosa.migration.store import Store
from limosa.migration.survey import Assessment, assess, predict_for, sample_dirty_rate, with_address
from limosa.migration.watch import Watch
from limosa.qmp.monitor import Monitor
from limosa.units import HostName, MoveId, Side
from limosa.wire.moves import Measured, MoveRequest, MoveState, MoveStatus, PlanShown, Prediction, Progress, Stage
from limosa.wire.rpc import Caller

_FOREVER = 10 * 365 * 86400.0

Link = Callable[[HostName], Awaitable[Caller]]


class Move:
    """One move. `run` does it; `status` tells of it at any time; `abort` ends it before commit."""

    def __init__(
        self,
        move: MoveId,
        request: MoveRequest,
        guest: FoundGuest,
        host: HostFacts,
        store: Store,
        *,
        cpus: int,
        rate: float | None = None,
    ) -> None:
        self.id = move
        self.request = request
        self.guest = guest
        self.state = MoveState.PLANNING
        self.error: LimosaError | None = None
        self._host = host
        self._store = store
        self._cpus = cpus
        self._rate = rate
        self._task: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self._departure: Departure | None = None
        self._assessment: Assessment | None = None
        self._progress: dict[str, Progress] = {}
        self._measured: Measured | None = None
        self._prediction: Prediction | None = None
        self._warnings: tuple[str, ...] = ()
        self._changed = asyncio.Event()
        self._began = asyncio.get_running_loop().time()
        self._took: float | None = None
        self._expired = False

    async def plan(self, link: Link, kinds: Mapping[str, Kind]) -> PlanShown:
        """Check everything, start the real twin, compare it, and remove it again."""
        async with self._prepared(link, kinds) as (assessment, ends):
            sampling = asyncio.create_task(self._sample(assessment, ends.source.monitor))
            compared = 0
            differences: tuple[str, ...] = ()
            if assessment.steps:
                # A rehearsal never commits, so carrying it out ends in undoing it.
                await self._carry_out(Journal(rehearsal(assessment.steps), self._clock, self._notify), ends)
                comparison = ends.source.comparison
                assert comparison is not None
                compared = comparison.compared
                differences = tuple(str(d) for d in comparison.host_side)
            await sampling
            journal = Journal(assessment.steps, self._clock, self._notify)
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

    def start(self, link: Link, kinds: Mapping[str, Kind]) -> None:
        """Begin the move; it goes on by itself."""
        self._task = asyncio.create_task(self._run(link, kinds), name=f"move-{self.id}")

    async def abort(self) -> None:
        """Ask for the end of the move and wait for its roll-back.

        Raises:
            Blocked: it has committed: it only goes forward now.
        """
        if self.state.over:
            return
        if self.committed:
            raise Blocked(
                f"{self.guest.name} is already being taken over by {self.request.to}: too late to abort",
                guest_runs=Side.DESTINATION,
                remedy=f"when it runs there, move it back: limosa migrate {self.guest.name} --to {self._host.name}",
            )
        self.state = MoveState.ABORTING
        self._notify()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def ended(self) -> None:
        """Return when the move is over."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def set_bandwidth(self, rate: float | None) -> None:
        """Cap RAM and disks at `rate` bytes per second from now on; None lifts the cap.

        Raises:
            MoveFailed: the move is not copying.
        """
        departure = self._departure
        if self.state.over or departure is None:
            raise MoveFailed(f"move {self.id} is not copying anything", remedy="`limosa watch` shows where it stands")
        departure.request = _with_bandwidth(departure.request, rate)
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
        latest = journal.latest if journal else None
        return MoveStatus(
            id=self.id,
            guest=self.guest.name,
            uuid=assessment.profile.uuid if assessment else (self.guest.uuid or ""),
            source=self._host.name,
            destination=self.request.to,
            state=self.state,
            stage=stage_of(latest.step) if latest else Stage.CHECK,
            guest_runs=self._guest_runs(),
            elapsed=self._took if self._took is not None else self._clock() - self._began,
            findings=assessment.findings if assessment else (),
            steps=journal.shown() if journal else (),
            progress=tuple(self._progress.values()),
            prediction=self._prediction,
            measured=self._measured,
            error=self.error.to_wire() if self.error else None,
            undone=tuple(name_of(e.step) for e in journal.entries if e.outcome is Outcome.UNDONE) if journal else (),
            warnings=self._warnings,
        )

    async def watch(self) -> AsyncIterator[MoveStatus]:
        """Status now, and again whenever something changed, up to and including the final one."""
        while True:
            changed = self._changed
            now = self.status()
            yield now
            if now.state.over:
                return
            await changed.wait()

    async def _run(self, link: Link, kinds: Mapping[str, Kind]) -> None:
        timer = asyncio.get_running_loop().call_later(self.request.timeout or _FOREVER, self._expire)
        try:
            async with self._prepared(link, kinds) as (assessment, ends):
                assessment.require_possible(self.request)
                self.state = MoveState.RUNNING
                self._journal = Journal(assessment.steps, self._clock, self._notify)
                sampling = asyncio.create_task(self._sample(assessment, ends.source.monitor))
                try:
                    await self._travel(self._journal, ends)
                finally:
                    sampling.cancel()
        except asyncio.CancelledError:
            self._end(MoveState.ABORTED, self._aborted())
        except LimosaError as error:
            self._end(MoveState.BLOCKED if self.state is MoveState.PLANNING else MoveState.FAILED, error)
        except Exception as surprise:
            self._end(MoveState.FAILED, self._defect(surprise))
            raise  # a defect of ours ends in a report, and in the agent's log
        finally:
            timer.cancel()

    async def _travel(self, journal: Journal, ends: Ends) -> None:
        try:
            self._warnings = await self._carry_out(journal, ends)
        except GuestPoweredOff:
            raise
        except BaseException as trouble:
            self._warnings = tuple(getattr(trouble, "__notes__", ()))
            if not await ends.source.is_back():
                raise self._doubt(trouble) from trouble
            raise
        if any(isinstance(e.step, ResumeThere) and e.outcome is not Outcome.MADE for e in journal.entries):
            raise self._doubt(None)
        self._measured = measure(journal, ends.source, checks=journal.began - self._began)
        self._end(MoveState.COMPLETED, None)

    @contextlib.asynccontextmanager
    async def _prepared(self, link: Link, kinds: Mapping[str, Kind]) -> AsyncIterator[tuple[Assessment, Ends]]:
        caller = await link(HostName(self.request.to))
        monitor = await attach(self.guest)
        try:
            profile = await introspect(monitor, pid=self.guest.pid)
            destination = Destination(caller, self.id)
            assessment = await assess(
                self.request,
                self.id,
                profile,
                monitor,
                self._host,
                destination,
                kinds,
                cpus=self._cpus,
                rate=self._rate,
            )
            self._assessment, self._prediction = assessment, assessment.prediction
            self._departure = Departure(
                move=self.id,
                host=self._host,
                directory=Path(self._host.run_dir) / "moves" / f"{self.id}-out",
                monitor=monitor,
                pid=self.guest.pid,
                request=self.request,
                profile=profile,
                twin_profile=assessment.twin_profile,
                answer=with_address(assessment.answer, caller.peer_address),
                steps=assessment.steps,
                store=self._store,
                progress=self._told,
                running=profile.status == "running",
            )
            yield assessment, Ends(self._departure, destination, kinds)
        finally:
            await monitor.close()

    async def _carry_out(self, journal: Journal, ends: Ends) -> tuple[str, ...]:
        watch = Watch(ends.source, ends.destination)

        async def do(step: Step) -> Mapping[str, Any]:
            facts = await make(step, ends)
            if isinstance(step, Reserve):
                watch.attend()
            return facts

        async def undo(step: Step) -> None:
            await unmake(step, ends)

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
        self._notify()

    def _told(self, progress: Progress) -> None:
        self._progress[progress.item] = progress
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _end(self, state: MoveState, error: LimosaError | None) -> None:
        self.state, self.error = state, error
        self._took = self._clock() - self._began
        self._notify()

    def _expire(self) -> None:
        if self._task is not None and not self.committed:
            self._expired = True
            self._task.cancel()

    def _guest_runs(self) -> Side:
        if isinstance(self.error, MoveInDoubt):
            return Side.UNKNOWN
        if self._journal is None or not self._journal.committed:
            return Side.SOURCE
        resumed = any(isinstance(e.step, ResumeThere) and e.outcome is Outcome.MADE for e in self._journal.entries)
        return Side.DESTINATION if resumed else Side.UNKNOWN

    def _aborted(self) -> MoveAborted:
        why = f"did not commit within {self.request.timeout} s" if self._expired else "was aborted on request"
        return MoveAborted(
            f"the move of {self.guest.name} to {self.request.to} {why}, and was rolled back",
            guest_runs=Side.SOURCE,
            remedy="give it a longer --timeout, or more bandwidth" if self._expired else "nothing needs to be done",
        )

    def _doubt(self, trouble: BaseException | None) -> MoveInDoubt:
        detail = "\n".join([str(trouble) if trouble else "", *self._warnings]).strip()
        return MoveInDoubt(
            f"the move of {self.guest.name} to {self.request.to} broke off, and it is not known to run",
            guest_runs=Side.UNKNOWN,
            remedy=f"look at both: limosa ls; limosa -H ssh://root@{self.request.to} ls",
            detail=detail,
        )

    def _defect(self, surprise: Exception) -> MoveFailed:
        return MoveFailed(
            f"the move of {self.guest.name} broke off on a defect in limosa: {surprise!r}",
            guest_runs=self._guest_runs(),
            remedy="please report it, with the traceback in the agent's log",
        )

    @staticmethod
    def _clock() -> float:
        return asyncio.get_running_loop().time()


def _with_bandwidth(request: MoveRequest, rate: float | None) -> MoveRequest:
    return msgspec.structs.replace(request, bandwidth=rate)
