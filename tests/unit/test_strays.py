import os
from pathlib import Path

from limosa.agent.holders import Holders, holders, networked
from limosa.agent.strays import Journals, directories, noted, tagged_files
from limosa.migration.store import Noted
from limosa.units import MoveId, Side
from limosa.wire.doctor import Standing

NONE = Journals(frozenset(), {})
BACK = Journals(frozenset({"m2"}), {("m1", Side.DESTINATION): "rolled back", ("m3", Side.SOURCE): "completed"})


def touch(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def test_a_half_built_image_is_a_stray_and_one_set_aside_is_not(tmp_path: Path) -> None:
    touch(tmp_path / ".x.raw.limosa-m1")
    touch(tmp_path / "y.raw.limosa-m3")
    touch(tmp_path / ".hidden.limosa-m3")
    touch(tmp_path / "plain.raw")
    things, old = tagged_files([tmp_path], BACK, Holders())
    assert [(Path(t.name).name, t.kind, t.standing) for t in things] == [(".x.raw.limosa-m1", "file", Standing.CLOSED)]
    assert [Path(image.path).name for image in old] == [".hidden.limosa-m3", "y.raw.limosa-m3"]


def test_an_image_goes_with_its_second_name_only_if_its_move_is_known_to_be_rolled_back(tmp_path: Path) -> None:
    image = touch(tmp_path / "x.raw")
    os.link(image, tmp_path / ".x.raw.limosa-m1")
    for journals, doubtful in ((BACK, False), (NONE, True)):
        things, _ = tagged_files([tmp_path], journals, Holders())
        assert [(thing.kind, bool(thing.doubt)) for thing in things] == [("image", doubtful), ("file", False)]


def test_directories_belong_to_the_move_in_their_name(tmp_path: Path) -> None:
    for name in ("moves/m1-in", "moves/m2-out", "guests/m9", "moves/else"):
        (tmp_path / name).mkdir(parents=True)
    found = {Path(thing.name).name: thing.standing for thing in directories(tmp_path, BACK, Holders())}
    assert found == {"m1-in": Standing.CLOSED, "m2-out": Standing.OPEN, "m9": Standing.UNKNOWN}


def test_what_is_open_is_held_whatever_its_name(tmp_path: Path) -> None:
    file = touch(tmp_path / "x")
    os.link(file, tmp_path / "y")
    with file.open("rb"):
        held = holders()
    assert str(os.getpid()) in held.of_file(tmp_path / "y")
    assert str(os.getpid()) in held.of_directory(tmp_path)
    assert holders().of_file(file) == ""
    assert not networked(file)


def test_the_ledger_tells_of_files_without_a_tag_but_proves_nothing_of_them(tmp_path: Path) -> None:
    file, full, empty = touch(tmp_path / "x"), tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    touch(full / "y")
    ledger = [Noted(move=MoveId("m1"), kind="file", name=str(file))]
    ledger += [Noted(move=MoveId("m1"), kind="directory", name=str(path)) for path in (full, empty)]
    ledger += [Noted(move=MoveId("m1"), kind="file", name=str(tmp_path / "gone"))]
    found = {Path(thing.name).name: thing.doubt for thing in noted(ledger, (), BACK, Holders())}
    assert found == {
        "x": "it may be a guest's image: it carries no move's name",
        "full": "it is not empty",
        "empty": "",
    }
