"""Whether a path here and a path on another host are one and the same file, device or content.

A name proves nothing: two hosts may each have a `/srv/web1.qcow2`. Nor may a check write into a guest's
image or its directory. What remains is what shared file systems must offer anyway for QEMU's own image
locks to protect an image: POSIX locks that hosts see of each other. The source takes a read lock on one
byte at a random position far behind any data (a *beacon*); a host that sees a lock at just that position
on its file looks at the same file. Nothing is written, and a lock vanishes with the process that holds it.

Where a file system does not carry locks between hosts, the file counts as not shared, which blocks a move
(the path is taken) rather than opening the wrong file. Block devices are known by their worldwide or
device-mapper identity, and by device number where both ends share a kernel.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from limosa.units import GIB, MIB

BEACON_SECONDS = 600.0
"""A beacon is taken down this long after it was last asked for: longer than any check takes."""

LARGEST_HASHED = 8 * GIB
"""Contents with more data than this are not compared: an answer would take too long."""

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock, fcntl(2): type, whence, start, length, pid
_LOWEST, _HIGHEST = 1 << 40, 1 << 62  # far from QEMU's own lock bytes (100 to 299, block/file-posix.c)
_BLOCK = MIB


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to recognise a file or device elsewhere. Sizes in bytes, `mtime` in nanoseconds."""

    path: str
    size: int
    allocated: int
    mtime: int
    mode: int
    uid: int
    gid: int
    dev: int
    ino: int
    rdev: int | None
    """Device number of a block device; None for files."""
    kernel: str
    """Boot id: the same on two hosts only if they are one kernel's."""
    beacon: int | None = None
    wwid: str | None = None
    content: str | None = None
    """SHA-256 over size and all blocks that are not zero; None where it was not asked for or is too large."""


@dataclass
class _Beacon:
    fd: int
    position: int
    timer: asyncio.TimerHandle


_beacons: dict[tuple[int, int], _Beacon] = {}


async def identify(path: str, *, beacon: bool = False, content: bool = False) -> Identity:
    """Describe what `path` is here.

    Args:
        path: a file or a block device.
        beacon: also take a lock by which another host may recognise the file.
        content: also hash it, if it is not too large.

    Raises:
        OSError: it cannot be read.
    """
    found = await _stat(path)
    device = stat.S_ISBLK(found.st_mode)
    size = _device_size(path) if device else found.st_size
    allocated = size if device else found.st_blocks * 512
    return Identity(
        path=path,
        size=size,
        allocated=allocated,
        mtime=found.st_mtime_ns,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        dev=found.st_dev,
        ino=found.st_ino,
        rdev=found.st_rdev if device else None,
        kernel=boot_id(),
        beacon=_light(path, found) if beacon and not device else None,
        wwid=_wwid(found.st_rdev) if device else None,
        content=await content_hash(path) if content and not device and allocated <= LARGEST_HASHED else None,
    )


def is_same(theirs: Identity, path: str) -> bool:
    """Whether `path` on this host is the very file or device that was identified elsewhere."""
    try:
        here = Path(path).stat()
    except OSError:
        return False
    if stat.S_ISBLK(here.st_mode):
        if theirs.rdev is None:
            return False
        same_kernel = theirs.kernel == boot_id() and theirs.rdev == here.st_rdev
        return same_kernel or (theirs.wwid is not None and theirs.wwid == _wwid(here.st_rdev))
    if theirs.rdev is not None or not stat.S_ISREG(here.st_mode):
        return False
    if theirs.kernel == boot_id() and (theirs.dev, theirs.ino) == (here.st_dev, here.st_ino):
        return True
    return theirs.beacon is not None and _is_lit(path, theirs.beacon)


async def has_same_content(theirs: Identity, path: str) -> bool:
    """Whether `path` here is a file with exactly the same bytes; False where theirs were not hashed."""
    try:
        here = await _stat(path)
    except OSError:
        return False
    if theirs.content is None or not stat.S_ISREG(here.st_mode) or here.st_size != theirs.size:
        return False
    return await content_hash(path) == theirs.content


async def content_hash(path: str) -> str:
    """SHA-256 over the size and every block of 1 MiB that is not all zeros, with its place; holes are not read."""
    found = await _stat(path)
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if key not in _hashes:
        _hashes[key] = await asyncio.to_thread(_hash, path)
    return _hashes[key]


_hashes: dict[tuple[int, int, int, int, int], str] = {}


@lru_cache
def boot_id() -> str:
    """One value for each boot of each kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def _stat(path: str) -> os.stat_result:
    """In a thread: a network file system may take its time."""
    return await asyncio.to_thread(os.stat, path)


def _light(path: str, found: os.stat_result) -> int | None:
    """Take the beacon lock, or keep the one that is held; its position. None where locks are not supported."""
    key = (found.st_dev, found.st_ino)
    loop = asyncio.get_running_loop()
    timer = loop.call_later(BEACON_SECONDS, _put_out, key)
    if (held := _beacons.get(key)) is not None:
        held.timer.cancel()
        held.timer = timer
        return held.position
    position = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, position, 1, 0))
    except OSError as refused:
        timer.cancel()
        os.close(fd)
        if refused.errno in {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            return None
        raise
    _beacons[key] = _Beacon(fd, position, timer)
    return position


def forget(dev: int, ino: int) -> None:
    """Take a file's beacon down, if there is one: an open descriptor keeps a deleted file's room."""
    if (held := _beacons.get((dev, ino))) is not None:
        held.timer.cancel()
        _put_out((dev, ino))


def _put_out(key: tuple[int, int]) -> None:
    os.close(_beacons.pop(key).fd)


def _is_lit(path: str, position: int) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, position, 1, 0))
    except OSError as refused:
        if refused.errno in {errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            return False
        raise
    finally:
        os.close(fd)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _device_size(path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def _wwid(rdev: int) -> str | None:
    """Worldwide name of a block device, as the kernel tells it; None for devices that have none."""
    base = Path(f"/sys/dev/block/{os.major(rdev)}:{os.minor(rdev)}")
    for name in ("dm/uuid", "wwid", "device/wwid"):
        try:
            if told := (base / name).read_text().strip():
                return f"{name} {told}"
        except OSError:
            continue
    return None


def _hash(path: str) -> str:
    with Path(path).open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(size.to_bytes(8, "big"))
        zeros = bytes(_BLOCK)
        for place in _blocks(file.fileno(), size):
            block = os.pread(file.fileno(), _BLOCK, place)
            if block != zeros[: len(block)]:
                digest.update(place.to_bytes(8, "big"))
                digest.update(block)
    return digest.hexdigest()


def _blocks(fd: int, size: int) -> Iterator[int]:
    """Starts of the blocks that hold data."""
    place = 0
    while place < size:
        try:
            data = os.lseek(fd, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        place = max(place, data - data % _BLOCK)
        yield place
        place += _BLOCK
