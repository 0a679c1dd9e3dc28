"""What each of many moves may send, so that links, racks and the fleet keep their limits."""

from collections import defaultdict

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from limosa.fleet.bandwidth import Gate, Way, capacity, gates, shares
from limosa.fleet.inventory import Limits
from limosa.testing.fleets import host
from limosa.units import BytesPerSecond

HOSTS = {f"h{number}": host(number, 8) for number in range(4)}
"""Links of 1 GB/s; h0 and h2 are in rack r0, the others in r1."""

rates = st.floats(1e6, 1e10).map(BytesPerSecond)
ways = st.tuples(st.sampled_from(sorted(HOSTS)), st.sampled_from(sorted(HOSTS))).map(lambda ends: Way(*ends))


@given(
    st.lists(ways, max_size=12),
    st.none() | rates,
    st.none() | rates,
    st.dictionaries(st.sampled_from(("r0", "r1")), rates),
    st.floats(0.1, 1.0),
)
def test_no_gate_is_ever_overfull_and_no_move_is_starved(
    moves: list[Way],
    total: BytesPerSecond | None,
    each_rack: BytesPerSecond | None,
    racks: dict[str, BytesPerSecond],
    share: float,
) -> None:
    limits = Limits(bandwidth=total, rack_bandwidth=each_rack, racks=racks, link_share=share)
    sent = defaultdict[Gate, float](float)
    for move, rate in zip(moves, shares(limits, HOSTS, moves), strict=True):
        assert rate is not None
        assert rate > 0
        for gate in gates(limits, HOSTS[move.source], HOSTS[move.destination]):
            sent[gate] += rate
    for gate, all_of_them in sent.items():
        most = capacity(limits, HOSTS, gate)
        assert most is not None
        assert all_of_them <= most * (1 + 1e-9)


def test_a_move_alone_gets_the_narrowest_of_what_it_crosses() -> None:
    limits = Limits(link_share=0.5, racks={"r1": BytesPerSecond(2e8)}, bandwidth=BytesPerSecond(3e8))
    assert shares(limits, HOSTS, [Way("h0", "h2")]) == (3e8,)
    assert shares(limits, HOSTS, [Way("h0", "h1")]) == (2e8,)


def test_a_racks_own_limit_goes_before_that_of_all_racks_and_moves_within_it_do_not_count() -> None:
    limits = Limits(rack_bandwidth=BytesPerSecond(1e8), racks={"r0": BytesPerSecond(4e8), "r1": BytesPerSecond(3e8)})
    across, within = Way("h0", "h1"), Way("h1", "h3")
    assert shares(limits, HOSTS, [across, across, within]) == (1.5e8, 1.5e8, 8e8)


def test_where_nothing_is_known_nothing_is_limited() -> None:
    unknown = {name: msgspec.structs.replace(each, link=None) for name, each in HOSTS.items()}
    assert shares(Limits(), unknown, [Way("h0", "h1")]) == (None,)
    assert shares(Limits(), {}, [Way("h0", "h1")]) == (None,)
    assert shares(Limits(bandwidth=BytesPerSecond(1e6)), {}, [Way("h0", "h1")] * 2) == (5e5, 5e5)
