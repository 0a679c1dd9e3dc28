"""`info qtree` and `info qom-tree` joined: every device with its path, its bus and its place.

The first knows buses, properties and order but names only devices that have an id; the second knows paths
and types but no buses. A device without an id is found by type; where devices of one type sit on several
buses, `parent_bus` decides (`ambiguous` says for which paths it must be asked).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from limosa.guest.profile import Value
from limosa.guest.qtree import TreeBus, TreeDevice

NAMED, UNNAMED = "/machine/peripheral/", "/machine/peripheral-anon/"
USER_ROOTS = (NAMED, UNNAMED)
USB = "usb-bus"
SYSTEM_BUS = "/machine/unattached/sysbus"
_INDEXED = re.compile(r"(?P<stem>.*)\[(?P<index>\d+)\]")
_PORT = re.compile(r"port ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Placed:
    """One device that sits somewhere; virtio's inner devices are folded into their proxies."""

    path: str
    driver: str
    id: str | None
    bus: str | None
    bus_type: str
    position: str
    properties: dict[str, Value]
    inner: str | None = None
    """Driver of the folded virtio device."""
    parent: str | None = None
    """Path of the device whose bus this sits on."""
    buses: tuple[tuple[str, str], ...] = ()
    """(type, path) of each bus that this device offers."""

    @property
    def port(self) -> str | None:
        """The port that a USB device sits on, also where it was not asked for."""
        return self.position.rpartition("/")[2] if self.bus_type == USB else None

    @property
    def by_user(self) -> bool:
        """Whether it was made by `-device` or `device_add`."""
        return self.path.startswith(USER_ROOTS)


def ambiguous(roots: tuple[TreeBus, ...], objects: Mapping[str, str]) -> tuple[str, ...]:
    """Paths whose `parent_bus` is needed before `place` can tell the anonymous devices of their type apart."""
    buses = defaultdict(set)
    for bus_path, device in _anonymous(roots):
        buses[device.driver].add(bus_path)
    torn = {driver for driver, found in buses.items() if len(found) > 1}
    return tuple(path for path, kind in objects.items() if kind in torn and _has_no_id(path))


def place(roots: tuple[TreeBus, ...], objects: Mapping[str, str], parent_bus: Mapping[str, str]) -> tuple[Placed, ...]:
    """Every device on a bus, parents first, siblings in the order in which they were plugged.

    Args:
        roots: from `parse_qtree`.
        objects: from `parse_qom_tree`.
        parent_bus: answers for the paths that `ambiguous` named.

    Raises:
        LookupError: the two trees do not belong to the same moment of the same machine.
    """
    return tuple(_Walk(objects, parent_bus).walk(roots))


def index_of(path: str) -> tuple[str, int]:
    """`…/device[12]` -> (`…/device`, 12), so that 9 sorts before 12."""
    found = _INDEXED.fullmatch(path)
    return (found["stem"], int(found["index"])) if found else (path, 0)


def _has_no_id(path: str) -> bool:
    # What a named device made for itself (usb-storage makes a scsi-hd) lies deeper and has no id of its own.
    return not path.startswith(USER_ROOTS[0]) or path.count("/") > USER_ROOTS[0].count("/")


def _anonymous(roots: tuple[TreeBus, ...]) -> Iterator[tuple[str, TreeDevice]]:
    """Devices without an id with a label for their bus; folded virtio devices are found by structure instead."""
    queue = [(str(number), bus) for number, bus in enumerate(roots)]
    while queue:
        label, bus = queue.pop()
        for index, device in enumerate(bus.devices):
            if not device.id and bus.name != "virtio-bus":
                yield label, device
            queue.extend((f"{label}/{index}/{below.name}", below) for below in device.buses)


class _Walk:
    def __init__(self, objects: Mapping[str, str], parent_bus: Mapping[str, str]) -> None:
        self._objects = objects
        self._pools: dict[str, list[str]] = defaultdict(list)
        # Unattached devices are made by the board, before the first anonymous -device.
        for path in sorted(objects, key=lambda p: (p.startswith(USER_ROOTS), index_of(p))):
            if _has_no_id(path):
                self._pools[objects[path]].append(path)
        self._parent_bus = parent_bus
        self._positions: dict[str, int] = defaultdict(int)

    def walk(self, roots: tuple[TreeBus, ...]) -> Iterator[Placed]:
        for bus in roots:
            yield from self._bus(bus, SYSTEM_BUS if bus.name == "main-system-bus" else "/" + bus.name, None)

    def _bus(self, bus: TreeBus, path: str, parent: str | None) -> Iterator[Placed]:
        for device in _by_depth(bus) if bus.type == USB else bus.devices:
            named = f"{USER_ROOTS[0]}{device.id}"
            own = named if device.id and named in self._objects else self._take(device.driver, path)
            placed = Placed(
                own,
                device.driver,
                device.id or None,
                bus.name,
                bus.type,
                self._position(bus.name, device),
                device.properties,
                parent=parent,
            )
            yield from self._device(placed, device)

    def _device(self, placed: Placed, device: TreeDevice) -> Iterator[Placed]:
        below = [(b, placed.path) for b in device.buses]
        if len(below) == 1 and below[0][0].name == "virtio-bus" and below[0][0].devices:
            inner = below[0][0].devices[0]
            inner_path = f"{placed.path}/virtio-backend"
            placed = replace(placed, properties=placed.properties | inner.properties, inner=inner.driver)
            below = [(b, inner_path) for b in inner.buses]
        yield replace(placed, buses=tuple((bus.type, f"{owner}/{bus.name}") for bus, owner in below))
        for bus, owner in below:
            yield from self._bus(bus, f"{owner}/{bus.name}", placed.path)

    def _take(self, driver: str, bus_path: str) -> str:
        pool = self._pools[driver]
        for path in pool:
            if self._parent_bus.get(path, bus_path) == bus_path:
                pool.remove(path)
                return path
        raise LookupError(f"no {driver} on {bus_path} among QEMU's objects: the machine changed while it was read")

    def _position(self, bus: str, device: TreeDevice) -> str:
        base = f"{bus}/{_where(device)}"
        self._positions[base] += 1
        count = self._positions[base]
        return base if count == 1 else f"{base}#{count}"


def _by_depth(bus: TreeBus) -> list[TreeDevice]:
    """A USB bus's devices with each hub before what hangs on it; QEMU may plug in a hub of its own on the way."""
    return sorted(bus.devices, key=lambda device: _where(device).count("."))


def _where(device: TreeDevice) -> str:
    """A device's address on its bus, or its driver's name where the bus has no addresses."""
    told = device.properties
    if isinstance(address := told.get("addr"), str):
        return address
    if "scsi-id" in told and "lun" in told:
        return f"{told.get('channel', 0)}:{told['scsi-id']}:{told['lun']}"
    if port := next((m[1] for note in device.notes if (m := _PORT.search(note))), None):
        return port
    for key in ("unit", "nr", "iobase", "address", "nsid"):
        if key in told:
            return f"{told[key]}" if key in ("unit", "nr") else f"{device.driver}@{told[key]:x}"
    return device.driver
