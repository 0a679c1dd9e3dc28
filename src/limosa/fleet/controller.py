"""The controller: follows the fleet while it leads, carries operations, and answers the API's questions."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

import msgspec
import sqlalchemy as sa
import structlog

from limosa.agent.dial import Peers
from limosa.agent.hosts import Hosts
from limosa.errors import LimosaError, NotFound
from limosa.fleet import picture
from limosa.fleet.agents import Agents, Links
from limosa.fleet.audit import two_owners
from limosa.fleet.chronicle import note, tell
from limosa.fleet.config import ControllerConfig
from limosa.fleet.db.engine import Database
from limosa.fleet.doctor import FleetDoctor
from limosa.fleet.follow import Follower
from limosa.fleet.history import History
from limosa.fleet.hooks import FleetHooks
from limosa.fleet.inventory import HostState, Inventory
from limosa.fleet.lease import LEADER, SECONDS, Leases, count_living, of_controller
from limosa.fleet.meters import Meters
from limosa.fleet.operations.advance import Wish
from limosa.fleet.operations.carry_out import carry_out
from limosa.fleet.operations.durable import Durable
from limosa.fleet.operations.living import LivingPort
from limosa.fleet.operations.planning import fits, plan
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.registry import Registry
from limosa.fleet.sessions import Sessions
from limosa.fleet.tokens import Tokens
from limosa.wire.doctor import FleetDiagnosis
from limosa.wire.fleet import (
    Fit,
    FleetGuest,
    FleetHost,
    GuestRules,
    HostSettings,
    Operation,
    OperationAsked,
    TwoOwners,
)
from limosa.wire.hooks import HookTried

_log = structlog.get_logger()


class Controller:
    """One controller. `Controller.running(config)` runs it.

    Args:
        config: its settings.
        database: where it keeps everything.
        simulated: agents to follow in place of those of `hosts.toml`.
    """

    def __init__(self, config: ControllerConfig, database: Database, simulated: Agents | None = None) -> None:
        self.config = config
        self.database = database
        self.registry = Registry(database)
        self.tokens = Tokens(database)
        self.sessions = Sessions(database)
        self.store = OperationStore(database, config.host)
        self.leads = False
        self.meters = Meters()
        self.meters.watch(database.engine)
        hosts = Hosts(config.hosts_file)
        self._peers: Links = simulated or Peers(config, hosts, self.meters.calls.heard)
        self._leases = Leases(database, config.host)
        self._port = LivingPort(self.store, self.registry, self._peers, config.limits, config.retries)
        self._durable = Durable(database.engine.url, config.host, lambda each: carry_out(each, self._port))
        self._doctor = FleetDoctor(self._peers.link, self.hosts, self.owners, config.pki_dir, config.host)
        self.history = History(database, self.store, self.registry, self._peers, config.history_seconds)
        self._follower = Follower(simulated or hosts, self._peers, self.registry, self.history)
        self._following: asyncio.Task[None] | None = None
        self.hooks = FleetHooks(config.hooks, database)
        self._suspected: frozenset[str] = frozenset()
        self._told: frozenset[str] = frozenset()

    @classmethod
    @asynccontextmanager
    async def running(cls, config: ControllerConfig, simulated: Agents | None = None) -> AsyncIterator[Self]:
        """Run one until the block is left.

        Args:
            config: its settings.
            simulated: agents to follow in place of those of `hosts.toml`.

        Raises:
            UsageError, StateDiskError: its settings or its database are no good.
        """
        async with Database.opened(config.database) as database:
            controller = cls(config, database, simulated)
            await controller._durable.launch()
            life = asyncio.create_task(controller._live(), name="controller")
            try:
                yield controller
            finally:
                async with database.between_writes():
                    life.cancel()
                    if controller._following is not None:
                        controller._following.cancel()
                await asyncio.gather(life, return_exceptions=True)
                await controller._stop()

    async def _stop(self) -> None:
        await self._durable.close()
        await self._doctor.close()
        await self._follow(leads=False)
        await self.hooks.deliver(leads=False)
        await self._peers.close()
        for lease in (LEADER, of_controller(self.config.host)):
            await self._leases.let_go(lease)

    # -- life -------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            try:
                await self._leases.take(of_controller(self.config.host))
                await self._follow(leads=await self._leases.take(LEADER))
                await self.hooks.deliver(leads=self.leads)
                if self.leads:
                    await self._reap()
                    await self._audit()
            except (sa.exc.SQLAlchemyError, LimosaError, OSError) as error:
                _log.error("the controller cannot do its round", why=str(error))
            await asyncio.sleep(SECONDS / 3)

    async def _follow(self, *, leads: bool) -> None:
        """Follow the agents, or leave that to the controller that leads."""
        if leads and (self._following is None or self._following.done()):
            _log.info("this controller leads", controller=self.config.host)
            self._following = asyncio.create_task(self._follower.follow(), name="follow")
        if not leads and self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None
        self.leads = leads

    async def _reap(self) -> None:
        """Carry on what dead controllers had in hand, and what was approved and never begun."""
        opened = await self.store.open()
        living = await self._leases.living({each.holder for each in opened})
        for each in opened:
            if not each.holder:
                await self._durable.begin(each.id)
            elif each.holder not in living:
                _log.warning("taking over from a controller that is gone", operation=each.id, gone=each.holder)
                await self._durable.take_over(each.id)

    async def _audit(self) -> None:
        """Tell of guests with two owners: seen twice in a row, for two agents report at different moments."""
        found = {each.id: each for each in await self.owners()}
        sure = frozenset(found) & self._suspected
        for guest in sure - self._told:
            hosts = ", ".join(found[guest].hosts)
            _log.error("a guest has two owners", guest=guest, name=found[guest].name, hosts=hosts)
            async with self.database.write() as connection:
                await tell(connection, "audit", guest, {"name": found[guest].name, "two owners": hosts})
        self._suspected, self._told = frozenset(found), sure

    # -- the fleet --------------------------------------------------------------------------------------------

    async def hosts(self) -> tuple[FleetHost, ...]:
        """Every host, by name."""
        return picture.shown_hosts(await self.registry.census(), time.time())

    async def host(self, name: str) -> FleetHost:
        """One host. Raises NotFound."""
        kept = await self.registry.host(name)
        return picture.shown_host(kept, (await self.registry.census()).claimed_by(name), time.time())

    async def guests(self) -> tuple[FleetGuest, ...]:
        """Every guest, where it is."""
        return picture.shown_guests(await self.registry.census(), time.time())

    async def guests_from(self, after: str, limit: int) -> tuple[FleetGuest, ...]:
        """The first guests behind a cursor (`picture.cursor_of`)."""
        return picture.shown_from(await self.registry.census(), after, limit, time.time())

    async def guests_on(self, host: str) -> tuple[FleetGuest, ...]:
        """The guests of one host."""
        return picture.shown_on(await self.registry.census(), host, time.time())

    async def guest(self, wanted: str) -> FleetGuest:
        """One guest, by id or by a name that only one has. Raises NotFound."""
        found = await self.registry.guest(wanted)
        shown = picture.shown_one(await self.registry.census(), found.report.key, time.time())
        if shown is None:
            raise NotFound(f"{wanted} is on its way, or given up", remedy="limosa ls lists the guests")
        return shown

    async def inventory(self) -> Inventory:
        """What planners read."""
        return await self._port.inventory()

    async def owners(self) -> tuple[TwoOwners, ...]:
        """Guests that more than one host claims, as last reported."""
        return two_owners((guest.host, guest.report) for guest in await self.registry.guests())

    async def doctor(self) -> FleetDiagnosis:
        """What is wrong in the fleet, as it was found in the last few seconds."""
        return await self._doctor.examine()

    @property
    def following(self) -> Mapping[str, float]:
        """Hosts whose agents answer this controller, and when each did last, seconds since 1970."""
        return self._follower.heard

    async def count_living(self) -> int:
        """How many controllers share this fleet."""
        return await count_living(self.database)

    async def fits(self, guest: str) -> tuple[Fit, ...]:
        """For each host whether a guest could go there. Raises NotFound."""
        return fits(await self.inventory(), guest)

    async def test_hooks(self, hook: str, who: str) -> tuple[HookTried, ...]:
        """Send a test event to one hook, or to all where none is named. Raises NotFound."""
        tried = await self.hooks.test(hook)
        for each in tried:
            await self._note(who, "test a hook", each.name, each.answer)
        return tried

    async def set_state(self, host: str, state: HostState, who: str, why: str) -> None:
        """What a host is used for from now on. Raises NotFound."""
        await self.registry.set_state([host], state, why)
        await self._note(who, f"set state {state}", host, why)

    async def set_settings(self, host: str, settings: HostSettings, who: str) -> None:
        """What operators say of a host. Raises NotFound."""
        await self.registry.set_settings(host, settings)
        await self._note(who, "set settings", host, msgspec.json.encode(settings).decode())

    async def set_rules(self, guest: str, rules: GuestRules, who: str) -> str:
        """What operators say of a guest; its id. Raises NotFound."""
        found = await self.registry.guest(guest)
        await self.registry.set_rules(found.report.key, rules)
        await self._note(who, "set rules", found.report.key, msgspec.json.encode(rules).decode())
        return found.report.key

    async def _note(self, who: str, what: str, subject: str, why: str) -> None:
        async with self.database.write() as connection:
            await note(connection, who, what, subject, why)

    # -- operations -------------------------------------------------------------------------------------------

    async def plan(self, asked: OperationAsked, who: str) -> Operation:
        """What an operation would do now; nothing is kept.

        Raises:
            NotFound, UsageError: what is asked cannot be planned.
        """
        name = f"{asked.kind}-{secrets.token_hex(4)}"
        fleet = await self.inventory()
        return await asyncio.to_thread(plan, asked, fleet, name=name, who=who, now=time.time())

    async def submit(self, asked: OperationAsked, who: str, key: str, asked_hash: str) -> Operation:
        """Plan an operation and keep it; where it is approved already, let it run. A key that is known plans nothing.

        Raises:
            NotFound, UsageError, Blocked.
        """
        kept = await self.store.answered(who, key, asked_hash) if key else None
        if kept is None:
            kept = await self.store.add(await self.plan(asked, who), key, asked_hash)
        if asked.approved and kept.phase == "planned":
            return await self.begin(kept.id, who, asked.why)
        return kept

    async def begin(self, operation: str, who: str, why: str) -> Operation:
        """Let an operation run whose plan was made for that. Raises NotFound, Blocked."""
        return await self._run(operation, who, why, "begin")

    async def approve(self, operation: str, who: str, why: str) -> Operation:
        """Let a planned operation run, which somebody else may have planned. Raises NotFound, Blocked."""
        return await self._run(operation, who, why, "approve")

    async def _run(self, operation: str, who: str, why: str, deed: str) -> Operation:
        running = await self.store.approve(operation, who, why, deed)
        await self._durable.begin(operation)
        return running

    async def wish(self, operation: str, wish: Wish, who: str, why: str) -> Operation:
        """Steer an operation. Raises NotFound, Blocked."""
        return await self.store.wish(operation, wish, who, why)

    async def operations(self, created: float | None, limit: int) -> Sequence[Operation]:
        """The latest operations."""
        return await self.store.before(created, limit)
