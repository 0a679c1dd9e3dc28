"""What differs in the parts of a page, applied to what was shown before, gives what is shown now."""

import re
from html import escape
from importlib.resources import files

from hypothesis import given
from hypothesis import strategies as st

from limosa.web.difference import Difference, Placed, Slot, changed_slots, difference

WORDS = st.text(st.sampled_from("ab<>&\"' \u202e"), min_size=1, max_size=4)
Row = tuple[str, str, str, bool]
ROWS = st.lists(
    st.tuples(st.sampled_from("abcdefghijkl"), WORDS, WORDS, st.booleans()), max_size=12, unique_by=lambda r: r[0]
)


def html(row: Row) -> str:
    name, title, said, marked = row
    mark = "<i>!</i>" if marked else ""
    return f'<tr id="{name}" title="{escape(title)}"><td>{mark}<b class="x">{escape(said)}</b></td></tr>'


def attributed(tag: str, element: int, values: dict[tuple[int, str], str]) -> str:
    return re.sub(r'([\w-]+)="([^"]*)"', lambda found: f'{found[1]}="{values.get((element, found[1]), found[2])}"', tag)


def filled(part: str, slots: tuple[Slot, ...]) -> str:
    """As a page does it: attributes by element, texts by their own places."""
    values = {(slot.place, slot.attribute): escape(slot.value) for slot in slots}
    element, text, found = -1, -1, []
    for token in re.findall(r"<[^>]*>|[^<]+", part):
        if not token.startswith("<"):
            text += 1
            found.append(values.get((text, ""), token))
        else:
            element += not token.startswith("</")
            found.append(attributed(token, element, values))
    return "".join(found)


def applied(told: Difference, parts: dict[str, str], run: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    parts = {name: part for name, part in parts.items() if name not in told.gone} | told.drawn
    order = [name for name in run if name in parts]
    for name, after, before in told.placed:
        if name in order:
            order.remove(name)
        order.insert(order.index(after) + 1 if after else order.index(before), name)
    for name, slots in told.slots.items():
        parts[name] = filled(parts[name], slots)
    return parts, order


@given(ROWS, ROWS)
def test_applied_to_what_was_it_gives_what_is(old: list[Row], new: list[Row]) -> None:
    before, after = ({row[0]: html(row) for row in rows} for rows in (old, new))
    told = difference(before, [tuple(before)], after, [tuple(after)])
    if told is None:
        assert not set(before) & set(after)
        return
    parts, order = applied(told, before, tuple(before))
    assert order == list(after)
    assert parts == after


@given(ROWS, st.data())
def test_only_rows_that_have_to_are_placed_anew(rows: list[Row], data: st.DataObject) -> None:
    before = {row[0]: html(row) for row in rows}
    if len(before) < 2:
        return
    moved = data.draw(st.sampled_from(sorted(before)))
    rest = [name for name in before if name != moved]
    at = data.draw(st.integers(0, len(rest)))
    after = {name: before[name] for name in [*rest[:at], moved, *rest[at:]]}
    told = difference(before, [tuple(before)], after, [tuple(after)])
    assert told is not None
    assert len(told.placed) <= 1
    assert not told.drawn
    assert not told.slots


def test_a_row_goes_from_one_group_of_a_table_to_another() -> None:
    parts = {name: html((name, "t", "x", False)) for name in "abcd"}
    told = difference(parts, [("a", "b"), ("c", "d")], parts, [("a",), ("b", "c", "d")])
    assert told == Difference(placed=(Placed("b", "", "c"),))


def test_other_tags_or_other_attributes_are_drawn_again() -> None:
    part = '<p id="a"><b>1</b></p>'
    for other in ('<p id="a"><i>1</i></p>', '<p id="a" title=""><b>1</b></p>', '<p id="a"><b></b></p>'):
        assert changed_slots(part, other) is None
        assert changed_slots(other, part) is None


def test_what_a_time_says_is_left_to_the_page() -> None:
    before, after = (f'<p><time datetime="{at}">{at} s</time> {at}</p>' for at in (1, 2))
    assert changed_slots(before, after) == (Slot(1, "datetime", "2"), Slot(1, "", " 2"))


def test_parts_hold_nothing_that_scripts_or_visitors_change() -> None:
    for template in files("limosa.web").joinpath("templates").iterdir():
        for part in re.findall(r"<!--part:.*?<!--end-->", template.read_text(), re.DOTALL):
            assert not re.search(r"hx-|<details|<input|data-plot", part), template.name
