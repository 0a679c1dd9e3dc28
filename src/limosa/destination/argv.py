"""A profile as the command line of its twin: the same machine, waiting for state."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from limosa.cpu.compat import BROAD_MODELS
from limosa.cpu.registry import FLAGS
from limosa.guest.cmdline import escape, split
from limosa.guest.devices import must_be_said
from limosa.guest.introspect import cache_directory
from limosa.guest.parts import OURS, chain
from limosa.guest.probe import Board, Known, Probe
from limosa.guest.profile import BlockNode, Chardev, Device, Drive, HostObject, Netdev, PluggedCpu, Profile, Value

OWN_MONITOR = OURS + "mon"

_OF_TOPOLOGY, _IDENTITY = {"ht", "cmp-legacy"}, {"vendor", "family", "model", "stepping", "model-id"}

# About the source's process, or made anew for the twin.
_NOT_CARRIED = frozenset({"incoming", "S", "daemonize", "pidfile", "loadvm", "name"})


class TwinShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a twin has that its original has not."""

    monitor: str
    """Path of limosa's own QMP socket."""
    extra_objects: tuple[dict[str, Value], ...] = ()
    """Objects in `-object` JSON words (`qom-type`, `id`, …)."""
    accel: str | None = None
    """Accelerator; None for the source's."""
    cpu: dict[str, Value] = {}
    """What must be said of the CPU model beside the guest's own `-cpu`, where its name means something else here."""
    known: dict[str, dict[str, Known]] | None = None
    """Driver or type -> the properties that the twin's QEMU knows; None when it is the source's own program."""


async def argv(profile: Profile, twin: TwinShape, binary: str, probe: Probe | None = None) -> tuple[str, ...]:
    """The twin's command line in the words that `binary` knows.

    Raises:
        LaunchError: `binary` does not start a bare board of this machine type.
    """
    probe = probe or Probe(Path(binary), cache_directory())
    board = Board(machine=profile.machine.type, cpu=profile.cpu.model, accel=_accel_name(profile, twin))
    drivers = {d.driver for d in profile.devices} | {c.driver for c in profile.plugged_cpus} | {profile.cpu.type}
    types = {o.type for o in profile.objects} | {f"{profile.machine.type}-machine"}
    known = await probe.knows(board, drivers, types)
    cpu = narrowed(profile, (await probe.bare(board)).cpu) if profile.cpu.model in BROAD_MODELS else {}
    return words(profile, msgspec.structs.replace(twin, known=known, cpu=cpu))


def narrowed(profile: Profile, bare: Mapping[str, Value]) -> dict[str, Value]:
    """What makes a broad model of the twin's QEMU the one that the guest sees. Pure.

    Args:
        profile: the guest's, with a model such as `host` or `max`.
        bare: properties of that model as the twin's QEMU has them here.
    """
    seen = profile.guest_visible.get("cpu", {})
    names = {flag.name for flag in FLAGS if flag.settable} - _OF_TOPOLOGY | _IDENTITY
    # A flag that the guest's own QEMU does not know yet is one that the guest does not see.
    wanted = {name: seen.get(name, False if value is True else value) for name, value in bare.items() if name in names}
    return {name: value for name, value in wanted.items() if value != bare[name]}


def words(profile: Profile, twin: TwinShape) -> tuple[str, ...]:
    """The twin's command line, without the program's name. Pure.

    Things come in the order in which the source made them, objects before what uses them: QEMU numbers
    hot-plug slots and option ROMs by that order.
    """
    return tuple(_all(profile, twin))


def _all(profile: Profile, twin: TwinShape) -> Iterator[str]:
    if profile.name:
        yield from ("-name", _name(profile))
    yield from ("-uuid", profile.uuid)
    yield from ("-nodefaults", "-no-user-config", "-S", "-incoming", "defer")
    yield from ("-machine", _machine(profile, twin), "-accel", _accel(profile, twin))
    yield from ("-cpu", _cpu(profile, twin))
    yield from ("-smp", _smp(profile))
    yield from ("-m", _memory(profile))
    yield from _carried(profile, early=True)
    for object_ in profile.objects:
        if not object_.id.startswith(OURS):
            yield from ("-object", _json(_object(object_, twin)))
    for extra in twin.extra_objects:
        yield from ("-object", _json(extra))
    yield from _monitors(profile, twin)
    yield from _block(profile)
    for netdev in profile.netdevs:
        yield from ("-netdev", _netdev(netdev))
    for cpu in profile.plugged_cpus:
        yield from ("-device", _json(_plugged_cpu(cpu)))
    drives = {drive.device: drive for drive in profile.drives}
    by_backend = {drive.node: drive.backend for drive in profile.drives if _needs_backend(profile, drive)}
    for device in profile.devices:
        seen = profile.guest_visible.get(device.position, {})
        said = _device(device, seen, drives.get(device.path), twin)
        if device.drive in by_backend:
            said["drive"] = by_backend[device.drive]
        yield from ("-device", _json(said))
    yield from _display(profile)
    yield from _carried(profile, early=False)


def _block(profile: Profile) -> Iterator[str]:
    legacy = {drive.node: drive for drive in profile.drives if drive.node and _needs_backend(profile, drive)}
    inside = {node.node_name for name in legacy for node in chain(profile, name)}
    for node in profile.block_nodes:
        if node.node_name not in inside:
            yield from ("-blockdev", _json(blockdev(node)))
    for name, drive in legacy.items():
        told = _tree(profile, name)
        told.pop("node-name")
        yield from ("-drive", _pairs("if=none", {"id": drive.backend, "node-name": name} | _dotted(told)))


def _needs_backend(profile: Profile, drive: Drive) -> bool:
    """A usb-storage has no property for the identity that its disk takes from the name of its `-drive`."""
    sticks = [device.path for device in profile.devices if device.driver == "usb-storage"]
    return bool(drive.backend) and any(drive.device.startswith(path) for path in sticks)


def _tree(profile: Profile, name: str) -> dict[str, Value]:
    """A node with its children inside it."""
    node = profile.node(name)
    return blockdev(node) | {role: _tree(profile, child) for role, child in node.children.items()}


def _dotted(tree: Mapping[str, Value], prefix: str = "") -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= _dotted(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = "" if value is None else value
    return found


def blockdev(node: BlockNode) -> dict[str, Value]:
    """A node in `-blockdev` words, its children by name."""
    said: dict[str, Value] = {"driver": node.driver, "node-name": node.node_name, "read-only": node.read_only}
    # An overlay names its backing file in its header: without a word QEMU would open it, and lock it.
    if node.driver == "qcow2" and "backing" not in node.children:
        said["backing"] = None
    # A quorum's children are a list of their own.
    several = [child for role, child in sorted(node.children.items()) if role.startswith("children.")]
    single: dict[str, Value] = {r: child for r, child in node.children.items() if not r.startswith("children.")}
    return said | node.options | single | ({"children": several} if several else {})


def word(value: Value) -> str:
    """A value as text: `on`, `off`, numbers, escaped text."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return escape(str(value))


def _pairs(head: str, options: Mapping[str, Value]) -> str:
    return ",".join((head, *(f"{name}={word(value)}" for name, value in options.items() if value is not None)))


def _json(value: Mapping[str, Value]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _known(twin: TwinShape, type_: str, name: str) -> bool:
    """Whether the twin's QEMU has this property; QEMU refuses to start for one that it has not."""
    if twin.known is None or not twin.known.get(type_):
        return True
    return name in twin.known[type_]


def _accel_name(profile: Profile, twin: TwinShape) -> str:
    return twin.accel or profile.machine.accel


def _accel(profile: Profile, twin: TwinShape) -> str:
    name = _accel_name(profile, twin)
    return _pairs(name, profile.machine.accel_options if name == profile.machine.accel else {})


def _name(profile: Profile) -> str:
    given = next((o.value or "" for o in profile.options if o.name == "name"), "")
    debug = dict(split(given, "guest")).get("debug-threads")
    return _pairs(f"guest={escape(profile.name)}", {"debug-threads": debug})


def _machine(profile: Profile, twin: TwinShape) -> str:
    machine = profile.machine
    type_ = f"{machine.type}-machine"
    options = {k: v for k, v in machine.properties.items() if _known(twin, type_, k)}
    if profile.memory.backend:
        options["memory-backend"] = profile.memory.backend
    return _pairs(machine.type, options)


def _cpu(profile: Profile, twin: TwinShape) -> str:
    cpu = profile.cpu
    options = {k: v for k, v in cpu.properties.items() if _known(twin, cpu.type, k)}
    return _pairs(cpu.model, twin.cpu | options) + ",enforce"


def _smp(profile: Profile) -> str:
    smp = profile.smp
    # Levels that a board lacks may not be named at all, and are 1.
    levels = {name: n for name, n in smp.topology.items() if n != 1 or name in ("sockets", "cores", "threads")}
    return _pairs(f"cpus={smp.cpus}", {"maxcpus": smp.maxcpus} | levels)


def _memory(profile: Profile) -> str:
    memory = profile.memory
    plugged = (
        {"slots": memory.slots, "maxmem": f"{memory.max_size}B"}
        if memory.slots or memory.max_size > memory.size
        else {}
    )
    return _pairs(f"size={memory.size}B", plugged)


def _object(object_: HostObject, twin: TwinShape) -> dict[str, Value]:
    said = {k: v for k, v in object_.properties.items() if _known(twin, object_.type, k)}
    return {"qom-type": object_.type, "id": object_.id} | said


def _monitors(profile: Profile, twin: TwinShape) -> Iterator[str]:
    yield from ("-chardev", _pairs("socket", {"id": OWN_MONITOR, "path": twin.monitor, "server": True, "wait": False}))
    yield from ("-mon", f"chardev={OWN_MONITOR},mode=control")
    for chardev in profile.chardevs:
        if not chardev.id.startswith(OURS):
            yield from ("-chardev", _chardev(chardev))
    for monitor in profile.monitors:
        if monitor.chardev and not monitor.chardev.startswith(OURS):
            yield from ("-mon", _pairs(f"chardev={monitor.chardev}", {"mode": monitor.mode}))


def _chardev(chardev: Chardev) -> str:
    return _pairs(chardev.backend, {"id": chardev.id} | chardev.options)


def _netdev(netdev: Netdev) -> str:
    if any(isinstance(value, (dict, list)) for value in netdev.options.values()):
        return _json({"type": netdev.type, "id": netdev.id} | netdev.options)
    return _pairs(netdev.type, {"id": netdev.id} | netdev.options)


def _plugged_cpu(cpu: PluggedCpu) -> dict[str, Value]:
    named: dict[str, Value] = {"id": cpu.id} if cpu.id else {}
    return {"driver": cpu.driver} | named | {k: v for k, v in cpu.properties.items() if k != "node-id"}


def _device(device: Device, seen: Mapping[str, Value], drive: Drive | None, twin: TwinShape) -> dict[str, Value]:
    places = {
        "id": device.id,
        "bus": device.bus,
        "drive": device.drive,
        "netdev": device.netdev,
        "chardev": device.chardev,
        "memdev": device.memdev,
    }
    said: dict[str, Value] = {"driver": device.driver} | {name: value for name, value in places.items() if value}
    said |= {k: v for k, v in device.properties.items() if _known(twin, device.driver, k)}
    return said | _other_defaults(device, seen, twin) | _policies(drive)


def _other_defaults(device: Device, seen: Mapping[str, Value], twin: TwinShape) -> dict[str, Value]:
    """What is a default at the source but not in the twin's QEMU, such as pvpanic's `events`."""
    declared = (twin.known or {}).get(device.driver, {})
    return {
        name: seen[name]
        for name, known in declared.items()
        if known.has_default
        and name in seen
        and name not in device.properties
        and must_be_said(name, seen[name], known)
    }


def _policies(drive: Drive | None) -> dict[str, Value]:
    """What `-drive` says of a device's BlockBackend and `-blockdev` leaves to the device."""
    if drive is None or drive.node is None:
        return {}
    policies: dict[str, Value] = {"rerror": drive.rerror, "werror": drive.werror}
    if not drive.writeback:
        policies["write-cache"] = "off"
    return {name: value for name, value in policies.items() if value is not None}


def _display(profile: Profile) -> Iterator[str]:
    names = {name for name, _ in profile.display.options}
    if not names & {"display", "sdl", "gtk", "curses"}:
        yield from ("-display", "none")
    for name, value in profile.display.options:
        yield from (f"-{name}", value)


# Options that must stand before what they configure.
_EARLY = frozenset({"L", "global", "numa", "add-fd", "audiodev", "fsdev", "tpmdev", "sandbox", "iscsi"})


def _carried(profile: Profile, *, early: bool) -> Iterator[str]:
    for option in profile.options:
        if option.name in _NOT_CARRIED or (option.name in _EARLY) != early:
            continue
        yield f"-{option.name}"
        if option.value is not None:
            yield option.value


def dropped(profile: Profile, twin: TwinShape) -> Iterable[str]:
    """Properties of devices and objects that the twin's QEMU does not know and that are therefore left out."""
    for device in profile.devices:
        for name in device.properties:
            if not _known(twin, device.driver, name):
                yield f"{device.position}: {name}"
