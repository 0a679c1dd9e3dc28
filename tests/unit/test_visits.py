"""Who is let in to an agent's pages, for how long; and which requests of browsers are looked at."""

import pytest

from limosa.agent.browsers import from_own_page, name_of, of_a_page, only_here
from limosa.agent.visits import INVITED, LASTS, MOST, Visits


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_invitation_is_good_once_and_soon() -> None:
    clock = Clock()
    visits = Visits(clock)
    first, second = visits.invite("root"), visits.invite("root")
    session = visits.enter(first)
    assert session is not None
    assert visits.who(session) == "root"
    assert visits.enter(first) is None
    clock.now += INVITED
    assert visits.enter(second) is None


def test_an_invitation_is_no_session_and_a_session_no_invitation() -> None:
    visits = Visits()
    word = visits.invite("root")
    assert visits.who(word) is None
    session = visits.enter(word)
    assert session is not None
    assert visits.enter(session) is None


def test_a_session_ends_in_time_or_when_it_is_left() -> None:
    clock = Clock()
    visits = Visits(clock)
    kept, left = (visits.enter(visits.invite("root")) or "" for _ in range(2))
    visits.leave(left)
    assert [visits.who(kept), visits.who(left)] == ["root", None]
    clock.now += LASTS
    assert visits.who(kept) is None


def test_only_so_many_sessions_live_and_the_oldest_end() -> None:
    visits = Visits()
    words = [visits.enter(visits.invite(str(number))) or "" for number in range(MOST + 2)]
    assert [visits.who(word) for word in words[:3]] == [None, None, "2"]


@pytest.mark.parametrize(
    ("authority", "name", "here"),
    [
        ("localhost:8448", "localhost", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("[::1]:8448", "::1", True),
        ("limosa-agent", "limosa-agent", True),
        ("3f2a.localhost:80", "3f2a.localhost", True),
        ("", "", True),
        ("rebound.example", "rebound.example", False),
        ("192.0.2.1:8448", "192.0.2.1", False),
        ("[2001:db8::1]", "2001:db8::1", False),
        ("localhost.rebound.example", "localhost.rebound.example", False),
        ("user@rebound.example", "rebound.example", False),
    ],
)
def test_names_that_somebody_out_there_can_own_are_told_apart(authority: str, name: str, here: bool) -> None:
    assert name_of(authority) == name
    assert only_here(authority) is here


def test_what_a_browser_says_of_a_requests_origin() -> None:
    assert from_own_page({"Sec-Fetch-Site": "same-origin"})
    assert not from_own_page({"Sec-Fetch-Site": "same-site", "Origin": "http://a", "Host": "a"})
    assert from_own_page({"Origin": "http://a:1", "Host": "a:1"})
    assert not from_own_page({"Origin": "http://a:2", "Host": "a:1"})
    assert not from_own_page({"Origin": "null", "Host": "a:1"})
    assert not from_own_page({"Host": "a:1"})
    assert not of_a_page({"Sec-Fetch-Site": "none"})
    assert not of_a_page({})
    assert of_a_page({"Origin": "null"})
