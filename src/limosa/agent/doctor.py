"""Looks at this host, asks the others, removes what is proved unused; migration/diagnosis.py says what it means."""

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from limosa.agent import look, pki_check, strays
from limosa.agent.config import Config
from limosa.agent.dial import Peers
from limosa.agent.holders import Holders, holders
from limosa.agent.hooks.courier import Courier
from limosa.agent.hooks.findings import findings
from limosa.agent.hosts import Hosts
from limosa.cargo import images, taps
from limosa.destination.launch import Twin, stderr_in, stop
from limosa.errors import LimosaError, MonitorError, StateDiskError
from limosa.guest.attach import attach
from limosa.guest.discover import find_guests
from limosa.guest.profile import FoundGuest
from limosa.migration.diagnosis import WAITING, diagnose, named, outranked, twins, why_left
from limosa.migration.moves import Moves
from limosa.migration.store import Held, Noted, Owner, Store
from limosa.units import HostName, MoveId, Side
from limosa.wire.doctor import Diagnosis, Facts, Fixed, OldImage, OpenShown, Owned, Qemu, Thing
from limosa.wire.findings import Finding, Severity
from limosa.wire.rpc import Handlers

PEER_LIMIT = 10.0
"""Seconds for another host's facts."""

_log = structlog.get_logger()


class Doctor:
    """`limosa doctor` on one agent."""

    def __init__(self, config: Config, hosts: Hosts, peers: Peers, moves: Moves, courier: Courier) -> None:
        self._config = config
        self._hosts = hosts
        self._peers = peers
        self._moves = moves
        self._courier = courier

    def handlers(self) -> Handlers:
        """What peers may ask."""
        return {"doctor.facts": (type(None), self._told)}

    def for_controllers(self) -> Handlers:
        """What controllers may ask: of this host only, for they ask every other one too."""
        return {"fleet.doctor": (type(None), self._told)}

    async def examine(self) -> Diagnosis:
        """Look at every known host; nothing is changed."""
        here, (others, silent) = await asyncio.gather(self.facts(), self._ask_others())
        everybody = (here, *others)
        return Diagnosis(hosts=everybody, troubles=diagnose(everybody, silent))

    async def fix(self) -> Diagnosis:
        """Remove from this host what is proved unused, correct what its journal has outdated, and look again."""
        here, (others, silent) = await asyncio.gather(self.facts(), self._ask_others())
        done = [await self._end_twin(twin, here) for twin in twins(here)]
        if any(fixed.removed for fixed in done):
            here = await self.facts()  # its directory, files and taps are free now
        for thing in here.things:
            why = why_left(thing, others, silent)
            done.append(Fixed(what=named(thing), removed=False, why=why) if why else await self._remove(thing))
        done += [self._concede(owned) for owned in outranked(here, others)]
        self._strike(here)
        after = await self.examine()
        return Diagnosis(hosts=after.hosts, troubles=after.troubles, fixed=tuple(done))

    async def facts(self) -> Facts:
        """This host as it is."""
        store = self._moves.store
        journals = self._journals()
        found = find_guests()
        held = await asyncio.to_thread(holders)
        looked = await asyncio.gather(*(self._qemu(guest) for guest in found))
        things, old = await asyncio.to_thread(self._on_disk, journals, held, store.noted())
        seen = [*things, *strays.tagged_taps((await taps.links()).values(), journals, held)]
        seen += strays.noted(store.noted(), seen, journals, held)
        if held.blind:
            seen = [_unproved(thing, held) for thing in seen]
        return Facts(
            host=self._config.host,
            qemus=tuple(qemu for qemu, _ in looked),
            owners=tuple(
                Owned(identity=o.identity, epoch=o.epoch, here=o.state is Held.HERE, move=o.move, peer=o.peer)
                for o in store.owners()
            ),
            moves=self._open_moves(store),
            things=(*seen, *(thing for _, inner in looked for thing in inner)),
            old_images=old,
            findings=(*self._certificates(), *_state_disk(store), *findings(self._courier.shown(), time.time())),
        )

    def _journals(self) -> strays.Journals:
        store = self._moves.store
        opened = {str(move.id) for move in store.open_moves()}
        return strays.Journals(frozenset(opened | self._moves.rehearsed()), store.endings())

    # -- looking --------------------------------------------------------------------------------------------

    async def _told(self, _params: None, _caller: HostName) -> Facts:
        return await self.facts()

    async def _ask_others(self) -> tuple[list[Facts], dict[str, str]]:
        names = sorted(self._hosts.known().keys() - {self._config.host})
        answers = await asyncio.gather(*(self._ask(HostName(name)) for name in names))
        told = [answer for answer in answers if isinstance(answer, Facts)]
        return told, {n: a for n, a in zip(names, answers, strict=True) if isinstance(a, str)}

    async def _ask(self, host: HostName) -> Facts | str:
        try:
            async with asyncio.timeout(PEER_LIMIT):
                link = await self._peers.link(host)
                return await link.call("doctor.facts", None, Facts)
        except LimosaError as error:
            return error.what
        except TimeoutError:
            return f"no answer within {PEER_LIMIT:g} s"

    async def _qemu(self, guest: FoundGuest) -> tuple[Qemu, tuple[Thing, ...]]:
        hold = self._moves.hold(guest.pid)
        if hold is not None:
            return self._shown(guest, await look.run_state(hold), hold.move), ()
        try:
            async with asyncio.timeout(look.LOOK_LIMIT):
                monitor = await attach(guest)
        except (TimeoutError, LimosaError):
            return self._shown(guest, "unknown", None), ()
        try:
            status = await monitor.execute("query-status", timeout=look.LOOK_LIMIT)
            inner = await strays.inside(monitor, guest.pid)
            return self._shown(guest, str(status["status"]), None), inner
        except MonitorError:
            return self._shown(guest, "unknown", None), ()
        finally:
            await monitor.close()

    def _shown(self, guest: FoundGuest, state: str, move: MoveId | None) -> Qemu:
        places = (Path(monitor.path) for monitor in guest.monitors if monitor.path)
        ours = any(path.parent.parent == self._config.run_dir / "guests" for path in places)
        return Qemu(pid=guest.pid, name=guest.name, uuid=guest.uuid, state=state or "unknown", move=move, ours=ours)

    def _on_disk(
        self, journals: strays.Journals, held: Holders, ledger: Sequence[Noted]
    ) -> tuple[list[Thing], tuple[OldImage, ...]]:
        parents = (Path(entry.name).parent for entry in ledger if entry.kind == "file")
        places = {path for path in (*self._config.storage, *parents) if path.is_dir()}
        files, old = strays.tagged_files(places, journals, held)
        return [*files, *strays.directories(self._config.run_dir, journals, held)], old

    def _open_moves(self, store: Store) -> tuple[OpenShown, ...]:
        live = {status.id: status for status in self._moves.all() if not status.state.over}
        waiting = self._moves.arriving()
        shown = []
        for record in store.open_moves():
            status = live.get(record.id) if record.side is Side.SOURCE else None
            state = str(status.state) if status else ("arriving" if record.id in waiting else "not taken up")
            error = (status.error or {}) if status else {}
            shown.append(
                OpenShown(
                    id=record.id,
                    side=record.side,
                    guest=record.guest,
                    identity=record.identity,
                    peer=record.peer,
                    state=state,
                    waits_for=str(error.get("what", "")),
                    remedy=str(error.get("remedy", "")),
                )
            )
        return tuple(shown)

    def _certificates(self) -> tuple[Finding, ...]:
        if not self._config.pki_dir.exists() and not self._hosts.known():
            return ()  # a host alone needs none
        clocks = (finding for found in self._peers.clocks.values() for finding in found)
        return (*pki_check.check(self._config.pki_dir, host=self._config.host), *clocks)

    # -- removing -------------------------------------------------------------------------------------------

    async def _end_twin(self, twin: Qemu, here: Facts) -> Fixed:
        what = f"twin of {twin.name} (pid {twin.pid})"
        guest = next((g for g in find_guests() if g.pid == twin.pid), None)
        if guest is None:
            return Fixed(what=what, removed=False, why="it is gone already")
        place = next(Path(m.path).parent for m in guest.monitors if m.path)
        if any(owned.here and owned.move == place.name for owned in here.owners):
            return Fixed(what=what, removed=False, why=f"{here.host} has recorded that it took the guest over")
        try:
            monitor = await attach(guest)
            if (await monitor.execute("query-status", timeout=5))["status"] != WAITING:
                await monitor.close()
                return Fixed(what=what, removed=False, why="it waits for a guest no longer")
            await stop(Twin(guest.pid, monitor, stderr_in(place)))
        except LimosaError as trouble:
            return Fixed(what=what, removed=False, why=trouble.what)
        _log.warning("ended a twin that no move knew", pid=twin.pid, guest=twin.name)
        return Fixed(what=what, removed=True)

    async def _remove(self, thing: Thing) -> Fixed:
        try:
            if thing.pid:
                await self._remove_inside(thing)
            elif thing.kind == "tap":
                found = (await taps.links())[thing.name]
                await taps.remove(thing.name, found.alias or "")
            else:
                await asyncio.to_thread(_remove_file, thing)
        except (LimosaError, OSError) as trouble:
            return Fixed(what=named(thing), removed=False, why=str(trouble))
        _log.warning("removed a stray", what=named(thing), move=thing.move)
        return Fixed(what=named(thing), removed=True)

    async def _remove_inside(self, thing: Thing) -> None:
        guest = next(g for g in find_guests() if g.pid == thing.pid)
        monitor = await attach(guest)
        try:
            match thing.kind:
                case "job":
                    await monitor.execute("block-job-cancel", {"device": thing.name, "force": True})
                case "export":
                    await monitor.execute("block-export-del", {"id": thing.name})
                case "node":
                    await monitor.execute("blockdev-del", {"node-name": thing.name})
                case "object":
                    await monitor.execute("object-del", {"id": thing.name})
                case "bitmap":
                    node, _, name = thing.name.rpartition("/")
                    await monitor.execute("block-dirty-bitmap-remove", {"node": node, "name": name})
                case _:
                    raise LookupError(thing.kind)
        finally:
            await monitor.close()

    def _concede(self, owned: Owned) -> Fixed:
        """Record that a guest is another host's; its grant was never this host's to use again."""
        what = f"the record that {owned.identity} belongs here: {owned.peer} owns it since epoch {owned.epoch}"
        known = self._moves.store.owner(owned.identity)
        token = known.token if known is not None else ""
        record = Owner(
            identity=owned.identity,
            epoch=owned.epoch,
            state=Held.GIVEN_UP,
            move=MoveId(owned.move),
            peer=HostName(owned.peer),
            token=token,
        )
        try:
            self._moves.store.record_owner(record)
        except StateDiskError as trouble:
            return Fixed(what=what, removed=False, why=trouble.what)
        return Fixed(what=what, removed=True)

    def _strike(self, here: Facts) -> None:
        """What is gone need not stay in the ledger."""
        store = self._moves.store
        journals, there = self._journals(), {thing.name for thing in here.things}
        for move in {entry.move for entry in store.noted()}:
            if move not in journals.open and not any(e.name in there for e in store.noted() if e.move == move):
                store.strike(move)


def _remove_file(thing: Thing) -> None:
    path = Path(thing.name)
    match thing.kind:
        case "image":
            images.remove(thing.name, MoveId(thing.move))
        case "directory" if thing.move and path.parent.name in {"moves", "guests"}:
            shutil.rmtree(path)
        case "directory":
            path.rmdir()
        case _:
            path.unlink(missing_ok=True)


def _unproved(thing: Thing, held: Holders) -> Thing:
    return thing if thing.doubt else msgspec.structs.replace(thing, doubt=held.blind)


def _state_disk(store: Store) -> Sequence[Finding]:
    try:
        store.check()
    except StateDiskError as trouble:
        return (Finding(severity=Severity.BLOCKS, kind="limosa", what=trouble.what, remedy=trouble.remedy),)
    return ()
