"""Memory: base RAM, plugged DIMMs and their backends. It travels in the migration stream itself.

What the destination needs is room, and for backends that name something of the host (huge pages, a NUMA node,
a file) the same thing there. File-backed RAM is made anew at the destination; the file's old contents are the
guest's RAM, which arrives in the stream.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from limosa.cargo import ramblocks
from limosa.cargo.kind import HostFacts, NoDeeds, Offer, Survey
from limosa.cargo.storage import mapped
from limosa.guest.profile import HostObject, Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side, format_size
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

BACKENDS = frozenset({"memory-backend-ram", "memory-backend-file", "memory-backend-memfd"})
DIMMS = frozenset({"pc-dimm"})

_HUGEPAGES = Path("/sys/kernel/mm/hugepages")
_NODES = Path("/sys/devices/system/node")


class Memory(NoDeeds):
    """RAM and its backends."""

    name = "memory"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Base RAM, ordinary memory backends, and DIMMs on them."""
        backends = {found.id for found in profile.objects if found.type in BACKENDS}
        objects = {f"object:{name}" for name in backends}
        dimms = {f"device:{device.path}" for device in profile.devices if device.driver in DIMMS}
        numa = {f"option:{option.name}" for option in profile.options if option.name == "numa"}
        return frozenset({"memory"} | objects | dimms | numa)

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Whether this QEMU can copy the RAM without losing any of it."""
        if profile.machine.accel != "tcg":
            return Survey(kind=self.name)
        blocks = ramblocks.parse(await monitor.hmp("info ramblock"))
        return Survey(
            kind=self.name, findings=tuple(ramblocks.findings(blocks, _guest_memory(profile), profile.qemu.version))
        )

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Room, huge pages, NUMA nodes and directories."""
        findings = [*_room(profile), *_nodes(profile)]
        paths: dict[str, str] = {}
        for backend in _file_backends(profile):
            path = str(backend.properties["mem-path"])
            there = mapped(path, request.maps) or path
            paths[backend.id] = there
            findings += _file_findings(backend, there)
        findings += _memfd_findings(profile)
        return Offer(kind=self.name, findings=tuple(findings), chosen={"paths": paths})

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """Files of file-backed memory, where they were mapped."""
        paths = offer.chosen.get("paths", {})
        objects = tuple(
            msgspec.structs.replace(found, properties=found.properties | {"mem-path": paths[found.id]})
            if found.id in paths
            else found
            for found in profile.objects
        )
        return msgspec.structs.replace(profile, objects=objects)


def total(profile: Profile) -> int:
    """All RAM that the guest has, in bytes: base RAM and plugged DIMMs."""
    sizes = {found.id: int(found.properties.get("size", 0)) for found in profile.objects if found.type in BACKENDS}
    plugged = sum(sizes.get(device.memdev or "", 0) for device in profile.devices if device.driver in DIMMS)
    return profile.memory.size + plugged


def _guest_memory(profile: Profile) -> dict[str, str]:
    """RAM block -> what people call it, for base RAM and what DIMMs stand on."""
    dimms = {device.memdev: device.id or device.driver for device in profile.devices if device.driver in DIMMS}
    named = {found.id: dimms.get(found.id, found.id) for found in profile.objects if found.type in BACKENDS}
    return named | {profile.memory.backend or "pc.ram": "base RAM"}


def _room(profile: Profile) -> Iterable[Finding]:
    free = _meminfo("MemAvailable")
    on_huge = sum(int(found.properties.get("size", 0)) for found in _huge_backends(profile))
    needed = max(0, total(profile) - on_huge)
    if needed > free:
        yield _blocks(
            f"the guest has {format_size(needed)} of RAM; {format_size(free)} are available here", "free some"
        )


def _nodes(profile: Profile) -> Iterable[Finding]:
    for backend in profile.objects:
        wanted = backend.properties.get("host-nodes") if backend.type in BACKENDS else None
        for node in wanted or ():
            if not (_NODES / f"node{node}").exists():
                yield _blocks(f"{backend.id} is bound to NUMA node {node}, which this host does not have", "")


def _file_backends(profile: Profile) -> tuple[HostObject, ...]:
    return tuple(found for found in profile.objects if found.type == "memory-backend-file")


def _file_findings(backend: HostObject, path: str) -> Iterable[Finding]:
    place = Path(path)
    directory = place if place.is_dir() else place.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        yield _blocks(f"{backend.id} is backed by {path}; there is no such directory here", f"--map {path}=DIRECTORY")
        return
    if place.exists() and not place.is_dir():
        yield _blocks(f"{backend.id} is backed by {path}, which exists here", f"remove it, or --map {path}=NEW")
    free = os.statvfs(directory)
    room, size = free.f_bavail * free.f_frsize, int(backend.properties.get("size", 0))
    if size > room:
        yield _blocks(f"{backend.id} needs {format_size(size)} in {directory}; {format_size(room)} are free", "")


def _huge_backends(profile: Profile) -> Iterable[HostObject]:
    for found in profile.objects:
        huge_file = found.type == "memory-backend-file" and "huge" in str(found.properties.get("mem-path", ""))
        if huge_file or (found.type == "memory-backend-memfd" and found.properties.get("hugetlb")):
            yield found


def _memfd_findings(profile: Profile) -> Iterable[Finding]:
    for found in profile.objects:
        if found.type != "memory-backend-memfd" or not found.properties.get("hugetlb"):
            continue
        page = int(found.properties.get("hugetlbsize") or _meminfo("Hugepagesize"))
        size = int(found.properties.get("size", 0))
        try:
            free = int((_HUGEPAGES / f"hugepages-{page // 1024}kB" / "free_hugepages").read_text()) * page
        except OSError:
            free = 0
        if free < size:
            needed = f"{format_size(size)} in huge pages of {format_size(page)}"
            yield _blocks(f"{found.id} needs {needed}; {format_size(free)} are free", "reserve more: vm.nr_hugepages")


def _meminfo(field: str) -> int:
    """A field of /proc/meminfo in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def _blocks(what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.BLOCKS, kind=Memory.name, what=what, remedy=remedy, side=Side.DESTINATION)
