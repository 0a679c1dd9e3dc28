"""Find every QEMU on this host by /proc alone, without touching it.

"On this host" means: in our own PID namespace. An agent also sees the processes of namespaces below its own
(containers, lab hosts), but those belong to the agent that lives there; two agents must never both take a guest for
theirs.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from limosa.guest.cmdline import CommandLine
from limosa.guest.monitors import monitors
from limosa.guest.proc import PROC, Process, read_process
from limosa.guest.profile import FoundGuest
from limosa.units import MIB

DEFAULT_MEMORY = 128 * MIB
"""What QEMU gives a PC without `-m` (hw/core/machine.c)."""

_QEMU = re.compile(r"qemu-system-[\w.-]+|qemu-kvm|kvm|qemu")
_LOADER = re.compile(r"ld-(linux.*|musl.*)\.so(\.\d+)*|ld-\d.*\.so")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([bkmgtpe]?)", re.IGNORECASE)

# Options that hardly another program has. A renamed QEMU is known by two of them and by having none that QEMU lacks.
_TELLING = frozenset({"accel", "blockdev", "chardev", "device", "drive", "hda", "machine", "netdev", "qmp", "smp"})


def find_guests(proc: Path = PROC) -> tuple[FoundGuest, ...]:
    """Every QEMU that could run a guest here, in the order of their start.

    A process that vanishes meanwhile is left out, and so are guests of other users whose processes we may not read:
    an agent runs as root.
    """
    found = (_found(process) for process in _processes(proc) if process.shares_pids and is_qemu(process))
    return tuple(sorted((guest for guest in found if guest), key=lambda guest: (guest.start_time, guest.pid)))


def is_qemu(process: Process) -> bool:
    """Whether a process is a system emulator: by its program's name, or by its command line where it was renamed.

    A wrapper (`sudo qemu-system-x86_64 ...`, a shell) is not: its own program's name, and its first arguments, tell.
    """
    program = PurePosixPath(process.binary).name
    if _QEMU.fullmatch(program):
        return True
    if _LOADER.fullmatch(program):
        return any(_QEMU.fullmatch(PurePosixPath(word).name) for word in process.argv[:6])
    options = process.command_line.options
    if not options or not all(option.known for option in options) or not process.argv[1].startswith("-"):
        return False
    return len({option.name for option in options} & _TELLING) >= 2


def describe(process: Process, line: CommandLine) -> FoundGuest:
    """What a process and its command line tell of a guest. Pure but for the names of sockets it was handed."""
    return FoundGuest(
        pid=process.pid,
        start_time=process.start_time,
        name=str(line.merged("name").get("guest") or f"qemu-{process.pid}"),
        uuid=uuid_of(line),
        binary=process.binary,
        monitors=monitors(
            line, outside=process.reach, socket_of_fd=process.socket_path, same_network=process.shares_network
        ),
        memory=memory_of(line),
        vcpus=vcpus_of(line),
        incoming=line.has("incoming"),
    )


def uuid_of(line: CommandLine) -> str | None:
    """The UUID that was given, by `-uuid` or by `-smbios type=1,uuid=...`: QEMU takes either (hw/smbios/smbios.c).

    The null UUID is none: every guest without one has it.
    """
    given: str | None = None
    for option in line.all("uuid", "smbios"):
        if option.name == "uuid":
            given = option.raw or given
        elif option.fields.get("type") == "1":
            given = option.fields.get("uuid", given)
    return given_uuid(given)


def given_uuid(uuid: str | None) -> str | None:
    """A UUID as somebody gave it to a guest; None for all zeros, which QEMU says of one started without."""
    return uuid.lower() if uuid and uuid.strip("0-") else None


def memory_of(line: CommandLine) -> int | None:
    """Base RAM in bytes; a number without a unit is MiB. None for what only QEMU understands."""
    size = line.merged("m").get("size")
    if size is None:
        return DEFAULT_MEMORY
    match = _SIZE.fullmatch(str(size))
    if match is None:
        return None
    unit = match[2].lower()
    return int(float(match[1]) * (MIB if not unit else 1024 ** "bkmgtpe".index(unit)))


def vcpus_of(line: CommandLine) -> int | None:
    """How many vCPUs it starts with: `-smp cpus`, else the product of the topology."""
    smp = line.merged("smp")
    try:
        if "cpus" in smp:
            return int(smp["cpus"], 0)
        levels = [int(smp[level], 0) for level in ("sockets", "dies", "clusters", "cores", "threads") if level in smp]
        if not levels and "maxcpus" in smp:
            return int(smp["maxcpus"], 0)
    except ValueError:
        return None
    count = 1
    for level in levels:
        count *= level
    return count


def _processes(proc: Path) -> Iterator[Process]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                yield read_process(int(entry.name), proc)
            except (ProcessLookupError, PermissionError):
                continue


def _found(process: Process) -> FoundGuest | None:
    """The guest; None for a QEMU that only answers questions, as tools start it (`-machine none`, `-version`)."""
    line = process.command_line
    if _asks_only(line):
        return None
    return describe(process, line)


def _asks_only(line: CommandLine) -> bool:
    lists = any(option.raw in {"help", "?"} for option in line.all("machine", "M", "device", "cpu", "accel", "object"))
    words = line.all("h", "help", "version")
    return bool(words) or lists or line.merged("machine").get("type") == "none" or _probe(line)


def _probe(line: CommandLine) -> bool:
    """A bare board that limosa itself starts for a second, to learn what it consists of."""
    return [option.fields.get("chardev") for option in line.all("mon")] == ["limosa"] and not line.has("name")
