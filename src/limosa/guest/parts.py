"""The names of everything in a profile that somebody must carry. Pure."""

from collections.abc import Iterator

from limosa.guest.profile import BlockNode, Profile


def parts(profile: Profile) -> frozenset[str]:
    """One name for each thing that a kind of cargo must claim before the guest may move.

    Returns:
        `cpu`, `memory`, `display`, and `device:PATH`, `block:NODE`, `netdev:ID`, `chardev:ID`,
        `object:ID`, `option:NAME` with the names that the profile has them under.
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
    yield from (f"device:{device.path}" for device in profile.devices)
    yield from (f"block:{node.node_name}" for node in profile.block_nodes)
    yield from (f"netdev:{netdev.id}" for netdev in profile.netdevs)
    yield from (f"chardev:{chardev.id}" for chardev in profile.chardevs)
    yield from (f"object:{thing.id}" for thing in profile.objects)
    yield from (f"option:{option.name}" for option in profile.options)
