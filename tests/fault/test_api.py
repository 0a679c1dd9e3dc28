"""The API over its real socket, spoken to by the command line's own client; the engine behind it is a script."""

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from structlog.testing import capture_logs

from limosa.agent import api as api_module
from limosa.agent.api import Api, spaced
from limosa.agent.config import Config, load
from limosa.agent.cpu import CpuAsk
from limosa.cli.client import AgentClient
from limosa.cli.transport import Unix
from limosa.cpu.facts import HostCpu, Source
from limosa.errors import AgentUnreachable, Blocked, LimosaError, NotFound, UsageError
from limosa.guest.profile import Profile
from limosa.testing.moves import status
from limosa.units import HostName
from limosa.wire.doctor import Diagnosis
from limosa.wire.guests import GuestShown, Hello, HostShown
from limosa.wire.hooks import HookShown, HookTried
from limosa.wire.moves import MoveRequest, MoveState, MoveStatus, PlanShown, Stage

T = TypeVar("T")


class Script:
    """Engine and sight, as a test wants them."""

    def __init__(self) -> None:
        self.story: asyncio.Queue[MoveStatus | None] = asyncio.Queue()
        self.asked: list[Any] = []
        self.watchers = 0

    async def plan(self, request: MoveRequest) -> PlanShown:
        raise Blocked("no room", remedy="make some")

    async def start(self, request: MoveRequest) -> MoveStatus:
        self.asked.append(request)
        return status(MoveState.PLANNING)

    def get(self, move: str) -> MoveStatus:
        if move != "m1":
            raise NotFound(f"there is no move {move} here")
        return status()

    def all(self) -> tuple[MoveStatus, ...]:
        return (status(),)

    async def watch(self, move: str) -> AsyncIterator[MoveStatus]:
        self.watchers += 1
        try:
            while (news := await self.story.get()) is not None:
                yield news
        finally:
            self.watchers -= 1

    async def abort(self, move: str) -> MoveStatus:
        return msgspec.structs.replace(self.get(move), state=MoveState.ABORTED, undone=("twin stopped",))

    def resolve(self, guest: str, who: str, evidence: str) -> MoveStatus:
        self.asked.append((guest, who, evidence))
        return self.get("m1")

    async def set_speed(self, move: str, rate: float | None) -> MoveStatus:
        self.asked.append((move, rate))
        return self.get(move)

    def hello(self) -> Hello:
        return Hello(host="a", version="1", pid=os.getpid(), protocol=1)

    async def guests(self) -> tuple[GuestShown, ...]:
        raise ZeroDivisionError("oh")

    async def profile(self, guest: str) -> Profile:
        raise NotFound(f"no guest here is called {guest}")

    async def examine(self, *, fix: bool) -> Diagnosis:
        self.asked.append(fix)
        return Diagnosis(hosts=(), troubles=())

    async def known_hosts(self) -> tuple[HostShown, ...]:
        return ()

    def hooks(self) -> tuple[HookShown, ...]:
        return (HookShown(name="dns", kind="command", target="/etc/limosa/hooks.d/dns", waiting=2),)

    async def test_hooks(self, name: str) -> tuple[HookTried, ...]:
        self.asked.append(name)
        return (HookTried(name="dns", delivered=False, answer="exit status 3", seconds=0.1),)

    async def cpu(self, host: HostName, ask: CpuAsk) -> HostCpu:
        self.asked.append(ask)
        return HostCpu(host=host, source=Source.QEMU, flags=("avx2",))


class Bench:
    """An API on its socket, and clients of it."""

    def __init__(self, config: Config) -> None:
        self.config, self.script = config, Script()
        self.api = Api(config, self.script, self.script)

    async def ask(self, question: Callable[[AgentClient], T]) -> T:
        def asked() -> T:
            with AgentClient(Unix(str(self.config.socket))) as client:
                return question(client)

        return await asyncio.to_thread(asked)

    async def raw(self, said: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self.config.socket)
        writer.write(said)
        answer = await asyncio.wait_for(reader.read(65536), 2)
        writer.close()
        return answer


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="lm-") as directory:  # pytest's own paths are too long for a socket
        bench = Bench(load(Path(directory), overrides={"host": "a", "run_dir": directory}))
        await bench.api.open()
        yield bench
        await bench.api.close()


async def test_the_command_lines_client_and_the_api_understand_each_other(bench: Bench) -> None:
    request = MoveRequest(guest="web1", to="b", bandwidth=5e6, maps={"/a": "/b"})
    assert (await bench.ask(lambda c: c.hello())).host == "a"
    assert (await bench.ask(lambda c: c.start(request))).state is MoveState.PLANNING
    assert [m.id for m in await bench.ask(lambda c: c.moves())] == ["m1"]
    assert (await bench.ask(lambda c: c.move("m1"))).stage is Stage.COPY
    assert (await bench.ask(lambda c: c.abort("m1"))).undone == ("twin stopped",)
    await bench.ask(lambda c: c.speed("m1", 1000))
    await bench.ask(lambda c: c.speed("m1", 0))
    assert bench.script.asked == [request, ("m1", 1000.0), ("m1", None)]


async def test_a_doctor_is_asked_to_look_or_to_fix(bench: Bench) -> None:
    assert (await bench.ask(lambda c: c.doctor(fix=False))).clean
    assert (await bench.ask(lambda c: c.doctor(fix=True))).clean
    assert bench.script.asked == [False, True]


async def test_hooks_are_listed_and_tried(bench: Bench) -> None:
    listed = await bench.ask(lambda client: client.ask("GET", "/v1/hooks"))
    assert msgspec.json.decode(listed, type=list[HookShown]) == list(bench.script.hooks())
    tried = await bench.ask(lambda client: client.ask("POST", "/v1/hooks/test", {"hook": "dns"}))
    assert msgspec.json.decode(tried, type=list[HookTried])[0].answer == "exit status 3"
    assert bench.script.asked == ["dns"]


async def test_evidence_arrives_with_the_name_of_who_gave_it(bench: Bench) -> None:
    assert (await bench.ask(lambda c: c.resolve("web 1", "b is off"))).id == "m1"
    ((guest, who, evidence),) = bench.script.asked
    assert (guest, evidence) == ("web 1", "b is off")
    assert who.endswith(f"(uid {os.getuid()})")


async def test_errors_arrive_as_they_were_raised(bench: Bench) -> None:
    with pytest.raises(Blocked) as blocked:
        await bench.ask(lambda c: c.plan(MoveRequest(guest="web1", to="b")))
    assert (blocked.value.what, blocked.value.remedy) == ("no room", "make some")
    with pytest.raises(NotFound, match="there is no move m9 here"):
        await bench.ask(lambda c: list(c.events("m9")))
    with pytest.raises(NotFound, match="no guest here is called x/y z"):
        await bench.ask(lambda c: c.profile("x/y z"))


async def test_an_internal_error_is_told_logged_and_survived(bench: Bench) -> None:
    with capture_logs() as logs, pytest.raises(LimosaError, match="internal error: ZeroDivisionError: oh"):
        await bench.ask(lambda c: c.guests())
    assert [entry["event"] for entry in logs] == ["a request failed"]
    assert (await bench.ask(lambda c: c.hello())).host == "a"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Input data was truncated"),
        (b"[]", "Expected `object`"),
        (b'{"guest": "web1"}', "missing required field `to`"),
        (b'{"guest": 1, "to": "b"}', "Expected `str`, got `int`"),
    ],
)
async def test_a_body_that_makes_no_sense_is_a_usage_error(bench: Bench, body: bytes, why: str) -> None:
    head = f"POST /v1/plan HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await bench.raw(head.encode() + body)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert why in msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["what"]


@pytest.mark.parametrize(("line", "number"), [(b"GET /v2/hello", 404), (b"DELETE /v1/hello", 405), (b"GET /", 404)])
async def test_what_the_api_has_not_is_told_in_json(bench: Bench, line: bytes, number: int) -> None:
    answer = await bench.raw(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % number)
    assert "code" in msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])


GARBAGE = {
    "zeros": b"\x00" * 100,
    "no request": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "anything": os.urandom(10_000),
}


@pytest.mark.parametrize("said", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_on_the_socket_harms_nothing(bench: Bench, said: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(bench.config.socket)
    writer.write(said)
    writer.write_eof()
    await asyncio.wait_for(reader.read(65536), 2)
    writer.close()
    assert (await bench.ask(lambda c: c.hello())).host == "a"


async def test_the_cpu_of_a_host_is_asked_for_one_guest(bench: Bench) -> None:
    told = await bench.ask(lambda c: c.cpu("b", machine="pc-q35-10.0", version="10.0.2", accel="kvm"))
    assert (told.host, told.flags) == ("b", ("avx2",))
    assert bench.script.asked == [CpuAsk(machine="pc-q35-10.0", version=(10, 0, 2), accel="kvm")]


@pytest.mark.parametrize("query", ["version=ten", "version=1.2", "model=max"])
async def test_a_cpu_is_not_asked_for_by_words_that_mean_nothing(bench: Bench, query: str) -> None:
    with pytest.raises(UsageError):
        await bench.ask(lambda c: c.ask("GET", f"/v1/hosts/b/cpu?{query}"))


async def test_a_huge_body_is_refused(bench: Bench) -> None:
    with pytest.raises((UsageError, AgentUnreachable)):
        await bench.ask(lambda c: c.ask("POST", "/v1/plan", {"guest": "x" * 2_000_000, "to": "b"}))
    assert (await bench.ask(lambda c: c.hello())).host == "a"


async def test_only_root_the_agents_user_and_its_group_may_speak(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.config.socket.stat().st_mode & 0o777 == 0o660
    assert api_module.permitted(0)
    assert api_module.permitted(os.geteuid())
    assert not api_module.permitted(65534)
    monkeypatch.setattr(api_module, "peer_uid", lambda _: 65534)
    with capture_logs() as logs, pytest.raises(UsageError, match="user 65534 may not use limosa"):
        await bench.ask(lambda c: c.hello())
    assert [entry["event"] for entry in logs] == ["refused a local caller"]


async def test_a_stale_socket_of_a_dead_agent_is_replaced(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="lm-") as directory:
        config = load(Path(directory), overrides={"host": "a", "run_dir": directory})
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(config.socket))
        api = Api(config, bench.script, bench.script)
        await api.open()
        await api.close()
        assert not config.socket.exists()


async def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path, bench: Bench) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(UsageError, match=r"cannot make .*: AF_UNIX path too long"):
        await Api(replace(bench.config, run_dir=deep), bench.script, bench.script).open()


# -- events -----------------------------------------------------------------------------------------------------


async def test_a_watcher_sees_the_move_to_its_end(bench: Bench) -> None:
    watching = asyncio.create_task(bench.ask(lambda c: list(c.events("m1"))))
    for each in (status(), status(MoveState.COMPLETED, elapsed=1.0), None):
        bench.script.story.put_nowait(each)
    seen = await asyncio.wait_for(watching, 5)
    assert seen[-1] == status(MoveState.COMPLETED, elapsed=1.0)


async def test_a_watcher_that_leaves_is_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaced, "__kwdefaults__", {"spacing": 0.01, "silence": 0.02})
    _, writer = await asyncio.open_unix_connection(bench.config.socket)
    writer.write(b"GET /v1/moves/m1/events HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: bench.script.watchers == 1)
    writer.close()
    await until(lambda: bench.script.watchers == 0)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a reading that no event announces."""
    async with asyncio.timeout(3):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_events_are_spaced_and_the_latest_and_the_last_are_told() -> None:
    async def story() -> AsyncIterator[int]:
        for number in range(100):
            yield number
            await asyncio.sleep(0.001)

    loop = asyncio.get_running_loop()
    seen = [(value, loop.time()) async for value in spaced(story(), spacing=0.03)]
    values = [value for value, _ in seen]
    assert values[-1] == 99
    assert all(sooner < later for sooner, later in pairwise(value or 0 for value in values))
    assert all(later - sooner > 0.025 for (_, sooner), (_, later) in pairwise(seen[:-1]))


async def test_a_silence_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()

    async def story() -> AsyncIterator[int]:
        yield 1
        await go.wait()
        yield 2

    seen = []
    async for value in spaced(story(), spacing=0.001, silence=0.01):
        seen.append(value)
        if seen.count(None) == 2:
            go.set()
    assert seen[0] == 1
    assert seen[-1] == 2
    assert None in seen


async def test_an_error_in_a_story_reaches_its_reader() -> None:
    async def story() -> AsyncIterator[int]:
        yield 1
        raise NotFound("gone")

    with pytest.raises(NotFound, match="gone"):
        assert [value async for value in spaced(story(), spacing=0.001)] == []
