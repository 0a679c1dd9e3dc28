"""Whether two paths are one file; beacons, devices and contents."""

import asyncio
import fcntl
import os
from pathlib import Path

import msgspec
import pytest

from limosa.cargo.identity import content_hash, has_same_content, identify, is_same


async def test_a_beacon_is_seen_through_another_name_of_the_same_file_only(tmp_path: Path) -> None:
    image, copy = tmp_path / "image", tmp_path / "copy"
    image.write_bytes(b"data")
    copy.write_bytes(b"data")
    (tmp_path / "link").hardlink_to(image)
    told = await identify(str(image), beacon=True)
    # As another kernel would say it: inode numbers prove nothing then.
    elsewhere = msgspec.structs.replace(told, kernel="another", dev=0, ino=0)
    assert is_same(elsewhere, str(tmp_path / "link"))
    assert not is_same(elsewhere, str(copy))
    assert not is_same(elsewhere, str(tmp_path / "missing"))


async def test_a_beacon_writes_nothing_and_is_kept_for_the_next_question(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"data")
    before = image.stat()
    first = await identify(str(image), beacon=True)
    second = await identify(str(image), beacon=True)
    assert first.beacon == second.beacon
    assert (before.st_mtime_ns, before.st_ctime_ns) == (image.stat().st_mtime_ns, image.stat().st_ctime_ns)
    assert os.listdir(tmp_path) == ["image"]  # noqa: PTH208  # names only


async def test_a_lock_elsewhere_in_the_file_is_no_beacon(tmp_path: Path) -> None:
    image, other = tmp_path / "image", tmp_path / "other"
    image.write_bytes(b"data")
    other.write_bytes(b"data")
    told = await identify(str(image), beacon=True)
    with other.open("rb") as file:
        fcntl.lockf(file, fcntl.LOCK_SH, 200, 100)  # where QEMU has its own locks
        assert not is_same(msgspec.structs.replace(told, kernel="another"), str(other))


async def test_on_one_kernel_the_inode_decides(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"data")
    told = await identify(str(image))
    assert told.beacon is None
    (tmp_path / "link").symlink_to(image)
    assert is_same(told, str(tmp_path / "link"))
    assert not is_same(msgspec.structs.replace(told, kernel="another"), str(image))


async def test_content_is_compared_and_not_its_holes(tmp_path: Path) -> None:
    sparse, full, other = tmp_path / "sparse", tmp_path / "full", tmp_path / "other"
    content = bytes(3 << 20) + b"x" + bytes(2 << 20)
    with sparse.open("wb") as file:
        file.truncate(len(content))
        file.seek(3 << 20)
        file.write(b"x")
    full.write_bytes(content)
    other.write_bytes(content + b"\0")
    told = await identify(str(sparse), content=True)
    assert await has_same_content(told, str(full))
    assert not await has_same_content(told, str(other))
    assert not await has_same_content(msgspec.structs.replace(told, content=None), str(full))
    full.write_bytes(bytes(len(content)))
    assert not await has_same_content(told, str(full))


async def test_an_empty_file_and_a_hole_have_contents_too(tmp_path: Path) -> None:
    empty, hole = tmp_path / "empty", tmp_path / "hole"
    empty.touch()
    with hole.open("wb") as file:
        file.truncate(5 << 20)
    assert await content_hash(str(empty)) != await content_hash(str(hole))


async def test_an_identity_survives_the_wire(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"data")
    told = await identify(str(image), beacon=True, content=True)
    assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)) == told


async def test_a_missing_file_is_an_error_here_and_no_match_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await identify(str(tmp_path / "missing"))


@pytest.fixture(autouse=True)
async def beacons_out() -> object:
    """Beacons burn for minutes; a test's loop does not."""
    yield
    from limosa.cargo import identity

    for key, beacon in list(identity._beacons.items()):
        beacon.timer.cancel()
        identity._put_out(key)
    await asyncio.sleep(0)
