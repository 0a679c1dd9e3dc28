"""The rules of a link, over two queues in this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from limosa.agent.link import ChannelClosed, PeerLink, loopback
from limosa.errors import Blocked, LimosaError, PeerError, UsageError
from limosa.units import HostName, Seconds, Side
from limosa.wire.rpc import Cancel, Echo, Handlers, Request, Result

A, B = HostName("a"), HostName("b")


class Number(msgspec.Struct, frozen=True):
    n: int


async def until(true: Callable[[], bool]) -> None:
    """Wait for a reading that no event announces."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class Bench:
    """Two ends, and what happened at b."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.a, self.b = loopback(A, B, {"add": (Number, self.add)}, self.handlers())

    def handlers(self) -> Handlers:
        return {
            "add": (Number, self.add),
            "who": (type(None), self.who),
            "wait": (type(None), self.wait),
            "refuse": (Number, self.refuse),
            "break": (type(None), self.break_),
        }

    async def add(self, params: Number, _caller: HostName) -> Number:
        await asyncio.sleep((10 - params.n % 10) / 1000)
        return Number(params.n + 1)

    async def who(self, _params: None, caller: HostName) -> str:
        return caller

    async def wait(self, _params: None, _caller: HostName) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def refuse(self, params: Number, _caller: HostName) -> None:
        raise Blocked("no room", guest_runs=Side.SOURCE, remedy="free some", detail=str(params.n))

    async def break_(self, _params: None, _caller: HostName) -> None:
        raise ZeroDivisionError("oh")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.a.close()
    await bench.b.close()


async def test_many_calls_in_flight_find_their_own_answers(bench: Bench) -> None:
    answers = await asyncio.gather(*(bench.a.call("add", Number(n), Number) for n in range(200)))
    assert [a.n for a in answers] == list(range(1, 201))


async def test_both_ends_may_call_and_each_learns_who_calls(bench: Bench) -> None:
    assert await bench.a.call("who", None, str) == A
    assert (await bench.b.call("add", Number(1), Number)).n == 2


async def test_the_handlers_own_error_arrives_whole(bench: Bench) -> None:
    with pytest.raises(Blocked) as error:
        await bench.a.call("refuse", Number(7), type(None))
    assert error.value.to_wire() == Blocked("no room", guest_runs=Side.SOURCE, remedy="free some", detail="7").to_wire()


async def test_an_unexpected_error_is_told_and_harms_nothing(bench: Bench) -> None:
    with pytest.raises(LimosaError, match="ZeroDivisionError: oh"):
        await bench.a.call("break", None, type(None))
    assert await bench.a.call("who", None, str) == A


async def test_an_unknown_call_and_wrong_parameters_are_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="does not know the call fly"):
        await bench.a.call("fly", None, type(None))
    with pytest.raises(UsageError, match="add: Expected `object`"):
        await bench.a.call("add", None, Number)


async def test_an_answer_of_another_type_is_a_peers_fault(bench: Bench) -> None:
    with pytest.raises(PeerError, match="nonsense"):
        await bench.a.call("who", None, Number)


async def test_a_cancelled_call_cancels_its_handler(bench: Bench) -> None:
    call = asyncio.create_task(bench.a.call("wait", None, type(None)))
    await bench.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(bench.cancelled.wait(), 1)
    assert await bench.a.call("who", None, str) == A


async def test_a_call_that_takes_too_long_is_taken_back(bench: Bench) -> None:
    with pytest.raises(PeerError, match=r"did not answer wait within 0.05 s"):
        await bench.a.call("wait", None, type(None), timeout=0.05)
    await asyncio.wait_for(bench.cancelled.wait(), 1)


async def test_when_the_link_is_lost_callers_handlers_and_watchers_learn_it(bench: Bench) -> None:
    call = asyncio.create_task(bench.a.call("wait", None, type(None)))
    gone = asyncio.create_task(bench.a.gone())
    await bench.entered.wait()
    await bench.b.close("power cut")
    await asyncio.wait_for(gone, 1)
    await asyncio.wait_for(bench.cancelled.wait(), 1)
    with pytest.raises(PeerError, match="the link to b is lost"):
        await call
    with pytest.raises(PeerError, match="who was not sent"):
        await bench.a.call("who", None, str)


async def test_a_handler_may_take_its_time_to_clean_up_and_the_other_end_does_not_wait() -> None:
    cleaned, release, entered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_params: None, _caller: HostName) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            cleaned.set()

    a, b = loopback(A, B, {}, {"slow": (type(None), slow)})
    call = asyncio.create_task(a.call("slow", None, type(None)))
    await entered.wait()
    closing = asyncio.create_task(b.close())
    await asyncio.wait_for(a.gone(), 1)
    assert not cleaned.is_set()
    release.set()
    await closing
    assert cleaned.is_set()
    with pytest.raises(PeerError):
        await call
    await a.close()


async def test_beats_measure_the_round_trip(bench: Bench) -> None:
    await until(lambda: bench.a.round_trip is not None)
    assert bench.a.round_trip is not None
    assert 0 <= bench.a.round_trip < 1


# -- a peer that misbehaves ----------------------------------------------------------------------------------


class Script:
    """A channel whose other end says just what a test puts in."""

    local_address = peer_address = "127.0.0.1"

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes] = asyncio.Queue()
        self.heard: list[Any] = []
        self.closed = ""
        self.stuck = False

    def kinds(self) -> set[str]:
        return {frame["type"] for frame in self.heard}

    async def send(self, message: bytes) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        if self.closed:
            raise ChannelClosed(self.closed)
        self.heard.append(msgspec.msgpack.decode(message))

    async def receive(self) -> bytes:
        return await self.said.get()

    async def close(self, reason: str) -> None:
        self.closed = reason


def link_to(script: Script, silence: float = 5.0) -> PeerLink:
    return PeerLink(B, script, {}, silence=Seconds(silence))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)),
        msgspec.msgpack.encode({"type": "request"}),
        msgspec.msgpack.encode({"type": "dance", "id": 1}),
        msgspec.msgpack.encode([1, 2, 3]),
        msgspec.msgpack.encode({"type": "failure", "id": 1, "error": {"guest_runs": "nowhere"}}),
    ],
)
async def test_nonsense_ends_the_link(message: bytes) -> None:
    script = Script()
    link = link_to(script)
    call = asyncio.create_task(link.call("x", None, type(None)))
    await asyncio.sleep(0)
    script.said.put_nowait(message)
    await asyncio.wait_for(link.gone(), 1)
    with pytest.raises(PeerError, match="nonsense"):
        await call
    await link.close()
    assert script.closed


async def test_answers_that_nobody_waits_for_are_passed_over() -> None:
    script = Script()
    link = link_to(script)
    for frame in (Result(99, msgspec.Raw(b"\xc0")), Cancel(99), Echo(0.0)):
        script.said.put_nowait(msgspec.msgpack.encode(frame))
    script.said.put_nowait(msgspec.msgpack.encode(Request(1, "x", msgspec.Raw(b"\xc0"))))
    await until(lambda: "failure" in script.kinds())
    assert not link.lost
    await link.close()


async def test_a_silent_peer_is_given_up() -> None:
    script = Script()
    link = link_to(script, silence=0.1)
    call = asyncio.create_task(link.call("x", None, type(None)))
    await asyncio.wait_for(link.gone(), 2)
    with pytest.raises(PeerError, match=r"no sign of life for 0.1 s"):
        await call
    await link.close()


async def test_a_peer_is_not_called_silent_because_this_process_stood_still() -> None:
    a, b = loopback(A, B, {}, {}, silence=Seconds(1.2))
    await asyncio.sleep(0.05)
    time.sleep(1.5)  # noqa: ASYNC251  (that is the point)
    await asyncio.sleep(0.3)
    assert (a.lost, b.lost) == (False, False)
    await a.close()
    await b.close()


async def test_a_peer_that_reads_nothing_is_given_up_too() -> None:
    script = Script()
    script.stuck = True
    link = link_to(script, silence=0.1)
    with pytest.raises(PeerError):
        await link.call("x", None, type(None))
    await link.close()


async def test_an_error_with_an_unknown_code_is_still_an_error() -> None:
    script = Script()
    link = link_to(script)
    call = asyncio.create_task(link.call("x", None, type(None)))
    await until(lambda: "request" in script.kinds())
    script.said.put_nowait(msgspec.msgpack.encode({"type": "failure", "id": 1, "error": {"code": "new", "what": "w"}}))
    with pytest.raises(LimosaError, match="w"):
        await call
    await link.close()
