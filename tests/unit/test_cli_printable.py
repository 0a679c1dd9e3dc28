import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limosa.cli.failure import three_lines
from limosa.cli.printable import left, printable, right, width
from limosa.cli.table import pairs, table
from limosa.errors import Blocked

HOSTILE = "web\x1b]0;owned\x07\u202e\u2028\r\n1"


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert printable(shown) == shown


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"])))
def test_words_of_any_language_stay_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_a_hostile_name_is_written_out_on_one_line() -> None:
    assert printable(HOSTILE) == r"web\x1b]0;owned\x07\u202e\u2028\r\n1"
    assert table(("NAME",), [(HOSTILE,)]).count("\n") == 1
    assert "\x1b" not in pairs([(HOSTILE, HOSTILE)])
    said = three_lines(Blocked(HOSTILE, remedy=HOSTILE, detail=HOSTILE))
    assert "\x1b" not in said
    assert len([line for line in said.splitlines() if not line.startswith("    |")]) == 3


@pytest.mark.parametrize(("text", "columns"), [("web1", 4), ("データ", 6), ("e\u0301", 1), ("", 0)])
def test_a_text_is_as_wide_as_it_is_drawn(text: str, columns: int) -> None:
    assert width(text) == columns
    assert width(left(text, 8)) == width(right(text, 8)) == 8


def test_columns_stand_under_their_heads_beside_wide_letters() -> None:
    assert table(("NAME", "ON"), [("データ", "a"), ("web1", "b")]).splitlines() == [
        "NAME    ON",
        "データ  a",
        "web1    b",
    ]
