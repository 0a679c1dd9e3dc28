"""Devices in the words of `-device`: which are the user's, and which of their properties must be said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limosa.guest.probe import Known
from limosa.guest.profile import Device, Unknown, Value
from limosa.guest.tree import Placed
from limosa.guest.wordlist import names

# Not settable, or only on a running device, or set by the board (a virtio-iommu's reserved regions).
NEVER_SAID = names("""
    type parent_bus realized hotplugged hotpluggable legacy-addr guest-stats guest-stats-polling-interval host
    attached big-endian-framebuffer smart_critical_warning legacy-cmb x-smi-negotiated-features
    reserved-regions
    """)
# Host-side references: they have fields of their own in a Device.
BACKENDS = {"drive": "drive", "netdev": "netdev", "chardev": "chardev", "memdev": "memdev"}
# device-list-properties does not tell the driver's own option ROM, so "no ROM" must be said.
ALWAYS_SAID = frozenset({"romfile"})
# Settable although no default is declared. Other numbers without one are read-only (`busnr`, a DIMM's `size`).
_SETTABLE = frozenset({"bootindex", "requested-size", "block-size", "memaddr"})
# Links to objects and devices whose name the guest cannot see.
_HOST_SIDE = names("iothread rng drive netdev chardev memdev wakeup tpmdev audiodev rerror werror")


@dataclass(frozen=True, slots=True)
class Sighting:
    """One placed device with what `info qtree` does not print."""

    placed: Placed
    extra: dict[str, Value]
    """Properties that were asked one by one."""
    hotplugged: bool


def unprinted(placed: Placed, known: Mapping[str, Known]) -> list[str]:
    """Properties of a driver that `info qtree` does not print and that matter: asked one by one."""
    return [
        name
        for name, told in known.items()
        if name not in placed.properties
        and name not in NEVER_SAID
        and not told.type.startswith(("child<", "link<irq>", "link<memory-region>", "link<qemu:memory-region>"))
        and told.type != "guest statistics"
    ]


def is_users(placed: Placed, bare: Mapping[str, str], not_pluggable: frozenset[str]) -> bool:
    """Whether the twin's command line must make this device, or its board does."""
    if placed.by_user:
        return placed.path.count("/") == 3 or placed.driver not in not_pluggable
    return bare.get(placed.position) != placed.driver and placed.driver not in not_pluggable


def devices(
    sightings: Sequence[Sighting],
    known: Mapping[str, Mapping[str, Known]],
    bare: Mapping[str, str],
    not_pluggable: frozenset[str],
    roots: Mapping[str, str | None],
) -> tuple[tuple[Device, ...], tuple[Unknown, ...]]:
    """The user's devices in creation order, and board devices that no bare board has.

    Args:
        sightings: all devices, parents first, siblings in order.
        known: driver -> its declared properties.
        bare: position -> driver on the bare board.
        not_pluggable: drivers that only a board can make.
        roots: device path -> `node_name` of its medium.
    """
    users = {s.placed.path for s in sightings if is_users(s.placed, bare, not_pluggable)}
    # A usb-storage makes the SCSI disk that holds its drive.
    sticks = {s.placed.path for s in sightings if s.placed.driver == "usb-storage"}
    inner = {s.placed.path: s.placed.parent for s in sightings if s.placed.parent in sticks}
    roots = dict(roots) | {parent: roots[path] for path, parent in inner.items() if parent and path in roots}
    unknown = [
        Unknown(
            what=f"device:{s.placed.path}", why=f"the board made a {s.placed.driver} that a bare board does not have"
        )
        for s in sightings
        if s.placed.path not in users
        and bare.get(s.placed.position) != s.placed.driver
        and s.placed.driver not in _MADE_BY_OPTIONS
    ]
    found = [
        _device(s, known.get(s.placed.driver, {}), roots)
        for s in sightings
        if s.placed.path in users and s.placed.path not in inner
    ]
    # Hot-plugged devices came after everything else; within each half parents stay before children.
    return tuple(sorted(found, key=lambda device: device.hotplugged)), tuple(unknown)


# Boards make these when a machine option asks: pflash0=, -kernel and so on carry them.
_MADE_BY_OPTIONS = frozenset({"cfi.pflash01", "kvmvapic", "loader"})


def _device(sighting: Sighting, known: Mapping[str, Known], roots: Mapping[str, str | None]) -> Device:
    placed = sighting.placed
    told = placed.properties | sighting.extra
    said = {name: _said(value) for name, value in told.items() if must_be_said(name, value, known.get(name))}
    if placed.port:
        said["port"] = placed.port
    backends = {key: _link(told[name]) for name, key in BACKENDS.items() if told.get(name)}
    if "drive" in told:
        backends["drive"] = roots.get(placed.path)
    return Device(
        path=placed.path,
        id=placed.id,
        driver=placed.driver,
        bus=placed.bus if placed.bus != "main-system-bus" else None,
        properties=said,
        hotplugged=sighting.hotplugged,
        position=placed.position,
        **backends,
    )


def must_be_said(name: str, value: Value, known: Known | None) -> bool:
    """Whether a property has to be on the twin's command line."""
    if name in NEVER_SAID or name in BACKENDS or known is None:
        return False
    if name in ALWAYS_SAID:
        return True
    if value in ("", None) or (name == "bootindex" and value == -1):
        return False
    if known.type.startswith("link<"):
        return str(value).startswith(("/objects/", "/machine/peripheral/"))
    if known.by_machine:
        return True
    if known.has_default:
        return not same(value, known.default)
    return isinstance(value, str) or name in _SETTABLE


def same(value: Value, default: Value) -> bool:
    """Equal, also where a driver declares -1 and the tree prints it unsigned."""
    if isinstance(value, int) and isinstance(default, int) and not isinstance(value, bool):
        return value == default or (default < 0 and value in (default % 2**32, default % 2**64))
    return bool(value == default)


def _said(value: Value) -> Value:
    return _link(value) if isinstance(value, str) and value.startswith(("/objects/", "/machine/peripheral/")) else value


def _link(value: Value) -> Value:
    """`/objects/rng0` -> `rng0`."""
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value


def seen_by_guest(sighting: Sighting) -> dict[str, Value]:
    """Every property of a device that is not a name on the host."""
    told = sighting.placed.properties | sighting.extra
    seen = {k: v for k, v in told.items() if k not in _HOST_SIDE and not _is_path(v)}
    if sighting.placed.port:
        seen["port"] = sighting.placed.port
    return {"driver": sighting.placed.driver} | seen


def _is_path(value: Value) -> bool:
    """Whether this is a link; objects' numbers differ from process to process."""
    return isinstance(value, str) and value.startswith(("/machine/", "/objects/"))
