import re
from importlib.resources import files
from pathlib import Path

import pytest

from limosa.web import words
from limosa.web.links import address, path, within


def test_times_are_said_as_a_reader_would() -> None:
    told = {
        3: "just now",
        12: "12 s ago",
        90: "1 min ago",
        3700: "1 h ago",
        30 * 3600: "30 h ago",
        3 * 86400: "3 d ago",
        -300: "in 5 min",
    }
    assert {seconds: words.ago(seconds) for seconds in told} == told


def test_lengths_of_time_have_their_units() -> None:
    told = {0.408: "0.41 s", 3.21: "3.2 s", 12.4: "12 s", 200: "3 min 20 s", 7500: "2 h 05 min", 273600: "3 d 4 h"}
    assert {seconds: words.lasting(seconds) for seconds in told} == told
    assert words.lasting(None) == words.NONE


def test_a_time_has_the_exact_one_beside_it() -> None:
    shown = words.moment(1_700_000_000.0, 1_700_000_240.0)
    assert shown == words.Moment("2023-11-14T22:13:20+00:00", "2023-11-14 22:13:20 UTC", "4 min ago")


def test_addresses_hold_what_is_asked_and_nothing_empty() -> None:
    assert address("/guests", {"q": "a b", "page": "3"}, page="", sort="-name") == "/guests?q=a+b&sort=-name"
    assert address("/guests", {}) == "/guests"
    assert path("guests", "../<x>/é") == "/guests/..%2F%3Cx%3E%2F%C3%A9"


def test_only_addresses_of_this_site_are_followed() -> None:
    assert within("/hosts?state=active#top") == "/hosts?state=active#top"
    for bad in ("", "hosts", "//x", "/\\x", "http://x", "/a\nb", "/\t/x", "/a b"):
        assert within(bad) == "/"


def test_what_is_counted_agrees_in_number() -> None:
    assert [words.count(number, "host") for number in (0, 1, 2, 1204)] == [
        "0 hosts",
        "1 host",
        "2 hosts",
        "1,204 hosts",
    ]
    assert [words.count(number, "move is", "moves are") for number in (1, 2)] == ["1 move is", "2 moves are"]


COUNTED = re.compile(
    r"\{[^{}\"']*\} (?:hosts|guests|moves|owners|tokens|flags|hooks|lines|events"
    r"|operations|days|steps|pools|tries|times)\b"
)
"""A number beside a word that is right for many of them only, in an f-string or a template."""
SEVERAL = {"are called", "are in flight", "could be meant", "hosts, and", "There are", "WIDTH"}
"""Said only where there are several, or after `of`."""


@pytest.mark.parametrize("part", ["web", "cli", "fleet", "api", "history"])
def test_no_page_counts_past_the_helper(part: str) -> None:
    top = files("limosa").joinpath(part)
    assert isinstance(top, Path)
    for each in (*top.rglob("*.py"), *top.rglob("*.html")):
        for number, line in enumerate(each.read_text().splitlines(), 1):
            if COUNTED.search(line) and '"""' not in line:
                assert any(word in line for word in SEVERAL), f"{each.name}:{number}: {line.strip()}"
