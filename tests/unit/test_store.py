import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from limosa.errors import StateDiskError
from limosa.migration.store import SCHEMA, Held, OpenMove, Owner, Store, identity_of
from limosa.units import HostName, MoveId, Side

MOVE = MoveId("m1")


def opened(side: Side = Side.SOURCE) -> OpenMove:
    return OpenMove(id=MOVE, side=side, guest="web1", identity="u-1", peer=HostName("b"), baggage=b"{}", outcomes={})


def owner(epoch: int, state: Held = Held.HERE) -> Owner:
    return Owner(identity="u-1", epoch=epoch, state=state, move=MOVE, peer=HostName("b"), token="t")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    store = Store(path)
    store.open_move(opened())
    store.outcome(MOVE, {0: "made", 1: "running"})
    store.record_owner(owner(3))
    store.note(MOVE, (("file", "/srv/x"), ("tap", "tap0")))
    store.refuse(MOVE)
    store.say("u-1", "root", "b was switched off at its power supply")
    store.close()
    again = Store(path)
    (move,) = again.open_moves()
    assert move.outcomes == {0: "made", 1: "running"}
    assert again.owner("u-1") == owner(3)
    assert [(n.kind, n.name) for n in again.noted()] == [("file", "/srv/x"), ("tap", "tap0")]
    assert again.refused(MOVE)
    assert [words[1:] for words in again.statements("u-1")] == [("root", "b was switched off at its power supply")]


def test_a_closed_move_is_not_open_and_its_objects_are_struck(path: Path) -> None:
    store = Store(path)
    store.open_move(opened())
    store.note(MOVE, (("file", "/srv/x"),))
    store.strike(MOVE)
    store.close_move(MOVE, Side.SOURCE, "completed")
    assert store.open_moves() == ()
    assert store.noted() == ()
    assert store.is_known(MOVE, Side.SOURCE)
    assert not store.is_known(MOVE, Side.DESTINATION)


def test_both_sides_of_a_move_may_be_in_one_journal(path: Path) -> None:
    store = Store(path)
    store.open_move(opened(Side.SOURCE))
    store.open_move(opened(Side.DESTINATION))
    store.close_move(MOVE, Side.SOURCE, "completed")
    assert [m.side for m in store.open_moves()] == [Side.DESTINATION]


def test_an_epoch_never_goes_back(path: Path) -> None:
    store = Store(path)
    store.record_owner(owner(3))
    store.record_owner(owner(3, Held.GIVEN_UP))
    with pytest.raises(ValueError, match="epoch 3 already"):
        store.record_owner(owner(2))
    assert store.owner("u-1") == owner(3, Held.GIVEN_UP)


def test_a_full_state_disk_refuses_and_says_what_to_do(path: Path) -> None:
    store = Store(path)
    store.check()
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StateDiskError, match="full") as caught:
        store.open_move(
            OpenMove(
                id=MOVE,
                side=Side.SOURCE,
                guest="web1",
                identity="u-1",
                peer=HostName("b"),
                baggage=b"x" * 100_000,
                outcomes={},
            )
        )
    assert "make room" in caught.value.remedy
    assert store.open_moves() == ()


def test_a_read_only_journal_is_refused_in_words(path: Path) -> None:
    store = Store(path)
    store._db.execute("PRAGMA query_only=1")
    with pytest.raises(StateDiskError, match="cannot be written"):
        store.check()


def test_a_journal_of_a_newer_limosa_is_left_alone(path: Path) -> None:
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={len(SCHEMA) + 1}")
    with pytest.raises(StateDiskError, match="newer limosa"):
        Store(path)


def test_every_record_is_synchronised_to_the_disk(path: Path) -> None:
    store = Store(path)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize(
    ("uuid", "known_as"),
    [
        ("5b1f6f0c-0000-4000-8000-000000000001", "5b1f6f0c-0000-4000-8000-000000000001"),
        ("00000000-0000-0000-0000-000000000000", "name:web1"),
        ("", "name:web1"),
    ],
)
def test_a_guest_without_a_uuid_is_known_by_its_name(uuid: str, known_as: str) -> None:
    assert identity_of(uuid, "web1") == known_as


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], check=True)
    yield place
    while place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    with suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_move_in_flight_is_recorded_after_the_disk_filled_and_a_new_one_is_refused(small: Path) -> None:
    store = Store(small / "journal.db")
    store.check()
    store.open_move(opened())
    fill(small)
    store.outcome(MOVE, dict.fromkeys(range(40), "made"))
    store.record_owner(owner(2, Held.GIVEN_UP))
    assert store.owner("u-1") == owner(2, Held.GIVEN_UP)
    with pytest.raises(StateDiskError, match="cannot be written"):
        store.check()
    (small / "filler").unlink()
    store.check()


def test_a_journal_on_a_read_only_disk_is_read_and_written_as_soon_as_it_can_be(small: Path, tmp_path: Path) -> None:
    store = Store(small / "journal.db")
    store.open_move(opened())
    store.record_owner(owner(2))
    # Over itself, because a file that is open for writing keeps its own mount writable.
    subprocess.run(["mount", "--bind", str(small), str(small)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(small)], check=True)
    again = Store(small / "journal.db", tmp_path)
    assert again.owner("u-1") == owner(2)
    assert [move.id for move in again.open_moves()] == [MOVE]
    with pytest.raises(StateDiskError):
        again.record_owner(owner(3))
    subprocess.run(["umount", "-l", str(small)], check=True)
    again.record_owner(owner(3))
    again.close()
    assert store.owner("u-1") == owner(3)


def test_a_full_disk_without_a_journal_reads_as_an_empty_one(small: Path, tmp_path: Path) -> None:
    fill(small)
    store = Store(small / "journal.db", tmp_path)
    assert store.open_moves() == ()
    with pytest.raises(StateDiskError):
        store.check()
