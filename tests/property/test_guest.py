"""What holds for any block graph, any two machines and any value on a command line."""

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from limosa.guest.blockgraph import NODE_NAME_LIMIT, Edges, stable_names
from limosa.guest.cmdline import escape, split
from limosa.guest.compare import MISSING, compare
from limosa.guest.profile import Profile, QemuBuild
from limosa.guest.qtree import parse_qtree
from limosa.testing.profiles import bare_profile

NAME = st.text("ab#-0", min_size=1, max_size=40)
VALUE = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["auto", "on", ""])
SEEN = st.dictionaries(
    st.sampled_from(["pci.0/01.0", "pci.0/02.0", "cpu"]), st.dictionaries(st.sampled_from("abcd"), VALUE), max_size=3
)


def profile(seen: dict[str, dict[str, Any]], micro: int) -> Profile:
    return bare_profile(qemu=QemuBuild(version=(10, 0, micro), package="", binary="q"), guest_visible=seen)


@given(live=st.lists(NAME, unique=True, max_size=8), roots=st.dictionaries(NAME, NAME, max_size=4), data=st.data())
def test_stable_names_are_all_different_and_qemu_takes_them(
    live: list[str], roots: dict[str, str], data: st.DataObject
) -> None:
    children: dict[str, dict[str, str]] = {}
    for index, name in enumerate(live):
        if index and data.draw(st.booleans()):
            children.setdefault(live[index - 1], {})["file"] = name
    names = stable_names(live, Edges(children, roots, frozenset()))
    assert names.keys() >= set(live)
    assert len(set(names.values())) == len(names)
    for old, new in names.items():
        if old.startswith("#"):
            assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", new)
            assert len(new) <= NODE_NAME_LIMIT
        else:
            assert new == old


@given(here=SEEN, there=SEEN, newer=st.booleans())
def test_a_comparison_sees_the_same_from_either_side(
    here: dict[str, dict[str, Any]], there: dict[str, dict[str, Any]], newer: bool
) -> None:
    one, other = profile(here, 1), profile(there, 2 if newer else 1)
    forth = {(d.where, d.name, repr(d.source), repr(d.twin)) for d in compare(one, other).guest_visible}
    back = {(d.where, d.name, repr(d.twin), repr(d.source)) for d in compare(other, one).guest_visible}
    assert forth == back
    assert compare(one, one).guest_visible == ()


@given(here=SEEN, there=SEEN)
def test_a_device_that_only_one_side_has_is_never_overlooked(
    here: dict[str, dict[str, Any]], there: dict[str, dict[str, Any]]
) -> None:
    found = compare(profile(here, 1), profile(there, 2)).guest_visible
    lonely = {d.where for d in found if MISSING in (d.source, d.twin) and d.name == "driver"}
    assert lonely >= here.keys() ^ there.keys()


@given(pairs=st.lists(st.tuples(st.text("ab-", min_size=1), st.text("ab,=x", min_size=1)), min_size=1, max_size=4))
def test_escaped_values_are_read_back_as_they_were(pairs: list[tuple[str, str]]) -> None:
    assert split(",".join(f"{name}={escape(value)}" for name, value in pairs)) == tuple(pairs)


@given(
    lines=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["bus: b", 'dev: d, id ""', "x = 1 (0x1)", "note"])))
)
def test_any_text_in_the_shape_of_a_tree_is_read_without_a_fall(lines: list[tuple[int, str]]) -> None:
    level, text = 0, ["bus: main-system-bus"]
    for wish, body in lines:
        level = min(wish, level)
        text.append("  " * (2 * level + 1) + 'dev: d, id ""')
        text.append("  " * (2 * level + 2) + body.replace('dev: d, id ""', "bus: c"))
        level += body.startswith(("bus", "dev"))
    assert len(parse_qtree("\n".join(text))) == 1
