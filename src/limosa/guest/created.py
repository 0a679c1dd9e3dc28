"""What the command line made, in the words of the live machine: the half of a profile that QMP does not show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from limosa.guest.blockgraph import Edges
from limosa.guest.chardevs import typed
from limosa.guest.cmdline import CliOption, CommandLine, join, short_chardev
from limosa.guest.profile import Option, Value
from limosa.guest.wordlist import names

# Rebuilt from what runs, or about the process rather than the machine: not carried over word by word.
REBUILT = names("""
    machine accel enable-kvm no-hpet no-acpi cpu smp m mem-path mem-prealloc object chardev serial parallel monitor
    qmp qmp-pretty mon netdev net nic device drive hda hdb hdc hdd cdrom fda fdb sd pflash mtdblock blockdev
    uuid display nographic vnc vga sdl gtk curses full-screen spice usb usbdevice bios kernel initrd append dtb
    nodefaults no-user-config S incoming daemonize pidfile preconfig watchdog debugcon readconfig
    writeconfig set audio
""")
# Interfaces whose drives sit on buses of a fixed size (QEMU blockdev.c, if_max_devs); q35's IDE buses hold one.
_PER_BUS = {"ide": 2, "scsi": 7}
_INDEX = {"hda": 0, "hdb": 1, "hdc": 2, "hdd": 3, "cdrom": 2, "fda": 0, "fdb": 1}
_INTERFACE = {"fda": "floppy", "fdb": "floppy", "pflash": "pflash", "sd": "sd", "mtdblock": "mtd"}
_DRIVE_ROOT = names("discard detect-zeroes")
_NIC_WORDS = names("model macaddr mac name addr vectors id type")
_BLOCK_SWITCHES = names("""
    direct no-flush read-only auto-read-only force-share lazy-refcounts pass-discard-request pass-discard-snapshot
    pass-discard-other discard-no-unref drop-cache x-check-cache-dropped tls readahead
""")
_BLOCK_NUMBERS = names("""
    size offset lun timeout cache-size l2-cache-size l2-cache-entry-size refcount-cache-size cache-clean-interval
    reconnect-delay open-timeout latency-ns
""")


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """What `-drive` said of one drive that QMP does not show."""

    root: dict[str, Value]
    protocol: dict[str, Value]
    rerror: str | None = None
    werror: str | None = None
    writeback: bool = True


@dataclass(slots=True)
class Created:
    """Everything that the command line made, by id."""

    chardevs: dict[str, tuple[str, dict[str, Value]]] = field(default_factory=dict)
    chardev_users: dict[str, str] = field(default_factory=dict)
    netdevs: dict[str, tuple[str, dict[str, Value]]] = field(default_factory=dict)
    unnamed_netdevs: list[tuple[str, dict[str, Value]]] = field(default_factory=list)
    """Of `-net` and `-nic`, in their order."""
    objects: dict[str, dict[str, Value]] = field(default_factory=dict)
    blockdevs: dict[str, dict[str, Value]] = field(default_factory=dict)
    """Node name -> nested options as given."""
    drives: dict[str, DriveOptions] = field(default_factory=dict)
    """Name of the BlockBackend -> what only the command line knows."""
    display: list[tuple[str, str]] = field(default_factory=list)
    carried: list[Option] = field(default_factory=list)
    accel_options: dict[str, dict[str, str]] = field(default_factory=dict)
    """Accelerator -> its own properties."""


def created(line: CommandLine) -> Created:
    """Everything that a command line makes."""
    made = Created()
    for option in line.options:
        _read(made, option)
    _characters(made, line)
    _accelerators(made, line)
    made.drives = {name: drive_options(told) for name, told in named_drives(line)}
    return made


def node_options(made: Created, edges: Edges, live: Sequence[str]) -> dict[str, dict[str, Value]]:
    """Live node name -> flat options, for every node that the command line made, inline children included."""
    found: dict[str, dict[str, Value]] = {}
    for name, tree in made.blockdevs.items():
        _spread(found, edges, name, tree)
    of_backend = {backend: node for node, backend in edges.roots.items() if backend}
    for backend, drive in made.drives.items():
        root = of_backend.get(backend)
        if root is not None and root in live:
            _spread(found, edges, root, drive.root | {"file": drive.protocol})
    return found


def named_drives(line: CommandLine) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Each `-drive`, `-hda` … with the name of its BlockBackend (QEMU blockdev.c, drive_new): `ide0-hd1`, `virtio0`."""
    taken: set[tuple[str, int, int]] = set()
    per_bus = dict(_PER_BUS)
    if "q35" in str(line.merged("machine").get("type", "")):
        per_bus["ide"] = 1
    for option in line.all("drive", *_INDEX, *_INTERFACE):
        told = dict(option.fields) if option.name == "drive" else _short_drive(option.name)
        interface = str(told.get("if", "ide"))
        bus, unit = _seat(told, interface, per_bus.get(interface, 0), taken)
        taken.add((interface, bus, unit))
        media = "-cd" if told.get("media") == "cdrom" else "-hd"
        automatic = f"{interface}{bus}{media}{unit}" if interface in _PER_BUS else f"{interface}{unit}"
        yield str(told.get("id") or automatic), told


def drive_options(told: Mapping[str, Value]) -> DriveOptions:
    """What only the command line knows of a drive."""
    protocol = {key.removeprefix("file."): value for key, value in told.items() if key.startswith("file.")}
    protocol.pop("filename", None)
    if "aio" in told:
        protocol["aio"] = told["aio"]
    root = {key: value for key, value in told.items() if key in _DRIVE_ROOT}
    through = told.get("cache") in ("writethrough", "directsync") or told.get("cache.writeback") == "off"
    return DriveOptions(
        block_words(root), block_words(protocol), told.get("rerror"), told.get("werror"), writeback=not through
    )


def block_words(tree: Mapping[str, Value]) -> dict[str, Value]:
    """Block options that were written as text, with switches and numbers as JSON has them."""
    found: dict[str, Value] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found[key] = block_words(value)
        elif key in _BLOCK_SWITCHES and isinstance(value, str):
            found[key] = value in ("on", "yes", "true", "y")
        elif key in _BLOCK_NUMBERS and isinstance(value, str) and value.isdigit():
            found[key] = int(value)
        else:
            found[key] = _DISCARD.get(value, value) if key == "discard" else value
    return found


# `-drive` and flat syntax take both words, JSON only the second (QEMU block.c, bdrv_parse_discard_flags).
_DISCARD = {"on": "unmap", "off": "ignore"}


def _spread(found: dict[str, dict[str, Value]], edges: Edges, live: str, tree: Mapping[str, Value]) -> None:
    """Give each inline child its own options.

    QEMU opens inline children with discard=unmap unless told otherwise (block.c, bdrv_inherited_options).
    """
    children = edges.children.get(live, {})
    found[live] = {key: value for key, value in tree.items() if key not in children}
    for role, child in children.items():
        told = tree.get(role)
        if isinstance(told, dict) or child.startswith("#"):
            _spread(found, edges, child, {"discard": "unmap"} | (told if isinstance(told, dict) else {}))


def _read(made: Created, option: CliOption) -> None:
    told = dict(option.fields)
    match option.name:
        case "chardev":
            backend, id_ = str(told.pop("backend", "")), str(told.pop("id", ""))
            made.chardevs[id_] = (backend, {key: typed(key, value) for key, value in told.items()})
        case "netdev":
            made.netdevs[str(told.pop("id", ""))] = (str(told.pop("type", "")), told)
        case "net" | "nic":
            _legacy_network(made, told)
        case "object":
            made.objects[str(told.get("id", ""))] = told
        case "blockdev":
            made.blockdevs[str(told.get("node-name", ""))] = told if option.json else block_words(told)
        case "vnc" | "display" | "spice":
            made.display.append((option.name, option.raw or ""))
        case "audio":
            made.carried.append(Option(name="audiodev", value=_audiodev(option)))
        case "nographic":
            made.display.append(("display", "none"))
        case name if name not in REBUILT:
            made.carried.append(Option(name=name, value=option.raw))
        case _:
            pass


def _audiodev(option: CliOption) -> str:
    """`-audio` without the sound card, which is a device (system/vl.c names the backend `audiodev0`)."""
    told = [(key, value) for key, value in option.pairs if key not in ("model", "id")]
    return join([*told, ("id", str(option.fields.get("id", "audiodev0")))])


def _legacy_network(made: Created, told: Mapping[str, Value]) -> None:
    type_ = str(told.get("type", ""))
    if type_ in ("nic", "none", ""):
        return
    options = {key: value for key, value in told.items() if key not in _NIC_WORDS}
    if "id" in told:
        made.netdevs[str(told["id"])] = (type_, options)
    else:
        made.unnamed_netdevs.append((type_, options))


def _accelerators(made: Created, line: CommandLine) -> None:
    for option in line.all("accel"):
        told = {key: str(value) for key, value in option.fields.items()}
        made.accel_options.setdefault(told.pop("accel", ""), told)
    legacy = line.merged("machine")
    kvm = {key: str(legacy[old]) for old, key in _KVM_WORDS.items() if old in legacy}
    if kvm:
        made.accel_options.setdefault("kvm", kvm)


# Accelerator properties that `-machine` still takes (QEMU system/vl.c, machine_parse_property_opt).
_KVM_WORDS = {
    "kernel_irqchip": "kernel-irqchip",
    "kernel-irqchip": "kernel-irqchip",
    "kvm_shadow_mem": "kvm-shadow-mem",
    "kvm-shadow-mem": "kvm-shadow-mem",
}


def _characters(made: Created, line: CommandLine) -> None:
    """Chardevs of `-serial`, `-monitor` and their kin, by the names QEMU gives them, and who uses which."""
    for name in ("serial", "parallel"):
        for number, option in enumerate(line.all(name)):
            _character(made, f"{name}{number}", option.raw or "none", f"{name}{number}")
    for option in line.all("debugcon"):
        _character(made, "debugcon", option.raw or "none", "debugcon")
    count = 0
    for option in line.all("monitor", "qmp", "qmp-pretty"):
        if (option.raw or "none") == "none":
            continue
        _character(made, f"compat_monitor{count}", option.raw or "none", "monitor")
        count += 1
    for option in line.all("mon"):
        made.chardev_users.setdefault(str(option.fields.get("chardev", "")), "monitor")
    if not line.has("nodefaults"):
        _default_characters(made, line, count)


def _character(made: Created, id_: str, value: str, user: str) -> None:
    if value == "none":
        return
    backend, options = short_chardev(value)
    if backend == "chardev":
        made.chardev_users.setdefault(options["id"], user)
        return
    made.chardevs[id_] = (backend, {key: typed(key, text) for key, text in options.items()})
    made.chardev_users[id_] = user


def _default_characters(made: Created, line: CommandLine, count: int) -> None:
    """What QEMU adds by itself (system/vl.c, qemu_create_default_devices)."""
    silent = line.has("nographic")
    has_monitor = any(line.has(name) for name in ("monitor", "qmp", "qmp-pretty", "mon"))
    if not line.has("serial"):
        _character(made, "serial0", ("mon:stdio" if not has_monitor else "stdio") if silent else "vc", "serial0")
    if not line.has("parallel"):
        _character(made, "parallel0", "null" if silent else "vc", "parallel0")
    if not has_monitor and not silent:
        _character(made, f"compat_monitor{count}", "vc", "monitor")


def _short_drive(name: str) -> dict[str, Value]:
    told: dict[str, Value] = {"if": _INTERFACE.get(name, "ide")}
    if name in _INDEX:
        told["index"] = str(_INDEX[name])
    if name == "cdrom":
        told["media"] = "cdrom"
    return told


def _seat(told: Mapping[str, Value], interface: str, per_bus: int, taken: set[tuple[str, int, int]]) -> tuple[int, int]:
    """Bus and unit of a drive: as told, or the first that is free."""
    if "index" in told:
        index = int(told["index"])
        return divmod(index, per_bus) if per_bus else (0, index)
    bus = int(told.get("bus", 0))
    if "unit" in told:
        return bus, int(told["unit"])
    unit = 0
    while (interface, bus, unit) in taken:
        unit += 1
        if per_bus and unit >= per_bus:
            bus, unit = bus + 1, 0
    return bus, unit
