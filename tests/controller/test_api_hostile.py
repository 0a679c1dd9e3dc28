"""The API over real TLS, against clients that are wrong, greedy, slow or gone."""

import asyncio
import contextlib
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
import structlog
import uvicorn

from limosa.agent import pki
from limosa.api import streams
from limosa.api.patience import Patient
from limosa.api.serve import listening, settings
from limosa.api.strikes import ALLOWED
from limosa.fleet.chronicle import tell
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.fleet.db.tables import events
from limosa.testing.fleet import guest, report
from limosa.testing.ports import free_port
from limosa.wire.fleet import Role

LIMIT = 30.0
"""Seconds after which a test has failed."""


class Quick(Patient):
    """The same, in less time."""

    slow_request, stuck_answer, most = 1.0, 1.0, 20


class House(NamedTuple):
    controller: Controller
    server: uvicorn.Server
    running: asyncio.Task[None]
    port: int
    tls: ssl.SSLContext
    admin: str
    opened: list[asyncio.StreamWriter]

    async def connect(self, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls if tls else None)
        self.opened.append(writer)
        return reader, writer

    async def hang_up(self) -> None:
        """Break off every connection that a test has opened."""
        for writer in self.opened:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and everything else of the answer to these bytes."""
        reader, writer = await self.connect()
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
        writer.transport.abort()
        return int(head.split()[1]), head

    def request(self, path: bytes, method: bytes = b"GET", headers: bytes = b"", token: str | None = None) -> bytes:
        bearer = f"Authorization: Bearer {self.admin if token is None else token}\r\n".encode("latin-1")
        return method + b" " + path + b" HTTP/1.1\r\nHost: c\r\n" + bearer + headers + b"\r\n"

    async def works(self) -> bool:
        return (await self.ask(self.request(b"/v1/hosts")))[0] == 200


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    port = free_port()
    (tmp_path / "controller.toml").write_text(f'listen = "127.0.0.1:{port}"\nstate_dir = "{tmp_path}/state"\n')
    config = load(tmp_path)
    with listening(config.listen) as door:
        async with Controller.running(config) as controller:
            await controller.registry.take("a", report("a", guest("web1", "a")), time.time())
            admin = await controller.tokens.make("admin", Role.ADMIN, "test")
            how = settings(config, controller)
            how.http = Quick
            server = uvicorn.Server(how)
            running = asyncio.create_task(server.serve(sockets=[door]))
            async with asyncio.timeout(LIMIT):
                while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
                    await asyncio.sleep(0.01)
            tls = ssl.create_default_context(cafile=tmp_path / "pki" / pki.CA_CERT)
            opened = House(controller, server, running, port, tls, admin.word, [])
            yield opened
            await opened.hang_up()
            server.should_exit = True
            await asyncio.wait_for(running, LIMIT)


async def gone(reader: asyncio.StreamReader) -> None:
    """Wait until the other end closes, or breaks off."""
    try:
        while await asyncio.wait_for(reader.read(65536), LIMIT):
            pass
    except (ConnectionError, ssl.SSLError):
        pass


TOKENS = {
    "none": b"",
    "empty": b"Authorization: Bearer \r\n",
    "another scheme": b"Authorization: Basic YTpi\r\n",
    "of another controller": b"Authorization: Bearer limosa-" + b"A" * 43 + b"\r\n",
    "odd bytes": b"Authorization: Bearer \xff\xfe%00\x80\r\n",
    "long": b"Authorization: Bearer " + b"x" * 30_000 + b"\r\n",
    "SQL": b"Authorization: Bearer ' OR 1=1 --\r\n",
}


async def test_a_token_that_nobody_knows_opens_nothing(house: House) -> None:
    for name, header in TOKENS.items():
        status, head = await house.ask(b"GET /v1/hosts HTTP/1.1\r\nHost: c\r\n" + header + b"\r\n")
        assert (status, b"www-authenticate: Bearer" in head) == (401, True), name
    in_query = f"GET /v1/hosts?token={house.admin}&access_token={house.admin} HTTP/1.1\r\nHost: c\r\n\r\n"
    assert (await house.ask(in_query.encode()))[0] == 401
    overlong = b"GET /v1/hosts HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer " + b"x" * 100_000
    assert (await house.ask(overlong))[0] == 400


async def test_wrong_tokens_are_counted_and_logged_and_lock_out_nobody(house: House) -> None:
    wrong = house.request(b"/v1/hosts", token="wrong")
    with structlog.testing.capture_logs() as logged:
        seen = [(await house.ask(wrong))[0] for _ in range(ALLOWED + 2)]
    assert seen == [401] * ALLOWED + [429] * 2
    assert [(each["address"], each["wrong"]) for each in logged if each["event"] == "a wrong token"] == [
        ("127.0.0.1", 1),
        ("127.0.0.1", ALLOWED),
    ]
    assert b"retry-after" in (await house.ask(wrong))[1]
    assert await house.works()


async def test_a_stream_ends_when_its_token_is_removed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RECHECK", 0.1)
    night = await house.controller.tokens.make("night", Role.VIEWER, "test")
    reader, writer = await house.connect()
    writer.write(house.request(b"/v1/events", token=night.word))
    assert b"text/event-stream" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
    await house.controller.tokens.remove("night", "test")
    assert (await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), LIMIT)).endswith(b"0\r\n\r\n")


FOREIGN = (
    b"/v1/operations/drain-00000000",
    b"/v1/operations/drain-00000000/events",
    b"/v1/operations/..%2f..%2fetc%2fpasswd",
    b"/v1/operations/../../etc/passwd",
    b"/v1/hosts/%00",
    b"/v1/hosts/a%00b",
    b"/v1/hosts/%ff%fe",
    b"/v1/hosts/%F0%9F%90%A6",
    b"/v1/hosts/a%2Fstate",
    b"/v1/guests/%27%20OR%201=1--",
    b"/v1/guests/" + b"x" * 20_000,
    b"/v1/operations?after=web1",
    b"/v1/operations?after=%00",
    b"/v1/audit/changes?after=9999999999999999999999",
    b"/v1/audit/changes?after=%C2%B2",
    b"/v1/hosts?limit=1e3",
    b"/v1/hosts?limit=1&limit=2",
    b"/v1/hosts?afer=a",
    b"/V1/hosts",
)


async def test_what_belongs_to_others_or_to_nobody_is_not_found_and_breaks_nothing(house: House) -> None:
    seen = {path: (await house.ask(house.request(path)))[0] for path in FOREIGN}
    assert {path: status for path, status in seen.items() if status not in {400, 404, 405}} == {}
    for number in (b"-1", b"99999999999999999999", b"x"):
        beyond = house.request(b"/v1/events", headers=b"Last-Event-ID: " + number + b"\r\n")
        assert (await house.ask(beyond))[0] == 400


BODIES = {
    b'{"kind":"drain","hosts":["a"],"hosts":["a"]}': 200,  # the last of two keys counts, as for most readers
    b'{"kind":"drain","hosts":["\xff"]}': 400,
    b'{"kind":"drain","hosts":["\\ud800"]}': 400,
    b'{"kind":"drain","hosts":["a\\u0000"]}': 400,
    b'{"kind":"drain","approved":0}': 400,
    b'{"kind":"drain","limits":{"bandwidth":NaN}}': 400,
    b'{"kind":"drain","limits":{"bandwidth":Infinity}}': 400,
    b'{"kind":"drain","limits":{"bandwidth":1e999}}': 400,
    b'{"kind":"drain","limits":{"moves":123456789012345678901234567890}}': 400,
    b'{"kind":' + b"[" * 100_000: 400,
    b'{"why":' + b'{"a":' * 100_000: 400,
    b"": 400,
    b"{}{}": 400,
}


async def test_bodies_that_are_no_json_or_do_not_fit_are_refused(house: House) -> None:
    for body, status in BODIES.items():
        headers = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        asked = house.request(b"/v1/plans", b"POST", headers) + body
        assert (await house.ask(asked))[0] == status, body[:60]
    for kind in (b"", b"Content-Type: text/plain\r\n", b"Content-Type: application/x-www-form-urlencoded\r\n"):
        asked = house.request(b"/v1/plans", b"POST", kind + b"Content-Length: 2\r\n") + b"{}"
        assert (await house.ask(asked))[0] == 415


async def test_a_body_beyond_the_limit_is_refused_however_it_comes(house: House) -> None:
    json, size = b"Content-Type: application/json\r\n", 3 * 1024 * 1024
    with_length = house.request(b"/v1/plans", b"POST", json + b"Content-Length: %d\r\n" % size)
    chunked = house.request(b"/v1/plans", b"POST", json + b"Transfer-Encoding: chunked\r\n")
    assert (await house.ask(with_length + b" " * 100_000))[0] == 413
    assert (await house.ask(chunked + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 40))[0] == 413
    stranger = house.request(b"/v1/plans", b"POST", json + b"Transfer-Encoding: chunked\r\n", token="wrong")
    assert (await house.ask(stranger + b"10000\r\n" + b" " * 0x10000 + b"\r\n"))[0] == 401
    assert await house.works()


async def test_requests_that_never_end_are_broken_off_and_others_are_served(house: House) -> None:
    body = b"Content-Type: application/json\r\nContent-Length: 1000\r\n"
    begun = [
        b"",
        b"GET /v1/hosts HTTP/1.1\r\nHost: c\r\nX-Slow: ",
        house.request(b"/v1/plans", b"POST", body) + b"{",
        house.request(b"/v1/plans", b"POST", body, token="wrong") + b"{",
    ]
    slow = [await house.connect() for _ in begun]
    for (_, writer), sent in zip(slow, begun, strict=True):
        writer.write(sent)
    assert await house.works()
    await asyncio.gather(*(gone(reader) for reader, _ in slow))


async def test_a_stream_tells_what_happens_and_nothing_else(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SILENCE", 0.5)
    reader, writer = await house.connect()
    writer.write(house.request(b"/v1/events", headers=b"Last-Event-ID: 0\r\n"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
    alive = await asyncio.wait_for(reader.readuntil(b": alive\r\n\r\n"), LIMIT)
    assert b"data" not in alive, "a sign of life is no event"
    async with house.controller.database.write() as connection:
        await tell(connection, "test", "web1", {"to": "b"})
    told = await asyncio.wait_for(reader.readuntil(b'"to":"b"}}'), LIMIT)
    assert b"event: test\r\n" in told


async def test_who_does_not_read_is_cut_off_and_others_are_served(house: House) -> None:
    row = {"at": 0.0, "kind": "test", "subject": "x" * 20_000, "body": "{}"}
    async with house.controller.database.write() as connection:
        await connection.execute(sa.insert(events), [row] * 1500)
    reader, writer = await house.connect()
    writer.write(house.request(b"/v1/events", headers=b"Last-Event-ID: 0\r\n"))
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # what a reader's transport has
    until = time.monotonic() + LIMIT
    while house.server.server_state.connections:
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    assert await house.works()


async def test_idle_connections_make_room_for_new_ones(house: House) -> None:
    idle = [await house.connect() for _ in range(Quick.most)]
    assert await house.works()
    assert await asyncio.wait_for(idle[0][0].read(), LIMIT) == b""
    assert not idle[-1][0].at_eof()


async def test_a_stop_waits_for_no_client(house: House) -> None:
    stream, half = await house.connect(), await house.connect()
    await house.connect(tls=False)
    stream[1].write(house.request(b"/v1/events"))
    await asyncio.wait_for(stream[0].readuntil(b"\r\n\r\n"), LIMIT)
    half[1].write(b"GET /v1/hosts HTTP/1.1\r\n")
    house.server.should_exit = True
    await asyncio.wait_for(house.running, LIMIT)


async def test_tls_below_1_2_is_refused(house: House) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert house.server.config.ssl is not None
    assert house.server.config.ssl.minimum_version is ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", house.port, ssl=old)


async def test_answers_are_neither_cached_nor_guessed_at(house: House) -> None:
    for path in (b"/v1/hosts", b"/v1/nothing", b"/healthz", b"/v1/hosts/z"):
        head = (await house.ask(house.request(path)))[1].lower()
        assert b"cache-control: no-store" in head, path
        assert b"x-content-type-options: nosniff" in head, path
        assert b"server:" not in head, path
