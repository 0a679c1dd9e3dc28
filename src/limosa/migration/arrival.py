"""The destination end of a move: what answers the source's calls, and cleans up when the source is gone."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limosa.cargo.kind import CargoStep, HostFacts, Kind, Streams
from limosa.destination.argv import TwinShape, argv
from limosa.destination.finish import finish
from limosa.destination.launch import Twin, launch, stop
from limosa.errors import LaunchError, LimosaError, MonitorError, MonitorLost, MoveFailed
from limosa.guest.introspect import introspect
from limosa.migration.credentials import write_key
from limosa.migration.ends import KeyAsk, ListenAsk, ReserveAsk, ResumeAsk, StartAsk, Started, StepAsk, Told
from limosa.qmp.monitor import Monitor
from limosa.units import HostName, MoveId, Side
from limosa.wire.moves import Progress

CAPABILITIES = ("events", "validate-uuid")
"""What a twin needs to say when it is complete, and to refuse another guest's state."""


@dataclass(slots=True)
class Arrival:
    """One guest on its way to this host; also the `Here` of cargo's deeds at the destination."""

    host: HostFacts
    source: HostName
    ask: ReserveAsk
    directory: Path
    kinds: Mapping[str, Kind]
    ended: Callable[[MoveId], None]
    side: Side = Side.DESTINATION
    committed: bool = False
    _twin: Twin | None = None
    _started: asyncio.Event = field(default_factory=asyncio.Event)
    _made: list[CargoStep] = field(default_factory=list)
    _clearing: asyncio.Lock = field(default_factory=asyncio.Lock)

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
        write_key(self.directory, ask.key)

    async def start(self, ask: StartAsk) -> Started:
        """Start the twin of a profile, and read it back.

        Raises:
            LaunchError: it did not start; `detail` is its stderr.
        """
        line = await argv(ask.profile, self._shape(), self.ask.binary)
        self._twin = await launch(
            self.ask.binary, line, directory=Path(self.ask.monitor).parent, monitor=self.ask.monitor
        )
        self._started.set()
        await finish(self._twin.monitor, ask.profile)
        profile = await introspect(self._twin.monitor, pid=self._twin.pid)
        return Started(pid=self._twin.pid, profile=profile, argv=line)

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
            await stop(twin)

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

    async def make(self, ask: StepAsk) -> Told:
        """Make a cargo step here."""
        self._made.append(ask.step)
        return Told(facts=dict(await self.kinds[ask.step.kind].make(ask.step, self)))

    async def unmake(self, ask: StepAsk) -> None:
        """Undo a cargo step here."""
        await self.kinds[ask.step.kind].unmake(ask.step, self)
        self._made = [step for step in self._made if step != ask.step]

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

    async def take_over(self) -> None:
        """This host owns the guest from here on."""
        if self._twin is None or self._twin.monitor.lost:
            raise self._died()
        self.committed = True

    async def resume(self, ask: ResumeAsk) -> Told:
        """Let the guest run here.

        Raises:
            MoveFailed: this host has not taken the guest over.
        """
        if not self.committed:
            raise MoveFailed(
                f"{self.host.name} does not own {self.ask.name}, so it does not run it", guest_runs=Side.SOURCE
            )
        if ask.cont:
            await _running(self.monitor)
        return Told()

    async def attend(self) -> None:
        """Stay on the line until the twin dies; when the caller is gone before commit, clean up.

        Raises:
            LaunchError: the twin died.
        """
        try:
            await self._started.wait()
            await self.monitor.gone()
            raise self._died()
        except asyncio.CancelledError:
            if not self.committed:
                await asyncio.shield(self.clear())
            raise

    async def close(self) -> Told:
        """End this move here: keep the guest if it was taken over, remove everything if not."""
        words = self._twin.stderr() if self._twin else ""
        if self.committed:
            await self._hand_to_agent()
        else:
            await self.clear()
        return Told(facts={"stderr": words} if words else {})

    async def clear(self) -> None:
        """Remove everything that was made here for a move that did not happen."""
        async with self._clearing:
            for step in reversed(self._made):
                with contextlib.suppress(MonitorError):  # the twin is going away anyhow
                    await self.kinds[step.kind].unmake(step, self)
            self._made = []
            if not self.committed:
                await self.stop_twin()
            self._put_away()

    async def _hand_to_agent(self) -> None:
        if self._twin is not None:
            with contextlib.suppress(MonitorLost):  # a guest that ended meanwhile needs no tidying
                await self._leave_as_started(self._twin.monitor)
            await self._twin.monitor.close()
        self._put_away()

    async def _leave_as_started(self, monitor: Monitor) -> None:
        """Take back what only this move needed: the guest's owner may migrate it by other means."""
        await monitor.execute("migrate-set-parameters", {"tls-creds": ""})
        off = [{"capability": name, "state": False} for name in (*CAPABILITIES, "multifd")]
        await monitor.execute("migrate-set-capabilities", {"capabilities": off})
        if self.streams.tls_creds:
            await monitor.execute("object-del", {"id": self.streams.tls_creds})

    def _put_away(self) -> None:
        if not self.committed:
            shutil.rmtree(Path(self.ask.monitor).parent, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.ended(self.move)

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
