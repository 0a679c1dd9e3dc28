"""For tests of what goes wrong: a guest under watch, a move in flight, and proof that a failure left nothing behind."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec

from limosa.lab.commands import Answer, limosa, migrate
from limosa.lab.guestctl import GuestControl, Status
from limosa.lab.guests import GuestSpec, control
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.provision import start_agent
from limosa.lab.state import LabError
from limosa.qmp.monitor import Monitor
from limosa.wire.moves import MoveStatus

SETTLE_LIMIT = 30.0
"""Seconds that a host gets to tidy up what its agent was told too late, or not at all."""


OWNERS_MONITOR = "owner"


@dataclass(frozen=True, slots=True)
class Traces:
    """What a host holds of guests and moves; two readings are equal if nothing was left behind."""

    files: frozenset[str]
    interfaces: frozenset[str]
    qemus: frozenset[int]

    def left(self, before: "Traces") -> list[str]:
        """What is there now and was not, or the other way round."""
        changed: list[str] = []
        for what in ("files", "interfaces", "qemus"):
            was, now = getattr(before, what), getattr(self, what)
            changed += [f"new: {what} {item}" for item in sorted(now - was)]
            changed += [f"gone: {what} {item}" for item in sorted(was - now)]
        return changed


async def traces(host: Host) -> Traces:
    """Read a host's disks, move and guest directories, interfaces and QEMU processes."""
    script = (
        "find /srv /run/limosa/moves /run/limosa/guests -mindepth 1 2>/dev/null; echo --;"
        "ip -o link | cut -d: -f2; echo --; pgrep -x 'qemu-system-.*'"
    )
    told = (await host.run(["sh", "-c", script], check=False)).stdout
    files, interfaces, qemus = (part.split() for part in told.split("--\n"))
    plain = (each.partition("@")[0] for each in interfaces)
    return Traces(frozenset(files), frozenset(plain), frozenset(map(int, qemus)))


async def left_behind(host: Host, before: Traces, *, limit: float = SETTLE_LIMIT) -> list[str]:
    """What differs from `before` once the host had time to tidy up (polled: a clean host announces nothing)."""
    deadline = asyncio.get_running_loop().time() + limit
    while True:
        changed = (await traces(host)).left(before)
        if not changed or asyncio.get_running_loop().time() > deadline:
            return changed
        await asyncio.sleep(0.1)


async def settings_of(monitor: Monitor) -> dict[str, Any]:
    """Everything that a move sets in a source's QEMU, and must take back."""
    asked: tuple[tuple[str, Mapping[str, Any] | None], ...] = (
        ("query-migrate-capabilities", None),
        ("query-migrate-parameters", None),
        ("query-jobs", None),
        ("query-block-exports", None),
        ("qom-list", {"path": "/objects"}),
        ("qom-list", {"path": "/machine/peripheral"}),
        ("query-status", None),
        ("query-named-block-nodes", {"flat": True}),
        ("query-chardev", None),
    )
    answers = await monitor.execute_many(asked)
    found: dict[str, Any] = {}
    for (command, arguments), answer in zip(asked, answers, strict=True):
        found[f"{command} {arguments or ''}".strip()] = answer
    nodes, chardevs = list(found)[-2:]
    found[nodes] = sorted(node["node-name"] for node in found[nodes])
    found[chardevs] = sorted(chardev["label"] for chardev in found[chardevs])
    return found


@dataclass(slots=True)
class Watched:
    """A guest at its source, whose owner keeps a monitor of his own beside the one that limosa borrows.

    Attributes:
        spec: how it was started; `OWNERS_MONITOR` must be among its devices.
        source: where it runs.
        destination: where moves of it go, and must leave nothing.
        owner: the owner's monitor.
    """

    spec: GuestSpec
    source: Host
    destination: Host
    owner: Monitor
    settings: dict[str, Any]
    before: Traces
    there: Traces
    status: Status

    @classmethod
    @asynccontextmanager
    async def over(cls, spec: GuestSpec, source: Host, destination: Host) -> AsyncIterator[Self]:
        """Watch a guest that has booted."""
        owner = await owners(source, spec)
        async with await control(source, spec) as agent:
            status = await agent.status()
        here, there = await traces(source), await traces(destination)
        watched = cls(spec, source, destination, owner, await settings_of(owner), here, there, status)
        try:
            yield watched
        finally:
            await watched.owner.close()

    async def renew(self) -> None:
        """Take what is there now for what must stay: the guest was away, and came home."""
        await self.owner.close()
        self.owner = await owners(self.source, self.spec)
        self.settings = await settings_of(self.owner)
        self.before, self.there = await traces(self.source), await traces(self.destination)

    async def bring_home(self) -> None:
        """Move the guest back after a move that succeeded, and forget the disks that were left aside.

        Raises:
            LabError: it does not come.
        """
        await self.source.run(["sh", "-c", "rm -f /srv/*"])
        answer = await migrate(self.destination, self.spec.name, self.source)
        if answer.status != 0:
            raise LabError(f"{self.spec.name} does not come home", detail=answer.err)
        await self.destination.run(["sh", "-c", "rm -rf /srv/* /run/limosa/guests/*"])
        await self.renew()

    async def changes(self, *, same_boot: bool = True) -> list[str]:
        """All that a refused, failed or aborted move left different; empty if it left nothing."""
        found = [f"{self.destination.name}: {each}" for each in await left_behind(self.destination, self.there)]
        found += [f"{self.source.name}: {each}" for each in await left_behind(self.source, self.before, limit=5)]
        now = await settings_of(self.owner)
        found += [f"{what} was {was}, is {now[what]}" for what, was in self.settings.items() if now[what] != was]
        return found + await self._alive(same_boot=same_boot)

    async def _alive(self, *, same_boot: bool) -> list[str]:
        """Whether the guest executes, hears us, and its disks take writes."""
        found = []
        async with await control(self.source, self.spec) as agent:
            first = await agent.status()
            now = await _written(agent, first)
        if same_boot and now.boot_id != self.status.boot_id:
            found.append("the guest was booted anew")
        if same_boot and now.uptime_ns <= self.status.uptime_ns:
            found.append("the guest's clock stands")
        if now.oopsed or now.deaths:
            found.append(f"the guest suffered: tainted {now.tainted}, {now.deaths} deaths")
        writing = (old for old in first.disks if old.recording)
        stuck = (old.name for old in writing if now.disk(old.label).acknowledged <= old.acknowledged)
        found += [f"{name} takes no writes" for name in stuck]
        found += [f"{disk.name} had {disk.errors} errors" for disk in now.disks if disk.errors]
        self.status = now
        return found


async def _written(agent: GuestControl, first: Status, limit: float = 20) -> Status:
    """The guest's status once each of its recording disks took another record (polled: the guest calls nobody)."""
    deadline = asyncio.get_running_loop().time() + limit
    wanted = {disk.label: disk.acknowledged for disk in first.disks if disk.recording}
    while True:
        now = await agent.status()
        late = asyncio.get_running_loop().time() > deadline
        if late or all(now.disk(label).acknowledged > number for label, number in wanted.items()):
            return now
        await asyncio.sleep(0.05)


async def owners(host: Host, spec: GuestSpec) -> Monitor:
    """Connect to the monitor that limosa leaves alone."""
    return await Monitor.connect(str(host.path(f"{spec.directory}/{OWNERS_MONITOR}")), greeting_timeout=10)


def with_owner(spec: GuestSpec) -> GuestSpec:
    """The same guest with a second QMP socket, which its owner holds while limosa uses the first."""
    socket = f"unix:{spec.directory}/{OWNERS_MONITOR},server=on,wait=off"
    return replace(spec, devices=(*spec.devices, "-qmp", socket))


class Flight:
    """A move in flight, seen through `limosa watch --json`: one line for each change, the last one its report."""

    def __init__(self, host: Host, move: str, watcher: Process, lines: asyncio.StreamReader) -> None:
        self.host = host
        self.move = move
        self.seen: list[MoveStatus] = []
        self._watcher = watcher
        self._lines = lines

    @classmethod
    async def depart(cls, host: Host, guest: str, to: str, *flags: str) -> Self:
        """Start a move and watch it. Raises LabError where it was refused at once."""
        answer = await limosa(host, "migrate", guest, "--to", to, "--json", "--detach", *flags)
        if answer.status != 0:
            raise LabError(f"the move of {guest} was refused", detail=answer.err)
        return await cls.join(host, answer.json()["id"])

    @classmethod
    async def join(cls, host: Host, move: str) -> Self:
        """Watch a move that somebody else started."""
        reading, writing = os.pipe()
        argv = [sys.executable, "-m", "limosa", "watch", move, "--json"]
        try:
            watcher = await host.spawn(argv, stdout=writing)
        finally:
            os.close(writing)
        lines = asyncio.StreamReader(limit=2**24)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(reading, "rb", 0)
        )
        return cls(host, move, watcher, lines)

    async def until(self, wanted: Callable[[MoveStatus], bool], *, timeout: float = 90) -> MoveStatus:
        """The first status from now on for which `wanted` holds, or that is the last.

        Raises:
            TimeoutError: neither came.
        """
        async with asyncio.timeout(timeout):
            while True:
                line = await self._lines.readline()
                if not line:
                    raise LabError(f"nothing more is said of move {self.move}")
                self.seen.append(msgspec.json.decode(line, type=MoveStatus))
                if self.seen[-1].state.over or wanted(self.seen[-1]):
                    return self.seen[-1]

    async def landed(self, *, timeout: float = 120) -> MoveStatus:
        """Its report."""
        last = self.seen[-1] if self.seen and self.seen[-1].state.over else None
        last = last or await self.until(lambda status: status.state.over, timeout=timeout)
        await self._watcher.wait(30)
        return last

    def story(self) -> list[str]:
        """What was seen of it, a line for each status."""
        return [
            f"{each.elapsed:.1f} s: {each.state}, {each.stage}; "
            + ", ".join(f"{p.item} {p.done}/{p.total} {p.state}" for p in each.progress)
            for each in self.seen
        ]

    async def exit_status(self) -> int:
        """What `limosa watch` ended with."""
        return await self._watcher.wait(30)


def copying_disks(status: MoveStatus) -> bool:
    """A disk is being copied; QEMU may have taken its first 16 MiB in one gulp, and count them only at the end."""
    return any(p.item != "ram" and p.done < p.total and p.state == "copying" for p in status.progress)


def copying_ram(status: MoveStatus) -> bool:
    """Some RAM was copied."""
    return any(p.item == "ram" and 0 < p.done < p.total for p in status.progress)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as a person reads it."""

    status: int
    what: str
    where: str
    remedy: str
    text: str


async def refused(host: Host, *words: str, timeout: float = 180) -> Refusal:
    """Run a command that must fail; its exit status and its three lines.

    Raises:
        LabError: it succeeded, or did not say its three lines.
    """
    answer = await limosa(host, *words, timeout=timeout)
    return three_lines(answer)


def three_lines(answer: Answer) -> Refusal:
    """Find the three lines in what a command said. Raises LabError where they are missing."""
    lines = answer.err.splitlines()
    for number, line in enumerate(lines[:-2]):
        if line.startswith("limosa: ") and lines[number + 1].startswith("  where: "):
            where, remedy = lines[number + 1][9:], lines[number + 2]
            return Refusal(answer.status, line[8:], where, remedy.removeprefix("  to do: "), answer.err)
    raise LabError(f"status {answer.status}, and no three lines", detail=answer.err + answer.out)


async def pids_of(host: Host, word: str) -> list[int]:
    """QEMUs of a host, as the host itself numbers them, whose command line has `word`."""
    inner = (await host.run(["pgrep", "-x", "qemu-system-.*"], check=False)).stdout.split()
    root = host.path("/proc")
    return [int(pid) for pid in inner if word in (root / pid / "cmdline").read_text(errors="replace")]


async def kill_twin(host: Host) -> None:
    """Kill the QEMU that waits for a guest on this host. Raises ValueError unless there is exactly one."""
    (pid,) = await pids_of(host, "-incoming")
    await host.run(["kill", "-KILL", str(pid)])


async def configure(host: Host, **keys: Any) -> None:
    """Give a host's agent settings beside its own, through conf.d; none at all takes them away. It must start anew."""
    file = host.path("/etc/limosa/conf.d/90-test.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in keys.items()))


async def restarted_with(host: Host, **keys: Any) -> None:
    """Start a host's agent anew, with other settings."""
    assert host.agent is not None
    host.agent.send_signal(signal.SIGTERM)
    await host.agent.wait(20)
    await configure(host, **keys)
    await start_agent(host)


def _toml(value: Any) -> str:
    """A value as TOML writes it: as JSON does, but for tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)
