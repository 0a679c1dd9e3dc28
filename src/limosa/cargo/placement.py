"""Where a disk comes to lie at the destination: recognised as shared, copied to a file, or onto a device.

Looks at the destination's file system and changes nothing.
"""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from limosa.cargo.identity import Identity, has_same_content, is_same
from limosa.cargo.images import NewImage, has_qemu_img, second_name
from limosa.cargo.kind import HostFacts
from limosa.cargo.storage import mapped
from limosa.units import MoveId, Side, format_size
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

KIND = "disks"

COPYABLE = frozenset({"raw", "qcow2"})
"""Formats of which limosa makes an equal image."""

LOSE_SNAPSHOTS = "lose-snapshots"
LOSE_BITMAPS = "lose-bitmaps"


class How(StrEnum):
    """What happens to a disk."""

    SHARED = "shared"
    COPIED = "copied"
    ONTO_DEVICE = "onto device"


class SourceDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk as the source knows it; sizes in bytes."""

    item: str
    root: str
    live: str
    top: str
    """The format node, which may be the protocol itself."""
    protocol: str
    format: str
    size: int
    """Exact virtual size; of a plain raw file its length, which need not be whole sectors."""
    allocated: int
    """Data in all layers, at most: what a flat copy takes."""
    own: int
    """Data in the top layer."""
    identity: Identity
    options: dict[str, str]
    backing: tuple[Identity | None, ...]
    """Layers below, nearest first; None for one that is not on a path."""
    backing_nodes: tuple[str, ...]
    backing_formats: tuple[str, ...]
    snapshots: tuple[str, ...]
    bitmaps: tuple[str, ...]
    encrypted: bool
    data_file: bool
    passed_through: bool
    """The guest speaks SCSI to the device itself."""
    anchor: str | None = None
    """Where QEMU will look for the image in vain when it gives it up."""


class PlacedDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk and what was chosen for it at the destination."""

    source: SourceDisk
    how: How
    path: str
    new: NewImage | None = None
    """What is to be made before the twin starts; None where there is nothing to make."""
    slice: int | None = None
    """Size option of a raw node on a device that is larger than the disk."""
    keeps_backing: bool = False
    backing: tuple[str | None, ...] = ()
    """Paths of the backing layers at the destination."""
    allocated: int = 0
    """Bytes that will be copied, about."""

    @property
    def into(self) -> str:
        """Node of the twin that the copy is written to.

        A raw image is written to below its format node: that one keeps the owner's word on discards, while holes
        arrive as holes. A qcow2 image keeps what is zero apart by itself.
        """
        below = self.source.format == "raw" and self.slice is None
        return self.source.protocol if below else self.source.top


@dataclass
class _Round:
    """One offer in the making."""

    guest: str
    host: HostFacts
    request: MoveRequest
    move: MoveId
    taken: set[str] = field(default_factory=set)
    needs: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Directory -> bytes needed for data, and if every disk were full."""
    findings: list[Finding] = field(default_factory=list)

    def find(
        self,
        severity: Severity,
        what: str,
        remedy: str = "",
        *,
        side: Side = Side.DESTINATION,
        consent: str | None = None,
    ) -> None:
        """Note one finding."""
        self.findings.append(
            Finding(severity=severity, kind=KIND, what=what, remedy=remedy, side=side, consent=consent)
        )


async def place(
    disks: Sequence[SourceDisk], guest: str, host: HostFacts, request: MoveRequest, move: MoveId
) -> tuple[tuple[PlacedDisk, ...], tuple[Finding, ...]]:
    """Choose a place for every disk; a disk for which there is none has a blocking finding instead."""
    now = _Round(guest, host, request, move)
    placed = [found for disk in disks if (found := await _place_one(disk, now)) is not None]
    _check_room(now)
    return tuple(placed), tuple(now.findings)


async def _place_one(disk: SourceDisk, now: _Round) -> PlacedDisk | None:
    wanted = mapped(disk.identity.path, now.request.maps)
    if _is_same(disk.identity, wanted or disk.identity.path):
        return await _shared(disk, wanted or disk.identity.path, now)
    if not _can_copy(disk, now):
        return None
    target = _in_directory(Path(wanted or disk.identity.path), disk)
    if wanted is None and disk.identity.rdev is not None:
        _demand_mapping(disk, now)
        return None
    if wanted is not None and _is_device(target):
        return _onto_device(disk, target, now)
    return await _copied(disk, target, now, asked=wanted is not None)


def _is_same(identity: Identity, path: str) -> bool:
    try:
        return is_same(identity, path)
    except OSError:
        return False  # it cannot be opened here, so a twin could not use it either


async def _shared(disk: SourceDisk, path: str, now: _Round) -> PlacedDisk | None:
    backing = [await _backing_here(layer, now) for layer in disk.backing]
    for layer, here in zip(disk.backing, backing, strict=True):
        if layer is not None and here is None:
            now.find(
                Severity.BLOCKS,
                f"{disk.item} is shared, but its backing file {layer.path} is not the same here",
                "make that file visible here too, under the same path",
            )
    if disk.bitmaps:
        now.find(
            Severity.BLOCKS,
            f"dirty bitmaps of {disk.item} that are only in memory would be lost: {', '.join(disk.bitmaps)}",
            "remove them",
            side=Side.SOURCE,
            consent=LOSE_BITMAPS,
        )
    now.find(Severity.NOTE, f"{disk.item}: {path} is the same file here; nothing to copy")
    return PlacedDisk(source=disk, how=How.SHARED, path=path, keeps_backing=True, backing=tuple(backing))


def _can_copy(disk: SourceDisk, now: _Round) -> bool:
    """Note what a copy would lose, or cannot carry at all (False)."""
    if disk.snapshots:
        now.find(
            Severity.BLOCKS,
            f"a copy of {disk.item} loses its internal snapshots: {', '.join(disk.snapshots)}",
            "delete them",
            side=Side.SOURCE,
            consent=LOSE_SNAPSHOTS,
        )
    if disk.bitmaps:
        now.find(
            Severity.BLOCKS,
            f"a copy of {disk.item} loses its dirty bitmaps: {', '.join(disk.bitmaps)}",
            "remove them: the next backup will be a full one",
            side=Side.SOURCE,
            consent=LOSE_BITMAPS,
        )
    why = _cannot(disk)
    if why:
        now.find(Severity.BLOCKS, f"{disk.item} cannot be copied: {why}", "put it on shared storage", side=Side.SOURCE)
    return not why


def _cannot(disk: SourceDisk) -> str:
    if disk.encrypted:
        return "it is encrypted, and keys are not carried"
    if disk.passed_through:
        return "the guest speaks SCSI to the device itself"
    if disk.data_file:
        return "its data is in an external data file"
    if disk.format not in COPYABLE:
        return f"images of format {disk.format} are not made by limosa"
    return ""


def _demand_mapping(disk: SourceDisk, now: _Round) -> None:
    now.find(
        Severity.BLOCKS,
        f"{disk.item} is on the block device {disk.identity.path}, which is not the same device here",
        f"name its place: --map {disk.identity.path}=/dev/VG/LV, or a directory",
    )


def _onto_device(disk: SourceDisk, target: Path, now: _Round) -> PlacedDisk | None:
    size = _free_device(target, now)
    if size is None:
        return None
    # qcow2 needs room for its own tables, 1/8192 of the size and a little; raw needs exactly the size.
    needed = disk.size if disk.format == "raw" else disk.allocated + disk.size // 4096 + (4 << 20)
    if size < needed:
        now.find(Severity.BLOCKS, f"{target} has {format_size(size)}; {disk.item} needs {format_size(needed)}")
        return None
    now.find(Severity.WARNING, f"{disk.item}: everything on {target} will be overwritten")
    form = NewImage(path=str(target), format=disk.format, size=disk.size, options=disk.options)
    raw = disk.format == "raw"
    return PlacedDisk(
        source=disk,
        how=How.ONTO_DEVICE,
        path=str(target),
        new=None if raw else form,
        slice=disk.size if raw and size > disk.size else None,
        allocated=disk.allocated,
    )


def _in_directory(target: Path, disk: SourceDisk) -> Path:
    """A place that is a directory means the same name in it."""
    return target / Path(disk.identity.path).name if target.is_dir() else target


def _free_device(target: Path, now: _Round) -> int | None:
    """Size of a block device that nobody uses; None with a finding otherwise."""
    try:
        fd = os.open(target, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as refused:
        in_use = refused.errno == errno.EBUSY
        why = "is mounted or in use" if in_use else f"cannot be opened: {refused.strerror}"
        now.find(Severity.BLOCKS, f"{target} {why}", "name another device with --map")
        return None
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


async def _copied(disk: SourceDisk, target: Path, now: _Round, *, asked: bool) -> PlacedDisk | None:
    path = _choose(disk, target, now, asked=asked)
    if path is None:
        return None
    backing = [await _backing_here(layer, now) for layer in disk.backing]
    keeps = bool(backing) and all(here is not None for here in backing)
    allocated = disk.own if keeps else disk.allocated
    _tell_copy(disk, path, allocated, now, keeps=keeps)
    if disk.format != "raw" and not has_qemu_img():
        now.find(Severity.BLOCKS, f"this host has no qemu-img to make {path} with", "install it (Debian: qemu-utils)")
        return None
    data, full = now.needs.get(path.parent, (0, 0))
    now.needs[path.parent] = (data + allocated, full + max(disk.size, allocated))
    now.taken.add(str(path))
    new = NewImage(
        path=str(path),
        format=disk.format,
        size=disk.size,
        options=disk.options,
        backing=backing[0] if keeps else None,
        backing_format=disk.backing_formats[0] if keeps else None,
        mode=disk.identity.mode if disk.identity.rdev is None else 0o600,
        uid=disk.identity.uid if disk.identity.rdev is None else 0,
        gid=disk.identity.gid if disk.identity.rdev is None else 0,
    )
    return PlacedDisk(
        source=disk,
        how=How.COPIED,
        path=str(path),
        new=new,
        keeps_backing=keeps,
        backing=tuple(backing) if keeps else (),
        allocated=allocated,
    )


def _tell_copy(disk: SourceDisk, path: Path, allocated: int, now: _Round, *, keeps: bool) -> None:
    sizes = f"{disk.format}, {format_size(disk.size)}, about {format_size(allocated)} to copy"
    now.find(Severity.NOTE, f"{disk.item}: {disk.identity.path} is copied to {path} ({sizes})")
    if keeps:
        now.find(Severity.NOTE, f"{disk.item}: the same backing file is here, and is kept")
    elif disk.backing:
        count = len(disk.backing)
        layers = "a backing file" if count == 1 else f"{count} backing files"
        now.find(
            Severity.NOTE,
            f"{disk.item}: its chain with {layers} becomes one image of up to {format_size(disk.allocated)}",
            "to keep the chain, put the same backing file under the same path here",
        )


def _choose(disk: SourceDisk, target: Path, now: _Round, *, asked: bool) -> Path | None:
    """The old path or the one asked for, if it can be; else a name in the host's storage."""
    if is_usable_directory(target.parent):
        if _free(target, now):
            return target
        now.find(
            Severity.BLOCKS,
            f"{target} exists here and is not the file that {disk.item} uses",
            f"remove it, or choose another place: --map {disk.identity.path}=NEW",
        )
        return None
    if not asked:
        for directory in map(Path, now.host.storage):
            for name in (target.name, f"{now.guest}-{target.name}"):
                if is_usable_directory(directory) and _free(directory / name, now):
                    return directory / name
    now.find(
        Severity.BLOCKS,
        f"there is no directory {target.parent} here for {disk.item}",
        f"create it, configure storage, or choose another place: --map {disk.identity.path}=NEW",
    )
    return None


def _free(path: Path, now: _Round) -> bool:
    names = (path, second_name(str(path), now.move))
    return str(path) not in now.taken and not any(os.path.lexists(name) for name in names)


def is_usable_directory(directory: Path) -> bool:
    """Whether files can be made in it."""
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def free_bytes(directory: Path) -> int:
    """Room for one more file, in bytes."""
    free = os.statvfs(directory)
    return free.f_bavail * free.f_frsize


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


async def _backing_here(layer: Identity | None, now: _Round) -> str | None:
    """Path of the same backing file at the destination, by identity or by content."""
    if layer is None:
        return None
    for path in dict.fromkeys((mapped(layer.path, now.request.maps) or layer.path, layer.path)):
        try:
            if is_same(layer, path) or await has_same_content(layer, path):
                return path
        except OSError:
            continue  # it cannot be read here, so it is of no use
    return None


def _check_room(now: _Round) -> None:
    """Compare needs with free space, file system by file system."""
    for paths, data, full in _by_file_system(now.needs.items()):
        room = free_bytes(paths[0])
        where = " and ".join(map(str, paths))
        if data > room:
            now.find(
                Severity.BLOCKS,
                f"{where} has {format_size(room)} free; the disks hold {format_size(data)}",
                "make room there, or choose another place with --map",
            )
        elif full > room:
            now.find(
                Severity.WARNING,
                f"{where} has {format_size(room)} free; the disks may grow to {format_size(full)}",
            )


def _by_file_system(needs: Iterable[tuple[Path, tuple[int, int]]]) -> list[tuple[list[Path], int, int]]:
    grouped: dict[int, tuple[list[Path], int, int]] = {}
    for directory, (data, full) in needs:
        device = directory.stat().st_dev
        paths, had, had_full = grouped.get(device, ([], 0, 0))
        grouped[device] = ([*paths, directory], had + data, had_full + full)
    return list(grouped.values())
