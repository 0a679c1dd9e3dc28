"""The source end of a move: what it does to the guest's own QEMU."""

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from limosa.cargo.kind import HostFacts, Streams
from limosa.destination.launch import read_stderr
from limosa.errors import (
    GuestPoweredOff,
    LimosaError,
    MonitorError,
    MonitorLost,
    MonitorSilent,
    MoveFailed,
    PeerError,
    QmpError,
    TwinDiffers,
)
from limosa.guest.compare import Comparison, compare
from limosa.guest.profile import FoundGuest, Profile
from limosa.migration import credentials
from limosa.migration.ends import Destination, OfferAnswer, Started, TakeAsk
from limosa.migration.precopy import Precopier
from limosa.migration.qemus import Qemus
from limosa.migration.shape import first_change, shape_of
from limosa.migration.steps import Step
from limosa.migration.store import Held, Owner, Store, identity_of
from limosa.qmp.monitor import Monitor
from limosa.units import HostName, MoveId, Side
from limosa.wire.moves import MoveRequest, Progress

RUNNING_STATES = frozenset({"setup", "active", "pre-switchover", "device", "cancelling", "postcopy-active"})
"""Migration states in which a QEMU still has a migration under way (qapi/migration.json, MigrationStatus)."""

QUIT_LIMIT = 30.0
"""Seconds that a QEMU which has handed its guest over may take to end: it closes its disks first."""

PAUSED_BY_MIGRATION = frozenset({"finish-migrate", "postmigrate"})
"""Run states that a migration leaves behind at the source."""


class Luggage(msgspec.Struct, frozen=True, kw_only=True):
    """What the source's journal keeps of a move: enough to bring it to rest after a restart."""

    guest: FoundGuest
    request: MoveRequest
    profile: Profile
    twin_profile: Profile
    answer: OfferAnswer
    steps: tuple[Step, ...]
    running: bool
    before: dict[str, Any] = {}


@dataclass(slots=True)
class Departure:
    """The source end of one move; also the `Here` of cargo's deeds at the source.

    It holds the guest's monitor from the first check to the end, so that nobody else drives it meanwhile.
    """

    move: MoveId
    host: HostFacts
    qemu: Monitor | None
    """The guest's monitor; None where its QEMU is gone."""
    guest: FoundGuest
    request: MoveRequest
    profile: Profile
    twin_profile: Profile
    """The profile with the destination's host-side names."""
    answer: OfferAnswer
    steps: tuple[Step, ...]
    """The whole plan."""
    store: Store
    qemus: Qemus
    progress: Callable[[Progress], None]
    running: bool
    """Whether the vCPUs run, apart from the pause of the switchover."""
    side: Side = Side.SOURCE
    twin: Started | None = None
    comparison: Comparison | None = None
    precopier: Precopier | None = None
    _shape: Mapping[str, Any] | None = None
    before: dict[str, Any] = field(default_factory=dict)
    """The guest's migration settings as its owner had them."""
    heard: str = ""
    """What the twin wrote to its standard error, once it is gone."""
    blackout_ms: float | None = None
    """Milliseconds for which nobody ran the guest; None until they were measured."""
    taken_back: bool = False
    """Whether the destination has promised, or somebody vouched, that its twin is gone for good."""

    @property
    def directory(self) -> Path:
        """This move's own directory here."""
        return Path(self.host.run_dir) / "moves" / f"{self.move}-out"

    @property
    def monitor(self) -> Monitor:
        """The guest's monitor.

        Raises:
            MonitorLost: its QEMU is gone.
        """
        if self.qemu is None:
            raise MonitorLost(f"the QEMU of {self.profile.name} is gone")
        return self.qemu

    @property
    def alive(self) -> bool:
        """Whether the guest's QEMU is still there."""
        return self.qemu is not None and not self.qemu.lost

    @property
    def streams(self) -> Streams:
        """Where bulk data goes."""
        return self.answer.streams

    def tell(self, progress: Progress) -> None:
        """Report progress of a copy."""
        self.progress(progress)

    @property
    def identity(self) -> str:
        """What the guest is known by."""
        return identity_of(self.profile.uuid, self.profile.name)

    @property
    def epoch(self) -> int:
        """Epoch of this host's ownership; 0 for a guest that never moved."""
        owner = self.store.owner(self.identity)
        return owner.epoch if owner is not None and not self._given(owner) else (owner.epoch - 1 if owner else 0)

    @property
    def gave_up(self) -> bool:
        """Whether this host has recorded that it gave the guest up in this move."""
        owner = self.store.owner(self.identity)
        return owner is not None and self._given(owner)

    def give_up(self) -> TakeAsk:
        """Record durably that the guest is no longer this host's, and return the grant for the other one.

        Repeating it returns the same grant.

        Raises:
            StateDiskError: it could not be recorded; nothing was given up.
        """
        owner = self.store.owner(self.identity)
        if owner is None or not self._given(owner):
            owner = Owner(
                identity=self.identity,
                epoch=self.epoch + 1,
                state=Held.GIVEN_UP,
                move=self.move,
                peer=HostName(self.request.to),
                token=secrets.token_hex(16),
            )
            self.store.record_owner(owner)
        return TakeAsk(move=self.move, epoch=owner.epoch, token=owner.token, cont=self.running)

    def take_back(self, *, fenced: bool) -> None:
        """Record durably that the guest is this host's again.

        Args:
            fenced: False: the other host has promised never to take it. True: somebody vouched for that, and
                the other host may have recorded the epoch that was granted; so this one goes beyond it, and
                whoever comes back with the lower epoch is outdated.
        """
        self.taken_back = True
        owner = self.store.owner(self.identity)
        if owner is not None and self._given(owner):
            epoch = owner.epoch + 1 if fenced else owner.epoch
            self.store.record_owner(msgspec.structs.replace(owner, state=Held.HERE, epoch=epoch))

    def _given(self, owner: Owner) -> bool:
        return owner.move == self.move and owner.state is Held.GIVEN_UP

    async def make_key(self, creds: str) -> str:
        """Make the one-time key, give it to the guest's QEMU as a client, and return it for the other end."""
        key = secrets.token_hex(32)
        directory = credentials.write_key(self.directory, key)
        await self.forget_key(creds)
        await self.monitor.execute("object-add", credentials.client(creds, directory))
        return key

    async def forget_key(self, creds: str) -> None:
        """Remove the credentials from the guest's QEMU."""
        with contextlib.suppress(QmpError):  # there are none
            await self.monitor.execute("object-del", {"id": creds})

    async def start_twin(self, destination: Destination) -> Mapping[str, Any]:
        """Have the twin started, and keep what it looks like, and the guest, too."""
        self._shape = await shape_of(self.monitor)
        self.twin = await destination.start(self.twin_profile)
        return {"pid": self.twin.pid}

    def compare_twin(self) -> Mapping[str, Any]:
        """Hold the twin against the guest.

        Raises:
            TwinDiffers: a guest-visible property differs.
        """
        if self.twin is None:
            raise TwinDiffers("there is no twin to compare", guest_runs=Side.SOURCE)
        self.comparison = compare(self.profile, self.twin.profile)
        if different := self.comparison.guest_visible:
            raise TwinDiffers(
                f"the twin of {self.profile.name} is not the same machine: {different[0]}"
                + (f" and {len(different) - 1} more" if len(different) > 1 else ""),
                guest_runs=Side.SOURCE,
                remedy="report this with `limosa show --json`; no byte was moved",
                detail="\n".join(str(d) for d in different),
            )
        return {"compared": self.comparison.compared}

    async def check_shape(self) -> Mapping[str, Any]:
        """The guest is still what was planned.

        From `migrate` on QEMU refuses device_add by itself (docs/qemu-notes.md); until then this is the check.

        Raises:
            MoveFailed: something was plugged, unplugged, resized or ejected since the plan was made.
        """
        await self._same_shape()
        now = await self.qemus.introspect(self.monitor, self.guest.pid)
        comparison = compare(self.profile, now)
        if changed := comparison.guest_visible:
            words = [f"{d.where}: {d.name} was {d.source!r}, is {d.twin!r}" for d in changed]
            raise _changed(self.profile.name, words[0], "\n".join(words))
        self.running = now.status == "running"
        return {"compared": comparison.compared}

    async def _same_shape(self) -> None:
        """Media and disks too, where a guest would see no other device.

        Raises:
            MoveFailed: something is not as it was when the twin was started.
        """
        if self._shape is not None and (change := first_change(self._shape, await shape_of(self.monitor))):
            raise _changed(self.profile.name, change)

    async def precopy(self, uri: str, channels: int) -> Mapping[str, Any]:
        """Copy RAM until the guest is paused at pre-switchover."""
        self.precopier = Precopier(self.monitor, self.profile, self.request, self.tell)
        self.before = await self.precopier.settings(channels)
        self.store.keep(self.move, self.side, self.luggage())
        await self.precopier.prepare(channels, self.streams.tls_creds)
        facts = await self.precopier.run(uri)
        self.running = self.running and not self.precopier.paused_by_user
        await self._same_shape()
        return facts

    async def hand_over(self, destination: Destination) -> Mapping[str, Any]:
        """Send the last RAM and the devices; success is `completed` on both sides, nothing less.

        Raises:
            MoveFailed: one side did not complete; the source's QEMU then resumes (return-path).
        """
        mark = self.monitor.events.position
        arrival = asyncio.ensure_future(destination.arrived())
        try:
            await self.monitor.execute("migrate-continue", {"state": "pre-switchover"})
            event = await self.monitor.events.wait(
                lambda e: e.name == "MIGRATION" and e.data["status"] in {"completed", "failed", "cancelled"},
                since=mark,
                timeout=self._hand_over_seconds(),
            )
            if event.data["status"] != "completed":
                raise await self._failed(arrival)
            await asyncio.wait_for(arrival, timeout=self._hand_over_seconds())
        except TimeoutError as late:
            raise MoveFailed(
                "the destination did not say within the time limit that it has everything",
                guest_runs=Side.SOURCE,
                remedy="look at the destination's load, then try again",
            ) from late
        finally:
            arrival.cancel()
        return {}

    async def resume_there(self, destination: Destination) -> Mapping[str, Any]:
        """Let the guest run at the destination; the pause ends when its answer arrives."""
        told = await destination.resume()
        now = asyncio.get_running_loop().time()
        stopped = self.precopier.stopped_at if self.precopier else None
        if stopped is None:
            return told
        self.blackout_ms = 1000 * (now - stopped)
        return {**told, "blackout_ms": self.blackout_ms}

    async def quit(self) -> None:
        """The source QEMU quits, and is gone; it has handed everything over."""
        hangs = not self.alive
        try:
            if self.precopier and self.alive:
                await self.precopier.read_final()
            await self.monitor.execute("quit")
        except MonitorLost:
            pass  # it hung up while it ended
        except MonitorError:
            hangs = True
        # One that hangs, or that this agent could not attach to again, must never run again.
        await self.qemus.see_end(self.guest, within=0 if hangs else QUIT_LIMIT)
        for monitor in self.profile.monitors:
            if monitor.path and Path(monitor.path).parent.parent == Path(self.host.run_dir) / "guests":
                shutil.rmtree(Path(monitor.path).parent, ignore_errors=True)

    def put_away(self) -> None:
        """Remove this move's own directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    async def call_back(self, destination: Destination) -> None:
        """Undo pre-copy and hand-over: cancel, and see to it that the guest is in the state it was in.

        Raises:
            MonitorError: the guest's QEMU does not answer, or does not get back to its state.
        """
        if not self.alive:
            return  # whatever ended this QEMU, there is nothing to call back
        owner = self.store.owner(self.identity)
        if owner is not None and owner.state is Held.GIVEN_UP and not self.taken_back:
            raise MoveFailed(f"{self.profile.name} was given up to {owner.peer}: it does not run here again")
        await self._cancel_migration()
        status = (await self.monitor.execute("query-status"))["status"]
        if status == "postmigrate" and not self.taken_back:
            # The source completed but the destination never took over: its twin goes first, and then the
            # source may run (docs/qemu-notes.md: `cont` works there, disks are activated again).
            await self._stop_twin(destination)
        if self.running and status in PAUSED_BY_MIGRATION | {"paused"}:
            await self.monitor.execute("cont")
        elif status == "postmigrate":
            await self._take_disks_again()
        await self._restore_settings()

    async def _take_disks_again(self) -> None:
        """Open a paused guest's disks for writing, and lock them, as they were before it was handed over.

        Its vCPUs must not run for that (docs/qemu-notes.md). Before QEMU 10.0 only its owner's `cont` does it.
        """
        try:
            await self.monitor.execute("blockdev-set-active", {"active": True})
        except QmpError as refused:
            if refused.error_class != "CommandNotFound":
                raise

    async def _stop_twin(self, destination: Destination) -> None:
        """Have the twin destroyed. It was never granted the guest: where its host is silent, QEMU's image locks decide.

        A twin that is still there holds the locks of shared disks, and `cont` fails here until it is gone.
        """
        try:
            await destination.stop_twin()
        except PeerError:
            if not self.running:
                raise

    async def is_handed_over(self) -> bool:
        """Whether this QEMU stands as a completed migration leaves it: then it is not back yet."""
        try:
            status = (await self.monitor.execute("query-status", timeout=10))["status"]
        except MonitorError:
            return False  # it does not answer at all, which is another matter
        return bool(status == "postmigrate")

    def last_words(self) -> str:
        """What the guest's own QEMU wrote to its standard error, where limosa started it."""
        for monitor in self.profile.monitors:
            if monitor.path and (place := Path(monitor.path).parent).parent == Path(self.host.run_dir) / "guests":
                return read_stderr(place)
        return ""

    def luggage(self) -> bytes:
        """What the journal keeps of this move, as JSON."""
        return msgspec.json.encode(
            Luggage(
                guest=self.guest,
                request=self.request,
                profile=self.profile,
                twin_profile=self.twin_profile,
                answer=self.answer,
                steps=self.steps,
                running=self.running,
                before=self.before,
            )
        )

    async def is_back(self) -> bool:
        """Whether the guest is here, in the state it was in."""
        try:
            status = (await self.monitor.execute("query-status", timeout=10))["status"]
        except MonitorError:
            return False
        return bool(status == "running") if self.running else status != "finish-migrate"

    async def alarm(self) -> LimosaError:
        """Return, with the trouble, as soon as the guest's QEMU dies or the guest powers itself off."""
        since = self.monitor.events.position
        try:
            await self.monitor.events.wait("SHUTDOWN", since=since)
        except MonitorLost as lost:
            off = any(e.name == "SHUTDOWN" for e in self.monitor.events.since(since))
            return _powered_off(self.profile.name, gone=True) if off else lost
        return _powered_off(self.profile.name, gone=self.monitor.lost)

    def _hand_over_seconds(self) -> float:
        # The remainder at pre-switchover fits the downtime limit; devices and a busy host may take far longer.
        return 30.0 + self.profile.memory.size / 2**30

    async def _failed(self, arrival: "asyncio.Future[None]") -> MoveFailed:
        info = await self.monitor.execute("query-migrate")
        there = ""
        done, _ = await asyncio.wait({arrival}, timeout=2)
        if done and (error := arrival.exception()) is not None:
            there = f"destination: {getattr(error, 'detail', '') or error}"
        return MoveFailed(
            f"QEMU could not hand {self.profile.name} over: {info.get('error-desc', info.get('status'))}",
            guest_runs=Side.SOURCE,
            remedy="nothing is lost: mend what QEMU names and start again",
            detail=there,
        )

    async def _cancel_migration(self) -> None:
        mark = self.monitor.events.position
        try:
            info = await self.monitor.execute("query-migrate", timeout=5)
            if info.get("status") not in RUNNING_STATES:
                return
            await self.monitor.execute("migrate_cancel", timeout=5)
            await self._settled(mark)
        except MonitorSilent:
            # The main loop waits for a dead connection: out-of-band yank is the way out (docs/qemu-notes.md).
            await self.monitor.yank([{"type": "migration"}])
            await self._settled(mark)

    async def _settled(self, mark: int) -> None:
        await self.monitor.events.wait(
            lambda e: e.name == "MIGRATION" and e.data["status"] in {"cancelled", "failed", "completed"},
            since=mark,
            timeout=30,
        )

    async def _restore_settings(self) -> None:
        """Leave QEMU's migration settings as they were: its owner may migrate it by other means."""
        if not self.before:
            return
        await self.monitor.execute("migrate-set-capabilities", {"capabilities": self.before["capabilities"]})
        await self.monitor.execute("migrate-set-parameters", self.before["parameters"])
        self.before = {}


def _powered_off(name: str, *, gone: bool) -> GuestPoweredOff:
    return GuestPoweredOff(
        f"{name} powered itself off during the move" + (", and its QEMU exited" if gone else ""),
        remedy="start it again where it was: its disks there are whole",
    )


def _changed(guest: str, change: str, detail: str = "") -> MoveFailed:
    return MoveFailed(
        f"{guest} changed during the move: {change}",
        guest_runs=Side.SOURCE,
        remedy="start the move again: it will carry the guest as it is now",
        detail=detail,
    )
