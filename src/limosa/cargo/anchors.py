"""Files that a QEMU can no longer find under the name it knows.

With `-daemonize` QEMU changes its working directory to `/` after it has opened its images. When it gives an image
up at the end of a migration it opens it once more, read-only, by the name it was given (block/file-posix.c,
raw_reconfigure_getfd, unless auto-read-only is off). A relative name leads nowhere then, and the migration fails
with "Bad address", whoever drives it. An *anchor* is a symbolic link in the place where QEMU will look, for the time
of the move.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from limosa.cargo.identity import Identity
from limosa.errors import MoveFailed
from limosa.units import Side


def anchor_for(name: str, identity: Identity) -> str | None:
    """Where QEMU will look for an image in vain; None where it will find it.

    Args:
        name: the image's name as QEMU tells it (`query-named-block-nodes`, `file`).
        identity: the image.
    """
    if Path(name).is_absolute() or name.startswith("json:") or identity.rdev is not None:
        return None
    for directory in _directories_of_users(identity):
        place = directory / name
        if not _is(place, identity):
            return str(place)
    return None


def put(place: str, target: str) -> None:
    """Make the link. Repeating it changes nothing.

    Raises:
        MoveFailed: something else is there, or it cannot be made.
    """
    try:
        Path(place).symlink_to(target)
    except FileExistsError:
        if not _is_ours(Path(place), target):
            raise _cannot(place, target, "another file is there") from None
    except OSError as refused:
        raise _cannot(place, target, refused.strerror) from refused


def take(place: str, target: str) -> None:
    """Undo `put`; safe if it never happened."""
    if _is_ours(Path(place), target):
        Path(place).unlink(missing_ok=True)


def _directories_of_users(identity: Identity) -> Iterator[Path]:
    """Working directories of the processes that write to the file, as this process sees them."""
    for process in Path("/proc").glob("[0-9]*"):
        if any(_is(fd, identity) and _writes(process, fd.name) for fd in _entries(process / "fd")):
            try:
                yield (process / "cwd").readlink()
            except OSError:
                continue  # it ended just now


def _writes(process: Path, fd: str) -> bool:
    """Whether a descriptor is open for writing; an agent that looks at the image has it open too."""
    try:
        words = (process / "fdinfo" / fd).read_text().split()
    except OSError:
        return False  # it was closed just now
    return int(words[words.index("flags:") + 1], 8) & os.O_ACCMODE == os.O_RDWR


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []  # it ended just now, or is not ours to look into


def _is(path: Path, identity: Identity) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (identity.dev, identity.ino)


def _is_ours(place: Path, target: str) -> bool:
    return place.is_symlink() and str(place.readlink()) == target


def _cannot(place: str, target: str, why: str | None) -> MoveFailed:
    return MoveFailed(
        f"QEMU will look for {target} at {place}, and no link can be made there: {why}",
        guest_runs=Side.SOURCE,
        remedy="start the guest with absolute names: with -daemonize QEMU loses relative ones",
    )
