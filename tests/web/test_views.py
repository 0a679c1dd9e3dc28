"""What pages show, without a page: views of small fleets, operations and moves."""

import json

import msgspec
import pytest

from limosa.fleet.inventory import HostState, Inventory, Limits
from limosa.fleet.operations.planning import fits
from limosa.fleet.simulated.moves import SimulatedMove
from limosa.fleet.simulated.records import log, record
from limosa.history.weeks import weeks
from limosa.migration.archive import past_move
from limosa.testing.fleets import guest, host
from limosa.web import words
from limosa.web.look import Look
from limosa.web.views import cpu, fleet, history, hosts, move, search
from limosa.web.views import guest as guest_view
from limosa.web.views import guests as guests_view
from limosa.web.views import host as host_view
from limosa.web.views.operations import OperationPage, clock, operation_page
from limosa.web.views.states import of_host, of_item, of_move, of_phase
from limosa.wire.fleet import (
    Event,
    FleetGuest,
    FleetHost,
    Forecast,
    GuestRules,
    HostSettings,
    Item,
    ItemState,
    LeftGuest,
    Operation,
    OperationKind,
    Phase,
)
from limosa.wire.history import HistoryPage
from limosa.wire.moves import MoveState

NOW = 1_700_000_000.0


def look(*, lost: bool = False) -> Look:
    """Three hosts of two processors, the last one empty, or silent; g0 and g1 on the first, g2 on the second."""
    known = Inventory(
        hosts=(
            host(0, 8, kind=1),
            host(1, 16, kind=2),
            host(2, 16, kind=2, state=HostState.LOST if lost else HostState.ACTIVE),
        ),
        guests=(guest(0, 0, 4, load=3.0), guest(1, 0, 2), guest(2, 1, 4, kind=2, blocked=("vfio-pci: a device",))),
        limits=Limits(),
    )
    shown = tuple(
        FleetHost(
            name=each.name,
            state="active",
            reason="",
            settings=HostSettings(rack=each.rack),
            silent_for=100.0 if lost and each.name == "h2" else 0.0,
            trouble="",
            guests=len(known.on(each.name)),
            cores=each.cores,
            memory=each.memory,
        )
        for each in known.hosts
    )
    guests = tuple(
        FleetGuest(
            id=each.uuid,
            name=each.name,
            host=each.host,
            state="running",
            memory=each.memory,
            vcpus=each.vcpus,
            disk=0,
            load=each.load,
            epoch=0,
            blocked=each.blocked,
            rules=GuestRules(),
            home=None,
            silent_for=0.0,
        )
        for each in known.guests
    )
    return Look(hosts=shown, guests=guests, inventory=known, at=NOW)


def test_a_tile_says_load_state_and_pool_in_words_too() -> None:
    shown = fleet.fleet_map(look(lost=True), (), {})
    tiles = {tile.name: tile for group in shown.groups for tile in group.tiles}
    # 3 cores of g0, and all 2 of g1, which nobody measured, on 8.
    assert (tiles["h0"].figure, tiles["h0"].level) == ("62%", "l3")
    assert "load 62 %" in tiles["h0"].told
    assert "pool" in tiles["h0"].told
    assert (tiles["h2"].sign.word, tiles["h2"].sign.tone) == ("silent", "bad")
    assert [group.title for group in shown.groups] == ["r0", "r1"]


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        ({"group": "state"}, ["active", "silent"]),
        ({"group": "pool"}, ["pool 1", "pool 2"]),
        ({"state": "silent"}, ["r0"]),
        ({"by": "nonsense", "group": "<b>"}, ["r0", "r1"]),
    ],
)
def test_the_map_is_as_its_address_asks(query: dict[str, str], groups: list[str]) -> None:
    assert [group.title for group in fleet.fleet_map(look(lost=True), (), query).groups] == groups


def test_hosts_are_filtered_by_pool_and_found_by_rack() -> None:
    pool = look().pool_of["h1"]
    assert [row.name for row in hosts.hosts(look(), {"pool": str(pool)}).table.rows] == ["h1", "h2"]
    assert [row.name for row in hosts.hosts(look(), {"q": "R1"}).table.rows] == ["h1"]
    assert [row.name for row in hosts.hosts(look(), {"sort": "load"}).table.rows] == ["h0", "h1", "h2"]


def test_guests_whose_bars_look_the_same_have_the_same_bar() -> None:
    there = look()
    close = [msgspec.structs.replace(there.guests[0], load=4 * share) for share in (0.30001, 0.30002)]
    first, second = map(guests_view.guest_row, close)
    assert first == second
    assert (first.load, first.load_said) == (0.3, "30 %")


def test_a_host_says_how_many_guests_could_come_and_what_keeps_the_others_away() -> None:
    could = host_view.takes_in(look().inventory, "h0", NOW)
    assert (could.could, could.others) == (0, 1)
    against = ("they cannot be moved at all", "its processor lacks what they see", "not enough vCPUs left")
    assert dict(could.refused) == dict.fromkeys(against, 1)
    assert host_view.takes_in(look().inventory, "h2", NOW).could == 2
    assert host_view.takes_in(look().inventory, "nobody", NOW).others == 0


def test_a_guests_page_counts_reasons_over_hosts() -> None:
    there = look()
    shown = guest_view.guest_page(there.guests[2], fits(there.inventory, "g2"), (), {"fits": "no"}, NOW)
    assert (shown.fitting, shown.hosts, len(shown.fits.rows)) == (0, 2, 2)
    assert shown.reasons[0] == ("vfio-pci: a device", 2)
    assert all(row.move == "" for row in shown.fits.rows)


def test_a_guests_past_is_told_in_sentences() -> None:
    there = look()
    events = (
        Event(number=2, at=NOW, kind="audit", subject="g2", body={"name": "g2", "two owners": "h0, h1"}),
        Event(
            number=1, at=NOW, kind="guest.moved", subject="g2", body={"from": "h1", "to": "h0", "operation": "drain-1"}
        ),
    )
    shown = guest_view.guest_page(there.guests[2], (), events, {}, NOW)
    assert [(past.what, past.href) for past in shown.past] == [
        ("h0, h1 each said that they own it", ""),
        ("moved from h1 to h0", "/operations/drain-1"),
    ]


def test_pools_count_who_takes_whose_guests_and_a_flag_says_who_has_it() -> None:
    shown = cpu.cpu(look(), {"flag": "AVX2"})
    assert [(row.number, row.takes, row.leaves) for row in shown.pools] == [
        (1, "0 others", "2 others"),
        (2, "2 others", "1 other"),
    ]
    assert shown.flag
    told = (shown.flag.hosts_with, shown.flag.hosts_without, shown.flag.guests)
    assert told == ("2 hosts have", "1 host lacks", "1 guest sees")
    assert cpu.cpu(look(), {"flag": "warp"}).unknown == "warp"
    assert shown.flags == ("avx2",)


def operation(*states: ItemState, phase: Phase = Phase.RUNNING, began: float | None = NOW - 100) -> Operation:
    items = tuple(
        Item(
            guest=f"id-{place}",
            name=f"g{place}",
            source="a",
            destination="b",
            state=state,
            expected_bytes=1000 * (place + 1),
            began=NOW - 90,
            ended=NOW - 10 if state is ItemState.DONE else None,
        )
        for place, state in enumerate(states)
    )
    return Operation(
        id="drain-1",
        kind=OperationKind.DRAIN,
        hosts=("a",),
        who="night",
        why="fans",
        created=NOW - 200,
        phase=phase,
        items=items,
        left=(
            LeftGuest(
                guest="x", name="stuck", host="a", why="pinned", hosts={"b": "pinned", "c": "pinned", "d": "cpu"}
            ),
        ),
        forecast=Forecast(seconds=300.0),
        began=began,
    )


def test_the_end_is_reckoned_from_what_was_sent_so_far() -> None:
    # A tenth of the bytes went in 100 s: 1000 s in all, where 300 were predicted.
    now = clock(operation(ItemState.DONE, ItemState.MOVING, ItemState.WAITING, ItemState.WAITING), NOW)
    assert now.expected_end == words.moment(NOW + 900, NOW)
    assert (now.verdict, now.tone) == ("11 min 40 s later", "warn")
    assert clock(operation(ItemState.WAITING), NOW).expected_end is None
    assert clock(operation(ItemState.WAITING, began=None), NOW).predicted_end is None


def test_what_may_be_done_follows_from_the_phase() -> None:
    deeds = {
        phase: [deed.name for deed in operation_page(operation(phase=phase), Limits(), 3, {}, NOW).deeds]
        for phase in Phase
    }
    assert deeds == {
        Phase.PLANNED: ["approve", "cancel"],
        Phase.RUNNING: ["pause", "cancel"],
        Phase.PAUSED: ["resume", "cancel"],
        Phase.CANCELLING: [],
        Phase.DONE: [],
        Phase.PARTLY: [],
        Phase.CANCELLED: [],
    }


def test_the_moves_of_an_operation_have_the_columns_that_say_something_at_its_stage() -> None:
    def heads(shown: OperationPage) -> list[str]:
        return [head.title for head in shown.items.heads]

    def page(*states: ItemState, attempts: int = 0, **more: object) -> OperationPage:
        told = operation(*states, **more)  # type: ignore[arg-type]
        items = tuple(msgspec.structs.replace(each, attempts=attempts, role="leave") for each in told.items)
        return operation_page(msgspec.structs.replace(told, items=items), Limits(), 3, {}, NOW)

    where = ["#", "Guest", "From", "To"]
    assert heads(page(ItemState.WAITING, phase=Phase.PLANNED)) == [*where, "Why", "To send"]
    assert heads(page(ItemState.WAITING)) == [*where, "State", "Why", "To send"]
    moving = page(ItemState.MOVING, ItemState.WAITING, attempts=1)
    assert heads(moving) == [*where, "State", "Attempts", "Began"]
    done = page(ItemState.MOVING, ItemState.DONE, attempts=1)
    assert heads(done) == [*where, "State", "Attempts", "Began", "Took"]
    assert [row.took for row in done.items.rows] == [words.NONE, "1 min 20 s"]
    assert done.shown == {"place", "name", "from", "to", "state", "attempts", "began", "took"}


def test_hosts_that_say_the_same_of_a_guest_that_stays_are_put_together() -> None:
    (left,) = operation_page(operation(), Limits(), 3, {}, NOW).left
    assert left.reasons == (("pinned", "2 hosts: b, c"), ("cpu", "1 host: d"))


def test_every_state_has_a_sign_of_its_own_beside_its_colour() -> None:
    phases = [of_phase(operation(phase=phase)) for phase in Phase]
    items = [of_item(Item(guest="", name="", source="", destination="", state=state)) for state in ItemState]
    moves = [of_move(state) for state in MoveState]
    for signs in (phases, items, moves):
        assert all(sign.sign and sign.word for sign in signs)
    some = look().hosts[0]
    drawn = {of_host(msgspec.structs.replace(some, state=state)).sign for state in HostState}
    assert len(drawn) == len(HostState)


def a_move(**changes: object) -> SimulatedMove:
    told = {
        "id": "m1",
        "guest": guest(0, 0, 4),
        "destination": "h1",
        "began": NOW,
        "operation": "drain-1",
        "rate": 1e9,
        "fails": False,
    }
    return SimulatedMove(**{**told, **changes})  # type: ignore[arg-type]


def test_a_move_in_flight_shows_its_stage_its_copies_and_where_the_guest_runs() -> None:
    one, at = a_move(), NOW + 4
    shown = move.move_page(record(one, at), log(one, "h0", at), at)
    assert {stage.name: stage.phase for stage in shown.stages}["copy"] == "now"
    assert [(row.item, row.said) for row in shown.copies] == [("RAM", "33 %")]
    assert (shown.moving, shown.pause_plot, shown.failure) == (True, "", None)
    assert "g0 runs on h0, the source" in shown.runs
    rates = json.loads(shown.rates)
    assert {len(column) for column in rates["data"]} == {len(rates["data"][0])}


def test_a_move_that_is_over_has_its_pause_beside_what_was_predicted() -> None:
    one, at = a_move(), NOW + 60
    shown = move.move_page(record(one, at), log(one, "h1", at), at)
    pause = next(row for row in shown.compared if row.what.startswith("pause, from STOP"))
    assert (pause.predicted, pause.measured) == ("90 ms", shown.blackout)
    assert {row.phase for row in shown.stages} == {"past"}
    assert "<svg" in shown.pause_plot
    assert [line.host for line in shown.log] == ["h1"] * len(shown.log) != []


def test_a_move_that_failed_says_so_in_three_lines() -> None:
    one, at = a_move(fails=True), NOW + 60
    shown = move.move_page(record(one, at), log(one, "h0", at), at)
    assert shown.failure
    assert "broke off" in shown.failure.what
    assert "g0 runs on h0" in shown.failure.where
    assert "move it again" in shown.failure.remedy
    assert next(stage for stage in shown.stages if stage.phase == "failed").name == "copy"


def test_history_adds_a_week_up_and_leads_to_each_move() -> None:
    ends = [past_move(record(a_move(id=f"m{n}", fails=n == 3), NOW + 60)) for n in range(4)]
    (week,) = weeks(ends, (), ["2023-W46"], NOW + 100)
    shown = history.past((week,), week, HistoryPage(tuple(ends), "m3"), {"outcome": "failed"}, NOW + 100)
    assert dict(shown.facts)["moves"] == "4, 3 completed"
    assert [(row.href, row.sign.word) for row in shown.rows][-1] == ("/moves/m3", "failed")
    assert shown.next == "/history?outcome=failed&after=m3"
    assert [choice.title for choice in shown.outcomes if choice.chosen] == ["failed"]


def test_a_search_puts_the_exact_name_first_and_finds_ids_by_their_beginning() -> None:
    there = look()
    assert search.the_one(search.search(there, (), "H1")) == "/hosts/h1"
    by_id = search.search(there, (), "00000000-0000")
    assert [kind.title for kind in by_id.kinds] == ["Guests"]
    assert search.the_one(by_id) == ""
    assert [kind.title for kind in search.search(there, (operation(),), "drain").kinds] == ["Operations"]
