"""Runs cells of the fault matrix: hold a move at a point, break something, let go, mend it, look at what is left."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from limosa.cli.client import AgentClient
from limosa.errors import LimosaError
from limosa.lab.faults_bench import GUEST, REACH_LIMIT, SILENCE, Bench
from limosa.lab.faults_checks import at_rest, checks, strays, whole_disks
from limosa.lab.faults_matrix import Cell, Fault, Outcome, Result, expected
from limosa.lab.guestctl import Status
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.network import Link
from limosa.lab.state import LabError, kill
from limosa.qmp.monitor import Monitor
from limosa.wire.findings import Severity
from limosa.wire.moves import MoveState, MoveStatus

HOLD = 2 * SILENCE + 1
"""Seconds that a fault lasts at the most; long enough for both ends to notice it."""
AGENT_DOWN = 0.3
SETTLE_LIMIT = 60.0
REPORT_LIMIT = 5.0
"""Seconds from the journal's last record to the report."""


@dataclass(slots=True)
class Run:
    """One cell while it is run."""

    bench: Bench
    cell: Cell
    source: Host
    destination: Host
    before: Status
    move: str = ""
    report: MoveStatus | None = None
    wrong: list[str] = field(default_factory=list)
    helpers: list[Process] = field(default_factory=list)


async def run_cell(bench: Bench, cell: Cell) -> Result:
    """Run one cell. Whatever goes wrong is in the result; the bench may have to be rebuilt then."""
    began = time.monotonic()
    async with bench.control(bench.source) as agent:
        before = await agent.status()
    run = Run(bench, cell, bench.source, bench.destination, before)
    async with _held(run):
        await _inject(run)
    await _wait_for_end(run)
    await _heal(run)
    healed = time.monotonic()
    run.wrong += await at_rest(bench, SETTLE_LIMIT)
    settled = time.monotonic() - healed
    outcome = await _judge(run)
    return Result(
        cell=cell.name,
        fault=cell.fault,
        point=cell.point.name,
        outcome=outcome,
        state=str(run.report.state) if run.report else "forgotten",
        settled=round(settled, 2),
        took=round(time.monotonic() - began, 2),
        wrong=tuple(run.wrong),
        said=_words(run.report),
    )


@asynccontextmanager
async def _held(run: Run) -> AsyncIterator[None]:
    """Start the move, and hold it at the cell's point while the context lasts."""
    points = run.bench.points
    points.arm(run.cell.point)
    try:
        if run.cell.fault is Fault.CLI:
            await _start_by_command(run)
        else:
            run.move = (await run.bench.start_move()).id
        reached = asyncio.create_task(points.reached.wait())
        await asyncio.wait({reached}, timeout=REACH_LIMIT)
        reached.cancel()
        if not points.reached.is_set():
            told = await run.bench.status(run.source, run.move)
            raise LabError(f"the move did not come by {run.cell.point.name}", detail=str(told and told.error))
        yield
    finally:
        points.release()


async def _start_by_command(run: Run) -> None:
    words = ["migrate", GUEST, "--to", run.destination.name, "--delete-source-disks", "--yes"]
    known = {each.id for each in await run.bench.ask(run.source, AgentClient.moves)}
    run.helpers.append(await run.source.spawn([sys.executable, "-m", "limosa", *words], name="limosa-migrate"))
    deadline = time.monotonic() + REACH_LIMIT
    while not run.move:
        new = [m.id for m in await run.bench.ask(run.source, AgentClient.moves) if m.id not in known]
        run.move = new[0] if new else ""
        if time.monotonic() > deadline:
            raise LabError("limosa migrate did not start a move")
        await asyncio.sleep(0.02)  # the command tells its terminal, not us


async def _inject(run: Run) -> None:
    lab, bench, source, destination = run.bench.lab, run.bench, run.source, run.destination
    match run.cell.fault:
        case Fault.SOURCE_AGENT:
            await _kill_agent(source)
        case Fault.DESTINATION_AGENT:
            await _kill_agent(destination)
        case Fault.BOTH_AGENTS:
            await _kill_agent(source)
            await _kill_agent(destination)
        case Fault.CLI:
            run.helpers[0].kill()
        case Fault.SOURCE_QEMU:
            _kill(bench.pids(source))
        case Fault.DESTINATION_QEMU:
            _kill(bench.pids(destination))
        case Fault.SOURCE_HOST:
            await lab.unplug(source.name)
        case Fault.DESTINATION_HOST:
            await lab.unplug(destination.name)
        case Fault.BOTH_HOSTS:
            await lab.unplug(source.name)
            await lab.unplug(destination.name)
        case Fault.PEER_LINK:
            await lab.cut(destination.name, Link.PEER)
        case Fault.MIGRATION_LINK:
            await lab.cut(destination.name, Link.MIGRATION)
        case Fault.BOTH_LINKS:
            await lab.cut(destination.name, Link.PEER)
            await lab.cut(destination.name, Link.MIGRATION)
        case Fault.PACKETS:
            await lab.cut(destination.name, Link.PEER, drop=True)
            await lab.cut(destination.name, Link.MIGRATION, drop=True)
        case Fault.DISK_FULL:
            _fill(bench, destination)
        case Fault.DISK_FAILING:
            await _fail_disk(run)
        case Fault.FROZEN:
            _signal([*_agent_pid(destination), *bench.pids(destination)], signal.SIGSTOP)


async def _wait_for_end(run: Run) -> None:
    """Let the fault last until the move is over, or for HOLD seconds; dead agents come back sooner."""
    brief = {Fault.SOURCE_AGENT, Fault.BOTH_AGENTS, Fault.SOURCE_HOST, Fault.BOTH_HOSTS}
    if run.cell.fault in brief:
        await asyncio.sleep(AGENT_DOWN)
        return
    run.report = await run.bench.over(run.source, run.move, HOLD)


async def _heal(run: Run) -> None:
    bench = run.bench
    for host in (run.source, run.destination):
        if not host.plugged:
            await bench.plug(host)
        elif host.agent is not None and not host.agent.running:
            await bench.restart_agent(host)
    match run.cell.fault:
        case Fault.PEER_LINK | Fault.MIGRATION_LINK | Fault.BOTH_LINKS | Fault.PACKETS:
            await bench.lab.heal(run.destination.name)
        case Fault.DISK_FULL:
            (bench.srv(run.destination) / "filler").unlink(missing_ok=True)
        case Fault.DISK_FAILING:
            await bench.destination.run(["mount", "-o", "remount,rw", "/srv"], check=False)
            for helper in run.helpers:
                helper.send_signal(signal.SIGTERM)
                await helper.wait(10)
        case Fault.FROZEN:
            _signal([*bench.pids(run.destination), *_agent_pid(run.destination)], signal.SIGCONT)
        case _:
            pass


async def _judge(run: Run) -> Outcome | str:
    """Where the guest is, whether that may be, and whether it is whole; the bench stands where the guest is now."""
    bench = run.bench
    run.report = await bench.status(run.source, run.move) or run.report
    if run.report is not None and not run.report.state.over:
        run.report = await bench.over(run.source, run.move, REPORT_LIMIT) or run.report
    here, there = bench.pids(run.source), bench.pids(run.destination)
    if len(here) + len(there) > 1:
        run.wrong.append(f"{len(here)} QEMUs at the source and {len(there)} at the destination have its UUID")
        return "two"
    outcome = Outcome.SOURCE if here else Outcome.DESTINATION if there else Outcome.LOST
    if outcome not in expected(run.cell):
        run.wrong.append(f"the guest is {outcome}, not {' or '.join(sorted(expected(run.cell)))}")
    if outcome is Outcome.LOST:
        await _lost(run)
        return outcome
    bench.home = (run.source if here else run.destination).name
    run.wrong += _report_fits(run.report, outcome)
    await _go_on_after_errors(run)
    allowed = run.cell.fault is Fault.DISK_FAILING and outcome is Outcome.DESTINATION
    run.wrong += await checks(bench, run.before, disk_errors=allowed)
    run.wrong += await strays(bench)
    if allowed:
        await _start_anew_after_errors(run)
    run.wrong += await move_on(bench)
    return outcome


async def _lost(run: Run) -> None:
    """A guest that died with its QEMU or host: said so, nothing half-copied started, its disks whole."""
    bench, report = run.bench, run.report
    if report is not None and report.state is MoveState.COMPLETED and not _died_there(run):
        run.wrong.append("the guest is lost, and the move is reported as completed")
    owner = _owner_of_lost(run)
    bench.home = owner.name
    run.wrong += whole_disks(bench, owner, run.before)
    run.wrong += await strays(bench)
    if run.wrong:
        return
    await bench.start(owner)
    run.wrong += await move_on(bench)


def _died_there(run: Run) -> bool:
    """Whether it had arrived before it died: then the move was a success all the same."""
    return run.cell.fault not in {Fault.SOURCE_QEMU, Fault.SOURCE_HOST}


def _owner_of_lost(run: Run) -> Host:
    """The host whose disks are the guest's."""
    here = all(path.exists() for path, _ in run.bench.images(run.source).values())
    return run.source if here else run.destination


def _report_fits(report: MoveStatus | None, outcome: Outcome) -> list[str]:
    if report is None:
        return []
    if not report.state.over:
        return [f"the move is {report.state} although the guest runs at the {outcome}"]
    wrong = []
    if report.state is MoveState.COMPLETED and outcome is Outcome.SOURCE:
        wrong.append("the move is reported as completed, and the guest runs at the source")
    if report.state is not MoveState.COMPLETED:
        if str(report.guest_runs) != outcome:
            wrong.append(f"the report says that the guest runs at: {report.guest_runs}; it runs at the {outcome}")
        error = report.error or {}
        wrong += [f"the report lacks {part}" for part in ("what", "guest_runs", "remedy") if not error.get(part)]
    return wrong


async def _go_on_after_errors(run: Run) -> None:
    """What an operator does after a disk was full at the guest's new home: make room, and say cont."""
    if run.cell.fault not in {Fault.DISK_FULL, Fault.DISK_FAILING}:
        return
    monitor = await Monitor.connect(str(run.bench.source.path(run.bench.spec.monitor_path)), greeting_timeout=5)
    try:
        if (await monitor.execute("query-status"))["status"] == "io-error":
            await monitor.execute("cont")
    finally:
        await monitor.close()


async def _start_anew_after_errors(run: Run) -> None:
    """What else an operator does where a disk failed to flush: QEMU flushes it never again (docs/qemu-notes.md)."""
    bench, host = run.bench, run.bench.source
    async with bench.control(host) as agent:
        now = await agent.status()
    if any(disk.errors > run.before.disk(disk.label).errors for disk in now.disks):
        for pid in bench.pids(host):
            kill(pid)
        await bench.start(host)


async def move_on(bench: Bench) -> list[str]:
    """The same guest moves to the other host, with success; the bench stands there then."""
    try:
        move = (await bench.start_move(plaintext=True)).id
        report = await bench.over(bench.source, move, 60)
    except LimosaError as refused:
        return [f"it cannot be moved afterwards: {refused.what} {refused.detail}"]
    if report is None:
        return ["the move afterwards does not end"]
    if report.state is not MoveState.COMPLETED:
        blocking = "; ".join(each.what for each in report.findings if each.severity is Severity.BLOCKS)
        return [f"the move afterwards {report.state}: {blocking or _words(report)}"]
    bench.home = report.destination
    return [f"the move afterwards: {warning}" for warning in report.warnings]


async def _kill_agent(host: Host) -> None:
    assert host.agent is not None
    os.kill(host.agent.pid, signal.SIGKILL)
    await host.agent.wait(10)


def _agent_pid(host: Host) -> list[int]:
    return [host.agent.pid] if host.agent is not None and host.agent.running else []


def _kill(pids: list[int]) -> None:
    _signal(pids, signal.SIGKILL)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _fill(bench: Bench, host: Host) -> None:
    """Take every free byte of a host's disk."""
    with (bench.srv(host) / "filler").open("wb") as filler:
        free = os.statvfs(filler.fileno())
        if free.f_bavail:
            os.posix_fallocate(filler.fileno(), 0, free.f_bavail * free.f_frsize)


async def _fail_disk(run: Run) -> None:
    """Every write to the destination's disks fails: EIO in a QEMU that has them open, else a read-only file system."""
    bench, host = run.bench, run.destination
    pids = bench.pids(host)
    if not pids:
        await host.run(["mount", "-o", "remount,ro", "/srv"])
        return
    calls = "pwrite64,pwritev,pwritev2,fallocate,fdatasync"
    inner = (await host.run(["pgrep", "-x", "qemu-system-x86"])).stdout.split()[0]
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO"]
    for path, _ in bench.images(host).values():
        if path != bench.volume:
            words += ["-P", f"/srv/{path.name}"]
    run.helpers.append(await host.spawn([*words, "-p", inner], name="failing-disk"))
    deadline = time.monotonic() + 10
    while not _traced(pids[0]):
        if time.monotonic() > deadline:
            raise LabError("strace does not attach", detail=str(run.helpers[-1].argv))
        await asyncio.sleep(0.01)  # strace tells nobody that it holds the process


def _traced(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return any(line.startswith("TracerPid:") and line.split()[1] != "0" for line in status)
    return False


def _words(report: MoveStatus | None) -> str:
    if report is None or report.error is None:
        return ""
    error = report.error
    parts = (error.get("what"), f"runs: {error.get('guest_runs')}", error.get("remedy"), error.get("detail"))
    return " | ".join(str(part) for part in parts if part)
