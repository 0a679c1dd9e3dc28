"""One host's pages on its own agent: a real one, not started, whose guests and peers are a script."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from limosa.cli import limosa
from limosa.cli.lazy import run
from limosa.errors import PeerError
from limosa.testing.agent import Here, Script, guest, opened, peer
from limosa.testing.moves import record
from limosa.units import GIB
from limosa.web.agent.site import event
from limosa.web.parts import News
from limosa.wire.doctor import Trouble, Weight
from limosa.wire.guests import WebLink
from limosa.wire.history import LogLine, MoveLog
from limosa.wire.moves import MoveState

EVIL = "<script>alert(1)</script><!--end-->\"'{{7*7}}\u202e" + "\r\ndata: x"
OWN = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Bench:
    """A running front, and browsers of it."""

    agent: Here
    script: Script
    socket: aiohttp.ClientSession
    port: aiohttp.ClientSession
    at: str = ""
    """Where the port is: `http://127.0.0.1:PORT`."""

    async def get(self, path: str, status: int = 200, **headers: str) -> str:
        """A page over the unix socket."""
        async with self.socket.get(f"http://localhost{path}", headers=headers, allow_redirects=False) as answer:
            assert answer.status == status, await answer.text()
            return await answer.text()

    async def post(self, path: str, form: Mapping[str, str], status: int = 303, **headers: str) -> str:
        """What a form sends over the unix socket."""
        sent = {**OWN, **headers}
        url = f"http://localhost{path}"
        async with self.socket.post(url, data=form, headers=sent, allow_redirects=False) as answer:
            assert answer.status == status, await answer.text()
            return answer.headers.get("Location", "") or await answer.text()

    async def word(self) -> str:
        """What a form has to carry, as a page has it."""
        found = re.search(r'name="form" value="([^"]+)"', await self.get("/moves/m-flying"))
        assert found
        return found[1]

    async def link(self) -> WebLink:
        async with self.socket.post("http://limosa-agent/v1/web-link") as answer:
            assert answer.status == 200, await answer.text()
            return msgspec.json.decode(await answer.read(), type=WebLink)

    async def at_port(self, path: str, host: str, cookie: str = "", **headers: str) -> aiohttp.ClientResponse:
        sent = {"Host": host, **({"Cookie": f"limosa-agent={cookie}"} if cookie else {}), **headers}
        answer = await self.port.get(f"{self.at}{path}", headers=sent, allow_redirects=False)
        await answer.read()
        return answer


@asynccontextmanager
async def running(script: Script) -> AsyncIterator[Bench]:
    async with (
        opened(script) as (agent, web),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(agent.config.socket))) as socket,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as port,
    ):
        yield Bench(agent, script, socket, port, f"http://127.0.0.1:{web}")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    trouble = Trouble(weight=Weight.ERROR, host="b", what=EVIL, guest_runs="a and b", remedy="fence one")
    async with running(Script(troubles=(trouble,))) as made:
        now = time.time()
        line = LogLine(at=now - 50, host="a", level="info", event="move begins")
        made.agent.moves.archive.keep(record("m-past", began=now - 60), MoveLog(lines=(line,)))
        made.agent.flies(record("m-flying", began=now - 5, state=MoveState.RUNNING))
        yield made


# -- pages ------------------------------------------------------------------------------------------------------


async def test_the_socket_shows_guests_without_signing_in(bench: Bench) -> None:
    assert await bench.get("/", 303) == ""
    page = await bench.get("/guests")
    assert "web1" in page
    assert "2.0 GiB" in page
    assert "Sign out" not in page  # there is no session to end
    assert 'hx-sse:connect="/live/guests?seen=' in page


async def test_a_guest_tells_of_its_shape_its_moves_and_where_it_can_go(bench: Bench) -> None:
    bench.script.hosts += (peer("c", memory_free=GIB), peer("d", reachable=False, why_not="no route"))
    page = await bench.get("/guests/u1")
    assert "libvirt" in await bench.get("/guests/web1")
    for told in ("libvirt", "4711", "/run/web1.qmp", "3: rises whenever it changes hosts", "qemu64, 1 flag", "br0"):
        assert told in page
    assert "<b>1</b> of 3 other hosts could take it now" in page
    assert "c lacks avx2" in page
    assert "it has 1.0 GiB of memory free, and the guest has 2.0 GiB" in page
    assert "no route" in page
    assert "limosa plan GUEST --to HOST makes every check" in page
    assert "Move here" not in page


async def test_a_guest_that_cannot_be_moved_fits_nowhere(bench: Bench) -> None:
    bench.script.guests = (msgspec.structs.replace(guest(), blocked=("device x is not migratable",)),)
    assert "<b>0</b> of 1 other host could take it now" in await bench.get("/guests/u1")


async def test_a_guests_past_leads_to_its_moves(bench: Bench) -> None:
    uuid = bench.agent.moves.archive.record("m-past").status.uuid
    bench.script.guests = (guest(key=uuid),)
    page = await bench.get(f"/guests/{uuid}")
    assert 'href="/moves/m-past"' in page
    assert "completed: from a to b" in page
    assert 'href="/moves/m-flying"' in page


async def test_a_guest_that_left_is_told_of_by_where_it_went(bench: Bench) -> None:
    bench.script.guests = ()
    assert "it went to b by move m-past" in await bench.get("/guests/web1", 404)


async def test_a_move_shows_the_logs_of_both_hosts_and_says_which_could_not_be_asked(bench: Bench) -> None:
    line = LogLine(at=time.time() - 40, host="b", level="info", event="twin started")
    bench.script.peer_log = MoveLog(lines=(line,))
    page = await bench.get("/moves/m-past")
    assert page.index("move begins") < page.index("twin started")
    assert "Abort the move" not in page
    bench.script.peer_log = PeerError("b cannot be reached")
    assert "b: b cannot be reached" in await bench.get("/moves/m-flying")


async def test_history_moves_hosts_doctor_and_search_have_pages(bench: Bench) -> None:
    assert "m-past" in await bench.get("/history")
    assert "m-flying" in await bench.get("/moves")
    assert "1.2 ms" in await bench.get("/hosts")
    assert "<h1>b " in (host := await bench.get("/hosts/b"))
    assert "b.example:7447" in host
    assert "fence one" in await bench.get("/doctor")
    assert "web1" in await bench.get("/search?q=we")
    assert 'href="/moves/m-past"' in await bench.get("/search?q=m-")
    for missing in ("/guests/web9", "/moves/m9", "/hosts/z", "/fleet", "/history?week=2020-W99"):
        status = 400 if "week" in missing else 404
        assert 'class="failure"' in await bench.get(missing, status)


async def test_a_host_that_knows_no_other_is_told_what_to_do(bench: Bench) -> None:
    assert "List one in" not in await bench.get("/hosts")
    bench.script.hosts = (peer("a"),)
    async with running(bench.script) as alone:
        assert "List one in" in await alone.get("/hosts")


async def test_a_hostile_name_is_text_on_every_page(bench: Bench) -> None:
    bench.script.guests = (guest(EVIL, owner=EVIL, monitor=EVIL, movable=EVIL),)
    bench.script.hosts = (peer("a"), peer("b", reachable=False, why_not=EVIL))
    bench.script.peer_log = PeerError(EVIL)
    for path in ("/guests", "/guests/u1", "/moves/m-flying", "/hosts", "/doctor", "/search?q=%3Cscript"):
        page = await bench.get(path)
        assert "<script>alert" not in page, path
        assert "&lt;script&gt;" in page, path
        assert "{{7*7}}" in page or path.startswith("/search"), path


def test_no_name_ends_a_line_of_a_stream() -> None:
    told = event("x", News(whole="a\r\nevent: evil\rb")).decode()
    assert told == "id: x\ndata: a\ndata: event: evil\ndata: b\n\n"


async def test_a_page_follows_what_happens(bench: Bench) -> None:
    page = await bench.get("/guests")
    found = re.search(r'hx-sse:connect="([^"]+)"', page)
    assert found
    async with bench.socket.get(f"http://localhost{found[1].replace('&amp;', '&')}") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        bench.script.guests = (guest(state="paused"),)
        told = b""
        while b"\n\n" not in told or b"data" not in told:
            told += await stream.content.readuntil(b"\n\n")
    assert b"event: parts\n" in told  # only what changed
    assert b"paused" in told
    assert b"<h1>" not in told


async def test_every_page_keeps_to_its_own_site(bench: Bench) -> None:
    async with bench.socket.get("http://localhost/guests") as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        addresses = re.findall(r'(?:src|href)="([^"]+)"', await answer.text())
        assert addresses
        assert all(address.startswith(("/", "#")) for address in addresses)


# -- who is obeyed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8448", "192.0.2.7", "127.0.0.1.rebound.example"])
@pytest.mark.parametrize("path", ["/guests", "/v1/moves", "/v1/hello"])
async def test_a_site_whose_name_points_here_is_refused(bench: Bench, host: str, path: str) -> None:
    await bench.get(path, 403, Host=host)


@pytest.mark.parametrize("host", ["localhost:8448", "127.0.0.1:9", "[::1]:8448", "limosa", "limosa-agent"])
async def test_names_of_this_machine_are_answered(bench: Bench, host: str) -> None:
    await bench.get("/guests", Host=host)
    await bench.get("/v1/moves", Host=host)


@pytest.mark.parametrize(
    "said", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": "null"}]
)
async def test_no_page_calls_the_api_of_a_forwarded_socket(bench: Bench, said: dict[str, str]) -> None:
    async with bench.socket.post("http://localhost/v1/moves/m-flying/abort", headers=said) as answer:
        assert answer.status == 403
    async with bench.socket.post("http://localhost/v1/web-link", headers=said) as answer:
        assert answer.status == 403
    assert bench.script.told == []


async def test_a_move_is_aborted_and_capped_from_its_page(bench: Bench) -> None:
    word = await bench.word()
    assert await bench.post("/moves/m-flying/abort", {"form": word, "sure": "yes"}) == "/moves/m-flying"
    assert await bench.post("/moves/m-flying/speed", {"form": word, "mib": "100"}) == "/moves/m-flying"
    assert await bench.post("/moves/m-flying/speed", {"form": word, "mib": "0"}) == "/moves/m-flying"
    assert bench.script.told == [
        ("abort", "m-flying"),
        ("speed", "m-flying", 100 * 1024**2),
        ("speed", "m-flying", None),
    ]


async def test_an_abort_that_nobody_confirmed_and_a_rate_that_is_none_are_refused(bench: Bench) -> None:
    word = await bench.word()
    assert "tick the box" in await bench.post("/moves/m-flying/abort", {"form": word}, 400)
    for rate in ("", "-1", "1e9", "٣", "9" * 30):
        await bench.post("/moves/m-flying/speed", {"form": word, "mib": rate}, 400)
    assert bench.script.told == []


@pytest.mark.parametrize(
    "said",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    ],
)
async def test_a_form_of_another_site_is_refused(bench: Bench, said: dict[str, str]) -> None:
    form = {"form": await bench.word(), "sure": "yes"}
    await bench.post("/moves/m-flying/abort", form, 403, **said)
    assert bench.script.told == []


@pytest.mark.parametrize("word", ["", "x", "é", "0" * 64])
async def test_a_form_without_its_word_is_refused(bench: Bench, word: str) -> None:
    await bench.post("/moves/m-flying/abort", {"form": word, "sure": "yes"}, 403)
    assert bench.script.told == []


# -- the loopback port ------------------------------------------------------------------------------------------


async def test_the_port_answers_only_under_the_name_that_the_link_tells(bench: Bench) -> None:
    name = urlsplit((await bench.link()).url).hostname or ""
    assert name.endswith(".localhost")
    for host in ("127.0.0.1", "localhost", "rebound.example", f"x{name}", f"{name}.rebound.example"):
        answer = await bench.at_port("/guests", host)
        assert answer.status == 421, host
        assert name not in await answer.text()
    assert (await bench.at_port("/guests", name)).status == 401


async def test_a_link_lets_one_browser_in_once(bench: Bench) -> None:
    link = urlsplit((await bench.link()).url)
    name, way = link.netloc, f"{link.path}?{link.query}"
    entered = await bench.at_port(way, name)
    assert (entered.status, entered.headers["Location"]) == (303, "/")
    kept = entered.headers["Set-Cookie"]
    assert "HttpOnly" in kept
    assert "SameSite=Strict" in kept
    cookie = entered.cookies["limosa-agent"].value
    assert (await bench.at_port("/guests", name, cookie)).status == 200
    assert "Sign out" in await (await bench.at_port("/guests", name, cookie)).text()
    again = await bench.at_port(way, name)
    assert again.status == 401
    assert "limosa agent web-link" in await again.text()
    assert (await bench.at_port("/guests", name, "made-up")).status == 401


async def test_the_command_prints_the_link(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--socket", str(bench.agent.config.socket), "agent", "web-link"]
    with capture_logs():
        assert await asyncio.to_thread(run, limosa, words) == 0
    link = urlsplit(capsys.readouterr().out.strip())
    assert link.port == urlsplit(bench.at).port
    assert (await bench.at_port(f"{link.path}?{link.query}", link.netloc)).status == 303


async def test_the_port_has_no_api_and_streams_nothing_to_strangers(bench: Bench) -> None:
    link = urlsplit((await bench.link()).url)
    entered = await bench.at_port(f"{link.path}?{link.query}", link.netloc)
    cookie = entered.cookies["limosa-agent"].value
    assert (await bench.at_port("/v1/moves", link.netloc, cookie)).status == 404
    assert (await bench.at_port("/live/guests", link.netloc)).status == 401
    async with bench.port.post(
        f"{bench.at}/moves/m-flying/abort", data={"sure": "yes"}, headers={"Host": link.netloc, **OWN}
    ) as answer:
        assert answer.status == 401
    assert bench.script.told == []


async def test_leaving_ends_the_session(bench: Bench) -> None:
    link = urlsplit((await bench.link()).url)
    entered = await bench.at_port(f"{link.path}?{link.query}", link.netloc)
    cookie = entered.cookies["limosa-agent"].value
    page = await (await bench.at_port("/guests", link.netloc, cookie)).text()
    found = re.search(r'name="form" value="([^"]+)"', page)
    assert found
    headers = {"Host": link.netloc, "Cookie": f"limosa-agent={cookie}", **OWN}
    async with bench.port.post(f"{bench.at}/sign-out", data={"form": await bench.word()}, headers=headers) as answer:
        assert answer.status == 403  # the word of another session
    form = {"form": found[1]}
    async with bench.port.post(f"{bench.at}/sign-out", data=form, headers=headers, allow_redirects=False) as answer:
        assert answer.status == 303
    assert (await bench.at_port("/guests", link.netloc, cookie)).status == 401


async def test_whoever_comes_by_a_link_from_elsewhere_is_sent_on_with_his_cookie(bench: Bench) -> None:
    name = urlsplit((await bench.link()).url).netloc
    answer = await bench.at_port("/guests", name, **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status == 200
    assert 'http-equiv="refresh"' in await answer.text()


async def test_an_agent_whose_settings_name_no_port_says_so() -> None:
    async with running(Script()) as bench:
        await bench.agent._front.close()
        async with bench.socket.post("http://limosa-agent/v1/web-link") as answer:
            assert answer.status == 400
            assert "serves no pages on a port" in await answer.text()
