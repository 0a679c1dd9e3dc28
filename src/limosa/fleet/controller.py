"""The controller: follows the fleet while it leads, carries operations, and answers the API's questions."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import msgspec
import sqlalchemy as sa
import structlog

from limosa.agent.dial import Peers
from limosa.agent.hosts import Hosts
from limosa.errors import LimosaError
from limosa.fleet import picture
from limosa.fleet.agents import Agents, Known, Links
from limosa.fleet.audit import two_owners
from limosa.fleet.chronicle import note, tell
from limosa.fleet.config import ControllerConfig
from limosa.fleet.db.engine import Database
from limosa.fleet.follow import Follower
from limosa.fleet.history import History
from limosa.fleet.inventory import HostState, Inventory
from limosa.fleet.lease import LEADER, SECONDS, Leases, of_controller
from limosa.fleet.operations.advance import Wish
from limosa.fleet.operations.carry_out import carry_out
from limosa.fleet.operations.durable import Durable
from limosa.fleet.operations.living import LivingPort
from limosa.fleet.operations.planning import fits, plan
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.registry import Registry
from limosa.fleet.sessions import Sessions
from limosa.fleet.tokens import Tokens
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

_log = structlog.get_logger()


class Controller:
    """One controller. `Controller.running(config)` runs it.

    Args:
        config: its settings.
        database: where it keeps everything.
        hosts: the hosts to follow.
        peers: how their agents are called.
    """

    def __init__(self, config: ControllerConfig, database: Database, hosts: Known, peers: Links) -> None:
        self.config = config
        self.database = database
        self.registry = Registry(database)
        self.tokens = Tokens(database)
        self.sessions = Sessions(database)
        self.store = OperationStore(database, config.host)
        self.leads = False
        self._peers = peers
        self._leases = Leases(database, config.host)
        self._port = LivingPort(self.store, self.registry, peers, config.limits, config.retries)
        self._durable = Durable(database.engine.url, config.host, lambda each: carry_out(each, self._port))
        self.history = History(database, self.store, self.registry, peers, config.history_seconds)
        self._follower = Follower(hosts, peers, self.registry, self.history)
        self._following: asyncio.Task[None] | None = None
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
            hosts = Hosts(config.hosts_file)
            controller = cls(config, database, simulated or hosts, simulated or Peers(config, hosts))
            await controller._durable.launch()
            life = asyncio.create_task(controller._live(), name="controller")
            try:
                yield controller
            finally:
                life.cancel()
                await asyncio.gather(life, return_exceptions=True)
                await controller._stop()

    async def _stop(self) -> None:
        await self._durable.close()
        await self._follow(leads=False)
        await self._peers.close()
        for lease in (LEADER, of_controller(self.config.host)):
            await self._leases.let_go(lease)

    # -- life -------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        while True:
            try:
                await self._leases.take(of_controller(self.config.host))
                await self._follow(leads=await self._leases.take(LEADER))
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
        return picture.shown_hosts(await self.registry.hosts(), await self.registry.guests(), time.time())

    async def guests(self) -> tuple[FleetGuest, ...]:
        """Every guest, where it is."""
        return picture.shown_guests(await self.registry.guests(), await self.registry.hosts(), time.time())

    async def inventory(self) -> Inventory:
        """What planners read."""
        return await self._port.inventory()

    async def owners(self) -> tuple[TwoOwners, ...]:
        """Guests that more than one host claims, as last reported."""
        return two_owners((guest.host, guest.report) for guest in await self.registry.guests())

    async def fits(self, guest: str) -> tuple[Fit, ...]:
        """For each host whether a guest could go there. Raises NotFound."""
        return fits(await self.inventory(), guest)

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
        """Plan an operation and keep it; where it is approved already, let it run.

        Raises:
            NotFound, UsageError, Blocked.
        """
        kept = await self.store.add(await self.plan(asked, who), key, asked_hash)
        if asked.approved and kept.phase == "planned":
            return await self.approve(kept.id, who, asked.why)
        return kept

    async def approve(self, operation: str, who: str, why: str) -> Operation:
        """Let a planned operation run. Raises NotFound, Blocked."""
        running = await self.store.approve(operation, who, why)
        await self._durable.begin(operation)
        return running

    async def wish(self, operation: str, wish: Wish, who: str, why: str) -> Operation:
        """Steer an operation. Raises NotFound, Blocked."""
        return await self.store.wish(operation, wish, who, why)

    async def operations(self, created: float | None, limit: int) -> Sequence[Operation]:
        """The latest operations."""
        return await self.store.before(created, limit)
