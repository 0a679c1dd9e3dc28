"""What an agent tells of its state, and to whom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from limosa.agent import pki
from limosa.agent.config import Config, Endpoint, is_loopback, load
from limosa.agent.daemon import Agent
from limosa.agent.hosts import HostEntry, write_missing
from limosa.agent.metrics import PROVE_EVERY, DiskProof
from limosa.agent.metrics_port import MetricsPort
from limosa.errors import NotFound, PeerError, StateDiskError, UsageError
from limosa.migration.store import OpenMove, Store
from limosa.testing.moves import status
from limosa.testing.ports import free_port
from limosa.units import HostName, MoveId, Side
from limosa.wire.moves import Stage


def config_of(root: Path, **more: object) -> Config:
    paths = {key: str(root / key) for key in ("state_dir", "run_dir", "pki_dir")}
    return load(root, overrides={"host": "a", "qemu": [], **paths, **more})


@asynccontextmanager
async def agent_of(config: Config) -> AsyncIterator[Agent]:
    """An agent that was put together and not started: it tells of itself all the same."""
    agent = Agent(config)
    try:
        yield agent
    finally:
        await agent.peers.close()
        agent.moves.store.close()


async def no_numbers() -> bytes:
    return b""


def opened(move: str, side: Side) -> OpenMove:
    return OpenMove(
        id=MoveId(move), side=side, guest="web1", identity="u1", peer=HostName("b"), baggage=b"{}", outcomes={}
    )


async def test_an_agents_hooks_are_counted(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(f'[[hooks]]\nname = "log"\nfile = "{tmp_path}/log"\n')
    async with agent_of(config_of(tmp_path)) as agent:
        await agent.courier.open()
        seen = agent.metrics.registry.get_sample_value
        assert seen("limosa_hook_waiting", {"hook": "log"}) == 0
        assert seen("limosa_hook_deliveries_total", {"hook": "log", "outcome": "delivered"}) == 0


async def test_an_open_move_is_told_of_by_side_and_age(tmp_path: Path) -> None:
    async with agent_of(config_of(tmp_path)) as agent:
        seen = agent.metrics.registry.get_sample_value
        assert seen("limosa_journal_oldest_open_timestamp_seconds") is None
        agent.moves.store.open_move(opened("m1", Side.SOURCE))
        agent.moves.store.open_move(opened("m2", Side.DESTINATION))
        agent.moves.store.open_move(opened("m3", Side.DESTINATION))
        oldest = seen("limosa_journal_oldest_open_timestamp_seconds")
        assert oldest == agent.moves.store.open_since()
        sides = [seen("limosa_journal_open_moves", {"side": side}) for side in ("source", "destination")]
        assert sides == [1, 2]
        agent.moves.store.close_move(MoveId("m1"), Side.SOURCE, "completed")
        newer = seen("limosa_journal_oldest_open_timestamp_seconds")
        assert oldest is not None
        assert newer is not None
        assert newer >= oldest


async def test_an_agent_tells_of_its_hosts_and_certificates_and_that_it_has_none(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    write_missing(config.hosts_file, {HostName(name): HostEntry(address="127.0.0.1:1") for name in ("a", "b", "c")})
    async with agent_of(config) as agent:
        seen = agent.metrics.registry.get_sample_value
        assert seen("limosa_agent_info", {"version": "0.1.0", "host": "a"}) == 1
        assert seen("limosa_agent_known_hosts") == 2
        assert seen("limosa_agent_peer_port_open") == 0
        assert b"\nlimosa_journal_writable 1.0\n" in await agent.metrics.text()
        assert seen("limosa_certificate_not_after_timestamp_seconds", {"certificate": "host"}) is None
        config.hosts_file.write_text("[hosts.b\n")
        assert str(seen("limosa_agent_known_hosts")) == "nan"


@pytest.mark.parametrize(("stage", "looks"), [(Stage.COPY, True), (Stage.SWITCH_OVER, False), (Stage.RESUME, False)])
async def test_while_a_guest_is_paused_a_scrape_takes_no_time_for_proc_and_the_state_disk(
    stage: Stage, looks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def found() -> tuple[()]:
        looked.append("/proc")
        return ()

    monkeypatch.setattr("limosa.agent.metrics.find_guests", found)
    async with agent_of(config_of(tmp_path)) as agent:
        flying = status(stage=stage)
        monkeypatch.setattr(agent.moves, "flying", lambda: (flying,))
        monkeypatch.setattr(agent.moves.store, "prove", lambda: looked.append("disk"))
        told = await agent.metrics.text()
        assert looked == (["disk", "/proc"] if looks else [])
        assert b'limosa_moves_in_flight{state="running"} 1.0' in told


async def test_a_host_that_cannot_be_dialled_is_a_call_that_failed(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "a", [], config.pki_dir)
    write_missing(config.hosts_file, {HostName("b"): HostEntry(address=f"127.0.0.1:{free_port()}")})
    async with agent_of(config) as agent:
        with pytest.raises(PeerError, match="connection refused"):
            await agent.peers.link(HostName("b"))
        seen = agent.metrics.registry.get_sample_value
        assert seen("limosa_rpc_errors_total", {"method": "dial", "cause": "peer"}) == 1
        assert seen("limosa_agent_peer_links", {"direction": "out"}) == 0
        assert seen("limosa_certificate_not_after_timestamp_seconds", {"certificate": "host"}) is not None


async def test_two_agents_in_one_process_share_no_series(tmp_path: Path) -> None:
    async with agent_of(config_of(tmp_path / "one")) as one, agent_of(config_of(tmp_path / "two")) as two:
        one.metrics.calls.heard("move.offer", "")
        assert one.metrics.registry.get_sample_value("limosa_rpc_calls_total", {"method": "move.offer"}) == 1
        assert two.metrics.registry.get_sample_value("limosa_rpc_calls_total", {"method": "move.offer"}) is None


def test_the_state_disk_is_tried_once_a_minute_however_often_prometheus_asks(tmp_path: Path) -> None:
    store, now, tries = Store(tmp_path / "journal.db"), [0.0], []

    class Full(Store):
        def prove(self) -> None:
            tries.append(now[0])
            raise StateDiskError("full")

    store.close()
    full = Full(tmp_path / "journal.db")
    proof = DiskProof(full, lambda: now[0])
    for now[0] in (0.0, 1.0, PROVE_EVERY - 1, PROVE_EVERY, PROVE_EVERY + 1):
        proof.look()
        assert proof.holds == 0
    assert tries == [0.0, PROVE_EVERY]
    full.close()


async def test_a_loopback_port_answers_plainly_and_only_there(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    port = MetricsPort(config_of(tmp_path), endpoint, no_numbers)
    await port.open()
    async with httpx.AsyncClient(base_url=f"http://{endpoint}") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/v1/guests")).status_code == 404
        with pytest.raises(UsageError, match="cannot serve metrics"):
            await MetricsPort(config_of(tmp_path), endpoint, no_numbers).open()
        await port.close()
        with pytest.raises(httpx.TransportError):
            await client.get("/metrics")


async def test_beyond_loopback_nothing_is_told_without_certificates(tmp_path: Path) -> None:
    port = MetricsPort(config_of(tmp_path), Endpoint("0.0.0.0", free_port()), no_numbers)
    with pytest.raises(NotFound, match="is missing"):
        await port.open()


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h1", False)],
)
def test_what_counts_as_loopback(address: str, local: bool) -> None:
    assert is_loopback(address) is local


async def test_an_agent_starts_although_its_metrics_port_is_taken(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1", free_port())
    taken = MetricsPort(config_of(tmp_path), endpoint, no_numbers)
    await taken.open()
    config = replace(config_of(tmp_path), metrics=endpoint, listen=Endpoint("127.0.0.1", 0))
    config.run_dir.mkdir()
    agent = Agent(config)
    try:
        await agent.start()
        assert config.socket.exists()
    finally:
        await agent.stop()
        await taken.close()


def test_the_port_is_off_unless_it_is_named(tmp_path: Path) -> None:
    assert config_of(tmp_path).metrics is None
    assert config_of(tmp_path, metrics="").metrics is None
    assert config_of(tmp_path, metrics="127.0.0.1").metrics == Endpoint("127.0.0.1", 9177)
