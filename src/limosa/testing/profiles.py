"""Profiles of guests that do not exist, for tests: each adds to a bare one what it is about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limosa.guest.profile import (
    BlockNode,
    Cpu,
    Device,
    Display,
    Drive,
    Machine,
    Memory,
    Profile,
    QemuBuild,
    Smp,
)

MEMORY = 32
"""RAM of a test guest in MiB: firmware only, it boots nothing."""


def bare_profile(**changes: Any) -> Profile:
    """A profile with nothing in it, to which a test adds what it is about."""
    nothing: dict[str, Any] = {
        "name": "guest",
        "uuid": "6b1d2c9e-0000-4000-8000-000000000001",
        "status": "running",
        "qemu": QemuBuild(version=(10, 0, 2), package="", binary="qemu-system-x86_64"),
        "machine": Machine(type="pc-q35-7.2", accel="tcg", properties={}),
        "cpu": Cpu(type="qemu64-x86_64-cpu", model="qemu64", properties={}, flags=()),
        "smp": Smp(cpus=1, maxcpus=1, topology={}),
        "plugged_cpus": (),
        "memory": Memory(size=MEMORY << 20, slots=0, max_size=0, backend=None),
        "objects": (),
        "chardevs": (),
        "block_nodes": (),
        "drives": (),
        "netdevs": (),
        "devices": (),
        "display": Display(options=()),
        "options": (),
        "monitors": (),
        "guest_visible": {},
        "unknown": (),
    }
    return Profile(**(nothing | changes))


def file_node(name: str, path: Path | str, **options: Any) -> BlockNode:
    """A protocol node on a file."""
    return BlockNode(
        node_name=name,
        live_name=name,
        driver="file",
        options={"filename": str(path), **options},
        children={},
        read_only=bool(options.pop("read-only", False)),
        virtual_size=0,
        filename=str(path),
    )


def format_node(name: str, driver: str, *, read_only: bool = False, backing: str | None = None) -> BlockNode:
    """A format node above `NAME-file`."""
    children = {"file": f"{name}-file"} | ({"backing": backing} if backing else {})
    return BlockNode(
        node_name=name,
        live_name=name,
        driver=driver,
        options={},
        children=children,
        read_only=read_only,
        virtual_size=0,
        filename=None,
    )


def disk(name: str, number: int, driver: str = "virtio-blk-pci") -> tuple[Device, Drive]:
    """A disk device on the node `name`."""
    path = f"/machine/peripheral/vd{number}"
    device = Device(
        path=path,
        id=f"vd{number}",
        driver=driver,
        bus=None,
        properties={},
        hotplugged=False,
        position=f"pci.0/{number:02x}.0",
        drive=name,
    )
    return device, Drive(device=path, backend="", node=name, removable=False, tray_open=None, throttle=None)


def disk_profile(*nodes: BlockNode, disks: Sequence[str], **changes: Any) -> Profile:
    """A profile with these block nodes, and a disk device on each node that `disks` names."""
    plugged = [disk(name, number + 3) for number, name in enumerate(disks)]
    return bare_profile(
        block_nodes=nodes,
        devices=tuple(device for device, _ in plugged),
        drives=tuple(drive for _, drive in plugged),
        **changes,
    )
