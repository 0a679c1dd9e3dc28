"""Rewriting the block graph of a profile for a destination. Pure."""

import hashlib
from collections.abc import Mapping

import msgspec

from limosa.cargo.placement import How, PlacedDisk
from limosa.cargo.storage import LOCAL, Image, images
from limosa.guest.profile import BlockNode, Profile
from limosa.units import MoveId


def short(move: MoveId | str) -> str:
    """Eight characters that stand for a move in names of limited length."""
    return hashlib.sha256(move.encode()).hexdigest()[:8]


def moved_to(node: BlockNode, path: str, *, device: bool) -> BlockNode:
    """A protocol node on another path."""
    options = node.options | {"filename": path}
    driver = node.driver if node.driver not in LOCAL else ("host_device" if device else "file")
    return msgspec.structs.replace(node, driver=driver, options=options, filename=path)


def copied_node(image: Image, disk: PlacedDisk) -> dict[str, BlockNode]:
    """The nodes of an image as the destination has them; only those that differ."""
    if disk.how is How.SHARED:
        return _shared(image, disk)
    protocol = moved_to(image.protocol, disk.path, device=disk.how is How.ONTO_DEVICE)
    # Without it a mirrored hole would be written as zeros (QEMU block/io.c: MAY_UNMAP is dropped).
    protocol = msgspec.structs.replace(protocol, options=protocol.options | {"discard": "unmap"})
    if image.format is image.protocol:
        return {protocol.node_name: protocol}
    return {protocol.node_name: protocol} | _format(image, disk)


def with_nodes(profile: Profile, changed: Mapping[str, BlockNode]) -> Profile:
    """The profile with some nodes replaced, and without nodes that nothing reaches any more."""
    if not changed:
        return profile
    roots = [image.root.node_name for image in images(profile)]
    nodes = {node.node_name: changed.get(node.node_name, node) for node in profile.block_nodes}
    reached: set[str] = set()
    while roots:
        name = roots.pop()
        if name not in reached:
            reached.add(name)
            roots += nodes[name].children.values()
    kept = tuple(node for name, node in nodes.items() if name in reached)
    return msgspec.structs.replace(profile, block_nodes=kept)


def _shared(image: Image, disk: PlacedDisk) -> dict[str, BlockNode]:
    device = disk.source.identity.rdev is not None
    moved = moved_to(image.protocol, disk.path, device=device)
    return {moved.node_name: moved} | _backing_paths(image, disk)


def _format(image: Image, disk: PlacedDisk) -> dict[str, BlockNode]:
    options = dict(image.format.options)
    if image.format.driver == "raw":
        options = {name: value for name, value in options.items() if name not in {"offset", "size"}}
    if disk.slice is not None:
        options |= {"size": disk.slice, "discard": "unmap"}
    node = msgspec.structs.replace(image.format, options=options)
    if disk.keeps_backing:
        return {node.node_name: node} | _backing_paths(image, disk)
    children = {role: child for role, child in node.children.items() if role != "backing"}
    options = {name: value for name, value in node.options.items() if name != "backing"}
    flat = msgspec.structs.replace(node, children=children, options=options)
    return {flat.node_name: flat}


def _backing_paths(image: Image, disk: PlacedDisk) -> dict[str, BlockNode]:
    changed: dict[str, BlockNode] = {}
    for layer, path in zip(image.backing, disk.backing, strict=False):
        if path is not None and layer.path is not None and path != layer.path:
            changed[layer.protocol.node_name] = moved_to(layer.protocol, path, device=False)
    return changed
