"""Read the complete profile of a running QEMU."""

import contextlib
import os
from pathlib import Path

from limosa.errors import MonitorError
from limosa.guest.assemble import ProcessFacts, assemble, cpu_model, machine_options
from limosa.guest.cmdline import CommandLine
from limosa.guest.created import created
from limosa.guest.monitors import monitors
from limosa.guest.probe import Bare, Board, Probe
from limosa.guest.proc import Process, read_process
from limosa.guest.profile import Profile, Value
from limosa.guest.reading import Reading, read
from limosa.guest.wordlist import names
from limosa.qmp.monitor import Monitor

ATTEMPTS = 3
"""Readings to take while devices come and go under our eyes."""

CACHE = Path("/var/cache/limosa")


async def introspect(monitor: Monitor, *, pid: int, probe: Probe | None = None) -> Profile:
    """The profile of one running QEMU: over QMP, completed from its command line.

    Args:
        monitor: a QMP monitor of the process.
        pid: the process, for its command line, working directory and program.
        probe: knowledge about its program; made from `/proc/PID/exe`, and kept on disk, when None.

    Raises:
        MonitorError: QEMU refused a question, went away, or its devices changed faster than they could be read.
        LaunchError: the bare board to compare with did not start.
    """
    probe = probe or Probe(program(pid), cache_directory())
    reading = await _steady(monitor, probe)
    process = read_process(pid)
    line = process.command_line
    bare = await bare_board(probe, reading, line)
    probe.save()
    known = {s.placed.driver: probe.driver(s.placed.driver) for s in (*reading.sightings, *reading.busless)}
    return assemble(reading, created(line), bare, known, probe.not_pluggable, process_facts(process))


async def _steady(monitor: Monitor, probe: Probe) -> Reading:
    for attempt in range(ATTEMPTS):
        try:
            return await read(monitor, probe)
        except LookupError as moved:
            if attempt == ATTEMPTS - 1:
                raise MonitorError(
                    "the guest's devices keep changing while they are read",
                    remedy="try again when hot-plug has settled",
                    detail=str(moved),
                ) from moved
    raise AssertionError("unreachable")


async def bare_board(probe: Probe, reading: Reading, line: CommandLine) -> Bare:
    """The bare machine of the guest's board: first with its type alone, then with the options that differ."""
    running = "kvm" if reading.general["query-kvm"]["enabled"] else "tcg"
    board = Board(
        machine=str(reading.machine["type"]).removesuffix("-machine"),
        cpu=cpu_model(reading.cpu_type),
        accel=running,
        firmware_paths=tuple(option.raw for option in line.all("L") if option.raw),
    )
    plain = await probe.bare(board)
    said = {k: v for k, v in machine_options(reading, plain).items() if k in _SHAPING}
    if not said:
        return plain
    shaped = await probe.bare(
        Board(
            board.machine,
            board.cpu,
            board.accel,
            tuple(sorted((k, word(v)) for k, v in said.items())),
            board.firmware_paths,
        )
    )
    # Devices as this board has them; defaults as the plain one has them.
    return Bare(devices=shaped.devices, machine=plain.machine, cpu=plain.cpu, feature_words=plain.feature_words)


# Machine options that add or remove devices of the board.
_SHAPING = names("usb hpet smm vmport i8042 sata smbus pit pic acpi nvdimm cxl x-south-bridge default-bus-bypass-iommu")


def word(value: Value) -> str:
    """A value as `-machine` and its kin write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")


def program(pid: int) -> Path:
    """The program a process runs, also when its file was replaced since."""
    link = Path(f"/proc/{pid}/exe")
    target = link.readlink()
    with contextlib.suppress(OSError):
        if target.samefile(link):
            return target
    return link


def cache_directory() -> Path | None:
    """Where knowledge about QEMU programs is kept: for all users if possible, else for this one."""
    for directory in (CACHE, Path.home() / ".cache" / "limosa"):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            if os.access(directory, os.W_OK):
                return directory
    return None


def process_facts(process: Process) -> ProcessFacts:
    """What the kernel tells of the process."""
    return ProcessFacts(
        binary=process.binary,
        resolve=lambda path: process.reach(path) or path,
        firmware=lambda name: _firmware(process, name),
        monitors=monitors(
            process.command_line,
            outside=process.reach,
            socket_of_fd=process.socket_path,
            same_network=process.shares_network,
        ),
        bridges=_bridges(process),
        vhost_files=_vhost_files(process.pid),
    )


def _firmware(process: Process, name: str) -> str:
    path = process.reach(name)
    return path if path and Path(path).exists() else name


def _bridges(process: Process) -> dict[str, str]:
    """Every port of a bridge -> the bridge, where the process's network is ours (sysfs shows ours only)."""
    if not process.shares_network:
        return {}
    return {
        port.name: bridge.parent.name for bridge in Path("/sys/class/net").glob("*/brif") for port in bridge.iterdir()
    }


def _vhost_files(pid: int) -> int:
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(link.readlink()) == "/dev/vhost-net"
    return count
