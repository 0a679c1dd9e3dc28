"""The peer port over real sockets and real certificates, and whatever may knock at it."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from limosa.agent import peer as peer_module
from limosa.agent import pki, tokens, trust
from limosa.agent.config import Config, Endpoint, load
from limosa.agent.dial import PEER_PATH
from limosa.agent.hosts import HostEntry, Hosts, write_missing
from limosa.agent.join import Door, join, new_token, own_entry
from limosa.agent.peer import Peers, PeerServer, serve
from limosa.errors import Blocked, NotFound, PeerError, UsageError
from limosa.units import HostName, Seconds
from limosa.wire.rpc import LARGEST_MESSAGE, Beat, Handlers, Request

A, B, C = HostName("a"), HostName("b"), HostName("c")


class Load(msgspec.Struct, frozen=True):
    data: bytes


async def echo(params: Load, _caller: HostName) -> Load:
    return params


async def who(_params: None, caller: HostName) -> str:
    return caller


class Forever:
    """A handler that waits until it is cancelled."""

    def __init__(self) -> None:
        self.entered, self.cancelled = asyncio.Event(), asyncio.Event()

    async def __call__(self, _params: None, _caller: HostName) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()


def config_of(root: Path, name: str, *, silence: float = 5.0) -> Config:
    config = load(root / name, overrides={"host": name, "state_dir": str(root / name / "state")})
    return replace(config, listen=Endpoint("127.0.0.1", 0), silence=Seconds(silence))


def issue(root: Path, name: str, ca: str = "ca", now: datetime | None = None, out: str | None = None) -> None:
    if not (root / ca).exists():
        pki.create_ca(root / ca, ca)
    pki.issue_host(root / ca, name, ["127.0.0.1"], root / (out or name) / "pki", now=now)


class Pair:
    """Host b serves; host a calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.forever = Forever()
        self.a, self.b = config_of(root, "a"), config_of(root, "b")
        for name in ("a", "b"):
            issue(root, name)
        self.server: PeerServer
        self.peers = Peers(self.a, Hosts(self.a.hosts_file))

    def handlers(self) -> Handlers:
        return {"echo": (Load, echo), "who": (type(None), who), "forever": (type(None), self.forever)}

    async def start(self) -> None:
        write_missing(self.b.hosts_file, {A: HostEntry(address="127.0.0.1:1")})
        self.server = await serve(self.b, self.handlers(), routes=Door(self.b, nobody).routes())
        write_missing(self.a.hosts_file, {B: HostEntry(address=f"127.0.0.1:{self.server.port}")})

    async def still_serves(self) -> None:
        link = await self.peers.link(B)
        assert await asyncio.wait_for(link.call("who", None, str), 2) == A


async def nobody(*_: object) -> None: ...


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    await pair.start()
    yield pair
    await pair.peers.close()
    await pair.server.close()


# -- a link -----------------------------------------------------------------------------------------------------


async def test_two_hosts_of_one_fleet_talk_and_know_each_others_names(pair: Pair) -> None:
    link = await pair.peers.link(B)
    assert await link.call("who", None, str) == A
    assert (link.host, link.local_address, link.peer_address) == (B, "127.0.0.1", "127.0.0.1")
    assert await pair.peers.link(B) is link


async def test_simultaneous_first_calls_share_one_link(pair: Pair) -> None:
    links = await asyncio.gather(*(pair.peers.link(B) for _ in range(10)))
    assert len(set(map(id, links))) == 1


async def test_thirty_mebibytes_go_in_one_call_and_small_calls_overtake_nothing(pair: Pair) -> None:
    link = await pair.peers.link(B)
    data = os.urandom(30 * 1024**2)
    big, small = await asyncio.gather(link.call("echo", Load(data), Load), link.call("who", None, str))
    assert (big.data == data, small) == (True, A)


async def test_a_lost_link_is_noticed_and_the_next_call_dials_again(pair: Pair) -> None:
    link = await pair.peers.link(B)
    call = asyncio.create_task(link.call("forever", None, type(None)))
    await pair.forever.entered.wait()
    port = pair.server.port
    await pair.server.close()
    await asyncio.wait_for(link.gone(), 2)
    with pytest.raises(PeerError, match="the link to b is lost"):
        await call
    assert pair.forever.cancelled.is_set()
    with pytest.raises(PeerError, match="connection refused"):
        await pair.peers.link(B)
    pair.server = await serve(replace(pair.b, listen=Endpoint("127.0.0.1", port)), pair.handlers())
    await pair.still_serves()


async def test_when_the_caller_vanishes_its_handler_is_cancelled(pair: Pair) -> None:
    link = await pair.peers.link(B)
    call = asyncio.create_task(link.call("forever", None, type(None)))
    await pair.forever.entered.wait()
    await pair.peers.close()
    await asyncio.wait_for(pair.forever.cancelled.wait(), 2)
    with pytest.raises(PeerError):
        await call


async def test_a_cut_cable_is_noticed_by_silence_at_both_ends(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.a, pair.b = replace(pair.a, silence=Seconds(1.5)), replace(pair.b, silence=Seconds(1.5))
    await pair.start()
    cable = Cable(pair.server.port)
    await cable.start()
    pair.a.hosts_file.write_text(f'[hosts.b]\naddress = "127.0.0.1:{cable.port}"\n')
    pair.peers = Peers(pair.a, Hosts(pair.a.hosts_file))
    link = await pair.peers.link(B)
    call = asyncio.create_task(link.call("forever", None, type(None)))
    await pair.forever.entered.wait()
    cable.cut.set()
    started = asyncio.get_running_loop().time()
    await asyncio.wait_for(asyncio.gather(link.gone(), pair.forever.cancelled.wait()), 4)
    assert asyncio.get_running_loop().time() - started < 3
    with pytest.raises(PeerError, match=r"no sign of life for 1.5 s"):
        await call
    await pair.peers.close()
    await pair.server.close()
    await cable.close()


class Cable:
    """Carries bytes to a port until it is cut; then it swallows them, and closes nothing."""

    def __init__(self, to: int) -> None:
        self.to, self.port = to, 0
        self.cut = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.to)
        self.writers += [writer, other_writer]
        pumps = ((reader, other_writer), (other_reader, writer))
        self.tasks += [asyncio.create_task(self.pump(*ends)) for ends in pumps]

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.cut.is_set():
                writer.write(data)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for writer in self.writers:
            writer.close()
        self.server.close()
        await self.server.wait_closed()


# -- who may not ------------------------------------------------------------------------------------------------


async def test_an_unknown_host_and_this_host_are_told_apart(pair: Pair) -> None:
    with pytest.raises(NotFound, match=r"no host z .*known: b"):
        await pair.peers.link(HostName("z"))
    with pytest.raises(UsageError, match="a is this host"):
        await pair.peers.link(A)


async def test_a_host_that_is_not_listed_may_not_call(pair: Pair) -> None:
    pair.b.hosts_file.write_text('[hosts.c]\naddress = "127.0.0.1"\n')
    with capture_logs() as logs, pytest.raises(PeerError, match="does not know host a") as error:
        await pair.peers.link(B)
    assert error.value.remedy == "list a in hosts.toml on b"
    assert any(entry["event"] == "refused a peer" and entry["certificate"] == "a" for entry in logs)


async def test_a_host_of_another_fleet_is_refused_by_both_ends(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    await pair.start()
    for file in pair.a.pki_dir.iterdir():
        file.unlink()
    issue(tmp_path, "a", ca="other")
    with pytest.raises(PeerError, match="the certificate of b was refused"):
        await pair.peers.link(B)
    (pair.a.pki_dir / pki.CA_CERT).write_bytes((pair.b.pki_dir / pki.CA_CERT).read_bytes())
    with pytest.raises(PeerError, match=r"hung up on this host's certificate: host-cert.pem was not signed") as error:
        await pair.peers.link(B)
    assert error.value.remedy == "limosa pki issue or join again"
    await pair.peers.close()
    await pair.server.close()


async def test_another_host_at_the_expected_address_is_not_taken_for_it(pair: Pair) -> None:
    pair.a.hosts_file.write_text(f'[hosts.c]\naddress = "127.0.0.1:{pair.server.port}"\n')
    with pytest.raises(PeerError, match="the certificate of c was refused: Hostname mismatch"):
        await pair.peers.link(C)


async def test_an_alternative_name_does_not_make_a_host_another(pair: Pair, tmp_path: Path) -> None:
    """b's certificate could carry c as an address; its name is b all the same."""
    certificate = pki.sign(tmp_path / "ca", "b", ["c"], pki.load_key(pair.b.pki_dir / pki.HOST_KEY).public_key())
    (pair.b.pki_dir / pki.HOST_CERT).write_bytes(pki.pem(certificate))
    pair.server.reload()
    pair.a.hosts_file.write_text(f'[hosts.c]\naddress = "127.0.0.1:{pair.server.port}"\n')
    with pytest.raises(PeerError, match="should be c, but its certificate is for b"):
        await pair.peers.link(C)


@pytest.mark.parametrize(("days", "why"), [(-800, r"host-cert.pem expired on"), (2, r"host-cert.pem is valid from")])
async def test_a_certificate_out_of_its_time_is_refused(pair: Pair, tmp_path: Path, days: int, why: str) -> None:
    issue(tmp_path, "a", now=datetime.now(UTC) + timedelta(days=days))
    with pytest.raises(PeerError, match=why):
        await pair.peers.link(B)


async def test_what_does_not_speak_tls_is_told(pair: Pair) -> None:
    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        pair.a.hosts_file.write_text(f'[hosts.b]\naddress = "127.0.0.1:{port}"\n')
        with pytest.raises(PeerError, match="what listens where b should be does not speak TLS"):
            await pair.peers.link(B)


async def test_a_renewed_certificate_is_used_without_a_restart(pair: Pair, tmp_path: Path) -> None:
    issue(tmp_path, "b", now=datetime.now(UTC) - timedelta(days=800))
    pair.server.reload()
    with pytest.raises(PeerError, match="certificate has expired"):
        await pair.peers.link(B)
    issue(tmp_path, "b")
    pair.server.reload()
    await pair.still_serves()


async def test_the_callers_own_renewed_certificate_is_used_without_a_restart(pair: Pair, tmp_path: Path) -> None:
    issue(tmp_path, "a", now=datetime.now(UTC) - timedelta(days=800))
    with pytest.raises(PeerError, match="expired"):
        await pair.peers.link(B)
    issue(tmp_path, "a")
    assert not (await pair.peers.link(B)).lost


async def test_without_certificates_both_ends_say_so(tmp_path: Path) -> None:
    config = config_of(tmp_path, "a")
    with pytest.raises(NotFound, match=r"ca-cert.pem is missing"):
        await serve(config, {})
    write_missing(config.hosts_file, {B: HostEntry(address="127.0.0.1:1")})
    with pytest.raises(NotFound, match=r"ca-cert.pem is missing"):
        await Peers(config, Hosts(config.hosts_file)).link(B)


async def test_a_port_that_is_taken_is_told(pair: Pair) -> None:
    with pytest.raises(PeerError, match=r"cannot listen for peers on 127\.0\.0\.1:"):
        await serve(replace(pair.b, listen=Endpoint("127.0.0.1", pair.server.port)), {})


# -- garbage at the port ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"\x00" * 1000, b"GET /v1/peer HTTP/1.1\r\nHost: b\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", os.urandom(100_000)],
    ids=["zeros", "http", "half a hello", "noise"],
)
async def test_garbage_is_logged_and_harms_nothing(pair: Pair, said: bytes) -> None:
    with capture_logs() as logs:
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.server.port)
        writer.write(said)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 2)
        writer.close()
        await pair.still_serves()
    assert [entry["event"] for entry in logs if "refused" in entry["event"]] == ["refused a connection"]


async def test_a_connection_that_resets_at_once_harms_nothing(pair: Pair) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", pair.server.port)) as plain:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await pair.still_serves()


async def test_one_that_says_nothing_is_let_go(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "HANDSHAKE_LIMIT", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.server.port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    await pair.still_serves()


async def test_one_that_says_nothing_after_the_handshake_is_let_go(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "SAY_SOMETHING", 0.2)
    context = trust.client_context(pair.a.pki_dir)
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.server.port, ssl=context, server_hostname="b")
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    await pair.still_serves()


async def test_a_crowd_of_silent_connections_does_not_use_up_the_agent(pair: Pair) -> None:
    link = await pair.peers.link(B)
    crowd = [await asyncio.open_connection("127.0.0.1", pair.server.port) for _ in range(peer_module.MOST_STRANGERS)]
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.server.port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 2) == b""
    assert await link.call("who", None, str) == A
    for _, each in (*crowd, (reader, writer)):
        each.close()
    await pair.still_serves()


async def test_without_a_certificate_nobody_gets_past_the_handshake(pair: Pair) -> None:
    context = ssl.create_default_context(cafile=str(pair.a.pki_dir / pki.CA_CERT))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await raw_request(pair.server.port, context, b"GET /v1/join/ca HTTP/1.1\r\nHost: b\r\n\r\n")
    await pair.still_serves()


async def raw_request(port: int, context: ssl.SSLContext, said: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="b")
    try:
        writer.write(said)
        answer = await asyncio.wait_for(reader.read(4096), 2)
    finally:
        writer.close()
    if not answer:
        raise ConnectionResetError
    return answer


@contextlib.asynccontextmanager
async def websocket(pair: Pair) -> "AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]":
    """A listed host that knows TLS and WebSockets, and no manners."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"https://127.0.0.1:{pair.server.port}{PEER_PATH}",
            ssl=trust.client_context(pair.a.pki_dir),
            server_hostname="b",
        ) as socket,
    ):
        yield socket


@pytest.mark.parametrize("said", [b"", b"\xff" * 100, "text", msgspec.msgpack.encode([1])])
async def test_nonsense_from_a_certified_peer_ends_its_link_only(pair: Pair, said: bytes | str) -> None:
    link = await pair.peers.link(B)
    async with websocket(pair) as rude:
        await (rude.send_str(said) if isinstance(said, str) else rude.send_bytes(said))
        while (message := await asyncio.wait_for(rude.receive(), 2)).type is aiohttp.WSMsgType.BINARY:
            pass  # its beats
        assert message.type is aiohttp.WSMsgType.CLOSE
    assert await link.call("who", None, str) == A


async def test_a_frame_over_the_limit_ends_its_link_only(pair: Pair) -> None:
    link = await pair.peers.link(B)
    async with websocket(pair) as rude:
        with contextlib.suppress(ConnectionError):
            await rude.send_bytes(bytes(LARGEST_MESSAGE + 1))
        while (await asyncio.wait_for(rude.receive(), 10)).type is aiohttp.WSMsgType.BINARY:
            pass
    assert await link.call("who", None, str) == A


async def test_two_calls_with_one_number_end_the_link(pair: Pair) -> None:
    async with websocket(pair) as rude:
        for _ in range(2):
            await rude.send_bytes(msgspec.msgpack.encode(Request(1, "forever", msgspec.Raw(b"\xc0"))))
        while (await asyncio.wait_for(rude.receive(), 2)).type is aiohttp.WSMsgType.BINARY:
            pass
        await asyncio.wait_for(pair.forever.cancelled.wait(), 2)


async def test_a_peer_that_never_reads_is_given_up(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.b = replace(pair.b, silence=Seconds(1.5))
    await pair.start()
    async with websocket(pair) as rude:
        call = msgspec.msgpack.encode({"type": "request", "id": 0, "method": "echo", "params": {"data": bytes(10**7)}})
        for number in range(1, 4):
            await rude.send_bytes(call.replace(b"\xa2id\x00", b"\xa2id" + bytes([number])))
        await rude.send_bytes(msgspec.msgpack.encode(Beat(0.0)))
        while pair.server.links:  # noqa: ASYNC110  (the server tells nobody)
            await asyncio.sleep(0.05)
    await pair.still_serves()
    await pair.peers.close()
    await pair.server.close()


# -- joining over the wire ------------------------------------------------------------------------------------------


@pytest.fixture
async def ca_host(tmp_path: Path) -> AsyncIterator[tuple[Config, list[HostName]]]:
    """A host that keeps the CA, and whom it told of."""
    config = config_of(tmp_path, "a")
    pki.create_ca(config.pki_dir, "fleet")
    pki.issue_host(config.pki_dir, "a", ["127.0.0.1"], config.pki_dir)
    told: list[HostName] = []

    async def tell(name: HostName, _entry: HostEntry) -> None:
        told.append(name)

    server = await serve(config, {"who": (type(None), who)}, routes=Door(config, tell).routes())
    write_missing(config.hosts_file, {A: own_entry(config, f"127.0.0.1:{server.port}")})
    yield config, told
    await server.close()


async def test_a_host_joins_and_talks_at_once(tmp_path: Path, ca_host: tuple[Config, list[HostName]]) -> None:
    config, told = ca_host
    new = config_of(tmp_path, "c")
    joined = await asyncio.to_thread(join, new, new_token(config, "c"), address="127.0.0.3:7", migration="10.9.0.3")
    assert (joined.host, joined.ca_host, set(joined.hosts)) == ("c", "a", {"a", "c"})
    assert told == [C]
    peers = Peers(new, Hosts(new.hosts_file))
    link = await peers.link(A)
    assert await link.call("who", None, str) == C
    await peers.close()


async def test_a_used_token_and_a_wrong_host_are_refused(
    tmp_path: Path, ca_host: tuple[Config, list[HostName]]
) -> None:
    config, _ = ca_host
    word = new_token(config, "c")
    await asyncio.to_thread(join, config_of(tmp_path, "c"), word, address="127.0.0.3")
    with pytest.raises(UsageError, match="the token is for host c, but this is d"):
        await asyncio.to_thread(join, config_of(tmp_path, "d"), word, address="127.0.0.4")
    with pytest.raises(Blocked, match="was used"):
        await asyncio.to_thread(join, config_of(tmp_path, "c"), word, address="127.0.0.3")


async def test_an_expired_token_is_refused_by_the_door_even_if_it_lies(
    tmp_path: Path, ca_host: tuple[Config, list[HostName]]
) -> None:
    config, _ = ca_host
    token = tokens.read(new_token(config, "c", lifetime=timedelta(seconds=-1)))
    new = config_of(tmp_path, "c")
    with pytest.raises(Blocked, match="the token has expired"):
        await asyncio.to_thread(join, new, tokens.write(token), address="127.0.0.3")
    later = tokens.write(msgspec.structs.replace(token, expires=token.expires + 3600))
    with pytest.raises(Blocked, match="the token expired at"):
        await asyncio.to_thread(join, new, later, address="127.0.0.3")
    assert not (new.pki_dir / pki.HOST_KEY).exists()


async def test_an_impostor_gets_nothing(tmp_path: Path, ca_host: tuple[Config, list[HostName]]) -> None:
    """Somebody with a CA of his own answers where the token says the CA's host is."""
    config, _ = ca_host
    (tmp_path / "evil").mkdir()
    evil = config_of(tmp_path / "evil", "a")
    pki.create_ca(evil.pki_dir, "fleet")
    pki.issue_host(evil.pki_dir, "a", ["127.0.0.1"], evil.pki_dir)
    server = await serve(evil, {}, routes=Door(evil, nobody).routes())
    token = tokens.read(new_token(config, "c"))
    word = tokens.write(msgspec.structs.replace(token, address=f"127.0.0.1:{server.port}"))
    with pytest.raises(PeerError, match="shows another CA than the one that the token names"):
        await asyncio.to_thread(join, config_of(tmp_path, "c"), word, address="127.0.0.3")
    await server.close()


async def test_a_host_of_the_fleet_that_is_not_the_cas_cannot_stand_in_for_it(
    tmp_path: Path, ca_host: tuple[Config, list[HostName]]
) -> None:
    config, _ = ca_host
    token = tokens.read(new_token(config, "c"))
    word = tokens.write(msgspec.structs.replace(token, ca_host="b"))
    with pytest.raises(PeerError, match="the certificate of b was refused: Hostname mismatch"):
        await asyncio.to_thread(join, config_of(tmp_path, "c"), word, address="127.0.0.3")


async def test_where_the_ca_is_strangers_reach_the_join_door_only(ca_host: tuple[Config, list[HostName]]) -> None:
    config, _ = ca_host
    port = Hosts(config.hosts_file).find("a").endpoint.port
    context = ssl.create_default_context(cafile=str(config.pki_dir / pki.CA_CERT))
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector) as session:
        for path, status in (("/v1/join/ca", 200), (PEER_PATH, 403), ("/", 403), ("/v1/join/../peer", 403)):
            async with session.get(path) as answer:
                assert (path, answer.status) == (path, status)
        for body in (b"", b"{}", b"[1", b"x" * 10_000):
            async with session.post("/v1/join", data=body) as answer:
                assert answer.status == 400
        async with session.post("/v1/join", data=bytes(10**6)) as answer:
            assert answer.status == 413


async def test_a_host_without_a_ca_has_no_join_door(tmp_path: Path, pair: Pair) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust.client_context(pair.a.pki_dir))) as session,
        session.get(f"https://127.0.0.1:{pair.server.port}/v1/join/ca", server_hostname="b") as answer,
    ):
        assert answer.status == 404
