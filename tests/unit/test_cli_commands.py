"""Commands against an agent's API that answers from recorded values: parsing, calls, rendering, exit statuses."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest

from limosa.cli import limosa
from limosa.cli.lazy import run
from limosa.cpu.facts import HostCpu, Source
from limosa.cpu.store import CpuStore
from limosa.errors import Blocked, LimosaError, MoveAborted, MoveInDoubt, NotFound
from limosa.testing import moves
from limosa.units import Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.guests import GuestShown, Hello, HostShown
from limosa.wire.moves import MoveRequest, MoveState, MoveStatus, PlanShown, Progress, Stage

WEB1 = GuestShown(
    name="web1",
    uuid="5b1f6f0c-0000-4000-8000-000000000001",
    pid=4711,
    host="a",
    state="running",
    memory=512 * 1024**2,
    vcpus=2,
    owner="by hand",
    monitor="/run/web1.qmp",
    movable="yes",
)


def status(state: MoveState, stage: Stage = Stage.COPY, **more: Any) -> MoveStatus:
    return moves.status(state, stage, **({"id": "m-0001", "uuid": WEB1.uuid, "elapsed": 1.5} | more))


RUNNING = status(
    MoveState.RUNNING, progress=(Progress(item="ram", done=1, total=4, rate=1.0, passes=1, state="copying"),)
)
COMPLETED = status(MoveState.COMPLETED, Stage.RETIRE)


class Recorded:
    """What the agent answers, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.events: list[list[MoveStatus]] = []
        self.asked: list[tuple[str, str, bytes]] = []
        self._news = threading.Condition()

    def take(self, method: str, path: str, content: bytes) -> None:
        with self._news:
            self.asked.append((method, path, content))
            self._news.notify_all()

    def hears(self, wanted: str) -> bool:
        """Whether it is asked this, soon: what is asked aside may come after the command's end."""
        with self._news:
            return self._news.wait_for(lambda: wanted in self.paths(), 20)

    def answer(self, method: str, path: str, value: Any, code: int = 200) -> None:
        self.answers[method, path] = (code, value)

    def refuse(self, method: str, path: str, error: LimosaError) -> None:
        self.answers[method, path] = (409, error.to_wire())

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.asked]

    def body(self, path: str) -> Any:
        return next(json.loads(content) for _, asked, content in self.asked if asked == path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorded: Recorded

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client may leave at any time
            super().handle()

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Tests keep the log themselves."""

    def _serve(self, method: str) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.recorded.take(method, self.path, content)
        if self.path.endswith("/events"):
            self._stream()
            return
        code, value = self.recorded.answers.get((method, self.path), (404, None))
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": welcome\n\n")
        for told in self.recorded.events.pop(0):
            self.wfile.write(b"event: status\ndata: " + msgspec.json.encode(told) + b"\n\n")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    recorded = Recorded()
    handler = type("RecordedHandler", (Handler,), {"recorded": recorded})
    path = tmp_path / "agent.sock"
    monkeypatch.delenv("LIMOSA_HOST", raising=False)
    monkeypatch.setenv("LIMOSA_SOCKET", str(path))
    with Server(str(path), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield recorded
        server.shutdown()
        thread.join()


def test_ls_lists_guests_like_a_table(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("GET", "/v1/guests", [WEB1])
    assert run(limosa, ["ls"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME  STATE     PID  VCPUS     MEMORY  UUID      MOVABLE  OWNER",
        "web1  running  4711      2  512.0 MiB  5b1f6f0c  yes      by hand",
    ]


def test_ls_in_json_is_what_the_agent_said(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("GET", "/v1/guests", [WEB1])
    assert run(limosa, ["ls", "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=list[GuestShown]) == [WEB1]


def test_the_socket_may_be_named_before_or_after_the_command(
    agent: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.answer("GET", "/v1/guests", [])
    monkeypatch.setenv("LIMOSA_SOCKET", "/nowhere/agent.sock")
    path = str(tmp_path / "agent.sock")
    assert run(limosa, ["--socket", path, "ls"]) == 0
    assert run(limosa, ["ls", "--socket", path]) == 0
    assert run(limosa, ["ls", "-H", f"unix://{path}"]) == 0
    assert run(limosa, ["ls"]) == 75


def test_no_agent_is_three_lines_and_try_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["ls", "--socket", str(tmp_path / "none.sock")]) == 75
    what, where, to_do = capsys.readouterr().err.splitlines()
    assert what == f"limosa: no agent answers at {tmp_path}/none.sock: No such file or directory"
    assert where == "  where: no guest was touched"
    assert to_do.startswith("  to do: start the agent")


def test_the_agents_error_keeps_its_kind(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.refuse("GET", "/v1/guests/web%2F9/profile", NotFound("there is no guest web/9", remedy="limosa ls"))
    assert run(limosa, ["show", "web/9"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "limosa: there is no guest web/9"
    assert run(limosa, ["show", "web/9", "--json"]) == 2
    told = json.loads(capsys.readouterr().err)
    assert (told["error"]["code"], told["exit_status"]) == ("not-found", 2)


def test_an_answer_that_is_not_understood_names_both_versions(
    agent: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.answer("GET", "/v1/guests", [{"name": 5}])
    assert run(limosa, ["ls"]) == 20
    assert "install the same version" in capsys.readouterr().err


def test_a_near_name_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["migrat", "web1"]) == 2
    assert "did you mean `limosa migrate`?" in capsys.readouterr().err


def test_a_blocked_plan_exits_with_10_and_names_the_way_out(
    agent: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(
        severity=Severity.BLOCKS, kind="nics", what="net0 is user-mode", remedy="use a tap", consent="user-net"
    )
    agent.answer("POST", "/v1/plan", planned(possible=False, findings=(finding,)))
    assert run(limosa, ["plan", "web1", "--to", "b", "--map", "br0=br-lan", "--allow", "lost-bitmaps"]) == 10
    out = capsys.readouterr().out
    assert "cannot move as asked; nothing was changed" in out
    assert "net0 is user-mode" in out
    assert "--allow user-net" in out
    request = msgspec.convert(agent.body("/v1/plan"), MoveRequest)
    assert request == MoveRequest(guest="web1", to="b", maps={"br0": "br-lan"}, allow=("lost-bitmaps",))


def planned(**more: Any) -> PlanShown:
    values: dict[str, Any] = {
        "guest": "web1",
        "uuid": WEB1.uuid,
        "source": "a",
        "destination": "b",
        "possible": True,
        "findings": (),
        "steps": (),
        "prediction": None,
        "compared": 7,
        "differences": (),
        "rewrites": (),
    }
    return PlanShown(**(values | more))


def test_migrate_follows_the_move_to_its_report(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("POST", "/v1/moves", RUNNING, 202)
    agent.events = [[RUNNING, COMPLETED]]
    words = ["migrate", "web1", "--to", "b", "--bwlimit", "100M", "--downtime-limit", "50", "--delete-source-disks"]
    assert run(limosa, [*words, "--parallel-connections", "0", "--timeout", "60", "--yes"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("web1 moved from a to b; web1 runs on b, the destination")
    assert "0:01 running copy" in printed.err
    request = msgspec.convert(agent.body("/v1/moves"), MoveRequest)
    assert request == MoveRequest(
        guest="web1",
        to="b",
        bandwidth=100 * 1024**2,
        downtime_limit=50,
        timeout=60,
        keep_source_disks=False,
        channels=0,
    )


@pytest.mark.parametrize(
    ("error", "exit_status"),
    [
        (LimosaError("it broke", guest_runs=Side.SOURCE), 20),
        (MoveInDoubt("who knows", guest_runs=Side.UNKNOWN), 21),
        (MoveAborted("stopped on request", guest_runs=Side.SOURCE), 30),
        (Blocked("not like this", guest_runs=Side.SOURCE), 10),
    ],
)
def test_the_end_of_a_move_is_its_exit_status(
    agent: Recorded, capsys: pytest.CaptureFixture[str], error: LimosaError, exit_status: int
) -> None:
    runs = error.guest_runs or Side.SOURCE
    over = status(MoveState.FAILED, error=error.to_wire(), undone=("mirror of vda",), guest_runs=runs)
    agent.answer("POST", "/v1/moves", RUNNING, 202)
    agent.events = [[over], [over]]
    assert run(limosa, ["migrate", "web1", "--to", "b"]) == exit_status
    told = capsys.readouterr().err
    assert f"limosa: {error.what}" in told
    assert "mirror of vda" in told
    assert run(limosa, ["migrate", "web1", "--to", "b", "--json"]) == exit_status
    printed = capsys.readouterr()
    assert msgspec.json.decode(printed.out, type=MoveStatus) == over
    assert json.loads(printed.err)["exit_status"] == exit_status


def test_a_stream_that_breaks_off_is_taken_up_again(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("GET", "/v1/moves", [RUNNING])
    agent.answer("GET", "/v1/moves/m-0001", RUNNING)
    agent.events = [[RUNNING], [RUNNING, COMPLETED]]
    assert run(limosa, ["watch"]) == 0
    assert agent.paths().count("GET /v1/moves/m-0001/events") == 2


def test_ctrl_c_asks_for_an_abort_and_waits_for_its_answer(
    agent: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from limosa.cli import live

    drawn: list[MoveState] = []

    def draw(self: live.PlainScreen[MoveStatus], told: MoveStatus) -> None:
        drawn.append(told.state)
        if len(drawn) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(live.PlainScreen, "draw", draw)
    agent.answer("POST", "/v1/moves", RUNNING, 202)
    agent.answer("POST", "/v1/moves/m-0001/abort", status(MoveState.ABORTING), 202)
    agent.events = [[RUNNING], [status(MoveState.ABORTING), status(MoveState.ABORTED)]]
    assert run(limosa, ["migrate", "web1", "--to", "b"]) == 30
    assert drawn == [MoveState.RUNNING, MoveState.ABORTING, MoveState.ABORTED]
    assert agent.hears("POST /v1/moves/m-0001/abort")


def test_a_second_ctrl_c_says_how_to_look_it_up(
    agent: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from limosa.cli import live

    def draw(self: live.PlainScreen[MoveStatus], told: MoveStatus) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live.PlainScreen, "draw", draw)
    agent.answer("POST", "/v1/moves", RUNNING, 202)
    agent.answer("POST", "/v1/moves/m-0001/abort", status(MoveState.ABORTING), 202)
    agent.events = [[RUNNING], [RUNNING]]
    assert run(limosa, ["migrate", "web1", "--to", "b"]) == 75
    assert "limosa watch m-0001" in capsys.readouterr().err


def test_abort_succeeds_when_the_move_was_aborted(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("GET", "/v1/moves", [COMPLETED, RUNNING])
    agent.answer("POST", "/v1/moves/m-0001/abort", status(MoveState.ABORTING), 202)
    agent.events = [[status(MoveState.ABORTED, undone=("twin",))], [COMPLETED]]
    assert run(limosa, ["abort", "web1"]) == 0
    assert "undone\n  twin" in capsys.readouterr().err
    assert run(limosa, ["abort"]) == 10
    assert "too late" in capsys.readouterr().err


def test_speed_takes_a_move_and_a_rate(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("GET", "/v1/moves", [RUNNING])
    agent.answer("POST", "/v1/moves/m-0001/speed", RUNNING)
    assert run(limosa, ["speed", "50M"]) == 0
    assert agent.body("/v1/moves/m-0001/speed") == {"bytes_per_second": 50 * 1024**2}
    assert "50.0 MiB/s" in capsys.readouterr().out
    assert run(limosa, ["speed", "web1", "fast"]) == 2


def test_detach_prints_the_id_first(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    agent.answer("POST", "/v1/moves", RUNNING, 202)
    assert run(limosa, ["migrate", "web1", "--to", "b", "--detach"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "m-0001"


def test_hosts_says_who_fits_and_why_the_others_do_not(agent: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    known = [
        HostShown(name="a", address="10.0.0.1", migration_address="10.1.0.1", reachable=True),
        HostShown(name="b", address="10.0.0.2", migration_address="10.1.0.2", reachable=True, round_trip=0.0004),
        HostShown(name="c", address="10.0.0.3", migration_address="", reachable=False, why_not="connection refused"),
    ]
    agent.answer("GET", "/v1/hosts", known)
    agent.answer("GET", "/v1/hello", Hello(host="a", version="0", pid=1, protocol=1))
    agent.answer("POST", "/v1/plan", planned(possible=False, differences=("cpu: avx",)))
    assert run(limosa, ["hosts"]) == 0
    assert "no: connection refused" in capsys.readouterr().out
    assert run(limosa, ["hosts", "--fits", "web1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "HOST  FITS  WHY NOT",
        "b     no    cpu: avx",
        "c     no    connection refused",
    ]


@pytest.mark.parametrize("words", [["--map", "nothing"], ["--map", "a=b", "--map", "a=c"], ["--bandwidth", "fast"]])
def test_a_flag_that_makes_no_sense_never_reaches_the_agent(agent: Recorded, words: list[str]) -> None:
    assert run(limosa, ["migrate", "web1", "--to", "b", *words]) == 2
    assert agent.asked == []


def test_commands_over_a_fleet_ask_each_known_host_and_take_imports_for_the_others(
    agent: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cpu(name: str, *flags: str) -> HostCpu:
        return HostCpu(host=name, source=Source.QEMU, flags=flags, vendor="AuthenticAMD", phys_bits=48)

    monkeypatch.setenv("LIMOSA_STATE_DIR", str(tmp_path))
    for old in (cpu("a", "fpu"), cpu("paper", "fpu")):
        CpuStore(tmp_path / "cpu").save(old)
    agent.answer(
        "GET", "/v1/hosts", [HostShown(name=n, address="", migration_address="", reachable=True) for n in "abc"]
    )
    agent.answer("GET", "/v1/hosts/a/cpu?accel=tcg", cpu("a", "fpu", "sse2"))
    agent.answer("GET", "/v1/hosts/b/cpu?accel=tcg", cpu("b", "fpu", "sse2"))
    agent.refuse("GET", "/v1/hosts/c/cpu?accel=tcg", LimosaError("connection refused"))
    assert run(limosa, ["cpu", "pools", "--accel", "tcg", "--json"]) == 0
    printed = capsys.readouterr()
    assert [pool["hosts"] for pool in json.loads(printed.out)["pools"]] == [["paper"], ["a", "b"]]
    assert printed.err == "limosa: c: connection refused; it is left out\n"
    assert run(limosa, ["cpu", "pools", "--accel", "tcg", "a", "c"]) == 20
    assert "connection refused" in capsys.readouterr().err
