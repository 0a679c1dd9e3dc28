"""The command line against a real controller: API over TLS, database, operations; its agents are a model."""

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from structlog.testing import capture_logs

from limosa.agent import pki
from limosa.agent.hooks.config import HookConfig
from limosa.api import operations as operations_api
from limosa.api.app import app
from limosa.cli import limosa
from limosa.cli.lazy import run
from limosa.errors import BY_CODE, Blocked, PeerError
from limosa.fleet.chronicle import changes_before
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.fleet.hooks import FleetHooks
from limosa.fleet.operations import carry_out
from limosa.fleet.operations.advance import Wish
from limosa.fleet.operations.living import LivingPort
from limosa.fleet.operations.simulated import World
from limosa.testing.fleet import FLAGS, guest, report
from limosa.wire.fleet import FleetGuest, FleetHost, GuestRules, HostSettings, Item, Operation, Phase, Role
from limosa.wire.reports import Deed, Order, Outcome

LOOK_SECONDS = 0.02

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""The command line knows no databases; what takes both is that an operation is carried out at all."""


@dataclass
class Agents:
    """Agents at their calls: each look lets a second of their time pass."""

    world: World
    controller: Controller
    fails: Callable[[Item], bool] = field(default=lambda _item: False)
    seconds: float = 2.0
    deaf: bool = False

    async def call(self, item: Item, method: str, params: Order | Deed, _seconds: float) -> Outcome:
        if self.deaf:
            raise PeerError("no route")
        if method == "fleet.start":
            return self.world.order(params.hand, item)
        if method == "fleet.abort":
            self.world.take_back(params.hand, item)
            return Outcome(move="", status=None)
        self.world.pass_time(1.0)
        told = self.world.outcome(params.hand, item)
        await self.tell()
        return told

    async def tell(self) -> None:
        """What agents report, as the world is now."""
        for host in self.world.inventory.hosts:
            there = (guest(str(each.name), str(host.name)) for each in self.world.inventory.on(host.name))
            await self.controller.registry.take(host.name, report(host.name, *there, flags=FLAGS), time.time())


@dataclass
class Fleet:
    """A controller that is served, and the command line that speaks to it."""

    controller: Controller
    agents: Agents
    url: str
    tokens: dict[Role, str]
    ca: Path

    async def limosa(self, *words: str) -> int:
        """One command line, in a thread beside the controller."""
        return await asyncio.to_thread(run, limosa, list(words))


@pytest.fixture
async def fleet(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    (tmp_path / "controller.toml").write_text(f'database = "{database_url}"\nstate_dir = "{tmp_path}/state"\n')
    monkeypatch.setattr(carry_out, "TICK", LOOK_SECONDS)
    monkeypatch.setattr(operations_api, "LOOK_EVERY", LOOK_SECONDS)
    # Logs go to standard output, where the answers of commands are looked for.
    with capture_logs():
        async with Controller.running(load(tmp_path)) as controller:
            for each in (
                report("a", guest("web1", "a"), guest("web2", "a")),
                report("b", guest("db1", "b")),
                report("c"),
            ):
                assert each.machine is not None
                await controller.registry.take(each.machine.host, each, time.time())
            agents = Agents(_world(await controller.inventory()), controller)
            agents.world._seconds = lambda _item: agents.seconds
            agents.world._fails = lambda item: agents.fails(item)
            monkeypatch.setattr(LivingPort, "_call", lambda _port, *asked: agents.call(*asked))
            tokens = {role: (await controller.tokens.make(role, role, "test")).word for role in Role}
            server = uvicorn.Server(_tls(controller, tmp_path / "pki"))
            serving = asyncio.create_task(server.serve())
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            there = Fleet(controller, agents, f"https://127.0.0.1:{port}", tokens, tmp_path / "ca" / "ca-cert.pem")
            for name in ("LIMOSA_SOCKET", "LIMOSA_RUN_DIR", "LIMOSA_TOKEN_FILE"):
                monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv("LIMOSA_HOST", there.url)
            monkeypatch.setenv("LIMOSA_TOKEN", tokens[Role.ADMIN])
            monkeypatch.setenv("LIMOSA_CA", str(there.ca))
            yield there
            server.should_exit = True
            await serving
            await _nothing_under_way(controller)


async def _nothing_under_way(controller: Controller) -> None:
    async with asyncio.timeout(20):
        while opened := await controller.store.open():
            for each in opened:
                with suppress(Blocked):  # it is being cancelled
                    await controller.wish(each.id, Wish.CANCEL, "test", "")
            await asyncio.sleep(LOOK_SECONDS)


def _world(inventory: Any) -> World:
    return World(inventory, seconds=lambda _item: 0.0, fails=lambda _item: False)


def _tls(controller: Controller, directory: Path) -> uvicorn.Config:
    return uvicorn.Config(
        app(controller),
        host="127.0.0.1",
        port=0,
        ssl_certfile=str(directory / pki.HOST_CERT),
        ssl_keyfile=str(directory / pki.HOST_KEY),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )


async def host_named(name: str, fleet: Fleet) -> FleetHost:
    return next(each for each in await fleet.controller.hosts() if each.name == name)


async def latest(fleet: Fleet) -> Operation:
    (first, *_) = await fleet.controller.operations(None, 1)
    return first


async def test_a_drain_shows_its_plan_and_ends_with_an_empty_host(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await fleet.limosa("drain", "a", "--yes", "--why", "fans") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("drain of a: 2 guests to move\n")
    assert "frees      a" in printed.out
    assert "drain of a: done, 2 of 2 guests moved" in printed.out
    assert "web1 a → " in printed.err
    host = await host_named("a", fleet)
    assert (host.state, host.guests) == ("drained", 0)
    assert (await latest(fleet)).why == "fans"


async def test_who_moved_away_comes_home_again(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert await fleet.limosa("drain", "a", "--yes", "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Operation).phase is Phase.DONE
    assert await fleet.limosa("restore", "a", "--yes") == 0
    assert "go home" in capsys.readouterr().out
    host = await host_named("a", fleet)
    assert (host.state, host.guests) == ("active", 2)


@on_sqlite
async def test_a_drain_that_leaves_guests_says_which_and_why_with_40(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.agents.fails = lambda item: item.name == "web2"
    assert await fleet.limosa("drain", "a", "--yes", "--retries", "0") == 40
    printed = capsys.readouterr()
    assert "NOT MOVED  ON" in printed.out
    assert "web2" in printed.out.split("NOT MOVED")[1]
    what, where, to_do = printed.err.splitlines()[-3:]
    assert what == "limosa: drain of a is partly done: 1 of 2 guests moved, 1 failed"
    assert where == "  where: 1 guest at the destination, the others where they were"
    assert "`limosa drain a`" in to_do


@on_sqlite
async def test_where_no_guest_can_move_nothing_is_begun(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    for host in "bc":
        assert await fleet.limosa("host", "set", host, "--state", "maintenance", "--why", "disks") == 0
    capsys.readouterr()
    assert await fleet.limosa("drain", "a", "--yes") == 10
    printed = capsys.readouterr()
    assert "is in maintenance" in printed.out
    assert printed.err.startswith("limosa: drain of a: no guest can move\n")
    assert (await latest(fleet)).phase is Phase.CANCELLED
    assert (await host_named("a", fleet)).state == "active"


@on_sqlite
async def test_a_host_that_is_empty_already_is_drained_though_nobody_can_leave_the_other_one(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("web1", "web2"):
        assert await fleet.limosa("guest", "set", name, "--pin", "a") == 0
    assert await fleet.limosa("drain", "c", "a", "--dry-run") == 40
    assert await fleet.limosa("drain", "c", "a", "--yes") == 40
    assert "drain of c, a is partly done" in capsys.readouterr().err
    assert [(await host_named(host, fleet)).state for host in "ac"] == ["draining", "drained"]


@on_sqlite
async def test_a_dry_run_keeps_nothing(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert await fleet.limosa("drain", "a", "--dry-run") == 0
    assert "web1" in capsys.readouterr().out
    assert await fleet.limosa("consolidate", "--dry-run", "--json") == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=Operation).phase is Phase.PLANNED
    assert not await fleet.controller.operations(None, 10)


@on_sqlite
async def test_without_a_terminal_and_without_yes_nothing_is_even_planned(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await fleet.limosa("drain", "a") == 2
    assert "--yes carries it out" in capsys.readouterr().err
    assert not await fleet.controller.operations(None, 10)


@on_sqlite
async def test_a_detached_operation_is_paused_resumed_watched_and_cancelled(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.agents.seconds = 1e9
    assert await fleet.limosa("drain", "a", "--yes", "--detach", "--limit-out", "1") == 0
    name = (await latest(fleet)).id
    assert f"\n{name}\nfollow it with: limosa operations watch {name}\n" in capsys.readouterr().out
    assert await fleet.limosa("operations", "pause") == 0
    assert await fleet.limosa("operations", "resume", name[:8], "--why", "lunch is over") == 0
    assert await fleet.limosa("operations", "show", "--json") == 0
    assert await fleet.limosa("operations") == 0
    assert f"{name}" in capsys.readouterr().out
    watched = asyncio.create_task(fleet.limosa("operations", "watch", name))
    assert await fleet.limosa("operations", "cancel", name) == 0
    assert await watched == 30
    assert "was cancelled: 0 of 2 guests moved" in capsys.readouterr().err
    assert await fleet.limosa("operations", "pause") == 2
    assert await fleet.limosa("operations", "approve", name) == 10


@on_sqlite
async def test_moves_one_guest_and_lists_the_fleet(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    assert await fleet.limosa("plan", "web1", "--to", "b") == 0
    assert "as asked" in capsys.readouterr().out
    assert await fleet.limosa("migrate", "web1", "--to", "b") == 0
    assert "move of web1: done" in capsys.readouterr().out
    assert await fleet.limosa("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["NAME", "HOST"], ["db1", "b"], ["web1", "b"], ["web2", "a"]]
    assert await fleet.limosa("hosts", "--fits", "web1", "--json") == 0
    assert {fit["host"] for fit in json.loads(capsys.readouterr().out)} == {"a", "c"}
    assert await fleet.limosa("hosts") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["a", "active", "1"]
    fleet.agents.fails = lambda _item: True
    assert await fleet.limosa("migrate", "web2", "--to", "c", "--map", "x=y") == 2
    assert await fleet.limosa("migrate", "nobody", "--to", "c") == 2


@on_sqlite
async def test_a_guest_is_shown_as_the_controller_knows_it_with_where_it_could_go(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await fleet.limosa("guest", "set", "web1", "--group", "web", "--pin", "c") == 0
    capsys.readouterr()
    assert await fleet.limosa("show", "web1") == 0
    facts, fits = capsys.readouterr().out.split("\n\n")
    told = {line[:10].rstrip(): line[11:] for line in facts.splitlines()}
    known = await fleet.controller.guest("web1")
    assert told["guest"] == f"web1 ({known.id})"
    assert told["owner"] == f"a, epoch {known.epoch}"
    assert (told["vcpus"], told["groups"], told["pinned to"]) == (str(known.vcpus), "web", "c")
    assert [line.split()[:2] for line in fits.splitlines()] == [["HOST", "FITS"], ["b", "no"], ["c", "yes"]]
    assert await fleet.limosa("show", "web1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["guest"]["name"], [fit["host"] for fit in shown["fits"]]) == ("web1", ["b", "c"])
    assert await fleet.limosa("show", "nobody") == 2


@on_sqlite
async def test_the_hooks_of_a_controller_are_shown_and_tried(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await fleet.limosa("hooks", "ls") == 0
    assert "controller.toml" in capsys.readouterr().out
    hooks = [HookConfig(name="log", file=str(tmp_path / "told")), HookConfig(name="dns", command=("/bin/false",))]
    monkeypatch.setattr(fleet.controller, "hooks", FleetHooks(hooks, fleet.controller.database))
    assert await fleet.limosa("hooks", "ls") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["HOOK", "log", "dns"]
    assert await fleet.limosa("hooks", "test", "log", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["delivered"] is True
    assert await fleet.limosa("hooks", "test") == 40
    assert await fleet.limosa("hooks", "test", "mail") == 2
    changes = await changes_before(fleet.controller.database, 2**31, 10)
    assert {(each.what, each.subject) for each in changes} >= {("test a hook", "log"), ("test a hook", "dns")}
    monkeypatch.setenv("LIMOSA_TOKEN", fleet.tokens[Role.OPERATOR])
    assert await fleet.limosa("hooks", "test") == 10


@on_sqlite
async def test_lists_of_many_pages_miss_nothing(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limosa.cli.fleet_client.PAGE", 1)
    assert await fleet.limosa("ls", "--json") == 0
    assert {each["name"] for each in json.loads(capsys.readouterr().out)} == {"web1", "web2", "db1"}


@on_sqlite
async def test_a_role_that_may_not_is_told_so(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMOSA_TOKEN", fleet.tokens[Role.VIEWER])
    assert await fleet.limosa("ls") == 0
    assert await fleet.limosa("drain", "a", "--yes") == 10
    assert "viewer is a viewer; this takes an operator" in capsys.readouterr().err


@on_sqlite
async def test_who_asks_and_who_answers_must_prove_it(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pki.create_ca(tmp_path / "other", "other")
    assert await fleet.limosa("ls", "--ca", str(tmp_path / "other" / "ca-cert.pem")) == 10
    assert "shows a certificate that" in capsys.readouterr().err
    assert await fleet.limosa("ls", "-H", fleet.url.replace("127.0.0.1", "localhost")) == 10
    assert "not for localhost" in capsys.readouterr().err
    monkeypatch.setenv("LIMOSA_TOKEN", "nonsense")
    assert await fleet.limosa("ls") == 10
    assert "does not know this token" in capsys.readouterr().err


@on_sqlite
async def test_what_is_set_of_hosts_and_guests_leaves_the_rest_as_it_is(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await fleet.limosa("host", "set", "b", "--rack", "r4", "--label", "ssd", "--max-in", "0") == 0
    assert await fleet.limosa("host", "set", "b", "--label", "", "--watts", "320") == 0
    settings = (await host_named("b", fleet)).settings
    assert settings == HostSettings(rack="r4", watts=320.0, max_in=0)
    assert await fleet.limosa("guest", "set", "web1", "--group", "web", "--priority", "5") == 0
    assert await fleet.limosa("guest", "set", "web1", "--pin", "c", "--json") == 0
    shown = capsys.readouterr().out.splitlines()
    assert msgspec.json.decode(shown[-1], type=FleetGuest).rules == GuestRules(
        groups=("web",), priority=5, pin_hosts=("c",)
    )
    assert await fleet.limosa("host", "set", "b") == 2
    assert await fleet.limosa("host", "set", "nowhere", "--rack", "r4") == 2


@on_sqlite
async def test_a_second_drain_of_a_host_is_refused_and_leaves_no_plan_behind(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.agents.seconds = 1e9
    assert await fleet.limosa("drain", "a", "--yes", "--detach", "--json") == 0
    first = msgspec.json.decode(capsys.readouterr().out, type=Operation)
    assert await fleet.limosa("drain", "a", "--yes") == 10
    assert f"drain {first.id} works on a already" in capsys.readouterr().err
    assert {each.phase for each in await fleet.controller.operations(None, 10)} == {Phase.RUNNING, Phase.CANCELLED}
    assert await fleet.limosa("abort", first.id) == 0
    assert (await fleet.controller.store.get(first.id)).phase is Phase.CANCELLED


@on_sqlite
async def test_a_hostile_name_does_not_reach_the_terminal(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "web\x1b]0;owned\x07\u202e1"
    there = report("a", guest(hostile, "a"))
    await fleet.controller.registry.take("a", there, time.time())
    for words in (["ls"], ["drain", "a", "--dry-run"]):
        assert await fleet.limosa(*words) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert r"web\x1b]0;owned\x07\u202e1" in shown


def test_the_command_line_knows_every_error_that_a_controller_or_an_agent_may_send() -> None:
    strangers = {kind.__module__ for kind in BY_CODE.values()} - {"limosa.errors", "limosa.cli.failure"}
    beside = ("limosa.lab.", "limosa.testing.")  # they talk to nobody
    assert not [m for m in strangers if m.startswith("limosa.") and not m.startswith(beside)]


class Terminal:
    """A command line on a terminal of its own."""

    def __init__(self, words: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        code = "import sys; from limosa.cli import main; main(sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, words: str, seconds: float = 30.0) -> None:
        until = time.monotonic() + seconds
        while words not in self.shown:
            assert time.monotonic() < until, self.shown
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # its other end is closed
                    assert words in self.shown, self.shown

    def type(self, words: str) -> None:
        os.write(self._ours, words.encode())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        while True:
            try:
                more = os.read(self._ours, 65536)
            except OSError:
                break
            if not more:
                break
            self.shown += more.decode(errors="replace")
        os.close(self._ours)
        return self._process.wait(30)


def _interrupted_drain(word: str) -> tuple[int, str]:
    terminal = Terminal(["drain", "a"])
    terminal.read_until("Carry out this drain?")
    terminal.type("y\n")
    terminal.read_until("▶")
    terminal.interrupt()
    terminal.read_until("watch on?")
    terminal.type(f"{word}\n")
    return terminal.end(), terminal.shown


@on_sqlite
@pytest.mark.parametrize(
    ("word", "exit_status", "phases"),
    [
        ("leave", 75, {Phase.RUNNING}),
        ("pause", 75, {Phase.RUNNING, Phase.PAUSED}),  # what is wished, and what is done at the next look
        ("cancel", 30, {Phase.CANCELLED}),
    ],
)
async def test_on_a_terminal_it_asks_draws_and_after_ctrl_c_does_as_it_is_told(
    fleet: Fleet, word: str, exit_status: int, phases: set[Phase]
) -> None:
    fleet.agents.seconds = 1e9
    status, shown = await asyncio.to_thread(_interrupted_drain, word)
    operation = await latest(fleet)
    assert status == exit_status
    assert operation.phase in phases
    assert "2 moving" in shown
    hint = {"leave": "watch", "pause": "resume"}.get(word)
    assert hint is None or f"limosa operations {hint} {operation.id}" in shown


def _declined() -> int:
    terminal = Terminal(["drain", "a"])
    terminal.read_until("Carry out this drain?")
    terminal.type("n\n")
    return terminal.end()


@on_sqlite
async def test_a_plan_that_is_declined_waits_for_nobody(fleet: Fleet) -> None:
    assert await asyncio.to_thread(_declined) == 130
    assert (await latest(fleet)).phase is Phase.CANCELLED
