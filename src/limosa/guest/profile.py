"""The profile: one running QEMU as a frozen value, complete enough to build the same machine elsewhere.

Host-side names (paths, tap names, ports, sockets) are kept beside what the guest sees, so that a
destination can rewrite them without touching the machine. Creation order is kept: tuples are in the
order in which QEMU created things (it decides ACPI hot-plug numbers: docs/qemu-notes.md).
"""

from typing import Any

import msgspec

PROFILE_VERSION = 1

Value = Any
"""A QMP value: None, bool, int, float, str, list or dict of those."""


HOTPLUG_NUMBERS, RAM_BLOCKS = "ACPI hot-plug numbers", "RAM blocks"
"""Sections of `Profile.guest_visible` that are no device's."""


class QemuBuild(msgspec.Struct, frozen=True, kw_only=True):
    """The program that runs the guest."""

    version: tuple[int, int, int]
    package: str
    binary: str
    """Path as the process sees it, resolved."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Board and its options; `type` is the pinned name (`pc-q35-10.0`), never an alias."""

    type: str
    accel: str
    properties: dict[str, Value]
    """Non-default `-machine` options by name."""
    accel_options: dict[str, str] = {}
    """The accelerator's own properties, as its `-accel` had them."""


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """vCPU model and what the guest sees of it."""

    type: str
    """QOM type, such as `qemu64-x86_64-cpu`."""
    model: str
    properties: dict[str, Value]
    """Properties that differ from the bare model's, effective after filtering; booleans and others."""
    flags: tuple[str, ...]
    """All boolean features that are on in the running CPU object, sorted."""


class PluggedCpu(msgspec.Struct, frozen=True, kw_only=True):
    """A vCPU added after the start, or by `-device`."""

    id: str | None
    driver: str
    properties: dict[str, Value]
    """`socket-id`, `die-id`, `core-id`, `thread-id`."""
    hotplugged: bool


class Smp(msgspec.Struct, frozen=True, kw_only=True):
    """Topology; `cpus` counts the cold vCPUs only."""

    cpus: int
    maxcpus: int
    topology: dict[str, int]
    """sockets, dies, clusters, cores, threads, as QEMU names them."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Base RAM; sizes in bytes. Plugged DIMMs are devices with a memory backend among the objects."""

    size: int
    slots: int
    max_size: int
    backend: str | None
    """Id of the `-object` that backs base RAM; None when it is QEMU's default."""


class HostObject(msgspec.Struct, frozen=True, kw_only=True):
    """A user-creatable object (`-object`): memory backend, rng, iothread, secret, throttle-group, ..."""

    id: str
    type: str
    properties: dict[str, Value]
    hotplugged: bool = False


class Chardev(msgspec.Struct, frozen=True, kw_only=True):
    """A character backend. `options` are `-chardev` options without id and backend."""

    id: str
    backend: str
    options: dict[str, Value]
    used_by: str | None = None
    """`serial0`, `monitor`, a device id, ...; None when nothing was found that uses it."""


class BlockNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the block graph, as `-blockdev` would create it."""

    node_name: str
    """Name the twin can use. Automatic `#block` names are replaced by a stable one."""
    live_name: str
    """Name in the running process (differs from `node_name` for automatic names)."""
    driver: str
    options: dict[str, Value]
    """Remaining `-blockdev` options (filename, cache, discard, aio, detect-zeroes ...), children left out."""
    children: dict[str, str]
    """Role (`file`, `backing`, `data-file`, ...) -> `node_name` of the child."""
    read_only: bool
    virtual_size: int
    filename: str | None
    """Resolved path for protocol nodes on files and host devices; None for others."""
    unknown: tuple[str, ...] = ()


class Throttle(msgspec.Struct, frozen=True, kw_only=True):
    """I/O limits of a drive; QMP names (`bps`, `iops_rd`, ...)."""

    group: str
    limits: dict[str, int]


class Drive(msgspec.Struct, frozen=True, kw_only=True):
    """What a disk device is plugged into: a BlockBackend and its root node."""

    device: str
    """QOM path of the device, as in `Device.path`."""
    backend: str
    """BlockBackend name; empty for `-blockdev` users."""
    node: str | None
    """`node_name` of the root; None when there is no medium."""
    removable: bool
    tray_open: bool | None
    throttle: Throttle | None
    rerror: str | None = None
    werror: str | None = None
    writeback: bool = True
    """Whether the guest sees a volatile write cache (`cache=writethrough` clears it)."""


class Netdev(msgspec.Struct, frozen=True, kw_only=True):
    """A network backend; `options` are `-netdev` options without id and type."""

    id: str
    type: str
    options: dict[str, Value]
    live_name: str = ""
    """Name in the running process, for `set_link`; empty when it is `id`."""
    ifname: str | None = None
    bridge: str | None = None
    """Bridge that the tap was a port of when it was read; host-side."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One user-visible device, in the words of `-device`."""

    path: str
    """QOM path in the running process."""
    id: str | None
    driver: str
    bus: str | None
    properties: dict[str, Value]
    """Non-default properties, ready for `-device` (addr already in its textual form)."""
    hotplugged: bool
    position: str
    """Where it sits, independent of QOM order: `pci.0/0c.0`, `scsi0.0/0:0:1`; used to compare twins."""
    drive: str | None = None
    netdev: str | None = None
    chardev: str | None = None
    memdev: str | None = None


class Display(msgspec.Struct, frozen=True, kw_only=True):
    """Screen backends: `-display`, `-vnc`, `-spice` in command-line words."""

    options: tuple[tuple[str, str], ...]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A command-line option that QMP does not show (`-smbios`, `-fw_cfg`, `-rtc`, `-global`, ...)."""

    name: str
    value: str | None


class MonitorAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One QMP or HMP monitor of the process."""

    mode: str
    """`control` (QMP) or `readline` (HMP)."""
    chardev: str | None
    path: str | None
    """Unix socket as seen from the host; None where a host tool cannot reach it (stdio, pty, ...)."""
    address: str | None = None
    """host:port for TCP monitors."""


class Unknown(msgspec.Struct, frozen=True, kw_only=True):
    """Something that neither QMP nor the command line could tell."""

    what: str
    why: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One running QEMU."""

    version: int = PROFILE_VERSION
    name: str
    uuid: str
    status: str
    """QEMU run state when it was read: `running`, `paused`, ..."""
    qemu: QemuBuild
    machine: Machine
    cpu: Cpu
    smp: Smp
    plugged_cpus: tuple[PluggedCpu, ...]
    memory: Memory
    objects: tuple[HostObject, ...]
    chardevs: tuple[Chardev, ...]
    block_nodes: tuple[BlockNode, ...]
    drives: tuple[Drive, ...]
    netdevs: tuple[Netdev, ...]
    devices: tuple[Device, ...]
    display: Display
    options: tuple[Option, ...]
    """Options carried over from the command line, in their order."""
    monitors: tuple[MonitorAddress, ...]
    guest_visible: dict[str, dict[str, Value]]
    """Position -> every property the guest can notice; what `compare` holds against the twin's."""
    unknown: tuple[Unknown, ...]

    def node(self, name: str) -> BlockNode:
        """The block node called `name` (`node_name`).

        Raises:
            KeyError: there is none.
        """
        for node in self.block_nodes:
            if node.node_name == name:
                return node
        raise KeyError(name)

    def device_at(self, path: str) -> Device | None:
        """The device with this QOM path, if it is one of the profile's."""
        return next((device for device in self.devices if device.path == path), None)


class FoundGuest(msgspec.Struct, frozen=True, kw_only=True):
    """What `discover` knows of a QEMU without talking to it, and what one short look over QMP added."""

    pid: int
    start_time: int
    """Clock ticks since boot from /proc/PID/stat: with the pid it names one process for ever."""
    name: str
    uuid: str | None
    binary: str
    monitors: tuple[MonitorAddress, ...]
    memory: int | None
    vcpus: int | None
    incoming: bool = False
    """Whether it was started to take a guest in (`-incoming`). Only QMP tells whether the guest has arrived since."""
