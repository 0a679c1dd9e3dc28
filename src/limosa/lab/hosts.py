"""One virtual host, and its two kin, the fabric and the observer: started, used, unplugged, plugged in again."""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from limosa.lab import inside, network
from limosa.lab.inside import Completed, Process
from limosa.lab.network import Addresses
from limosa.lab.state import InitRecord, LabError, Store, base_directory, kill, mount_points, start_time

START_LIMIT = 20.0
"""Seconds that an init may take to come up; on an idle machine it takes about 60 ms."""

OWN = {"/srv": "srv", "/var/lib/limosa": "lib", "/etc/limosa": "etc"}
"""What a host keeps when it loses its power: path inside it -> name in its directory."""

MANAGERS = ("/run/systemd", "/run/dbus")
"""Where the machine's systemd is reached: it would take a host's process numbers for its own."""

INIT = Path(__file__).with_name("init.py")


class Setup(msgspec.Struct, frozen=True):
    """What init.py is told on standard input."""

    hostname: str
    binds: tuple[tuple[str, str], ...] = ()
    tmpfs: tuple[str, ...] = ("/run/limosa",)
    hidden: tuple[str, ...] = ()
    held: int = -1
    """A file descriptor, inherited, to be kept open for life and from children."""
    spare: str = "/run/limosa"
    """A directory to park mounts on; what is mounted there meanwhile is covered, not lost."""


class Role:
    """Something with an init of its own: its namespaces, and processes in them."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.directory = store.role(name)
        self._numbers = itertools.count(1)

    @property
    def init(self) -> InitRecord | None:
        """Its pid 1 as the machine numbers it; None while it is switched off."""
        return self.store.init(self.name)

    @property
    def pid(self) -> int:
        """Its pid 1 as the machine numbers it. Raises LabError while it is switched off."""
        if (record := self.init) is None:
            raise LabError(
                f"{self.name} of lab {self.store.name} is switched off", remedy=f"limosa lab plug {self.name}"
            )
        return record.pid

    def setup(self) -> Setup:
        """What its init mounts."""
        return Setup(hostname=self.name)

    async def switch_on(self) -> None:
        """Start its init with fresh namespaces. Raises LabError, and leaves nothing running then."""
        (self.directory / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
        with mount_points() as held:
            answer = await self._start_init(held)
        started = start_time(answer["pid"]) if "pid" in answer else None
        if started is None:
            why = answer.get("error") or (self.directory / "init.log").read_text()
            raise LabError(f"{self.name} did not start", remedy="is this a container without privileges?", detail=why)
        self.store.save_init(self.name, InitRecord(answer["pid"], started))

    async def _start_init(self, held: int) -> dict[str, Any]:
        """Run init.py until it has forked pid 1 or given up. Returns its answer; none is an empty one."""
        setup = msgspec.structs.replace(self.setup(), held=held)
        argv = [sys.executable, "-I", "-S", str(INIT), str(self.store.directory), self.name]
        log = os.open(self.directory / "init.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # A session of its own: Ctrl-C in the terminal of `lab up` is not for the hosts.
            starter = await asyncio.create_subprocess_exec(
                *argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=(held,),
            )
        finally:
            os.close(log)
        try:
            async with asyncio.timeout(START_LIMIT):
                told, _ = await starter.communicate(msgspec.json.encode(setup) + b"\n")
        except BaseException:
            if starter.returncode is None:
                starter.kill()
                await starter.wait()
            raise
        answer: dict[str, Any] = json.loads(told or "{}")
        return answer

    def switch_off(self) -> None:
        """Kill its init: everything in it dies at once. Returns when the last process is dead."""
        if (record := self.init) is not None:
            kill(record.pid)

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout: float = 60.0,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end inside.

        Raises:
            LabError: it did not start; it was killed after `timeout` seconds; or, with `check`, it failed.
                `detail` is what it wrote.
        """
        return await inside.run(self.directory, argv, stdin=stdin, env=env, cwd=cwd, timeout=timeout, check=check)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: int | None = None,
        stdout: int | None = None,
        bound: bool = False,
    ) -> Process:
        """Start a process inside, in a session of its own; it lives until it ends or the host dies.

        Args:
            argv: program and arguments, as the host sees them.
            name: of its output files in the host's `log` directory; default: the program's, numbered.
            env: added to the caller's environment.
            cwd: as the host sees it.
            stdin: a file descriptor; default: nothing to read.
            stdout: a file descriptor; default: the file `stdout_path`.
            bound: kill it when the returned Process is closed or its starter ends.

        Raises:
            LabError: the host is switched off, or the program cannot be started.
        """
        stem = name or f"{Path(argv[0]).name}-{next(self._numbers)}"
        out, err = (self.directory / "log" / f"{stem}.{kind}" for kind in ("out", "err"))
        process = self._spawn(argv, (stdin, stdout), out, err, env=env, cwd=cwd, bound=bound)
        process.stdout_path, process.stderr_path = out if stdout is None else None, err
        return process

    def _spawn(
        self, argv: Sequence[str], given: tuple[int | None, int | None], out: Path, err: Path, **how: Any
    ) -> Process:
        """Start a process with its input from nowhere and its output in files, but for what the caller gave."""
        with contextlib.ExitStack() as opened:
            stdin, stdout = given
            stdio = (
                opened.enter_context(Path(os.devnull).open("rb")) if stdin is None else stdin,
                opened.enter_context(out.open("ab")) if stdout is None else stdout,
                opened.enter_context(err.open("ab")),
            )
            return inside.spawn(self.directory, argv, stdio, **how)


class Host(Role):
    """A virtual host. Its power may be cut (`unplug`) and given back (`plug`)."""

    def __init__(self, store: Store, name: str, index: int, fabric: Role, link_mbit: float | None) -> None:
        super().__init__(store, name)
        self.index = index
        self.addresses: Addresses = network.addresses(index)
        self.fabric = fabric
        self.link_mbit = link_mbit
        self.agent: Process | None = None
        """The agent, where this program started it."""

    @property
    def plugged(self) -> bool:
        """Whether it has power."""
        return self.init is not None

    def setup(self) -> Setup:
        """Its own directories; the labs' directory and the machine's managers are out of its sight."""
        binds = [(str(self.directory / name), path) for path, name in OWN.items()]
        hosts_file = (str(self.store.directory / "hosts"), "/etc/hosts")
        hidden = [str(base_directory()), *(path for path in MANAGERS if Path(path).is_dir())]
        return Setup(hostname=self.name, binds=(*binds, hosts_file), hidden=tuple(hidden))

    def path(self, inner: str | Path) -> Path:
        """The machine's view of one of the host's paths.

        `/srv`, `/var/lib/limosa` and `/etc/limosa` are reachable with the power off too; any other path leads through
        the host's init. Raises LabError for such a path while the power is off.
        """
        wanted = Path(inner)
        for own, name in OWN.items():
            if wanted.is_relative_to(own):
                return self.directory / name / wanted.relative_to(own)
        return Path(f"/proc/{self.pid}/root") / wanted.relative_to("/")

    async def switch_on(self) -> None:
        """Start its init and plug in its cables."""
        for name in OWN.values():
            (self.directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        await super().switch_on()
        await self._wire()

    async def _wire(self) -> None:
        """Plug in the cables; a migration link is held to its rate in both directions."""
        await network.apply(self.fabric.pid, network.cable_batch(self.name, self.index, self.pid))
        await network.apply(self.pid, network.host_batch(self.index))
        if self.link_mbit is not None:
            for pid, device in self.ends(network.Link.MIGRATION):
                await network.apply(pid, network.limit_batch(device, self.link_mbit), "tc")
        await network.until_usable(end for link in network.Link for end in self.ends(link))

    def ends(self, link: network.Link) -> tuple[tuple[int, str], tuple[int, str]]:
        """Both ends of a link: the init in whose namespace each lies, and its name there."""
        return (self.pid, network.CABLES[link].inside), (self.fabric.pid, network.port(self.name, link))

    async def unplug(self) -> None:
        """Pull the plug: everything on the host dies at once, memory and /run are lost, disks stay."""
        self.switch_off()
        await self._remove_cables()

    async def plug(self) -> None:
        """Give it power again, with the disks and the journal it had. Its cables are whole again.

        Raises:
            LabError: it has power.
        """
        if self.plugged:
            raise LabError(f"{self.name} has power already", remedy=f"limosa lab unplug {self.name}")
        await self._remove_cables()
        await self.switch_on()

    async def _remove_cables(self) -> None:
        """Take the fabric's ends away; the kernel does it too, when it has got round to the dead namespace."""
        for link in network.Link:
            end = network.port(self.name, link)
            try:
                if end in await network.interfaces(self.fabric.pid):
                    await network.apply(self.fabric.pid, [f"link del {end}"])
            except LabError:
                if end in await network.interfaces(self.fabric.pid):
                    raise
            if end in await network.swallowed(self.fabric.pid):
                await network.swallow(self.fabric.pid, end, on=False)

    async def add_tap(self, name: str, *, bridge: str | None = "br0", queues: bool = False) -> None:
        """Make a tap interface, up, as a bridge's port. `queues`: for a NIC with several queues."""
        lines = [f"tuntap add dev {name} mode tap{' multi_queue' if queues else ''}"]
        if bridge:
            lines.append(f"link set {name} master {bridge}")
        await network.apply(self.pid, [*lines, f"link set {name} up"])
