"""The block graph of a profile as images: what each root is made of, and which kind of cargo carries it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import PurePosixPath

from limosa.guest.profile import BlockNode, Device, Drive, Profile

FILTERS = frozenset({"throttle", "copy-on-read", "compress", "preallocate"})
"""Nodes that pass I/O on to their `file` child and hold no data of their own."""

LOCAL = frozenset({"file", "host_device", "host_cdrom"})
"""Protocols on a path of this host."""

EMPTY = frozenset({"null-co", "null-aio"})
"""Protocols without data."""

FLASH = "cfi.pflash01"
"""Driver of the flash devices that hold UEFI firmware and its variables."""


class Carrier(StrEnum):
    """The kind of cargo that carries an image."""

    DISKS = "disks"
    VOLUMES = "volumes"
    MEDIA = "media"
    NVRAM = "nvram"


@dataclass(frozen=True)
class Image:
    """One root of the block graph and all below it."""

    profile: Profile
    root: BlockNode

    @cached_property
    def format(self) -> BlockNode:
        """The node below all filters: raw, qcow2, ..., or the protocol itself where no format was given."""
        node = self.root
        while node.driver in FILTERS and "file" in node.children:
            node = self.profile.node(node.children["file"])
        return node

    @cached_property
    def protocol(self) -> BlockNode:
        """The node that reaches the data."""
        return _below(self.profile, self.format)

    @cached_property
    def backing(self) -> tuple["Image", ...]:
        """Layers under this one, nearest first."""
        name = self.format.children.get("backing")
        if name is None:
            return ()
        layer = Image(self.profile, self.profile.node(name))
        return (layer, *layer.backing)

    @cached_property
    def nodes(self) -> tuple[BlockNode, ...]:
        """Every node of the tree, root first."""
        return tuple({node.node_name: node for node in _walk(self.profile, self.root)}.values())

    @cached_property
    def drives(self) -> tuple[Drive, ...]:
        """Who is plugged into the root."""
        return tuple(drive for drive in self.profile.drives if drive.node == self.root.node_name)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """The devices on it; built-in ones (flash of the board) are not among them.

        A `usb-storage` is plugged into the image, though what has the drive is the disk that it makes.
        """
        paths = {drive.device for drive in self.drives}
        name = self.root.node_name
        return tuple(device for device in self.profile.devices if device.drive == name or device.path in paths)

    @property
    def name(self) -> str:
        """What people call it: the device's id, the drive's name, or the node's."""
        for device in self.devices:
            if device.id:
                return device.id
        return next((drive.backend for drive in self.drives if drive.backend), self.root.node_name)

    @property
    def format_name(self) -> str:
        """`raw` where a protocol is used without a format."""
        return "raw" if self.format is self.protocol else self.format.driver

    @property
    def path(self) -> str | None:
        """Path of the file or device that holds the top layer."""
        return self.protocol.filename if self.protocol.driver in LOCAL else None


def images(profile: Profile) -> tuple[Image, ...]:
    """Every root: nodes that are nobody's child, in creation order."""
    children = {child for node in profile.block_nodes for child in node.children.values()}
    used = {drive.node for drive in profile.drives}
    flash = frozenset(_flash_nodes(profile))
    return tuple(
        Image(profile, node)
        for node in profile.block_nodes
        if node.node_name not in children or node.node_name in used or node.node_name in flash
    )


def carrier(image: Image) -> Carrier:
    """Which kind carries this image. A writable flash image is a disk: it is mirrored like one."""
    if image.protocol.driver not in LOCAL:
        return Carrier.VOLUMES
    if not image.root.read_only:
        return Carrier.DISKS
    return Carrier.NVRAM if is_flash(image) else Carrier.MEDIA


def carried_by(profile: Profile, kind: Carrier) -> tuple[Image, ...]:
    """The images that one kind carries."""
    return tuple(image for image in images(profile) if carrier(image) is kind)


def parts_of(profile: Profile, kind: Carrier) -> frozenset[str]:
    """Parts that one kind carries: nodes and the devices plugged into them. No part is carried twice."""
    carriers: dict[str, Carrier] = {}
    for image in images(profile):
        for node in image.nodes:
            carriers.setdefault(f"block:{node.node_name}", carrier(image))
        for device in image.devices:
            carriers.setdefault(f"device:{device.path}", carrier(image))
    return frozenset(part for part, by in carriers.items() if by is kind)


def is_flash(image: Image) -> bool:
    """Whether it holds firmware or its variables (`pflash`)."""
    return image.root.node_name in _flash_nodes(image.profile)


def is_cdrom(device: Device) -> bool:
    """Whether the guest sees an optical drive."""
    return device.driver in {"ide-cd", "scsi-cd"} or (
        device.driver in {"ide-drive", "scsi-disk"} and device.properties.get("media") == "cdrom"
    )


def mapped(path: str, maps: dict[str, str]) -> str | None:
    """Where the operator wants `path` to be: an exact mapping, else the longest mapped directory above it."""
    if path in maps:
        return maps[path]
    for parent in PurePosixPath(path).parents:
        if str(parent) in maps:
            return str(PurePosixPath(maps[str(parent)]) / PurePosixPath(path).relative_to(parent))
    return None


def _below(profile: Profile, node: BlockNode) -> BlockNode:
    while "file" in node.children:
        node = profile.node(node.children["file"])
    return node


def _walk(profile: Profile, node: BlockNode) -> Iterator[BlockNode]:
    yield node
    for child in node.children.values():
        yield from _walk(profile, profile.node(child))


def _flash_nodes(profile: Profile) -> Iterator[str]:
    for name in ("pflash0", "pflash1"):
        node = profile.machine.properties.get(name)
        if isinstance(node, str):
            yield node
    for drive in profile.drives:
        device = profile.device_at(drive.device)
        flash = "flash" in drive.device.rpartition("/")[2] if device is None else device.driver == FLASH
        if flash and drive.node:
            yield drive.node
