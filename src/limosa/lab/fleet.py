"""A fleet in a lab: hosts with agents, guests on them, and a room of its own for one controller or several."""

import asyncio
import http.client
import json
import os
import secrets
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from limosa.agent import pki
from limosa.lab.commands import Answer, limosa
from limosa.lab.dial import CONNECT_LIMIT, dial
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.lab import Lab
from limosa.lab.provision import write_hosts
from limosa.lab.state import LabError
from limosa.lab.tenants import Tenant, look, settle, spec_of
from limosa.lab.trouble import restarted_with

PORT = 8447
UP_LIMIT = 90.0
"""Seconds that a controller may take until it answers."""
ANSWER_LIMIT = 30.0
LOOK_EVERY = 0.1
STUCK = "stuck"
"""A guest that can leave its host for no other one: it sees flags that no other has."""
LACKING = ("rdseed", "adx")
SETTINGS = "reserve = 0\novercommit = 8.0\ncooldown = 0\n[limits]\nmoves_out = 2\nmoves_in = 1\n"
UNREACHABLE = (ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError)


class Desk:
    """One controller in the control room: its settings, its process, and a client of its API.

    Args:
        room: the lab host that it runs on.
        number: 0 for the first; each has its own name, port and directories.
        database: its URL; None for SQLite in the controller's own directory.
        settings: further lines of its controller.toml.
    """

    def __init__(self, room: Host, number: int, database: str | None, settings: str) -> None:
        self.room = room
        self.name = f"fleet-{number + 1}"
        self.port = PORT + number
        self.process: Process | None = None
        self.token = ""
        self._database = database
        self._settings = settings

    @property
    def url(self) -> str:
        """Of its API, from within the lab."""
        return f"https://{self.room.addresses.peer}:{self.port}"

    @property
    def directory(self) -> str:
        """Of its settings, as the room sees it."""
        return f"/etc/limosa/{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """What makes `limosa controller` this one."""
        return {"LIMOSA_CONTROLLER_DIR": self.directory, "LIMOSA_CONTROLLER_STATE": f"/var/lib/limosa/{self.name}"}

    def furnish(self, ca: Path, hosts: Sequence[Host]) -> None:
        """Write its certificate and settings."""
        place = self.room.path(self.directory)
        place.mkdir()
        pki.issue_host(ca, self.name, [self.room.addresses.peer], place / "pki", controller=True)
        write_hosts(place / "hosts.toml", hosts)
        database = f"database = {json.dumps(self._database)}\n" if self._database else ""
        settings = f'listen = "{self.room.addresses.peer}:{self.port}"\n{database}{self._settings}'
        (place / "controller.toml").write_text(settings)

    async def limosa(self, *words: str) -> str:
        """Run `limosa controller WORDS` for it; returns what it wrote."""
        done = await self.room.run([sys.executable, "-m", "limosa", "controller", *words], env=self.environment)
        return done.stdout.strip()

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            LabError: it ended, or does not answer; `detail` is the end of its log.
        """
        argv = [sys.executable, "-m", "limosa", "controller", "--json"]
        self.process = await self.room.spawn(argv, name=self.name, env=self.environment)
        deadline = time.monotonic() + UP_LIMIT
        while await self._status("/readyz") != 200:
            if not self.process.running or time.monotonic() > deadline:
                log = self.process.stderr_path.read_text(errors="replace")[-4000:] if self.process.stderr_path else ""
                raise LabError(f"the controller {self.name} does not answer", detail=log)
            await asyncio.sleep(LOOK_EVERY)  # a port that somebody else will bind tells nobody

    async def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait(20)

    def freeze(self) -> None:
        """Stop it where it stands."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on as if nothing had been."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request; status and answer, or status 0 where it does not answer."""
        return await asyncio.to_thread(self._ask, method, path, body)

    async def _status(self, path: str) -> int:
        return (await self.ask("GET", path))[0]

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        trust = ssl.create_default_context(cafile=str(self.room.path(f"{self.directory}/pki/ca-cert.pem")))
        connection = http.client.HTTPConnection(self.room.addresses.peer, self.port, timeout=CONNECT_LIMIT)
        try:
            plain = dial(self.room, self.room.addresses.peer, self.port)
            connection.sock = trust.wrap_socket(plain, server_hostname=self.room.addresses.peer)
            connection.sock.settimeout(ANSWER_LIMIT)
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except UNREACHABLE:
            return 0, None
        finally:
            connection.close()


class LabFleet:
    """Hosts, the controllers that follow them, and the guests on them."""

    def __init__(self, lab: Lab, desks: Sequence[Desk]) -> None:
        self.lab = lab
        *hosts, self.room = lab.hosts.values()
        self.hosts = tuple(hosts)
        self.desks = tuple(desks)
        self.tenants: list[Tenant] = []

    @classmethod
    @asynccontextmanager
    async def up(
        cls,
        name: str,
        *,
        hosts: int = 3,
        controllers: int = 1,
        database: str | None = None,
        settings: str = "",
        role: str = "operator",
    ) -> AsyncIterator[Self]:
        """Build one, controllers running and ready; take it down at the end.

        Args:
            name: of the lab.
            hosts: for guests; the control room is one more.
            controllers: more than one need a PostgreSQL `database`.
            database: URL; None for SQLite.
            settings: further lines of controller.toml.
            role: of the clients' token.
        """
        async with Lab.up(hosts=hosts + 1, name=name) as lab:
            *own, room = lab.hosts.values()
            fleet = cls(lab, [Desk(room, number, database, settings) for number in range(controllers)])
            for desk in fleet.desks:
                desk.furnish(lab.store.directory / "pki", own)
            token = await fleet.desks[0].limosa("token", f"lab-{secrets.token_hex(3)}", "--role", role)
            for desk in fleet.desks:
                desk.token = token
                await desk.start()
            await fleet.until("/v1/hosts", lambda told: sum(h["cores"] is not None for h in told["items"]) == hosts)
            yield fleet

    def host(self, name: str) -> Host:
        """A host by its name."""
        return self.lab.host(name)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the first controller that answers."""
        told: tuple[int, Any] = (0, None)
        for desk in self.desks:
            told = await desk.ask(method, path, body)
            if told[0]:
                break
        return told

    async def limosa(self, *words: str, timeout: float = 300) -> Answer:
        """Run `limosa WORDS` in the control room, against the first controller."""
        desk = self.desks[0]
        env = {"LIMOSA_HOST": desk.url, "LIMOSA_TOKEN": desk.token}
        return await limosa(self.room, *words, timeout=timeout, env=env)

    async def until(self, path: str, wanted: Callable[[Any], bool], limit: float = 60) -> Any:
        """The first answer for which something holds (polled: a killed controller ends every stream).

        Raises:
            LabError: none was within `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while True:
            status, told = await self.ask("GET", path)
            if status == 200 and wanted(told):
                return told
            if time.monotonic() > deadline:
                raise LabError(f"{path} did not become what was waited for", detail=json.dumps(told))
            await asyncio.sleep(LOOK_EVERY)

    async def knows(self, limit: float = 60) -> None:
        """Wait until a controller has been told of every guest where it is."""
        wanted = {(tenant.name, tenant.home) for tenant in self.tenants}
        await self.until("/v1/guests", lambda told: {(g["name"], g["host"]) for g in told["items"]} == wanted, limit)

    async def look(self) -> dict[str, str]:
        """See that every guest is whole; where each is. Raises NotWhole."""
        return {tenant.name: (await look(tenant, self.hosts)).name for tenant in self.tenants}


@asynccontextmanager
async def guests_on_three_hosts(name: str, *, leaving: int = 5, **fleet_options: Any) -> AsyncIterator[LabFleet]:
    """Three hosts with guests: on a so many that can leave it, and `STUCK`; one each on b and c.

    Args:
        name: of the lab.
        leaving: guests on a that can run anywhere.
        fleet_options: as `LabFleet.up` takes them.
    """
    async with LabFleet.up(name, settings=SETTINGS, **fleet_options) as fleet:
        for host in fleet.hosts[1:]:
            await restarted_with(host, cpu={"remove": list(LACKING), "accel": "tcg"})
        less = ",".join(("max", *(f"-{flag}" for flag in LACKING)))
        homes = [*["a"] * leaving, "b", "c"]
        specs = [(spec_of(f"web{n}", n, records_hz=4, cpu=less), home) for n, home in enumerate(homes, 1)]
        specs.append((spec_of(STUCK, 0, records_hz=4), "a"))
        starting = (settle(spec, fleet.host(home), fleet.hosts, seed=n) for n, (spec, home) in enumerate(specs))
        fleet.tenants += await asyncio.gather(*starting)
        await fleet.knows()
        yield fleet


def lab_name(words: str) -> str:
    """A name for a lab that no other process takes."""
    return f"{words}-{os.getpid()}"
