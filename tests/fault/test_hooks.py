"""Hooks against real receivers: HTTP servers that fail, hang or lie, programs, files; and agents that are killed."""

import asyncio
import base64
import hmac
import json
import os
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from limosa.agent import pki
from limosa.agent.hooks.config import HookConfig
from limosa.agent.hooks.courier import Courier
from limosa.agent.hooks.journal import JournalEvents, ProgressFile
from limosa.errors import NotFound
from limosa.migration.news import Ended
from limosa.migration.store import OpenMove, Store
from limosa.units import HostName, MoveId, Side
from limosa.wire.hooks import HookEvent, HookShown

KEY = b"0123456789abcdef0123456789abcdef"
A, B = HostName("a"), HostName("b")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another task, process or thread, and is told to nobody."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  (see above)
            await asyncio.sleep(0.01)


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> HookEvent:
        """The event, if the signature is right."""
        timestamp, event_id = self.headers["webhook-timestamp"], self.headers["webhook-id"]
        wanted = hmac.digest(KEY, f"{event_id}.{timestamp}.".encode() + self.body, "sha256")
        assert self.headers["webhook-signature"] == f"v1,{base64.b64encode(wanted).decode()}"
        assert abs(time.time() - int(timestamp)) < 300
        event = msgspec.json.decode(self.body, type=HookEvent)
        assert event.id == event_id
        return event


Answerer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """An HTTP server that answers as its list says, and then with 204."""

    answers: list[int | Answerer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> str:
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
        return self.url

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Request(headers, await request.read()))
        answer = self.answers.pop(0) if self.answers else 204
        return (
            web.Response(status=answer, headers={"Location": "/"}) if isinstance(answer, int) else await answer(request)
        )


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    server = Receiver()
    await server.start()
    yield server
    await server.stop()


class Bench:
    """A journal with moves that end, and couriers over it, on a clock that stands still until it is moved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 1_000_000.0
        self.store = Store(directory / "journal.db")
        self.secret = directory / "secret"
        self.secret.write_text(f"whsec_{base64.b64encode(KEY).decode()}\n")
        self.courier: Courier | None = None
        self._moves = 0

    def hook(self, url: str, **more: object) -> HookConfig:
        return HookConfig(url=url, secret_file=str(self.secret), **more)  # type: ignore[arg-type]

    async def begin(self, *hooks: HookConfig) -> Courier:
        """Start a courier; the one before it is forgotten, as after kill -9."""
        memory = ProgressFile(self.directory / "hooks.json")
        courier = self.courier = Courier(hooks, "b", JournalEvents(self.store.outbox), memory, lambda: self.now)
        self.store.outbox.listen(courier.wake)
        await courier.open()
        courier.start()
        return courier

    async def end(self) -> None:
        if self.courier is not None:
            await self.courier.close()

    def move(self, guest: str = "web1") -> HookEvent:
        """One move that ended here."""
        self._moves += 1
        move = MoveId(f"m{self._moves}")
        event = moved(self.store, move, guest)
        self.store.close_move(move, Side.DESTINATION, "arrived", event)
        return event

    def later(self, seconds: float) -> None:
        self.now += seconds
        assert self.courier is not None
        self.courier.wake()

    def shown(self, name: str = "") -> HookShown:
        assert self.courier is not None
        return next(hook for hook in self.courier.shown() if name in {"", hook.name})


def moved(store: Store, move: MoveId, guest: str = "web1") -> HookEvent:
    """Open a move of a guest to here in a journal, and return what hooks hear when it ends."""
    store.open_move(
        OpenMove(id=move, side=Side.DESTINATION, guest=guest, identity=guest, peer=A, baggage=b"{}", outcomes={})
    )
    ended = Ended(
        guest=guest,
        uuid="u",
        macs=("52:54:00:00:00:01",),
        move=move,
        source=A,
        destination=B,
        teller=B,
        epoch=int(move[1:]),
        began=1.0,
        ended=2.0,
    )
    return msgspec.json.decode(msgspec.json.encode(ended.moved()), type=HookEvent)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.end()
    made.store.close()


# -- URLs ---------------------------------------------------------------------------------------------------------


async def test_a_receiver_that_fails_twice_hears_the_same_signed_event_a_third_time(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.answers = [500, hang_up]
    await bench.begin(bench.hook(receiver.url))
    event = bench.move()
    for failures, wait in ((1, 5), (2, 10)):
        await until(lambda failures=failures: bench.shown().failed == failures)  # type: ignore[misc]
        bench.later(wait)
    await until(lambda: bench.shown().delivered == 1)
    assert [request.event for request in receiver.requests] == [event, event, event]
    assert (bench.shown().waiting, bench.shown().last_error) == (0, "")


async def test_one_receiver_that_hangs_holds_up_neither_others_nor_the_end(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [hang]
    log = bench.directory / "log"
    courier = await bench.begin(bench.hook(receiver.url, timeout=300), HookConfig(file=str(log)))
    bench.move()
    bench.move("web2")
    await until(lambda: bench.shown(str(log)).delivered == 2 and len(receiver.requests) == 1)
    async with asyncio.timeout(5):
        await courier.close()


async def test_a_receiver_that_hangs_is_left_after_its_time_and_asked_again(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [hang]
    await bench.begin(bench.hook(receiver.url, timeout=0.2))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert bench.shown().last_error == "no answer within 0.2 s"
    bench.later(5)
    await until(lambda: bench.shown().delivered == 1)


async def test_a_receiver_is_told_nothing_until_its_certificate_is_right(bench: Bench) -> None:
    ca, host = bench.directory / "ca", bench.directory / "host"
    pki.create_ca(ca, "test")
    pki.issue_host(ca, "receiver", ["127.0.0.1"], host)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(host / pki.HOST_CERT, host / pki.HOST_KEY)
    receiver = Receiver()
    url = await receiver.start(tls)
    try:
        await bench.begin(bench.hook(url, name="stranger"), bench.hook(url, name="friend", ca=str(host / pki.CA_CERT)))
        bench.move()
        await until(lambda: bench.shown("friend").delivered == 1 and bench.shown("stranger").failed == 1)
        assert "CERTIFICATE_VERIFY_FAILED" in bench.shown("stranger").last_error
        assert len(receiver.requests) == 1
    finally:
        await receiver.stop()


async def test_a_receiver_that_is_gone_for_good_ends_the_event_and_not_the_hook(
    bench: Bench, receiver: Receiver
) -> None:
    receiver.answers = [410]
    await bench.begin(bench.hook(receiver.url))
    lost, heard = bench.move(), bench.move()
    await until(lambda: bench.shown().delivered == 1)
    assert [request.event for request in receiver.requests] == [lost, heard]
    assert (bench.shown().given_up, bench.shown().given_up_event.split()[0]) == (1, lost.id)


async def test_a_redirection_is_not_followed(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [307]
    await bench.begin(bench.hook(receiver.url))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert len(receiver.requests) == 1


async def test_without_its_keys_a_hook_sends_nothing_and_says_which_file_is_missing(
    bench: Bench, receiver: Receiver
) -> None:
    key = bench.secret.read_text()
    bench.secret.unlink()
    await bench.begin(bench.hook(receiver.url))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert str(bench.secret) in bench.shown().last_error
    assert receiver.requests == []
    bench.secret.write_text(key)
    bench.later(5)
    await until(lambda: bench.shown().delivered == 1)


# -- programs and files -------------------------------------------------------------------------------------------


def script(bench: Bench, text: str) -> str:
    path = bench.directory / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_program_reads_the_event_and_what_it_says_is_kept_when_it_fails(bench: Bench) -> None:
    out = bench.directory / "out"
    text = f'cat > {out}.json; echo "$LIMOSA_EVENT $LIMOSA_GUEST $LIMOSA_HOST $LIMOSA_MACS" > {out}; '
    text += f"test -e {out}.ok || {{ echo no zone here >&2; exit 3; }}"
    await bench.begin(HookConfig(name="dns", command=(script(bench, text),)))
    event = bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert bench.shown().last_error == "exit status 3: no zone here"
    (bench.directory / "out.ok").touch()
    bench.later(5)
    await until(lambda: bench.shown().delivered == 1)
    assert msgspec.json.decode((bench.directory / "out.json").read_bytes(), type=HookEvent) == event
    assert out.read_text() == "guest.moved web1 b 52:54:00:00:00:01\n"


async def test_a_program_that_does_not_end_is_killed_with_its_children(bench: Bench) -> None:
    pids = bench.directory / "pids"
    text = f"sleep 1000 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    await bench.begin(HookConfig(command=(script(bench, text),), timeout=1))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert bench.shown().last_error == "killed after 1 s"
    await until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_program_that_leaves_a_daemon_behind_is_done_when_it_ends_itself(bench: Bench) -> None:
    pid = bench.directory / "pid"
    await bench.begin(HookConfig(command=(script(bench, f"setsid sleep 1000 & echo $! > {pid}"),), timeout=20))
    bench.move()
    await until(lambda: bench.shown().delivered == 1)
    os.kill(int(pid.read_text()), 9)


async def test_a_program_that_is_not_there_is_named(bench: Bench) -> None:
    await bench.begin(HookConfig(command=("/nonexistent/dns",)))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert "/nonexistent/dns" in bench.shown().last_error


async def test_a_file_gets_one_line_for_each_event_and_a_cut_line_spoils_no_other(bench: Bench) -> None:
    log = bench.directory / "log" / "moves.jsonl"
    log.parent.mkdir()
    log.write_bytes(b'{"cut')
    await bench.begin(HookConfig(file=str(log)))
    events = [bench.move(), bench.move()]
    await until(lambda: bench.shown().delivered == 2)
    cut, *lines = log.read_bytes().splitlines()
    assert cut == b'{"cut'
    assert [msgspec.json.decode(line, type=HookEvent) for line in lines] == events
    log.unlink()
    bench.move()
    await until(lambda: bench.shown().delivered == 3)
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


async def test_a_file_that_cannot_be_written_is_tried_again(bench: Bench) -> None:
    log = bench.directory / "place"
    log.mkdir()
    await bench.begin(HookConfig(file=str(log)))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert "Is a directory" in bench.shown().last_error
    log.rmdir()
    bench.later(5)
    await until(lambda: bench.shown().delivered == 1)


async def test_a_file_system_that_hangs_is_left_after_its_time_and_holds_up_no_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Never set: were the thread one that the loop's end waits for, this test would not end.
    monkeypatch.setattr("limosa.agent.hooks.file._append", lambda *_: threading.Event().wait())
    courier = await bench.begin(HookConfig(file=str(bench.directory / "log"), timeout=0.2))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    assert bench.shown().last_error == "it could not be written within 0.2 s"
    bench.later(5)
    async with asyncio.timeout(5):
        await courier.close()


async def test_a_delivery_writes_nothing_to_the_journal(bench: Bench, receiver: Receiver) -> None:
    """The journal's next write may be the one in some guest's pause."""
    receiver.answers = [500]
    await bench.begin(bench.hook(receiver.url), HookConfig(file=str(bench.directory / "log")))
    bench.move()
    before = bench.store._db.total_changes
    await until(lambda: bench.shown().failed == 1)
    bench.later(5)
    await until(lambda: all(hook.delivered == 1 for hook in (bench.courier.shown() if bench.courier else ())))
    assert bench.store._db.total_changes == before


# -- restarts -----------------------------------------------------------------------------------------------------


async def test_after_a_restart_what_was_not_delivered_is_and_nothing_else(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [204, 500]
    hook = bench.hook(receiver.url)
    courier = await bench.begin(hook)
    first, second = bench.move(), bench.move()
    await until(lambda: bench.shown().failed == 1)
    await courier.close()
    third = bench.move()
    bench.now += 5
    await bench.begin(hook)
    await until(lambda: bench.shown().delivered == 3)
    assert [request.event for request in receiver.requests] == [first, second, second, third]


async def test_a_new_hook_hears_only_of_what_happens_from_then_on(bench: Bench) -> None:
    log = bench.directory / "log"
    bench.move()
    await bench.begin(HookConfig(file=str(log)))
    event = bench.move()
    await until(lambda: bench.shown().delivered == 1)
    assert [json.loads(line)["id"] for line in log.read_text().splitlines()] == [event.id]


async def test_an_event_that_is_kept_no_longer_is_given_up(bench: Bench) -> None:
    await bench.begin(HookConfig(file="/proc/none/log"))
    bench.move()
    await until(lambda: bench.shown().failed == 1)
    with bench.store._writing():
        bench.store._db.execute("DELETE FROM outbox")
    bench.later(5)
    await until(lambda: bench.shown().given_up == 1)
    assert bench.shown().last_error == "it is too old to be kept"


async def test_a_test_event_is_answered_and_leaves_no_record(bench: Bench, receiver: Receiver) -> None:
    receiver.answers = [503]
    hooks = (bench.hook(receiver.url, name="ipam"), HookConfig(name="log", file=str(bench.directory / "log")))
    courier = await bench.begin(*hooks)
    ipam, log = await courier.test()
    assert (ipam.name, ipam.delivered, ipam.answer) == ("ipam", False, "HTTP 503")
    assert (log.name, log.delivered) == ("log", True)
    assert receiver.requests[0].event.type == "hooks.test"
    assert [(hook.delivered, hook.failed, hook.waiting) for hook in courier.shown()] == [(0, 0, 0), (0, 0, 0)]
    with pytest.raises(NotFound, match="no hook dns here; there are: ipam, log"):
        await courier.test("dns")


async def test_an_agent_that_is_killed_in_the_middle_of_a_delivery_delivers_after_its_next_start(
    bench: Bench, receiver: Receiver
) -> None:
    place = bench.directory / "agent"
    place.mkdir()
    (place / "agent.toml").write_text(
        f'host = "b"\nlisten = "127.0.0.1:0"\nqemu = []\nstate_dir = "{place}/state"\nrun_dir = "{place}/run"\n'
        f'[[hooks]]\nurl = "{receiver.url}"\nsecret_file = "{bench.secret}"\ntimeout = 300\n'
    )

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "limosa", "agent", "--config-dir", str(place)]
        with (place / "log").open("ab") as log:
            return subprocess.Popen(command, stderr=log)

    agents = [start()]
    try:
        await until(lambda: (place / "run/agent.sock").exists())
        kill(agents[-1])
        store = Store(place / "state/journal.db")  # as the agent would have, had it been killed a moment later
        event = moved(store, MoveId("m1"))
        store.close_move(MoveId("m1"), Side.DESTINATION, "arrived", event)
        store.close()
        receiver.answers = [hang]
        for deliveries in (1, 2):
            agents.append(start())
            await until(lambda deliveries=deliveries: len(receiver.requests) == deliveries)  # type: ignore[misc]
            if deliveries == 1:
                kill(agents[-1])
        assert [request.event for request in receiver.requests] == [event, event]
        agents[-1].terminate()
        await until(lambda: agents[-1].poll() is not None)
        assert agents[-1].returncode == 0
    finally:
        for agent in agents:
            kill(agent)


def kill(agent: subprocess.Popen[bytes]) -> None:
    agent.kill()
    agent.wait(10)
