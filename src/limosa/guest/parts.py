"""The names of everything in a profile that somebody must carry. Pure."""

from collections.abc import Iterator

from limosa.guest.profile import BlockNode, Profile

OURS = "limosa-"
"""Ids of what limosa itself added to a guest's QEMU begin with this; nobody needs to carry it on."""

MACHINE_FILES = ("kernel", "initrd", "dtb", "firmware", "shim")
"""Machine properties that name a file, if they hold a path; a bare name is one of QEMU's own files."""

# Said by the builder of every command line.
_ALWAYS_SAID = frozenset({"name"})


def parts(profile: Profile) -> frozenset[str]:
    """One name for each thing that a kind of cargo must claim before the guest may move.

    Returns:
        `cpu`, `memory`, `display`, and `machine:PROPERTY` (one that names a file), `device:PATH`, `block:NODE`,
        `netdev:ID`, `chardev:ID`, `object:ID`, `option:NAME`, `cpu:ID` (plugged)
        with the names that the profile has them under.
    """
    return frozenset(_named(profile))


def chain(profile: Profile, node: str) -> tuple[BlockNode, ...]:
    """A block node and everything below it, from the top down; each node once."""
    seen: dict[str, BlockNode] = {}
    waiting = [node]
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen[name] = profile.node(name)
            waiting.extend(seen[name].children.values())
    return tuple(seen.values())


def _named(profile: Profile) -> Iterator[str]:
    yield from ("cpu", "memory", "display")
    yield from (f"machine:{name}" for name in MACHINE_FILES if "/" in str(profile.machine.properties.get(name)))
    yield from (f"device:{device.path}" for device in profile.devices)
    yield from (f"block:{node.node_name}" for node in profile.block_nodes)
    yield from (f"netdev:{netdev.id}" for netdev in profile.netdevs)
    yield from (f"chardev:{chardev.id}" for chardev in profile.chardevs if not chardev.id.startswith(OURS))
    yield from (f"object:{thing.id}" for thing in profile.objects if not thing.id.startswith(OURS))
    yield from (f"option:{option.name}" for option in profile.options if option.name not in _ALWAYS_SAID)
    yield from (f"cpu:{cpu.id}" for cpu in profile.plugged_cpus)
