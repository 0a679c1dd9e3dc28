"""`info qtree`, `info qom-tree` and `info ramblock` read as data.

One `info qtree` answers with the static properties of every device on a bus, which over `qom-get` are
thousands of calls; `info qom-tree` gives every object's path and type. Both are text for people, with a
fixed grammar (QEMU system/qdev-monitor.c, `qdev_print`, and qom/qom-hmp-cmds.c, `print_qom_composition`).
"""

import re
from dataclasses import dataclass, field

from limosa.guest.profile import Value

_BUS = re.compile(r"bus: (?P<name>.*)")
_DEVICE = re.compile(r'dev: (?P<driver>[^,]+), id "(?P<id>[^"]*)"')
_PROPERTY = re.compile(r"(?P<name>[^\s=]+) = (?P<text>.*)")
_NUMBER = re.compile(r"(?P<value>-?\d+) \((?:0x[0-9a-f]+|[\d.]+ [KMGTPE]?i?B)\)")
_RAM_BLOCK = re.compile(r"\s*(?P<name>\S+)\s+\d+ [KMG]iB\s+0x[0-9a-f]+\s+0x[0-9a-f]+\s+0x(?P<total>[0-9a-f]+).*")
_OBJECT = re.compile(r"(?P<indent> *)/(?P<name>.*) \((?P<type>[^()]*)\)")


@dataclass(frozen=True, slots=True)
class TreeDevice:
    """One device of `info qtree`; `id` is empty where the user gave none."""

    driver: str
    id: str
    properties: dict[str, Value]
    notes: tuple[str, ...]
    """What the bus prints below the properties: `addr 0.0, port 1, ...`, `class VGA controller, ...`."""
    buses: tuple["TreeBus", ...]


@dataclass(frozen=True, slots=True)
class TreeBus:
    """One bus and what sits on it, in the order in which it was plugged."""

    name: str
    type: str
    devices: tuple[TreeDevice, ...]


@dataclass(slots=True)
class _OpenBus:
    indent: int
    name: str
    type: str = ""
    devices: list[TreeDevice] = field(default_factory=list)

    def closed(self) -> TreeBus:
        # QEMU inserts each new device at the head of its bus and prints from the head.
        return TreeBus(self.name, self.type, tuple(reversed(self.devices)))


@dataclass(slots=True)
class _OpenDevice:
    indent: int
    driver: str
    id: str
    properties: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    buses: list[TreeBus] = field(default_factory=list)

    def closed(self) -> TreeDevice:
        # Buses are inserted at the head too.
        buses = tuple(reversed(self.buses))
        return TreeDevice(self.driver, self.id, self.properties, tuple(self.notes), buses)


def parse_qtree(text: str) -> tuple[TreeBus, ...]:
    """The root buses (there is one, `main-system-bus`) with all that hangs below them."""
    roots: list[TreeBus] = []
    stack: list[_OpenBus | _OpenDevice] = []
    for line in text.splitlines():
        body = line.lstrip(" ")
        indent = len(line) - len(body)
        while stack and indent <= stack[-1].indent:
            _close(stack, roots)
        if found := _BUS.fullmatch(body.rstrip()):
            stack.append(_OpenBus(indent, found["name"]))
        elif found := _DEVICE.fullmatch(body.rstrip()):
            stack.append(_OpenDevice(indent, found["driver"], found["id"]))
        elif stack:
            _take(stack[-1], body.rstrip())
    while stack:
        _close(stack, roots)
    return tuple(roots)


def _close(stack: list[_OpenBus | _OpenDevice], roots: list[TreeBus]) -> None:
    match stack.pop():
        case _OpenBus() as bus if not stack:
            roots.append(bus.closed())
        case _OpenBus() as bus:
            parent = stack[-1]
            assert isinstance(parent, _OpenDevice)
            parent.buses.append(bus.closed())
        case _OpenDevice() as device:
            parent = stack[-1]
            assert isinstance(parent, _OpenBus)
            parent.devices.append(device.closed())


def _take(owner: _OpenBus | _OpenDevice, body: str) -> None:
    if isinstance(owner, _OpenBus):
        owner.type = body.removeprefix("type ")
    elif body.startswith(("gpio-in ", "gpio-out ")):
        return
    elif found := _PROPERTY.fullmatch(body):
        owner.properties.setdefault(found["name"], read_value(found["text"]))
    else:
        owner.notes.append(body)


def read_value(text: str) -> Value:
    """`3 (0x3)` -> 3, `"auto"` -> `auto`, `true` -> True, `03.0` -> `03.0`, `<null>` -> None."""
    if text in ("true", "false"):
        return text == "true"
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if found := _NUMBER.fullmatch(text):
        return int(found["value"])
    return None if text == "<null>" else text


def parse_qom_tree(text: str) -> dict[str, str]:
    """Path -> QOM type of every object in one answer of `info qom-tree`, in its order."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in text.splitlines():
        if match := _OBJECT.fullmatch(line):
            depth = len(match["indent"]) // 2
            del parents[depth:]
            path = ("/".join(parents) + "/" if parents else "/") + match["name"]
            parents.append(path if not parents else match["name"])
            found[path] = match["type"]
    return found


def parse_ram_blocks(text: str) -> dict[str, int]:
    """Name -> size in bytes of every block of guest RAM and ROM: a migration finds them by name."""
    found = (_RAM_BLOCK.fullmatch(line) for line in text.splitlines())
    return {match["name"]: int(match["total"], 16) for match in found if match}
