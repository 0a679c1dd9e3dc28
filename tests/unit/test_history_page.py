"""Reports as HTML: well formed, alone, and of the same numbers as the JSON."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limosa.history.canvas import milliseconds_text, seconds_text, ticks
from limosa.history.curves import progress_plot, rates_plot
from limosa.history.documents import Document, MoveDocument, OperationDocument, WeekDocument
from limosa.history.page import MOST_READINGS, WORDS, html, value_at
from limosa.history.timeline import moves_plot, pause_plot, stages_plot
from limosa.history.weeks import MILLISECONDS, Freed, causes, distribution, week_name, weeks
from limosa.migration.archive import past_move
from limosa.testing.moves import record
from limosa.units import GIB
from limosa.wire.fleet import Forecast, Item, ItemState, LeftGuest, Operation, OperationKind, Phase
from limosa.wire.history import LogLine, MoveLog, MoveRecord
from limosa.wire.moves import MoveState

NOW = 1_764_150_000.0
HOSTILE = '<script>alert("1")</script>&amp;"\'><img src=http://evil.example/x onerror=x>\u202eabc' + "w" * 200
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """What a page consists of; complains where an element is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.values: list[tuple[str, str, str]] = []
        self._open: list[str] = []
        self._value: list[Any] | None = None
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.elements.append((tag, told))
        if tag not in VOID:
            self._open.append(tag)
        if "data-of" in told:
            self._value = [told["data-of"], told.get("value") or told.get("data-value"), ""]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self._value is not None:
            self._value[2] += data

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if self._value is not None:
            self.values.append((self._value[0], self._value[1], self._value[2]))
            self._value = None


def move(**more: Any) -> MoveDocument:
    lines = tuple(
        LogLine(at=NOW + n / 10, host="ab"[n % 2], level="info", event="step made", facts={"step": "precopy"})
        for n in range(5)
    )
    return MoveDocument(record=record(**more), log=MoveLog(lines=lines, dropped=3, silent={"b": "b is silent"}))


def records(**more: Any) -> tuple[MoveRecord, ...]:
    states = [MoveState.COMPLETED, MoveState.FAILED, MoveState.COMPLETED]
    return tuple(record(f"m{n}", state=state, began=NOW + 3 * n, **more) for n, state in enumerate(states))


def operation(**more: Any) -> OperationDocument:
    moves = records(**more)
    past = [past_move(each) for each in moves]
    items = tuple(
        Item(
            guest=each.status.uuid,
            name=each.status.guest,
            source=each.status.source,
            destination=each.status.destination,
            state=ItemState.DONE,
            move=each.status.id,
            blackout_ms=past_move(each).blackout_ms,
            bytes=3 * GIB,
            said=each.status.guest,
        )
        for each in moves
    )
    told = Operation(
        id="drain-1",
        kind=OperationKind.DRAIN,
        hosts=(moves[0].status.source,),
        who="ada",
        why=moves[0].status.guest,
        created=NOW,
        phase=Phase.PARTLY,
        items=items,
        left=(LeftGuest(guest="g", name=moves[0].status.guest, host="a", why="it is pinned", hosts={"b": "no"}),),
        forecast=Forecast(bytes=9 * GIB, seconds=120.0),
        began=NOW,
        ended=NOW + 60,
    )
    pauses = [each.blackout_ms for each in past if each.blackout_ms is not None]
    return OperationDocument(
        operation=told, records=moves, causes=causes(past), blackout_ms=distribution(pauses, MILLISECONDS)
    )


def week(**more: Any) -> WeekDocument:
    past = tuple(past_move(each) for each in records(**more))
    freed = [
        Freed(host="c", operation="consolidate-1", since=NOW - 90_000, until=None, watts=180.0, price_per_hour=0.2),
        Freed(host="d", operation="consolidate-1", since=NOW - 900, until=None, watts=0.0, price_per_hour=0.0),
    ]
    (one,) = weeks(past, freed, [week_name(NOW)], NOW + 60)
    return WeekDocument(week=one, moves=past)


def empty_week() -> WeekDocument:
    (one,) = weeks((), (), ["2026-W01"], NOW)
    return WeekDocument(week=one, moves=())


DOCUMENTS = {
    "move": move(),
    "failed move": move(state=MoveState.FAILED),
    "move in flight": MoveDocument(
        record=msgspec.structs.replace(record(), ended=None, pause=None), log=MoveLog(lines=())
    ),
    "operation": operation(),
    "week": week(),
    "empty week": empty_week(),
}
ALL = pytest.mark.parametrize("document", list(DOCUMENTS.values()), ids=list(DOCUMENTS))


@ALL
def test_every_number_of_a_page_is_that_of_its_json(document: Document) -> None:
    told = msgspec.json.decode(msgspec.json.encode(document))
    page = Page(html(document, made=NOW))
    assert page.values
    for path, value, text in page.values:
        meant = value_at(told, path)
        assert float(value) == meant, path
        assert text in {words(meant) for words in WORDS.values() if _takes(words, meant)}, path


def _takes(words: Any, value: Any) -> bool:
    try:
        words(value)
    except (ValueError, OverflowError):
        return False
    return True


@ALL
def test_a_page_stands_alone_and_needs_no_script(document: Document) -> None:
    text = html(document, made=NOW)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "base"} == set()
    named = {name for _, told in page.elements for name in told}
    assert not {name for name in named if name.startswith("on") or name in {"src", "href", "style"}}


@ALL
def test_a_reader_who_does_not_see_finds_names_descriptions_and_heads(document: Document) -> None:
    page = Page(html(document, made=NOW))
    ids = [told["id"] for _, told in page.elements if "id" in told]
    assert len(ids) == len(set(ids))
    for tag, told in page.elements:
        if tag == "svg":
            assert told["role"] == "img"
            assert set(str(told["aria-labelledby"]).split()) <= set(ids)
        if tag == "th":
            assert told.get("scope") in {"row", "col"}
        if told.get("tabindex") == "0":
            assert told["aria-label"]
    assert [tag for tag, _ in page.elements].count("h1") == 1


@pytest.mark.parametrize("make", [move, operation, week])
def test_hostile_names_appear_as_text(make: Any) -> None:
    text = html(make(guest=HOSTILE, source=HOSTILE, what=HOSTILE), made=NOW)
    page = Page(text)
    assert {tag for tag, _ in page.elements} & {"script", "img"} == set()
    assert "&lt;script&gt;" in text
    outside = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "\u202e" not in outside
    assert r"\u202e" in outside


def plots(one: MoveRecord) -> Iterator[str]:
    yield stages_plot(one)
    yield moves_plot([one, one])
    if one.pause is not None:
        yield pause_plot(one.pause)
    if one.series:
        yield rates_plot(one)
        yield progress_plot(one)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.sampled_from([MoveState.COMPLETED, MoveState.FAILED, MoveState.BLOCKED]),
    st.floats(0.01, 8000.0),
)
def test_plots_are_well_formed_whatever_is_drawn(name: str, state: MoveState, blackout: float) -> None:
    for plot in plots(record(guest=name, destination=name, state=state, blackout_ms=blackout)):
        root = ET.fromstring(plot)
        assert root.find("title") is not None
        assert root.find("desc") is not None
        for element in root.iter():
            for name_of, value in element.attrib.items():
                if name_of in {"x", "y", "width", "height"}:
                    assert float(value) >= 0


def test_a_long_series_is_a_short_table_that_begins_and_ends_with_it() -> None:
    one = record()
    many = tuple(float(n) for n in range(300))
    ram = msgspec.structs.replace(
        one.series[0], at=many, done=tuple(range(300)), sent=tuple(range(300)), rate=many, dirty_rate=many
    )
    page = Page(html(MoveDocument(record=msgspec.structs.replace(one, series=(ram,)), log=MoveLog(lines=())), made=NOW))
    shown = [path for path, _, _ in page.values if path.startswith("record.series.0.at.")]
    assert len(shown) == MOST_READINGS
    assert (shown[0], shown[-1]) == ("record.series.0.at.0", "record.series.0.at.299")


@given(st.floats(1e-6, 1e12), st.booleans())
def test_the_marks_of_an_axis_are_few_even_and_within_it(high: float, binary: bool) -> None:
    marks = ticks(high, 5, binary=binary)
    assert 2 <= len(marks) <= 12
    assert marks[0] == 0
    assert marks[-1] <= high * (1 + 1e-6)


def test_times_are_written_as_people_say_them() -> None:
    said = [seconds_text(s) for s in (0.0, 0.25, 12.4, 119.6, 200, 7200, 3900 * 2)]
    assert said == ["0 s", "0.25 s", "12 s", "2 min", "3 min 20 s", "2 h", "2 h 10 min"]
    assert [milliseconds_text(ms) for ms in (0.25, 60.0, 1234.0)] == ["0.25 ms", "60 ms", "1.23 s"]
