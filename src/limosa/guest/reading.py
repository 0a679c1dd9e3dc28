"""One look at a running QEMU over QMP: raw answers, in as few round trips as there are dependencies."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limosa.errors import QmpError
from limosa.guest.devices import Sighting, unprinted
from limosa.guest.probe import Probe, get_all, plain
from limosa.guest.profile import Value
from limosa.guest.qtree import TreeBus, parse_qom_tree, parse_qtree
from limosa.guest.tree import USER_ROOTS, Placed, ambiguous, index_of, place
from limosa.qmp.monitor import Monitor

Command = tuple[str, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """Answers of one QEMU, taken as close together as possible."""

    general: dict[str, Value]
    """Command (or line, for `info …`) -> answer."""
    sightings: tuple[Sighting, ...]
    busless: tuple[Sighting, ...]
    """DIMMs and other devices without a bus, vCPUs excluded."""
    hotplug_numbers: dict[str, Value]
    """PCI bus -> the number by which ACPI hot-plug addresses it."""
    machine: dict[str, Value]
    objects: dict[str, dict[str, Value]]
    """Id -> properties, `type` included."""
    chardev_types: dict[str, str]
    hotplugged_cpus: frozenset[str]
    cpu_type: str
    cpu: dict[str, Value]


_GENERAL: tuple[Command, ...] = (
    ("query-name", None),
    ("query-uuid", None),
    ("query-status", None),
    ("query-version", None),
    ("query-kvm", None),
    ("query-cpus-fast", None),
    ("query-memory-size-summary", None),
    ("query-block", None),
    ("query-named-block-nodes", {"flat": True}),
    ("x-debug-query-block-graph", None),
    ("query-chardev", None),
    ("query-vnc", None),
)
_LINES = (
    "info qtree",
    "info qom-tree",
    "info qom-tree /objects",
    "info qom-tree /chardevs",
    "info network",
    "info ramblock",
)
_MACHINE_NEVER = frozenset({"rtc-time", "rtc_state", "acpi-device"})


async def ask_all(monitor: Monitor, commands: Sequence[Command]) -> list[Any]:
    """Several commands at once.

    Raises:
        QmpError: QEMU refused one.
    """
    answers = await monitor.execute_many(commands)
    for answer in answers:
        if isinstance(answer, QmpError):
            raise answer
    return answers


async def read(monitor: Monitor, probe: Probe) -> Reading:
    """Take one reading.

    Raises:
        MonitorError: QEMU refused a question, or went away.
        LookupError: devices came or went between two questions.
    """
    general = await _general(monitor)
    objects = parse_qom_tree(general["info qom-tree"])
    placed = await _placed(monitor, parse_qtree(general["info qtree"]), objects)
    cpus = {cpu["qom-path"] for cpu in general["query-cpus-fast"]}
    busless = _busless(placed, objects, cpus)
    host_objects = _direct(parse_qom_tree(general["info qom-tree /objects"]), "/objects")
    cpu_path = min(cpus, key=lambda path: (path.startswith(USER_ROOTS), index_of(path)))
    cpu_type = objects[cpu_path]
    drivers = {p.driver for p in (*placed, *busless)} | {cpu_type}
    await probe.learn(monitor, drivers, {*host_objects.values(), objects["/machine"]})
    sightings = await _sightings(monitor, probe, placed)
    return Reading(
        general=general,
        sightings=sightings,
        busless=_positioned(await _sightings(monitor, probe, busless)),
        hotplug_numbers=await _hotplug_numbers(monitor, placed),
        machine=await _machine(monitor, probe, objects["/machine"]),
        objects=await _objects(monitor, probe, host_objects),
        chardev_types=_direct(parse_qom_tree(general["info qom-tree /chardevs"]), "/chardevs"),
        hotplugged_cpus=await _hotplugged(monitor, [path for path in cpus if path.startswith(USER_ROOTS)]),
        cpu_type=cpu_type,
        cpu=await _cpu(monitor, probe, cpu_path, cpu_type),
    )


async def _general(monitor: Monitor) -> dict[str, Value]:
    lines: list[Command] = [("human-monitor-command", {"command-line": line}) for line in _LINES]
    answers = await ask_all(monitor, [*_GENERAL, *lines])
    keys = [command for command, _ in _GENERAL] + list(_LINES)
    told = {
        key: answer.replace("\r", "") if isinstance(answer, str) else answer
        for key, answer in zip(keys, answers, strict=True)
    }
    # Boards that cannot plug vCPUs (microvm, isapc) refuse the question.
    (slots,) = await monitor.execute_many([("query-hotpluggable-cpus", None)])
    return told | {"query-hotpluggable-cpus": [] if isinstance(slots, QmpError) else slots}


async def _placed(monitor: Monitor, roots: tuple[TreeBus, ...], objects: Mapping[str, str]) -> tuple[Placed, ...]:
    torn = ambiguous(roots, objects)
    answers = await monitor.execute_many([("qom-get", {"path": p, "property": "parent_bus"}) for p in torn])
    return place(roots, objects, {p: bus for p, bus in zip(torn, answers, strict=True) if isinstance(bus, str)})


def _busless(placed: Iterable[Placed], objects: Mapping[str, str], cpus: set[str]) -> list[Placed]:
    seen = {device.path for device in placed}
    paths = [
        path
        for path in objects
        if path.startswith(USER_ROOTS) and path.count("/") == 3 and path not in seen and path not in cpus
    ]
    return [Placed(path, objects[path], _id(path), None, "", "", {}) for path in sorted(paths, key=index_of)]


def _positioned(sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
    """Busless devices by address or slot, or by their number among their kind: paths differ from process to process."""
    counts: Counter[str] = Counter()
    found = []
    for sighting in sightings:
        driver = sighting.placed.driver
        place = next((f"@{sighting.extra[key]:x}" for key in ("addr", "memaddr") if sighting.extra.get(key)), "")
        if not place:
            counts[driver] += 1
            place = f"#{counts[driver]}" if counts[driver] > 1 else ""
        placed = replace(sighting.placed, position=f"board/{driver}{place}")
        found.append(replace(sighting, placed=placed))
    return tuple(found)


async def _hotplugged(monitor: Monitor, paths: Sequence[str]) -> frozenset[str]:
    answers = await ask_all(monitor, [("qom-get", {"path": path, "property": "hotplugged"}) for path in paths])
    return frozenset(path for path, hotplugged in zip(paths, answers, strict=True) if hotplugged)


def _id(path: str) -> str | None:
    return path.removeprefix(USER_ROOTS[0]) if path.startswith(USER_ROOTS[0]) else None


def _direct(objects: Mapping[str, str], parent: str) -> dict[str, str]:
    """Name -> type of an object's direct children."""
    prefix = parent + "/"
    return {p.removeprefix(prefix): t for p, t in objects.items() if p.startswith(prefix) and p.count("/") == 2}


async def _hotplug_numbers(monitor: Monitor, placed: Iterable[Placed]) -> dict[str, Value]:
    """`acpi-pcihp-bsel` of every PCI bus that has one; it follows the order of creation and is written into tables."""
    paths = [path for device in placed for type_, path in device.buses if type_ in ("PCI", "PCIE")]
    answers = await monitor.execute_many([("qom-get", {"path": p, "property": "acpi-pcihp-bsel"}) for p in paths])
    return {
        path.rpartition("/")[2]: number
        for path, number in zip(paths, answers, strict=True)
        if not isinstance(number, QmpError)
    }


async def _sightings(monitor: Monitor, probe: Probe, placed: Sequence[Placed]) -> tuple[Sighting, ...]:
    wanted = [
        (index, name)
        for index, device in enumerate(placed)
        for name in (*unprinted(device, probe.driver(device.driver)), *(("hotplugged",) if device.by_user else ()))
    ]
    answers = await monitor.execute_many(
        [("qom-get", {"path": placed[index].path, "property": name}) for index, name in wanted]
    )
    extra: list[dict[str, Value]] = [{} for _ in placed]
    for (index, name), answer in zip(wanted, answers, strict=True):
        if not isinstance(answer, QmpError):
            extra[index][name] = answer
    return tuple(
        Sighting(device, told, bool(told.pop("hotplugged", False))) for device, told in zip(placed, extra, strict=True)
    )


async def _machine(monitor: Monitor, probe: Probe, type_: str) -> dict[str, Value]:
    names = [n for n, known in probe.type(type_).items() if plain(known.type) and n not in _MACHINE_NEVER]
    return await get_all(monitor, "/machine", names)


async def _objects(monitor: Monitor, probe: Probe, objects: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    wanted = [
        (id_, name)
        for id_, type_ in objects.items()
        for name, known in probe.type(type_).items()
        if plain(known.type) and name != "type"
    ]
    answers = await monitor.execute_many(
        [("qom-get", {"path": f"/objects/{id_}", "property": name}) for id_, name in wanted]
    )
    found: dict[str, dict[str, Value]] = {id_: {"type": type_} for id_, type_ in objects.items()}
    for (id_, name), answer in zip(wanted, answers, strict=True):
        if not isinstance(answer, QmpError):
            found[id_][name] = answer
    return found


async def _cpu(monitor: Monitor, probe: Probe, path: str, type_: str) -> dict[str, Value]:
    """All properties of a vCPU.

    Feature bits are 350 properties but follow from two dozen words: they are asked one by one only when a
    combination of words is seen for the first time.
    """
    known = {name: k for name, k in probe.driver(type_).items() if plain(k.type) and name != "crash-information"}
    bits = [name for name, k in known.items() if k.type == "bool" and not k.has_default]
    told = await get_all(monitor, path, [name for name in known if name not in bits])
    key = f"{type_} {sorted(str(word) for word in told.get('feature-words', ()))}"
    features = probe.cpu(key)
    if features is None:
        features = await get_all(monitor, path, bits)
        probe.keep_cpu(key, features)
    return told | features
