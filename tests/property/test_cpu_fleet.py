"""Any fleet: what the rows of words say is what plain integers say, and orders are orders."""

from functools import reduce
from operator import and_

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from limosa.cpu import fleet as rows
from limosa.cpu.baseline import SETTABLE, common, nearest, value
from limosa.cpu.cost import Guest, admission, held_back, islands, pins, stranded
from limosa.cpu.flags import ALL, CpuFlags
from limosa.cpu.fleet import Hard, Host, fold, missing_counts, takers, within
from limosa.cpu.models import CpuModel, models, shut
from limosa.cpu.pools import order, pools
from limosa.cpu.registry import WIDTH

unhurried = settings(deadline=None)

MASKS = st.one_of(
    st.integers(0, ALL), st.integers(0, 15), st.builds(lambda flag: ALL ^ 1 << flag, st.integers(0, WIDTH - 1))
)
HARD = st.builds(Hard, st.sampled_from(["GenuineIntel", "AuthenticAMD"]), st.sampled_from([0, 39, 46]))
FLAGS = MASKS.map(CpuFlags)
KINDS = st.lists(st.tuples(MASKS, HARD), min_size=1, max_size=6)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Host, ...]:
    """Hosts of a few kinds, some of them equal."""
    kinds = draw(KINDS)
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=12))
    return tuple(Host(f"host-{number}", flags, hard) for number, (flags, hard) in enumerate(chosen))


def takes(there: Host, flags: int, hard: Hard) -> bool:
    """The rule in plain integers."""
    return there.flags & flags == flags and hard.within(there.hard)


@unhurried
@given(fleets())
def test_the_matrix_agrees_with_plain_integers(hosts: tuple[Host, ...]) -> None:
    fleet = fold(hosts)
    table = within(fleet)[np.ix_(fleet.class_of, fleet.class_of)]
    assert table.tolist() == [[takes(there, here.flags, here.hard) for there in hosts] for here in hosts]


@unhurried
@given(fleets(), MASKS, HARD)
def test_one_guest_against_all_agrees_with_plain_integers(hosts: tuple[Host, ...], guest: int, hard: Hard) -> None:
    fleet = fold(hosts)
    assert takers(fleet, guest, hard).tolist() == [takes(host, guest, hard) for host in hosts]
    assert takers(fleet, guest).tolist() == [host.flags & guest == guest for host in hosts]
    assert not takers(fleet, guest | 1 << 4096).any()


@unhurried
@given(fleets())
def test_missing_flags_are_counted_one_by_one(hosts: tuple[Host, ...]) -> None:
    kinds = fold(hosts).kinds
    counts = missing_counts(rows.pack([flags for flags, _ in kinds]))
    assert counts.tolist() == [[(here & ~there).bit_count() for there, _ in kinds] for here, _ in kinds]


@unhurried
@given(fleets())
def test_may_go_to_is_a_partial_order_of_the_classes(hosts: tuple[Host, ...]) -> None:
    table = within(fold(hosts))
    count = len(table)
    assert table.diagonal().all()
    assert not (table & table.T & ~np.eye(count, dtype=bool)).any()
    two_steps = (table.astype(int) @ table.astype(int)) > 0
    assert not (two_steps & ~table).any()


@unhurried
@given(fleets())
def test_a_baseline_runs_on_every_host_and_is_the_largest_that_does(hosts: tuple[Host, ...]) -> None:
    baseline = CpuFlags(rows.common(fold(hosts)))
    assert baseline == common(CpuFlags(host.flags) for host in hosts)
    fleet = fold(hosts)
    assert takers(fleet, baseline).all()
    for position in range(WIDTH):
        if not baseline >> position & 1:
            assert not takers(fleet, baseline | 1 << position).all()


@unhurried
@given(fleets())
def test_pools_partition_the_hosts_and_hold_equals(hosts: tuple[Host, ...]) -> None:
    found = pools(fold(hosts))
    assert sorted(name for pool in found for name in pool.hosts) == sorted(host.name for host in hosts)
    where = {name: pool for pool in found for name in pool.hosts}
    for host in hosts:
        assert (where[host.name].flags, where[host.name].hard) == (host.flags, host.hard)
    assert len({(pool.flags, pool.hard) for pool in found}) == len(found)


@unhurried
@given(fleets())
def test_the_lines_between_pools_say_the_whole_order_and_none_is_spare(hosts: tuple[Host, ...]) -> None:
    found = pools(fold(hosts))
    lines = {(line.lower, line.upper) for line in order(found)}
    below = {
        (low, high)
        for low, lower in enumerate(found)
        for high, upper in enumerate(found)
        if low != high and lower.flags & upper.flags == lower.flags and lower.hard.within(upper.hard)
    }
    assert closure(lines) == below
    for line in lines:
        assert closure(lines - {line}) != below


def closure(lines: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """All pairs that follow."""
    while True:
        more = lines | {(low, high) for low, middle in lines for other, high in lines if middle == other}
        if more == lines:
            return lines
        lines = more


@unhurried
@given(fleets(), MASKS)
def test_admitting_a_host_costs_what_it_lacks_of_the_baseline(group: tuple[Host, ...], flags: int) -> None:
    told = admission(Host("new", flags), group)
    assert told.before == reduce(and_, (host.flags for host in group))
    assert told.after == told.before & flags
    assert told.lost == told.before - told.after


@unhurried
@given(fleets())
def test_a_host_holds_back_what_the_others_have_without_it(group: tuple[Host, ...]) -> None:
    for name, gain in held_back(group):
        others = [host.flags for host in group if host.name != name]
        whole = reduce(and_, (host.flags for host in group))
        assert gain == (reduce(and_, others) & ~whole if others else 0)


@unhurried
@given(fleets(), st.lists(st.tuples(st.integers(0, 11), MASKS), max_size=6))
def test_a_host_is_stranded_when_none_of_its_guests_fits_elsewhere(
    hosts: tuple[Host, ...], drawn: list[tuple[int, int]]
) -> None:
    homes = [(number, hosts[place % len(hosts)], flags) for number, (place, flags) in enumerate(drawn)]
    guests = [Guest(f"guest-{number}", home.name, home.flags & flags, home.hard) for number, home, flags in homes]
    out = {
        guest.name: tuple(h.name for h in hosts if h.name != guest.host and takes(h, guest.flags, guest.hard))
        for guest in guests
    }
    free = {guest.name for guest in guests if all(takes(host, guest.flags, guest.hard) for host in hosts)}
    assert {pin.guest: pin.others for pin in pins(guests, hosts)} == {
        name: others for name, others in out.items() if name not in free
    }
    for found in stranded(guests, hosts):
        assert found.guests
    stuck = {guest.host for guest in guests} - {guest.host for guest in guests if out[guest.name] or guest.name in free}
    # A fleet of one host is left by nobody, but pins nobody either: there is nothing to be pinned against.
    assert {found.host for found in stranded(guests, hosts)} == (stuck if len(hosts) > 1 else set())


@unhurried
@given(fleets())
def test_an_island_is_a_host_whose_every_flag_no_other_has(hosts: tuple[Host, ...]) -> None:
    assert set(islands(fold(hosts))) == {
        host.name
        for host in hosts
        if not any(takes(other, host.flags, host.hard) for other in hosts if other.name != host.name)
    }


@unhurried
@given(FLAGS, FLAGS, st.sampled_from(models()))
def test_a_value_says_a_mask_exactly_from_any_model(wanted: CpuFlags, known: CpuFlags, model: CpuModel) -> None:
    for one in (value(model, wanted, known), nearest(wanted, known=known)[0]):
        assert not one.on & one.off
        assert (one.on | one.off) - (SETTABLE & known) == 0
        assert one.sees & known == (wanted - shut(wanted)) & SETTABLE & known
        assert not one.sees & shut(wanted)
