"""A controller at an agent's peer port: what its role lets it do, and what nobody else may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from limosa.agent import pki
from limosa.agent.config import Config, Endpoint, load
from limosa.agent.dial import Peers
from limosa.agent.hosts import HostEntry, Hosts, write_missing
from limosa.agent.orders import Fence, move_of
from limosa.agent.peer import serve
from limosa.errors import Fenced, PeerError, UsageError
from limosa.units import HostName
from limosa.wire.reports import Hand

B, FLEET = HostName("b"), HostName("fleet-1")


async def by_host(_params: None, caller: HostName) -> str:
    return f"host {caller}"


async def by_controller(_params: None, caller: HostName) -> str:
    return f"controller {caller}"


def config_of(root: Path, name: str, **more: object) -> Config:
    config = load(root / name, overrides={"host": name, "state_dir": str(root / name / "state"), **more})
    return replace(config, listen=Endpoint("127.0.0.1", 0))


@asynccontextmanager
async def linked(root: Path, caller: str, *, controller: bool, **settings: object) -> AsyncIterator[Peers]:
    """Host b serves; a caller with a certificate of the same CA dials it."""
    pki.create_ca(root / "ca", "ca")
    pki.issue_host(root / "ca", "b", ["127.0.0.1"], root / "b" / "pki")
    pki.issue_host(root / "ca", caller, ["127.0.0.1"], root / caller / "pki", controller=controller)
    served, own = config_of(root, "b", **settings), config_of(root, caller)
    write_missing(served.hosts_file, {HostName("a"): HostEntry(address="127.0.0.1:1")})
    server = await serve(
        served, {"host": (type(None), by_host)}, for_controllers={"fleet": (type(None), by_controller)}
    )
    write_missing(own.hosts_file, {B: HostEntry(address=f"127.0.0.1:{server.port}")})
    peers = Peers(own, Hosts(own.hosts_file))
    try:
        yield peers
    finally:
        await peers.close()
        await server.close()


async def test_a_controller_makes_the_calls_of_controllers_and_no_others(tmp_path: Path) -> None:
    async with linked(tmp_path, "fleet-1", controller=True) as peers:
        link = await peers.link(B)
        assert await link.call("fleet", None, str) == "controller fleet-1"
        with pytest.raises(UsageError, match="does not know the call host"):
            await link.call("host", None, str)


async def test_a_host_makes_no_call_of_a_controller(tmp_path: Path) -> None:
    async with linked(tmp_path, "a", controller=False) as peers:
        link = await peers.link(B)
        assert await link.call("host", None, str) == "host a"
        with pytest.raises(UsageError, match="does not know the call fleet"):
            await link.call("fleet", None, str)


async def test_a_host_that_is_not_listed_is_refused_whatever_it_calls_itself(tmp_path: Path) -> None:
    async with linked(tmp_path, "fleet-1", controller=False) as peers:
        with pytest.raises(PeerError, match="does not know host fleet-1"):
            await peers.link(B)


async def test_an_agent_may_name_its_controllers_and_shuts_the_others_out(tmp_path: Path) -> None:
    async with linked(tmp_path, "fleet-1", controller=True, controllers=["fleet-2"]) as peers:
        with pytest.raises(PeerError, match="does not know host fleet-1"):
            await peers.link(B)


async def test_a_controllers_certificate_does_not_make_a_host(tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "b", ["127.0.0.1"], tmp_path / "b" / "pki", controller=True)
    pki.issue_host(tmp_path / "ca", "a", ["127.0.0.1"], tmp_path / "a" / "pki")
    served, own = config_of(tmp_path, "b"), config_of(tmp_path, "a")
    write_missing(served.hosts_file, {HostName("a"): HostEntry(address="127.0.0.1:1")})
    server = await serve(served, {})
    write_missing(own.hosts_file, {B: HostEntry(address=f"127.0.0.1:{server.port}")})
    peers = Peers(own, Hosts(own.hosts_file))
    try:
        with pytest.raises(PeerError, match="its certificate is for controller b"):
            await peers.link(B)
    finally:
        await peers.close()
        await server.close()


def test_a_renewed_certificate_keeps_its_role(tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "ca", "ca")
    for name, controller in (("fleet-1", True), ("a", False)):
        pki.issue_host(tmp_path / "ca", name, [], tmp_path / name, controller=controller)
        assert pki.is_controller(pki.renew(tmp_path / "ca", tmp_path / name)) is controller


def test_a_controller_that_was_replaced_is_not_obeyed_even_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "operations.json"
    fence = Fence(file)
    fence.pass_through(Hand("drain-1", 1), FLEET)
    fence.pass_through(Hand("drain-1", 2), FLEET)
    for again in (fence, Fence(file)):
        again.pass_through(Hand("drain-1", 2), FLEET)
        again.pass_through(Hand("drain-2", 0), FLEET)
        with pytest.raises(Fenced, match="in other hands"):
            again.pass_through(Hand("drain-1", 1), FLEET)


def test_a_repeated_order_means_the_same_move_and_another_attempt_another_one() -> None:
    first = move_of(Hand("drain-1", 1), "web1#1")
    assert first == move_of(Hand("drain-1", 7), "web1#1")
    assert len({first, move_of(Hand("drain-1", 1), "web1#2"), move_of(Hand("drain-2", 1), "web1#1")}) == 3


async def test_a_controller_links_to_more_hosts_than_a_hundred(tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "fleet-1" / "pki", controller=True)
    names = [HostName(f"h{number}") for number in range(105)]
    base, own = config_of(tmp_path, "any"), config_of(tmp_path, "fleet-1")
    async with AsyncExitStack() as stack:
        for name in names:
            pki.issue_host(tmp_path / "ca", name, ["127.0.0.1"], tmp_path / name / "pki")
            served = replace(base, host=name, pki_dir=tmp_path / name / "pki")
            server = await serve(served, {}, for_controllers={"fleet": (type(None), by_controller)})
            stack.push_async_callback(server.close)
            write_missing(own.hosts_file, {name: HostEntry(address=f"127.0.0.1:{server.port}")})
        peers = Peers(own, Hosts(own.hosts_file))
        stack.push_async_callback(peers.close)
        links = await asyncio.gather(*(peers.link(name) for name in names))
        answers = await asyncio.gather(*(link.call("fleet", None, str) for link in links))
    assert answers == ["controller fleet-1"] * len(names)
