import pytest

from limosa.destination.binaries import Binary, choose
from limosa.errors import Blocked

OLD = Binary("/usr/bin/qemu", (7, 2, 22), frozenset({"pc-q35-7.2"}))
SAME = Binary("/opt/ten/qemu", (10, 0, 2), frozenset({"pc-q35-7.2", "pc-q35-10.0"}))
NEWER = Binary("/opt/eleven/qemu", (11, 0, 0), frozenset({"pc-q35-7.2", "pc-q35-10.0"}))


def test_the_sources_own_version_is_taken_where_it_is() -> None:
    assert choose([OLD, NEWER, SAME], machine="pc-q35-7.2", version=(10, 0, 2)) == SAME


def test_else_the_nearest_newer_one() -> None:
    assert choose([OLD, NEWER, SAME], machine="pc-q35-7.2", version=(8, 0, 0)) == SAME


def test_else_the_newest_older_one_that_knows_the_machine() -> None:
    assert choose([OLD, SAME], machine="pc-q35-7.2", version=(12, 0, 0)) == SAME


def test_a_host_whose_qemus_do_not_know_the_machine_is_refused_with_what_it_has() -> None:
    with pytest.raises(Blocked, match=r"pc-q35-10\.0; it has /usr/bin/qemu \(7\.2\.22\)"):
        choose([OLD], machine="pc-q35-10.0", version=(10, 0, 2))
