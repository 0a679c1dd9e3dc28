"""Making image files at a destination, and taking them away again.

A file that was there before is never overwritten, nor removed by an undo. Therefore a new image is built
under a second name in the same directory, which carries the move's id, and then linked to its real name;
link(2) fails if that exists. As long as both names are one file, the file is ours and may be undone, also
by an agent that has restarted since; giving up the second name makes the image permanent.
"""

import asyncio
import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from limosa.errors import Blocked, LimosaError
from limosa.units import MoveId

INFO_SECONDS = 10.0
"""How long `qemu-img info` may take to reach a volume."""


class NewImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be made. `size` is the exact virtual size in bytes; for raw files the exact length."""

    path: str
    format: str
    size: int
    options: dict[str, str] = {}
    """Creation options of `qemu-img create -o`."""
    backing: str | None = None
    backing_format: str | None = None
    mode: int = 0o600
    uid: int = 0
    gid: int = 0


def has_qemu_img() -> bool:
    """Whether this host can make images that are not raw."""
    return _qemu_img() is not None


def _qemu_img() -> str | None:
    return os.environ.get("LIMOSA_QEMU_IMG") or shutil.which("qemu-img")


def qemu_img() -> str:
    """The qemu-img of this host.

    Raises:
        Blocked: there is none.
    """
    found = _qemu_img()
    if found is None:
        raise Blocked("this host has no qemu-img", remedy="install it (Debian: qemu-utils), or set LIMOSA_QEMU_IMG")
    return found


def second_name(path: str, move: MoveId | str) -> Path:
    """The name under which an image of this move is built."""
    return Path(path).with_name(f".{Path(path).name}.limosa-{move}")


async def create(image: NewImage, move: MoveId) -> None:
    """Make an image file. Repeating it for the same move changes nothing.

    Raises:
        Blocked: another file has this name.
        LimosaError: it could not be made.
    """
    ours = second_name(image.path, move)
    if is_ours(image.path, move):
        return
    try:
        ours.unlink(missing_ok=True)
        os.close(os.open(ours, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        if image.format == "raw":
            os.truncate(ours, image.size)
        else:
            await qemu_img_create(image, str(ours))
        _give_away(ours, image)
        os.link(ours, image.path)
    except FileExistsError as taken:
        ours.unlink(missing_ok=True)
        raise Blocked(
            f"{image.path} exists at the destination", remedy="remove it there, or choose another with --map"
        ) from taken
    except OSError as refused:
        raise _cannot_create(image, refused) from refused


def is_ours(path: str, move: MoveId | str) -> bool:
    """Whether the file at `path` was made for this move and is not permanent yet."""
    ours = second_name(path, move)
    with contextlib.suppress(FileNotFoundError):
        return ours.samefile(path)
    return False


def remove(path: str, move: MoveId) -> None:
    """Undo `create`: remove the image if it was made for this move; anything else is left alone."""
    if is_ours(path, move):
        Path(path).unlink(missing_ok=True)
    second_name(path, move).unlink(missing_ok=True)


def make_permanent(path: str, move: MoveId) -> None:
    """Give up the second name: from here on an undo no longer removes the image."""
    second_name(path, move).unlink(missing_ok=True)


async def qemu_img_create(image: NewImage, path: str) -> None:
    """Write an empty image of this form to an existing file or device.

    Raises:
        LimosaError: qemu-img refused.
    """
    options = [f"{name}={value}" for name, value in sorted(image.options.items())]
    if image.backing is not None:
        options += [f"backing_file={_escaped(image.backing)}", f"backing_fmt={image.backing_format or 'raw'}"]
    chosen = ["-o", ",".join(options)] if options else []
    # -u: a backing file is not opened; it was checked before, and may be in use.
    unsafe = ["-u"] if image.backing is not None else []
    await run(qemu_img(), "create", "-q", "-f", image.format, *unsafe, *chosen, path, str(image.size))


async def info(filename: str, *, timeout: float = INFO_SECONDS) -> Mapping[str, Any]:
    """`qemu-img info` of a path, URI or `json:` description; takes no lock.

    Raises:
        LimosaError: it cannot be opened, or not in time.
    """
    out = await run(qemu_img(), "info", "--force-share", "--output=json", filename, timeout=timeout)
    told: Mapping[str, Any] = json.loads(out)
    return told


async def run(*argv: str, timeout: float = 60.0) -> str:
    """Run a program to its end; its standard output.

    Raises:
        LimosaError: it failed, or took longer than `timeout` seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
    except TimeoutError as late:
        raise LimosaError(f"{Path(argv[0]).name} {argv[1]} did not end within {timeout:.0f} s") from late
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = err.decode(errors="replace").strip()
        raise LimosaError(
            f"{Path(argv[0]).name} {argv[1]} failed: {words.splitlines()[-1] if words else ''}", detail=words
        )
    return out.decode()


def _give_away(path: Path, image: NewImage) -> None:
    path.chmod(image.mode)
    if os.geteuid() == 0:
        os.chown(path, image.uid, image.gid)


def _escaped(value: str) -> str:
    return value.replace(",", ",,")


def _cannot_create(image: NewImage, refused: OSError) -> LimosaError:
    if refused.errno in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
        remedy = "the file system there has no hard links; choose another directory with --map"
    else:
        remedy = "make room or permit it there, or choose another directory with --map"
    return LimosaError(f"cannot create {image.path}: {refused.strerror}", remedy=remedy)
