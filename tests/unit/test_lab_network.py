"""What the lab tells ip, tc and nft."""

import pytest

from limosa.errors import UsageError
from limosa.lab import network
from limosa.lab.network import Addresses, Link
from limosa.lab.state import host_names, lab_name


def test_each_host_has_an_address_on_each_network() -> None:
    assert network.addresses(0) == Addresses("10.66.0.11", "10.67.0.11", "10.68.0.11")
    assert network.addresses(25).guest == "10.66.0.36"


def test_interface_names_fit_into_fifteen_characters() -> None:
    assert all(len(network.port(host, link)) <= 15 for host in host_names(26) for link in Link)


def test_all_hardware_addresses_differ_and_are_locally_administered() -> None:
    found = [network.mac(number, index) for number in range(5) for index in range(26)]
    assert len(set(found)) == len(found)
    assert all(int(address[:2], 16) & 3 == 2 for address in found)


def test_a_cable_joins_a_host_to_its_bridge() -> None:
    assert network.cable_batch("b", 1, 77)[3:6] == [
        "link add b-mig type veth peer name mig0 address 02:6c:00:00:02:0c netns 77",
        "link set b-mig master mig",
        "link set b-mig up",
    ]


@pytest.mark.parametrize(("mbit", "burst"), [(10, 131072), (1000, 500000), (10000, 5000000)])
def test_a_limited_link_lets_four_milliseconds_or_one_large_packet_burst(mbit: float, burst: int) -> None:
    assert network.limit_batch("mig0", mbit) == [
        f"qdisc add dev mig0 root tbf rate {mbit}mbit burst {burst} latency 50ms"
    ]


def test_letting_packets_pass_again_works_whether_or_not_they_were_swallowed() -> None:
    rules = network.swallow_rules("a-mig", on=False).splitlines()
    assert rules[-2:] == [
        'add element bridge limosa swallowed { "a-mig" }',
        'delete element bridge limosa swallowed { "a-mig" }',
    ]


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({}, False),
        ({"mig0": {"operstate": "DOWN"}}, False),
        ({"mig0": {"operstate": "UP"}}, True),
        ({"mig0": {"operstate": "UP", "linkinfo": {"info_slave_data": {"state": "disabled"}}}}, False),
        ({"mig0": {"operstate": "UP", "linkinfo": {"info_slave_data": {"state": "forwarding"}}}}, True),
    ],
)
def test_a_link_is_usable_when_it_is_up_and_forwards(described: dict[str, dict[str, object]], expected: bool) -> None:
    assert network.usable(described, "mig0") is expected


def test_hosts_are_called_by_letters() -> None:
    assert host_names(3) == ("a", "b", "c")
    for count in (0, -1, 27):
        with pytest.raises(UsageError):
            host_names(count)


def test_a_lab_is_named_by_argument_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMOSA_LAB", raising=False)
    assert lab_name(None) == "lab"
    monkeypatch.setenv("LIMOSA_LAB", "blue")
    assert lab_name(None) == "blue"
    assert lab_name("green") == "green"


@pytest.mark.parametrize("name", ["../x", "a/b", "Up", "-x", ".", "x" * 33, "a b"])
def test_what_could_lead_out_of_the_labs_directory_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        lab_name(name)
