"""Two QEMUs side by side, and just enough of a move to try kinds of cargo between them.

No agent, no journal, no peer link: the ends are in one process. The order of the steps is that of a real move,
so a kind that works here meets the same QEMU states there.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limosa.cargo.kind import CargoStep, HostFacts, Kind, Offer, Streams, When
from limosa.errors import LimosaError, MonitorLost, MonitorMissing
from limosa.guest.profile import (
    BlockNode,
    Profile,
)
from limosa.qmp.monitor import Monitor
from limosa.testing.ports import free_port
from limosa.testing.profiles import MEMORY
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, blocking
from limosa.wire.moves import MoveRequest, Progress


def block_arguments(profile: Profile) -> list[str]:
    """`-blockdev` and `-device` arguments for the block graph of a profile."""
    argv: list[str] = []
    for node in _children_first(profile):
        told = {"driver": node.driver, "node-name": node.node_name, "read-only": node.read_only}
        argv += ["-blockdev", json.dumps(told | node.options | node.children)]
    for device in profile.devices:
        told = {"driver": device.driver, "id": device.id, "drive": device.drive}
        argv += ["-device", json.dumps(told | device.properties)]
    return argv


def _children_first(profile: Profile) -> list[BlockNode]:
    order: dict[str, BlockNode] = {}

    def visit(node: BlockNode) -> None:
        for child in node.children.values():
            visit(profile.node(child))
        order.setdefault(node.node_name, node)

    for node in profile.block_nodes:
        visit(node)
    return list(order.values())


@dataclass
class End:
    """One end of a move, as `limosa.cargo.kind.Here` describes it."""

    side: Side
    move: MoveId
    host: HostFacts
    directory: Path
    streams: Streams
    told: list[Progress] = field(default_factory=list)
    on_progress: Callable[[Progress], None] = lambda _: None
    process: asyncio.subprocess.Process | None = None
    connection: Monitor | None = None

    @property
    def monitor(self) -> Monitor:
        """The QEMU's monitor."""
        if self.connection is None or self.connection.lost:
            raise MonitorLost(f"there is no QEMU at the {self.side}")
        return self.connection

    def tell(self, progress: Progress) -> None:
        """Keep it, and tell whoever asked."""
        self.told.append(progress)
        self.on_progress(progress)

    async def start(self, qemu: Path, argv: Sequence[str]) -> None:
        """Start a QEMU with a monitor; firmware only, nothing to boot from."""
        socket = self.directory / f"{self.side}.qmp"
        log = (self.directory / f"{self.side}.stderr").open("wb")
        base = ["-accel", "tcg", "-m", str(MEMORY), "-nodefaults", "-no-user-config", "-display", "none"]
        with log:
            # stdbuf: `qemu-io` in the human monitor prints to stdout, which would be buffered in a file.
            self.process = await asyncio.create_subprocess_exec(
                "stdbuf", "-o0", qemu, *base, "-qmp", f"unix:{socket},server=on,wait=off", *argv, stdout=log, stderr=log
            )
        self.connection = await _connected(self, socket)

    async def kill(self) -> None:
        """Kill the QEMU without a word, as a power cut would."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
        await self.wait()

    async def wait(self) -> None:
        """Wait for the QEMU's end."""
        if self.process is not None:
            await self.process.wait()
        if self.connection is not None:
            await self.connection.close()

    async def io(self, device: str, command: str) -> None:
        """Read or write as the device itself would: a command of qemu-io.

        Args:
            device: QOM path of what has the block backend.
            command: such as `write -P 0x11 20M 64k`, or `read -P 0x11 20M 64k`, which also compares.
        """
        before = len(self.stderr)
        told = await self.monitor.hmp(f'qemu-io -d {device} "{command}"')
        said = told + self.stderr[before:]
        if "bytes at offset" not in said or "failed" in said:
            raise AssertionError(f"{command}: {said}")

    @property
    def stderr(self) -> str:
        """What the QEMU said."""
        return (self.directory / f"{self.side}.stderr").read_text()


async def _connected(end: End, socket: Path) -> Monitor:
    assert end.process is not None
    for _ in range(500):
        try:
            return await Monitor.connect(str(socket), pid=end.process.pid)
        except MonitorMissing:
            if end.process.returncode is not None:
                raise LimosaError(f"QEMU did not start: {end.stderr}") from None
            await asyncio.sleep(0.02)  # QEMU tells nobody that its socket is there now
    raise LimosaError(f"QEMU does not open its monitor: {end.stderr}")


@dataclass
class Pair:
    """Both ends, and a move of some kinds of cargo between them."""

    source: End
    destination: End
    kinds: tuple[Kind, ...]
    profile: Profile
    request: MoveRequest
    twin_arguments: Callable[[Profile], list[str]] = block_arguments
    offers: tuple[Offer, ...] = ()
    twin: Profile | None = None
    made: list[CargoStep] = field(default_factory=list)
    facts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    repeats: int = 1
    """How often each deed is done."""

    @property
    def move(self) -> MoveId:
        """The move's id."""
        return self.source.move

    async def agree(self) -> tuple[Finding, ...]:
        """Survey, offer, rewrite; returns the findings that block."""
        offers, findings = [], []
        for kind in self.kinds:
            survey = await kind.check_source(self.profile, self.source.host, self.request, self.source.monitor)
            offer = await kind.offer(self.profile, survey, self.destination.host, self.request, self.move)
            offers.append(offer)
            findings += [*survey.findings, *offer.findings]
        self.offers, self.findings = tuple(offers), tuple(findings)
        blocked = blocking(findings, self.request.allow)
        if not blocked:
            self.twin = self.profile
            for kind, offer in zip(self.kinds, offers, strict=True):
                self.twin = kind.rewrite(self.twin, offer)
        return blocked

    def steps(self, when: When) -> tuple[tuple[Kind, CargoStep], ...]:
        """The steps of one moment."""
        streams = self.source.streams
        return tuple(
            (kind, step)
            for kind, offer in zip(self.kinds, self.offers, strict=True)
            for step in kind.steps(self.profile, offer, streams)
            if step.when is when
        )

    async def make(self, when: When) -> None:
        """Make the steps of one moment."""
        for kind, step in self.steps(when):
            self.made.append(step)
            for _ in range(self.repeats):
                self.facts[f"{step.kind}: {step.deed}"] = await kind.make(step, self.end(step))

    async def unmake_all(self) -> None:
        """Undo everything made so far, last first, as the engine does: the twin goes before what was made for it."""
        kinds = {kind.name: kind for kind in self.kinds}
        for step in reversed(self.made):
            if step.when is When.BEFORE_TWIN:
                await self.destination.kill()
            await kinds[step.kind].unmake(step, self.end(step))

    async def start_twin(self, qemu: Path, *argv: str) -> None:
        """Start the twin of the rewritten profile."""
        assert self.twin is not None
        await self.destination.start(qemu, [*argv, *self.twin_arguments(self.twin), "-incoming", "defer", "-S"])

    async def copy(self) -> None:
        """Everything up to the moment before RAM is copied."""
        await self.make(When.COPY)
        await self.make(When.BEFORE_RAM)

    async def hand_over(self) -> None:
        """RAM, the pause, commit, resume, and the source's end."""
        await _to_switchover(self.source, self.destination)
        await self.make(When.PAUSED)
        await _continue(self.source, self.destination)
        await self.make(When.BEFORE_CONT)
        await self.destination.monitor.execute("cont")
        await self.make(When.ANNOUNCE)
        await self.source.monitor.execute("quit")
        await self.source.wait()
        await self.make(When.RETIRE)

    async def move_all(self, qemu: Path, *argv: str) -> None:
        """A whole move; the twin gets the same further arguments as the source."""
        blocked = await self.agree()
        assert not blocked, blocked
        await self.make(When.BEFORE_TWIN)
        await self.start_twin(qemu, *argv)
        await self.copy()
        await self.hand_over()

    def end(self, step: CargoStep) -> End:
        """The end at which a step is made."""
        return self.source if step.side is Side.SOURCE else self.destination


async def _to_switchover(source: End, destination: End) -> None:
    capabilities = [
        {"capability": name, "state": True} for name in ("events", "return-path", "pause-before-switchover")
    ]
    await source.monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})
    await destination.monitor.execute("migrate-set-capabilities", {"capabilities": capabilities[:1]})
    uri = f"tcp:{source.streams.address}:{source.streams.migration_port}"
    await destination.monitor.execute("migrate-incoming", {"uri": uri})
    since = source.monitor.events.position
    await source.monitor.execute("migrate", {"uri": uri})
    await _status(source, since, "pre-switchover")


async def _continue(source: End, destination: End) -> None:
    here, there = source.monitor.events.position, destination.monitor.events.position
    await source.monitor.execute("migrate-continue", {"state": "pre-switchover"})
    await _status(source, here, "completed")
    await _status(destination, there, "completed")


async def _status(end: End, since: int, wanted: str) -> None:
    event = await end.monitor.events.wait(
        lambda event: event.name == "MIGRATION" and event.data["status"] in {wanted, "failed", "cancelled"},
        since=since,
        timeout=60,
    )
    if event.data["status"] != wanted:
        raise LimosaError(f"the migration {event.data['status']}")


@asynccontextmanager
async def pair(
    directory: Path,
    profile: Profile,
    kinds: Sequence[Kind],
    request: MoveRequest | None = None,
    *,
    address: str = "127.0.0.1",
    storage: Sequence[Path] = (),
) -> AsyncIterator[Pair]:
    """Two ends on this machine; whatever they start is dead at the end."""
    nbd, ram = free_port(address), free_port(address)
    streams = Streams(address=address, nbd_port=nbd, migration_port=ram, tls_creds=None)
    move = MoveId("20260101-test")
    ends = []
    for side in (Side.SOURCE, Side.DESTINATION):
        own = directory / str(side)
        own.mkdir()
        host = HostFacts(
            name=str(side),
            migration_address=address,
            state_dir=str(own / "state"),
            run_dir=str(own / "run"),
            machine_id=str(side),
            storage=tuple(map(str, storage)),
        )
        ends.append(End(side=side, move=move, host=host, directory=own, streams=streams))
    request = request or MoveRequest(guest="guest", to="destination")
    try:
        yield Pair(ends[0], ends[1], tuple(kinds), profile, request)
    finally:
        for end in ends:
            await end.kill()
