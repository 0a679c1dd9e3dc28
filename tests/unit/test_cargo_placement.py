"""Where a disk comes to lie at the destination."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from limosa.cargo import images, placement
from limosa.cargo.identity import Identity
from limosa.cargo.kind import HostFacts
from limosa.cargo.placement import LOSE_BITMAPS, LOSE_SNAPSHOTS, How, PlacedDisk, SourceDisk
from limosa.errors import Blocked
from limosa.units import MIB, MoveId
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

MOVE = MoveId("m1")


def identity(path: str, **changes: Any) -> Identity:
    fields: dict[str, Any] = {
        "path": path,
        "size": MIB,
        "allocated": 4096,
        "mtime": 0,
        "mode": 0o640,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "dev": 1,
        "ino": 1,
        "rdev": None,
        "kernel": "another",
    }
    return Identity(**(fields | changes))


def disk(path: str = "/nowhere/vda.raw", **changes: Any) -> SourceDisk:
    fields: dict[str, Any] = {
        "item": Path(path).stem,
        "root": "d0",
        "live": "#block1",
        "top": "d0",
        "protocol": "d0-file",
        "format": "raw",
        "size": MIB,
        "allocated": 4096,
        "own": 4096,
        "identity": identity(path),
        "options": {},
        "backing": (),
        "backing_nodes": (),
        "backing_formats": (),
        "snapshots": (),
        "bitmaps": (),
        "encrypted": False,
        "data_file": False,
        "passed_through": False,
    }
    return SourceDisk(**(fields | changes))


def place(
    *disks: SourceDisk, storage: tuple[Path, ...] = (), maps: dict[str, str] | None = None
) -> tuple[tuple[PlacedDisk, ...], tuple[Finding, ...]]:
    host = HostFacts(
        name="b",
        migration_address="",
        state_dir="/s",
        run_dir="/r",
        machine_id="b",
        storage=tuple(map(str, storage)),
    )
    request = MoveRequest(guest="web1", to="b", maps=maps or {})
    return asyncio.run(placement.place(disks, "web1", host, request, MOVE))


def blocks(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.what for finding in findings if finding.severity is Severity.BLOCKS]


def test_the_old_path_is_kept_where_it_is_usable(tmp_path: Path) -> None:
    (placed,), findings = place(disk(str(tmp_path / "vda.raw")))
    assert (placed.how, placed.path) == (How.COPIED, str(tmp_path / "vda.raw"))
    assert placed.new is not None
    assert (placed.new.size, placed.new.mode) == (MIB, 0o640)
    assert not blocks(findings)
    assert [*tmp_path.iterdir()] == []


def test_without_the_old_directory_the_first_storage_with_a_free_name_is_taken(tmp_path: Path) -> None:
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    fast.mkdir()
    slow.mkdir()
    (fast / "vda.raw").touch()
    (placed,), _ = place(disk(), storage=(tmp_path / "missing", fast, slow))
    assert placed.path == str(fast / "web1-vda.raw")


def test_two_disks_never_get_one_name(tmp_path: Path) -> None:
    first, second = disk("/nowhere/one/disk.raw"), disk("/nowhere/two/disk.raw", root="d1")
    placed, findings = place(first, second, storage=(tmp_path,))
    assert [found.path for found in placed] == [str(tmp_path / "disk.raw"), str(tmp_path / "web1-disk.raw")]
    _, findings = place(first, second, maps={"/nowhere/one": str(tmp_path), "/nowhere/two": str(tmp_path)})
    assert len(blocks(findings)) == 1


def test_without_any_directory_it_blocks_and_says_what_would_help() -> None:
    placed, findings = place(disk())
    assert placed == ()
    assert blocks(findings) == ["there is no directory /nowhere here for vda"]
    assert "--map /nowhere/vda.raw=NEW" in findings[0].remedy


def test_a_map_to_a_directory_keeps_the_name(tmp_path: Path) -> None:
    (placed,), _ = place(disk(), maps={"/nowhere/vda.raw": str(tmp_path)})
    assert placed.path == str(tmp_path / "vda.raw")


def test_a_name_left_by_the_same_move_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / f".vda.raw.limosa-{MOVE}").touch()
    _, findings = place(disk(str(tmp_path / "vda.raw")))
    assert len(blocks(findings)) == 1


def test_a_block_device_needs_to_be_told_where_to_go(tmp_path: Path) -> None:
    source = disk("/dev/vg/web1", identity=identity("/dev/vg/web1", rdev=64769))
    _, findings = place(source)
    assert "not the same device here" in blocks(findings)[0]
    (placed,), findings = place(source, maps={"/dev/vg/web1": str(tmp_path / "web1.raw")})
    assert placed.how is How.COPIED
    assert placed.new is not None
    assert placed.new.mode == 0o600


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encrypted": True}, "encrypted"),
        ({"data_file": True}, "external data file"),
        ({"passed_through": True}, "speaks SCSI"),
        ({"format": "vmdk"}, "vmdk"),
    ],
)
def test_what_cannot_be_copied_blocks_for_good(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    placed, findings = place(disk(str(tmp_path / "vda.raw"), **changes))
    assert placed == ()
    (finding,) = (finding for finding in findings if finding.severity is Severity.BLOCKS)
    assert words in finding.what
    assert finding.consent is None


def test_what_would_be_lost_blocks_until_told(tmp_path: Path) -> None:
    placed, findings = place(disk(str(tmp_path / "vda.raw"), snapshots=("s1",), bitmaps=("b1",)))
    assert len(placed) == 1
    assert {finding.consent for finding in findings} == {LOSE_SNAPSHOTS, LOSE_BITMAPS, None}


def test_room_is_counted_for_all_disks_of_one_file_system(tmp_path: Path) -> None:
    free = placement.free_bytes(tmp_path)
    half = free * 2 // 3
    one, two = (disk(str(tmp_path / name), root=name, allocated=half, size=half) for name in ("a", "b"))
    assert blocks(place(one)[1]) == []
    (what,) = blocks(place(one, two)[1])
    assert "the disks hold" in what


def test_a_thin_disk_larger_than_the_room_is_a_warning(tmp_path: Path) -> None:
    _, findings = place(disk(str(tmp_path / "vda.raw"), size=1 << 60))
    assert [finding.severity for finding in findings] == [Severity.NOTE, Severity.WARNING]


def image(path: Path, **changes: Any) -> images.NewImage:
    fields: dict[str, Any] = {"path": str(path), "format": "raw", "size": 1000, "uid": os.getuid(), "gid": os.getgid()}
    return images.NewImage(**(fields | changes))


def test_an_image_is_made_whole_or_not_at_all_and_undone_only_if_ours(tmp_path: Path) -> None:
    path = tmp_path / "vda.raw"
    for _ in range(2):
        asyncio.run(images.create(image(path), MOVE))
    assert path.stat().st_size == 1000
    assert images.is_ours(str(path), MOVE)
    assert not images.is_ours(str(path), "another")
    images.remove(str(path), MoveId("another"))
    assert path.exists()
    images.remove(str(path), MOVE)
    images.remove(str(path), MOVE)
    assert [*tmp_path.iterdir()] == []


def test_a_permanent_image_is_never_undone(tmp_path: Path) -> None:
    path = tmp_path / "vda.raw"
    asyncio.run(images.create(image(path), MOVE))
    images.make_permanent(str(path), MOVE)
    images.remove(str(path), MOVE)
    assert [found.name for found in tmp_path.iterdir()] == ["vda.raw"]


def test_somebody_elses_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "vda.raw"
    path.write_text("precious")
    with pytest.raises(Blocked):
        asyncio.run(images.create(image(path), MOVE))
    images.remove(str(path), MOVE)
    assert path.read_text() == "precious"
    assert len([*tmp_path.iterdir()]) == 1


def test_a_leftover_of_an_interrupted_making_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "vda.raw"
    images.second_name(str(path), MOVE).write_text("half")
    asyncio.run(images.create(image(path), MOVE))
    assert path.stat().st_size == 1000
