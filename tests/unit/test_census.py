"""The fleet in memory: what came, changed and went is found, and nothing else; what stays the same stays one value."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from limosa.fleet import picture
from limosa.fleet.census import Census, GuestText, KeptGuest, KeptHost, Said
from limosa.fleet.inventory import HostState, Limits
from limosa.testing.fleet import guest, machine
from limosa.units import GuestName
from limosa.wire.fleet import GuestRules, HostSettings
from limosa.wire.reports import GuestReport


def text(report: GuestReport, seen: float = 1.0) -> GuestText:
    return GuestText(report.key, msgspec.json.encode(report).decode(), seen)


def put(census: Census, host: str, *guests: GuestText) -> None:
    kept = KeptHost(
        name=host, state=HostState.ACTIVE, reason="", settings=HostSettings(), machine=None, seen=1.0, trouble=""
    )
    census.put_host(kept, msgspec.json.encode(machine(host)).decode(), guests)


def seen(guests: tuple[KeptGuest, ...]) -> list[tuple[str, str, float | None]]:
    return [(each.host, each.report.shown.name, each.report.load) for each in guests]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3)))))
def test_after_any_reports_it_knows_what_each_host_said_last(reports: list[tuple[str, dict[str, int]]]) -> None:
    census, told = Census(), dict[str, dict[str, int]]()
    for host, guests in reports:
        told[host] = guests
        changed = (msgspec.structs.replace(guest(name, host), load=float(load)) for name, load in guests.items())
        put(census, host, *map(text, changed))
    expected = sorted(
        (guest(name, host).key, host, name, float(load))
        for host, guests in told.items()
        for name, load in guests.items()
    )
    assert seen(census.guests()) == [(host, name, load) for _, host, name, load in expected]
    assert [host.name for host in census.hosts()] == sorted(told)
    for name in "xyz":
        key = guest(name, "a").key
        anywhere = {host for host, guests in told.items() if name in guests}
        assert {each.host for each in census.reports_of(key)} == anywhere
        assert census.called(name) == census.called(key) == ({key} if anywhere else frozenset())
    for host, guests in told.items():
        assert census.claimed_by(host) == len(guests) == len(census.on(host))


def test_a_guest_that_was_renamed_is_found_by_its_new_name_only() -> None:
    census, old = Census(), guest("old", "a")
    put(census, "a", text(old))
    put(census, "a", text(msgspec.structs.replace(old, shown=msgspec.structs.replace(old.shown, name="new"))))
    assert (census.called("old"), census.called("new")) == (frozenset(), frozenset({old.key}))


def test_what_has_not_changed_stays_the_same_value_and_a_processor_outlives_a_new_load() -> None:
    census, idle, busy = Census(), guest("idle", "a"), guest("busy", "a")
    put(census, "a", text(idle), text(busy))
    before = {each.report.shown.name: each for each in census.guests()}
    put(census, "a", text(idle), text(msgspec.structs.replace(busy, load=1.5)))
    after = {each.report.shown.name: each for each in census.guests()}
    assert after["idle"] is before["idle"]
    assert after["busy"].report.load == 1.5
    assert after["busy"].report.cpu is before["busy"].report.cpu


def test_what_operators_say_holds_for_a_guest_wherever_it_is_and_before_it_was_seen() -> None:
    census, said = Census(), Said(rules=GuestRules(priority=5), home="c")
    put(census, "a", text(guest("x", "a")))
    census.put_said(guest("x", "a").key, said)
    put(census, "b", text(guest("x", "b")))
    assert [(each.rules.priority, each.home) for each in census.guests()] == [(5, "c"), (5, "c")]


def test_a_drawn_guest_is_drawn_again_only_when_it_changed() -> None:
    census, drawn = Census(), picture.Drawn()
    put(census, "a", text(guest("x", "a")), text(guest("y", "a")))
    first = {each.name: each for each in drawn.all(census.guests())}
    put(census, "a", text(guest("x", "a")), text(guest("y", "a", epoch=7)))
    second = {each.name: each for each in drawn.all(census.guests())}
    assert second[GuestName("x")] is first[GuestName("x")]
    assert second[GuestName("y")].epoch == 7


def test_a_guest_that_two_hosts_claim_is_shown_with_both_and_planned_nowhere() -> None:
    census = Census()
    put(census, "a", text(guest("x", "a", epoch=3)))
    put(census, "b", text(guest("x", "b", epoch=3)))
    (shown,) = picture.shown_guests(census, now=1.0)
    assert shown.owners == ("a", "b")
    (planned,) = picture.inventory(census, Limits(), 1.0, picture.Drawn()).guests
    assert planned.blocked == ("a and b each say that they own it",)


def test_a_source_that_has_not_told_yet_that_it_gave_a_guest_up_is_no_second_owner() -> None:
    census = Census()
    put(census, "a", text(guest("x", "a", epoch=3)))
    put(census, "b", text(guest("x", "b", epoch=4)))
    (shown,) = picture.shown_guests(census, now=1.0)
    assert (shown.host, shown.owners) == ("b", ())


@given(st.sets(st.integers(0, 40)), st.integers(1, 7))
def test_pages_put_together_are_the_whole_list(numbers: set[int], limit: int) -> None:
    census = Census()
    put(census, "a", *(text(guest(f"g{number}", "a")) for number in numbers))
    after, found = "", list[str]()
    while page := picture.shown_from(census, after, limit, now=1.0):
        assert len(page) <= limit
        found += [picture.cursor_of(each) for each in page]
        after = found[-1]
    assert found == sorted(picture.cursor_of(each) for each in picture.shown_guests(census, now=1.0))
    assert len(found) == len(numbers)
