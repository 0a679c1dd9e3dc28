"""A reading, a command line and a bare board, put together into a profile. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from limosa.guest.blockgraph import block_nodes, read_graph, stable_names
from limosa.guest.chardevs import chardevs
from limosa.guest.created import Created, DriveOptions, node_options
from limosa.guest.devices import devices, seen_by_guest
from limosa.guest.netdevs import netdevs, parse_network
from limosa.guest.probe import Bare, Known
from limosa.guest.profile import (
    HOTPLUG_NUMBERS,
    RAM_BLOCKS,
    BlockNode,
    Chardev,
    Cpu,
    Device,
    Display,
    Drive,
    HostObject,
    Machine,
    Memory,
    MonitorAddress,
    Netdev,
    Option,
    PluggedCpu,
    Profile,
    QemuBuild,
    Smp,
    Throttle,
    Unknown,
    Value,
)
from limosa.guest.qtree import parse_ram_blocks
from limosa.guest.reading import Reading
from limosa.guest.tree import USER_ROOTS
from limosa.guest.wordlist import names

# Said by options of their own (-m, -smp, -boot), or about QEMU rather than the machine.
_MACHINE_ELSEWHERE = names("""
    type memory smp boot memory-backend dumpdtb phandle-start device-memory-region-size rtc_state acpi-device
    dt-compatible memory-encryption sgx-epc cxl-fmw smp-cache suppress-vmdesc
    """)
# Of a vCPU, but not of its model: where it sits, and what follows from everything else (`ht` from the topology).
_CPU_ELSEWHERE = names("""
    type apic-id socket-id die-id module-id core-id thread-id node-id memory realized hotplugged hotpluggable
    parent_bus feature-words filtered-features unavailable-features crash-information enforce check
    start-powered-off ht cmp-legacy cmp_legacy min-level min-xlevel min-xlevel2 level xlevel xlevel2 tsc-frequency
    """)
_LIMITS = frozenset(
    f"{unit}{way}{peak}"
    for unit in ("bps", "iops")
    for way in ("", "_rd", "_wr")
    for peak in ("", "_max", "_max_length")
) | {"iops_size"}
_OBJECT_NEVER = frozenset({"type", "opened", "loaded", "id"})


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the kernel tells of the process."""

    binary: str
    resolve: Callable[[str], str]
    """A path as the process writes it -> as the host sees it; unchanged where nobody can tell."""
    firmware: Callable[[str], str]
    """The same for a `-bios`, which QEMU looks for in its own directories where it is no path."""
    monitors: tuple[MonitorAddress, ...]
    bridges: Mapping[str, str]
    """Tap name -> the bridge that it is a port of."""
    vhost_files: int
    """How many `/dev/vhost-net` it holds open."""


def assemble(
    reading: Reading,
    made: Created,
    bare: Bare,
    known: Mapping[str, Mapping[str, Known]],
    not_pluggable: frozenset[str],
    process: ProcessFacts,
) -> Profile:
    """One profile. `known` holds the declared properties of every driver in the reading."""
    told = reading.general
    nodes, drives, unknown = _block(reading, made, process)
    networks, unknown_networks = _networks(reading, made, process)
    found, unknown_devices = devices(
        (*reading.sightings, *reading.busless),
        known,
        bare.devices,
        not_pluggable,
        {drive.device: drive.node for drive in drives},
    )
    found = tuple(_with_sound(_named_netdev(device, networks), reading) for device in found)
    sound = [device for device in found if device.properties.get("audiodev") == DEFAULT_SOUND]
    characters, unknown_chardevs = chardevs(
        told["query-chardev"], reading.chardev_types, made.chardevs, _chardev_users(made, found)
    )
    unknown += unknown_devices + unknown_chardevs + unknown_networks
    return Profile(
        name=str(told["query-name"].get("name", "")),
        uuid=str(told["query-uuid"]["UUID"]),
        status=str(told["query-status"]["status"]),
        qemu=_build(told["query-version"], process),
        machine=_machine(reading, bare, made, process),
        cpu=_cpu(reading, bare),
        smp=_smp(reading.machine["smp"]),
        plugged_cpus=tuple(_plugged_cpus(reading)),
        memory=_memory(reading),
        objects=tuple(_on_host(o, process) for o in _objects(reading, made)),
        chardevs=tuple(_outside(c, process) for c in characters),
        block_nodes=nodes,
        drives=drives,
        netdevs=networks,
        devices=found,
        display=Display(options=tuple(_display(reading, made))),
        options=(*made.carried, *([Option(name="audiodev", value=f"none,id={DEFAULT_SOUND}")] if sound else [])),
        monitors=process.monitors,
        guest_visible=_guest_visible(reading, drives),
        unknown=(*(_sound_unknown(device) for device in sound), *unknown, *_write_only(reading, made)),
    )


def _build(version: Mapping[str, Value], process: ProcessFacts) -> QemuBuild:
    number = version["qemu"]
    return QemuBuild(
        version=(number["major"], number["minor"], number["micro"]), package=version["package"], binary=process.binary
    )


def _block(
    reading: Reading, made: Created, process: ProcessFacts
) -> tuple[tuple[BlockNode, ...], tuple[Drive, ...], tuple[Unknown, ...]]:
    edges = read_graph(reading.general["x-debug-query-block-graph"])
    nodes = reading.general["query-named-block-nodes"]
    named = [node for node in nodes if node["node-name"] not in edges.transient]
    live = [str(node["node-name"]) for node in named]
    names = stable_names(live, edges, _backends_on_sticks(reading))
    found, unknown = block_nodes(named, edges, node_options(made, edges, live), names, process.resolve)
    return found, tuple(_drives(reading, names, made)), unknown


def _networks(reading: Reading, made: Created, process: ProcessFacts) -> tuple[tuple[Netdev, ...], tuple[Unknown, ...]]:
    clients = parse_network(reading.general["info network"])
    return netdevs(clients, made.netdevs, made.unnamed_netdevs, process.bridges, process.vhost_files)


def _named_netdev(device: Device, networks: tuple[Netdev, ...]) -> Device:
    """`#net042` cannot be said; the profile has another name for it."""
    name = next((n.id for n in networks if n.live_name and n.live_name == device.netdev), device.netdev)
    return msgspec.structs.replace(device, netdev=name)


DEFAULT_SOUND = "default-sound"
"""Id of the backend of sound cards that were given none."""


def _with_sound(device: Device, reading: Reading) -> Device:
    """QEMU finds a backend for a sound card by itself (`#default`), but not with `-nodefaults`, which twins have."""
    told = next((s.placed.properties for s in reading.sightings if s.placed.path == device.path), {})
    given = str(told.get("audiodev", "-") or "")
    if given and not given.startswith("#"):
        return device
    return msgspec.structs.replace(device, properties=device.properties | {"audiodev": DEFAULT_SOUND})


def _sound_unknown(device: Device) -> Unknown:
    return Unknown(what=f"device:{device.path}:audiodev", why="QEMU chose a sound backend by itself; the twin has none")


_FILES = ("path", "logfile", "mem-path", "filename", "dir", "file")


def _outside(chardev: Chardev, process: ProcessFacts) -> Chardev:
    if chardev.options.get("abstract") or chardev.backend in ("serial", "parallel"):
        return chardev
    return msgspec.structs.replace(chardev, options=_resolved(chardev.options, process))


def _on_host(object_: HostObject, process: ProcessFacts) -> HostObject:
    return msgspec.structs.replace(object_, properties=_resolved(object_.properties, process))


def _resolved(told: Mapping[str, Value], process: ProcessFacts) -> dict[str, Value]:
    return {k: process.resolve(v) if k in _FILES and isinstance(v, str) and v else v for k, v in told.items()}


def cpu_model(type_: str) -> str:
    """`qemu64-x86_64-cpu` -> `qemu64`."""
    return type_.removesuffix("-cpu").rpartition("-")[0]


def cpu_target(type_: str) -> str:
    """`qemu64-x86_64-cpu` -> `x86_64`."""
    return type_.removesuffix("-cpu").rpartition("-")[2]


def machine_options(reading: Reading, bare: Bare) -> dict[str, Value]:
    """`-machine` options that differ from the bare board's."""
    return {
        name: value
        for name, value in reading.machine.items()
        if name not in _MACHINE_ELSEWHERE and value not in (None, "") and value != bare.machine.get(name)
    }


_BOOT_FILES = frozenset({"kernel", "initrd", "dtb", "shim"})


def _boot_file(name: str, value: Value, process: ProcessFacts) -> Value:
    if name == "firmware":
        return process.firmware(str(value))
    return process.resolve(str(value)) if name in _BOOT_FILES else value


def _machine(reading: Reading, bare: Bare, made: Created, process: ProcessFacts) -> Machine:
    accel = "kvm" if reading.general["query-kvm"]["enabled"] else "tcg"
    type_ = str(reading.machine["type"]).removesuffix("-machine")
    return Machine(
        type=type_,
        accel=accel,
        properties={name: _boot_file(name, value, process) for name, value in machine_options(reading, bare).items()},
        accel_options=made.accel_options.get(accel, {}),
    )


def _cpu(reading: Reading, bare: Bare) -> Cpu:
    properties = {
        name: value
        for name, value in reading.cpu.items()
        if name not in _CPU_ELSEWHERE and name in bare.cpu and value != bare.cpu[name]
    }
    # With `enforce`, the twin would refuse what QEMU filters out silently, here or from the bare model.
    unavailable = (*reading.cpu.get("unavailable-features", ()), *bare.cpu.get("unavailable-features", ()))
    filtered = {name: False for name in unavailable if not reading.cpu.get(name, False)}
    flags = sorted(name for name, value in reading.cpu.items() if value is True and name not in _CPU_ELSEWHERE)
    type_ = reading.cpu_type
    return Cpu(type=type_, model=cpu_model(type_), properties=filtered | properties, flags=tuple(flags))


def _display(reading: Reading, made: Created) -> list[tuple[str, str]]:
    """Screens; a QEMU that was told nothing and has no window system offers VNC (system/vl.c)."""
    if not made.display and reading.general["query-vnc"].get("enabled"):
        return [("vnc", "localhost:0,to=99,id=default")]
    return made.display


def _smp(told: Mapping[str, int]) -> Smp:
    topology = {name: count for name, count in told.items() if name not in ("cpus", "maxcpus")}
    return Smp(cpus=told["cpus"], maxcpus=told["maxcpus"], topology=topology)


def _plugged_cpus(reading: Reading) -> list[PluggedCpu]:
    slots = [slot for slot in reading.general["query-hotpluggable-cpus"] if "qom-path" in slot]
    plugged = [slot for slot in slots if slot["qom-path"].startswith(USER_ROOTS)]
    return [
        PluggedCpu(
            id=slot["qom-path"].removeprefix(USER_ROOTS[0]) if slot["qom-path"].startswith(USER_ROOTS[0]) else None,
            driver=slot["type"],
            properties=slot["props"],
            hotplugged=slot["qom-path"] in reading.hotplugged_cpus,
        )
        for slot in reversed(plugged)  # QEMU lists them from the last slot to the first
    ]


def _memory(reading: Reading) -> Memory:
    told = reading.machine["memory"]
    backend = str(reading.machine.get("memory-backend") or "").rpartition("/")[2] or None
    size = int(told["size"])
    return Memory(size=size, slots=int(told.get("slots", 0)), max_size=int(told.get("max-size", size)), backend=backend)


def _objects(reading: Reading, made: Created) -> list[HostObject]:
    order = [id_ for id_ in made.objects if id_ in reading.objects]
    # Base RAM comes first: QEMU makes it before anything can be plugged.
    later = [id_ for id_ in reading.objects if id_ not in made.objects]
    base = str(reading.machine.get("memory-backend") or "").rpartition("/")[2]
    later.sort(key=lambda id_: id_ != base)
    if base in later:
        order, later = [base, *order], later[1:]
    return [_object(id_, reading.objects[id_], made.objects.get(id_, {}), id_ in later) for id_ in (*order, *later)]


def _object(id_: str, live: Mapping[str, Value], given: Mapping[str, Value], later: bool) -> HostObject:
    unread = {k: v for k, v in given.items() if k not in live and k not in ("qom-type", "id")}
    told = {k: _id_of(v) for k, v in live.items() if k not in _OBJECT_NEVER and v not in (None, "", [])}
    if not told.get("hugetlb"):
        told.pop("hugetlbsize", None)
    if "limits" in told:
        # A throttle-group says its limits twice; `x-` properties are for -object's flat syntax.
        told = {k: v for k, v in told.items() if not k.startswith("x-")}
    return HostObject(id=id_, type=str(live["type"]), properties=unread | told, hotplugged=later)


def _id_of(value: Value) -> Value:
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("/objects/") else value


def _write_only(reading: Reading, made: Created) -> list[Unknown]:
    return [
        Unknown(what=f"object:{id_}:data", why="a secret added later: QEMU never tells its data")
        for id_, told in reading.objects.items()
        if told["type"] == "secret" and id_ not in made.objects
    ]


def _backends_on_sticks(reading: Reading) -> frozenset[str]:
    """BlockBackends of usb-storage: its disk takes its identity from their name, so the twin has them too."""
    sticks = [s.placed.path for s in reading.sightings if s.placed.driver == "usb-storage"]
    return frozenset(
        str(told["device"])
        for told in reading.general["query-block"]
        if told["device"] and any(_device_path(str(told.get("qdev"))).startswith(path) for path in sticks)
    )


def _drives(reading: Reading, names: Mapping[str, str], made: Created) -> Iterator[Drive]:
    on_device = {sighting.placed.path: sighting.placed.properties for sighting in reading.sightings}
    for told in reading.general["query-block"]:
        if "qdev" in told:
            path = _device_path(str(told["qdev"]))
            given = made.drives.get(str(told["device"]))
            yield msgspec.structs.replace(
                _drive(told, path, names),
                rerror=_policy(on_device.get(path, {}).get("rerror"), given.rerror if given else None),
                werror=_policy(on_device.get(path, {}).get("werror"), given.werror if given else None),
                writeback=_writeback(on_device.get(path, {}).get("write-cache"), given),
            )


def _writeback(on_device: Value, given: DriveOptions | None) -> bool:
    """Whether the disk was made with a write cache. QMP tells only what the guest has switched to since."""
    return on_device == "on" if on_device in ("on", "off") else given is None or given.writeback


def _policy(on_device: Value, on_drive: str | None) -> str | None:
    """What to do on an I/O error: the device's word, else the drive's."""
    return on_drive if on_device in (None, "auto") else str(on_device)


def _drive(told: Mapping[str, Value], path: str, names: Mapping[str, str]) -> Drive:
    inserted = told.get("inserted") or {}
    limits = {name: int(inserted[name]) for name in sorted(_LIMITS) if inserted.get(name)}
    throttle = Throttle(group=str(inserted["group"]), limits=limits) if "group" in inserted else None
    return Drive(
        device=path,
        backend=str(told["device"]),
        node=names.get(str(inserted["node-name"])) if "node-name" in inserted else None,
        removable=bool(told["removable"]),
        tray_open=told.get("tray_open"),
        throttle=throttle,
    )


def _device_path(qdev: str) -> str:
    """`query-block` gives an id, a path, or the path of virtio's inner device."""
    path = qdev if qdev.startswith("/") else USER_ROOTS[0] + qdev
    return path.removesuffix("/virtio-backend")


def _chardev_users(made: Created, found: tuple[Device, ...]) -> dict[str, str]:
    by_device = {device.chardev: device.id or device.path for device in found if device.chardev}
    return by_device | made.chardev_users


def _guest_visible(reading: Reading, drives: tuple[Drive, ...]) -> dict[str, dict[str, Value]]:
    caches = {drive.device: "on" if drive.writeback else "off" for drive in drives if drive.node}
    seen = {}
    for sighting in reading.sightings:
        seen[sighting.placed.position] = found = seen_by_guest(sighting)
        # `auto` is what the drive says, and -drive and -blockdev say it in different places.
        if found.get("write-cache") == "auto":
            found["write-cache"] = caches.get(sighting.placed.path, "auto")
    for sighting in reading.busless:
        seen[sighting.placed.position] = seen_by_guest(sighting)
    seen[HOTPLUG_NUMBERS] = dict(reading.hotplug_numbers)
    seen[RAM_BLOCKS] = dict(parse_ram_blocks(reading.general["info ramblock"]))
    seen["cpu"] = {k: v for k, v in reading.cpu.items() if k not in _CPU_NOT_SEEN}
    seen["machine"] = {k: v for k, v in reading.machine.items() if k not in _MACHINE_HOST_SIDE}
    return seen


# Feature words say once more what the flags say, in a list that grows with each QEMU.
_CPU_NOT_SEEN = names("""
    enforce check memory crash-information feature-words filtered-features unavailable-features realized hotplugged
    """)
_MACHINE_HOST_SIDE = names("""
    smp memory smp-cache sgx-epc cxl-fmw boot
    memory-backend kernel initrd dtb firmware dumpdtb pflash0 pflash1 rtc_state acpi-device mem-merge dump-guest-core
    device-memory-region-size phandle-start pcspk-audiodev confidential-guest-support
    """)
