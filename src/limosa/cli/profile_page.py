"""A profile as a page to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import starmap

from limosa.cli.table import pairs, table
from limosa.guest.profile import BlockNode, Device, Drive, Netdev, Profile
from limosa.units import format_count, format_size


def profile_page(profile: Profile) -> str:
    """What `limosa show` prints."""
    sections = [f"{profile.name}  {profile.uuid}  {profile.status}", pairs(_heading(profile))]
    drives = {drive.device: drive for drive in profile.drives}
    netdevs = {netdev.id: netdev for netdev in profile.netdevs}
    disks = [(d, drives[d.path]) for d in profile.devices if d.path in drives]
    nics = [(d, netdevs[d.netdev]) for d in profile.devices if d.netdev in netdevs]
    others = [d for d in profile.devices if d.path not in drives and d.netdev not in netdevs]
    if disks:
        sections.append("disks\n" + "\n".join(_disk(profile, device, drive) for device, drive in disks))
    if nics:
        sections.append(
            "network\n" + table(("NIC", "MODEL", "MAC", "BACKEND", "WHERE"), starmap(_nic, nics), indent="  ")
        )
    if others:
        rows = [(d.id or "-", d.driver, d.position, _plugged(d), _words(d.properties)) for d in others]
        sections.append("devices\n" + table(("ID", "DRIVER", "WHERE", "", "PROPERTIES"), rows, indent="  "))
    sections.extend(_host_side(profile))
    if profile.unknown:
        gaps = [(unknown.what, unknown.why) for unknown in profile.unknown]
        sections.append("unknown: neither the monitor nor the command line tells\n" + pairs(gaps))
    else:
        sections.append("unknown: nothing")
    return "\n\n".join(sections)


def _heading(profile: Profile) -> Iterator[tuple[str, str]]:
    qemu, memory, smp = profile.qemu, profile.memory, profile.smp
    yield "qemu", f"{'.'.join(map(str, qemu.version))}  {qemu.binary}"
    yield (
        "machine",
        " ".join([profile.machine.type, profile.machine.accel, _words(profile.machine.properties)]).rstrip(),
    )
    flags = format_count(len(profile.cpu.flags), "flag")
    yield (
        "cpu",
        f"{profile.cpu.model}  {_words(profile.cpu.properties)}\n{flags}".rstrip(),
    )
    plugged = f", {len(profile.plugged_cpus)} added" if profile.plugged_cpus else ""
    yield "vcpus", f"{smp.cpus} of at most {smp.maxcpus}{plugged}"
    room = f", {memory.slots} slots, at most {format_size(memory.max_size)}" if memory.slots else ""
    yield "memory", format_size(memory.size) + room
    for device in profile.devices:
        if device.memdev:
            yield (
                "",
                f"+ {device.id or device.driver}: {_backend_size(profile, device.memdev)} {_plugged(device)}".rstrip(),
            )


def _backend_size(profile: Profile, backend: str) -> str:
    for found in profile.objects:
        if found.id == backend and isinstance(size := found.properties.get("size"), int):
            return format_size(size)
    return backend


def _disk(profile: Profile, device: Device, drive: Drive) -> str:
    name = drive.backend or device.id or drive.node or device.position
    head = f"  {name}  {device.driver} at {device.position} {_plugged(device)}".rstrip()
    if drive.node is None:
        return f"{head}\n    no medium"
    limits = f"\n    throttled: {_words(drive.throttle.limits)}" if drive.throttle else ""
    return head + "".join(f"\n    {line}" for line in _chain(profile, drive.node)) + limits


def _chain(profile: Profile, name: str, role: str = "") -> Iterator[str]:
    """A node and what lies under it, files last, each line one node."""
    node = profile.node(name)
    yield f"{role}{_node(node)}"
    for child_role, child in sorted(node.children.items(), key=lambda item: item[0] == "backing"):
        for line in _chain(profile, child, f"{child_role}: "):
            yield f"  {line}"


def _node(node: BlockNode) -> str:
    access = " read-only" if node.read_only else ""
    place = f"  {node.filename}" if node.filename else ""
    unknown = f"  (unknown: {', '.join(node.unknown)})" if node.unknown else ""
    return f"{node.driver} {format_size(node.virtual_size)}{access}{place}{unknown}"


def _nic(device: Device, netdev: Netdev) -> tuple[str, ...]:
    backend = " ".join(filter(None, (netdev.type, netdev.ifname, netdev.bridge and f"on {netdev.bridge}")))
    where = f"{device.position} {_plugged(device)}".rstrip()
    return device.id or netdev.id, device.driver, str(device.properties.get("mac", "-")), backend, where


def _host_side(profile: Profile) -> Iterator[str]:
    if profile.objects:
        objects = [(o.id, o.type, _words(o.properties)) for o in profile.objects]
        yield "objects\n" + table(("ID", "TYPE", "PROPERTIES"), objects, indent="  ")
    if profile.chardevs:
        rows = [(c.id, c.backend, c.used_by or "-", _words(c.options)) for c in profile.chardevs]
        yield "character devices\n" + table(("ID", "BACKEND", "USED BY", "OPTIONS"), rows, indent="  ")
    words = [f"-{o.name} {o.value or ''}".rstrip() for o in profile.options]
    words += [f"-{name} {value}" for name, value in profile.display.options]
    if words:
        yield "options carried from the command line\n" + "\n".join(f"  {word}" for word in words)


def _plugged(device: Device) -> str:
    return "(hot-plugged)" if device.hotplugged else ""


def _words(values: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_word(value)}" for name, value in values.items())


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
