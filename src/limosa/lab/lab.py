"""A whole lab: up, found again, changed, down."""

import asyncio
from collections.abc import Generator
from types import TracebackType
from typing import Self

import msgspec

from limosa.errors import NotFound
from limosa.lab import faults, network, provision
from limosa.lab.hosts import Host, Role
from limosa.lab.network import Link, LinkState
from limosa.lab.observer import Observer
from limosa.lab.state import (
    FABRIC,
    OBSERVER,
    LabError,
    LabRecord,
    Store,
    host_names,
    kill_inits,
    lab_name,
    remove_directory,
    remove_mount_points,
    require_root,
)


class Lab:
    """Virtual hosts, the fabric that joins them, and an observer on the guests' network.

    `async with Lab.up(hosts=2) as lab:` takes it down at the end; `lab = await Lab.up(hosts=2)` leaves it standing.
    """

    def __init__(self, store: Store, record: LabRecord) -> None:
        self.store = store
        self.name = record.name
        self.record = record
        self.fabric = Role(store, FABRIC)
        self.observer = Observer(store, OBSERVER)
        self.hosts = {
            name: Host(store, name, index, self.fabric, record.link_mbit) for index, name in enumerate(record.hosts)
        }

    @staticmethod
    def up(hosts: int = 2, link_mbit: float | None = None, name: str | None = None, agents: bool = True) -> "_Up":
        """Build a lab.

        Args:
            hosts: 1 to 26; they are called a, b, c …
            link_mbit: rate of each migration link in Mbit/s, each way; None does not limit it.
            name: default `$LIMOSA_LAB`, else `lab`.
            agents: start an agent on each host and wait until it answers.

        Raises:
            UsageError: not root, or a name or number that cannot be.
            LabError: the lab is up already, or could not be built; then nothing of it is left.
        """
        return _Up(hosts, link_mbit, name, agents)

    @classmethod
    def open(cls, name: str | None = None) -> Self:
        """A lab that is up. Raises NotFound, or LabError where its `up` was cut short."""
        require_root()
        store = Store(lab_name(name))
        record = store.load()
        if not record.complete:
            raise LabError(f"lab {store.name} was never finished", remedy=f"limosa lab down --name {store.name}")
        return cls(store, record)

    def host(self, name: str) -> Host:
        """One host. Raises NotFound."""
        try:
            return self.hosts[name]
        except KeyError:
            raise NotFound(f"lab {self.name} has no host {name}: {', '.join(self.hosts)}") from None

    def role(self, name: str) -> Role:
        """A host, `fabric` or `observer`. Raises NotFound."""
        return {FABRIC: self.fabric, OBSERVER: self.observer}.get(name) or self.host(name)

    async def down(self) -> None:
        """Take it down with all its disks. See `take_down`."""
        await take_down(self.name)

    async def plug(self, name: str) -> None:
        """Give a host its power back; its agent starts where the lab has agents."""
        async with self.store.locked():
            host = self.host(name)
            await host.plug()
            if self.record.agents:
                await provision.start_agent(host)

    async def unplug(self, name: str) -> None:
        """Pull a host's plug."""
        await self.host(name).unplug()

    async def cut(self, name: str, link: Link = Link.MIGRATION, *, drop: bool = False) -> None:
        """Cut one of a host's links: carrier lost, or with `drop` every packet silently lost."""
        await faults.set_link(self.fabric, self.host(name), link, LinkState.DROPPING if drop else LinkState.DOWN)

    async def heal(self, name: str, link: Link | None = None) -> None:
        """Mend one of a host's links, or all of them."""
        for each in Link if link is None else (link,):
            await faults.set_link(self.fabric, self.host(name), each, LinkState.UP)

    async def _build(self) -> None:
        """Everything, in an order in which each part finds what it stands on."""
        self.store.directory.mkdir(mode=0o700)
        self.store.save(self.record)
        provision.write_host_names(self.store, self.hosts.values())
        await self.fabric.switch_on()
        await network.apply(self.fabric.pid, network.fabric_batch())
        await self.observer.switch_on()
        await network.apply(self.fabric.pid, network.observer_cable_batch(self.observer.pid))
        await network.apply(self.observer.pid, network.observer_batch())
        for host in self.hosts.values():
            await host.switch_on()
        if self.record.agents:
            for host in self.hosts.values():
                provision.provision(self, host)
            await self._start_agents()

    async def _start_agents(self) -> None:
        """All agents at once. Raises the first error, when every one is up or has failed."""
        starting = (provision.start_agent(host) for host in self.hosts.values())
        for outcome in await asyncio.gather(*starting, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


class _Up:
    """What `Lab.up` returns: to be awaited, or entered."""

    def __init__(self, hosts: int, link_mbit: float | None, name: str | None, agents: bool) -> None:
        self._record = LabRecord(lab_name(name), host_names(hosts), link_mbit, agents, complete=False)
        self._lab: Lab | None = None

    def __await__(self) -> Generator[None, None, Lab]:
        return self._up().__await__()

    async def __aenter__(self) -> Lab:
        self._lab = await self._up()
        return self._lab

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lab is not None:
            await self._lab.down()

    async def _up(self) -> Lab:
        require_root()
        store = Store(self._record.name)
        async with store.locked():
            if store.exists():
                raise LabError(f"lab {store.name} is there already", remedy=f"limosa lab down --name {store.name}")
            lab = Lab(store, self._record)
            try:
                await lab._build()  # noqa: SLF001 # its own helper
            except BaseException:
                demolish(store)
                raise
            lab.record = msgspec.structs.replace(self._record, complete=True)
            store.save(lab.record)
            return lab


async def take_down(name: str | None = None) -> int:
    """Take a lab down, whole or half-built, with all its disks. Returns how many inits it killed.

    Raises:
        LabError: something is mounted below its directory, or a process does not die.
    """
    require_root()
    store = Store(lab_name(name))
    async with store.locked():
        return demolish(store)


def demolish(store: Store) -> int:
    """Kill the lab's inits, remove its directory, and what the last lab leaves. Repeating it does no harm."""
    killed = kill_inits(store.directory)
    remove_directory(store.directory)
    remove_mount_points()
    return killed
