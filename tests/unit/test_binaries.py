from dataclasses import replace
from pathlib import Path

import pytest

from limosa.destination.binaries import Binary, choose, look_at
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


def test_a_program_for_another_architecture_is_none_although_it_has_the_same_machines() -> None:
    small = replace(SAME, path="/usr/bin/qemu-system-i386", target="i386")
    assert choose([small, SAME], machine="pc-q35-10.0", version=(10, 0, 2)) == SAME
    assert choose([small, SAME], machine="pc-q35-10.0", version=(10, 0, 2), target="i386") == small
    with pytest.raises(Blocked, match="no QEMU for x86_64"):
        choose([small], machine="pc-q35-10.0", version=(10, 0, 2))


@pytest.mark.qemu
async def test_a_program_tells_what_it_emulates_whatever_its_name(tmp_path: Path) -> None:
    for name, target in (("qemu-system-x86_64", "x86_64"), ("qemu-system-i386", "i386")):
        (tmp_path / f"renamed-{target}").symlink_to(f"/usr/bin/{name}")
        found = await look_at(str(tmp_path / f"renamed-{target}"))
        assert found is not None
        assert found.target == target


def test_a_host_whose_qemus_do_not_know_the_machine_is_refused_with_what_it_has() -> None:
    with pytest.raises(Blocked, match=r"pc-q35-10\.0; it has /usr/bin/qemu \(7\.2\.22\)"):
        choose([OLD], machine="pc-q35-10.0", version=(10, 0, 2))
