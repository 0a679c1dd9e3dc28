"""The fleet as a value: room, replaying, and what JSON makes of it."""

import msgspec
import pytest

from limosa.cpu.facts import HostCpu, Source
from limosa.fleet.inventory import Guest, GuestId, Host, HostState, Inventory, Limits, Move, Room
from limosa.units import GIB, Bytes, GuestName, HostName

A, B = HostName("a"), HostName("b")
WEB = GuestId("5b1f6f0c-0000-4000-8000-000000000001")


def fleet(**changes: object) -> Inventory:
    hosts = tuple(
        Host(name=name, cores=8, memory=Bytes(32 * GIB), disk=Bytes(100 * GIB), disk_free=Bytes(60 * GIB))
        for name in (A, B)
    )
    web = Guest(uuid=WEB, name=GuestName("web"), host=A, vcpus=2, memory=Bytes(4 * GIB), disk=Bytes(10 * GIB), home=A)
    return Inventory(hosts=hosts, guests=(msgspec.structs.replace(web, **changes),), limits=Limits(overcommit=2.0))


TO_B = Move(guest=WEB, name=GuestName("web"), source=A, destination=B)


def test_a_move_takes_room_there_and_gives_it_back_here() -> None:
    before, after = fleet(), fleet().replayed([TO_B])
    assert before.free(A) == Room(14, 28 * GIB, 60 * GIB)
    assert before.free(B) == Room(16, 32 * GIB, 60 * GIB)
    assert after.free(A) == Room(16, 32 * GIB, 70 * GIB)
    assert after.free(B) == Room(14, 28 * GIB, 50 * GIB)
    assert [guest.name for guest in after.on(B)] == ["web"]
    assert before.on(B) == ()


def test_a_guest_in_flight_takes_room_on_both_hosts() -> None:
    moving = fleet(arriving=B)
    assert moving.free(A).vcpus == 14
    assert moving.free(B) == Room(14, 28 * GIB, 50 * GIB)


def test_a_move_from_where_the_guest_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="web runs on b, not on a"):
        fleet().replayed([TO_B, TO_B])


def test_a_fleet_survives_json() -> None:
    there = fleet().in_state(HostState.DRAINING, [A])
    assert msgspec.json.decode(msgspec.json.encode(there), type=Inventory) == there
    assert there.by_name[A].state is HostState.DRAINING


def test_equal_processors_become_one_value() -> None:
    def cpu(name: str) -> HostCpu:
        return HostCpu(host=name, source=Source.CPUID, flags=("sse2",))

    made = [msgspec.structs.replace(host, cpu=cpu(host.name)) for host in fleet().hosts]
    read = msgspec.json.decode(msgspec.json.encode(made), type=list[Host])
    assert made[0].cpu is not None
    assert len({id(host.cpu) for host in (*made, *read)}) == 1


def test_hosts_and_guests_stand_in_the_order_of_their_names_however_they_were_given() -> None:
    there = fleet()
    turned = Inventory(hosts=there.hosts[::-1], guests=there.guests[::-1], limits=there.limits)
    assert turned == there
    assert [host.name for host in turned.hosts] == sorted(host.name for host in turned.hosts)
