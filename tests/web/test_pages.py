"""Pages say what the API says, to everybody what he may, and names only as text."""

import asyncio
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from limosa.agent.hooks.config import HookConfig
from limosa.api.app import app
from limosa.fleet.chronicle import note
from limosa.fleet.controller import Controller
from limosa.fleet.hooks import FleetHooks
from limosa.fleet.inventory import HostState
from limosa.fleet.operations.advance import Wish
from limosa.testing.browser import Browser, Web, signed_in
from limosa.testing.fleet import guest, report
from limosa.web.controller.dashboard import extension
from limosa.wire.fleet import HostSettings, Role

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "w" * 250,
    "\u202eevil\u202c",
    "a\"'b<!--end--><!--part:h-1-->",
    "</script></table><h1>",
)
PAGES = (
    "/",
    "/hosts",
    "/hosts/a",
    "/guests",
    "/operations",
    "/history",
    "/cpu",
    "/audit",
    "/doctor",
    "/hooks",
    "/search?q=web",
)


class Elements(HTMLParser):
    """The elements of a page, and what would run or be fetched."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "hr", "path", "rect"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.unbalanced = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.opened or self.opened[-1] != tag:
            self.unbalanced = self.unbalanced or f"</{tag}> after {self.opened[-3:]}, line {self.getpos()[0]}"
            return
        self.opened.pop()

    def handle_data(self, data: str) -> None:
        self.words += data


async def page(browser: Browser, path: str, status: int = 200) -> Elements:
    answer = await browser.get(path)
    assert answer.status_code == status, (path, answer.text[-2000:])
    elements = Elements(answer.text)
    assert elements.unbalanced == "", path
    return elements


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_asks_this_site_only_and_runs_nothing_of_its_own(web: Web, path: str) -> None:
    elements = await page(web.admin, path)
    for tag, attributes in elements.found:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action", "formaction", "hx-sse:connect", "hx-get"):
            if (address := attributes.get(name)) is not None:
                assert address.startswith(("/", "#")), (tag, address)
                assert not address.startswith("//")
        if tag == "script":
            assert attributes["src"]
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))


async def test_what_pages_say_is_what_the_api_says(web: Web) -> None:
    operation = await web.controller.submit(_drain("a"), "operator", "", "")
    fits = {fit.host: fit.fits for fit in await web.controller.fits("web1")}
    assert fits == {"b": True, "c": False}
    (one,) = [each for each in await web.controller.guests() if each.name == "web1"]
    shown = (await page(web.viewer, f"/guests/{one.id}")).words
    assert "1 of 2 other hosts could take it now" in shown
    assert "avx" in shown
    assert "2 guests" in (await page(web.viewer, f"/operations/{operation.id}")).words
    assert re.search(r"Guests\s+3\s", (await page(web.viewer, "/")).words)


def _drain(host: str) -> Any:
    from limosa.wire.fleet import OperationAsked, OperationKind

    return OperationAsked(kind=OperationKind.DRAIN, hosts=(host,), why="fans")


async def test_what_a_role_may_not_do_is_neither_shown_nor_obeyed(web: Web) -> None:
    viewer, operator, admin = [(await each.get("/hosts/a")).text for each in (web.viewer, web.operator, web.admin)]
    assert ("/plan?kind=drain" in viewer, "/plan?kind=drain" in operator) == (False, True)
    assert ["/hosts/a/state" in text for text in (viewer, operator, admin)] == [False, False, True]
    assert (await web.viewer.get("/plan?kind=drain&hosts=a")).status_code == 403
    assert (await web.viewer.send("/operations", kind="drain", hosts="a")).status_code == 403
    assert (await web.operator.send("/hosts/a/state", state="lost")).status_code == 403
    assert (await web.operator.get("/tokens")).status_code == 403
    assert (await web.operator.send("/tokens", name="x", role="admin")).status_code == 403
    assert await web.controller.operations(None, 10) == ()
    assert len(await web.controller.tokens.all()) == 3


async def test_a_drain_is_planned_shown_begun_paused_and_cancelled(web: Web) -> None:
    plan = await page(web.operator, "/plan?kind=drain&hosts=a")
    assert "Nothing has begun" in plan.words
    mark = next(a["value"] for tag, a in plan.found if tag == "input" and a.get("name") == "plan")
    assert mark
    begun = await web.operator.send("/operations", kind="drain", hosts="a", why="<fans>", plan=mark)
    assert begun.status_code == 303
    shown = await page(web.operator, begun.headers["location"])
    assert "<fans>" in shown.words
    assert (await web.controller.hosts())[0].state == "draining"
    for deed in ("pause", "resume", "cancel"):
        assert (await web.operator.send(f"{begun.headers['location']}/{deed}", why="lunch")).status_code == 303
    again = await web.operator.send(f"{begun.headers['location']}/approve")
    assert again.status_code == 409
    assert "Not done" in again.text
    assert "lunch" in (await page(web.viewer, "/audit?q=lunch")).words


async def test_the_audit_log_has_the_words_of_the_buttons_and_leads_to_what_they_changed(web: Web) -> None:
    begun = await web.controller.submit(_drain("a"), "operator", "", "")
    await web.controller.begin(begun.id, "operator", "")
    for wish in (Wish.PAUSE, Wish.RUN, Wish.CANCEL):
        await web.controller.wish(begun.id, wish, "operator", "")
    await web.controller.set_state("b", HostState.MAINTENANCE, "admin", "")
    await web.controller.tokens.make("b", Role.VIEWER, "admin")
    async with web.controller.database.write() as connection:
        await note(connection, "operator", "run", begun.id)  # as older controllers noted it
    rows = re.findall(r"<tr><td>.*?</tr>", (await web.viewer.get("/audit")).text)
    drain, host = f"/operations/{begun.id}", "/hosts/b"
    assert [_audited(row) for row in rows][:8] == [
        ("Resume", "Drain a", drain),
        ("Make token (viewer)", "b", ""),  # a token, though a host is called so; its page is for admins
        ("Set state maintenance", "b", host),
        ("Cancel", "Drain a", drain),
        ("Resume", "Drain a", drain),
        ("Pause", "Drain a", drain),
        ("Begin", "Drain a", drain),
        ("Plan", "Drain a", drain),
    ]
    assert 'href="/tokens" title="b"' in (await web.admin.get("/audit")).text


def _audited(row: str) -> tuple[str, str, str]:
    """What, of what, and where that leads."""
    what = re.findall(r"<td>(.*?)</td>", row)[2]
    of, href = re.search(r"<bdi>([^<]*)</bdi>", row[row.index("<th") :]), re.search('href="([^"]*)"', row)
    assert of
    return what, of[1], href[1] if href else ""


async def test_another_plan_than_the_one_that_was_shown_is_not_begun(web: Web) -> None:
    plan = await page(web.operator, "/plan?kind=drain&hosts=a")
    mark = next(a["value"] for tag, a in plan.found if tag == "input" and a.get("name") == "plan")
    assert mark
    moved = report("a", guest("web1", "a"))  # web2 has gone meanwhile
    await web.controller.registry.take("a", moved, time.time())
    answer = await web.operator.send("/operations", kind="drain", hosts="a", plan=mark)
    assert answer.status_code == 409
    assert "The fleet has changed since" in answer.text
    assert [each.phase for each in await web.controller.operations(None, 10)] == ["cancelled"]
    assert (await web.controller.hosts())[0].state == "active"


async def test_a_plan_can_be_kept_for_somebody_else_to_approve(web: Web) -> None:
    kept = await web.operator.send("/operations/keep", kind="drain", hosts="a")
    assert (await page(web.viewer, kept.headers["location"])).words.count("planned")
    assert (await web.operator.send(f"{kept.headers['location']}/approve")).status_code == 303
    assert (await web.controller.hosts())[0].state == "draining"


async def test_errors_are_told_in_three_lines(web: Web) -> None:
    for path, status, what in (
        ("/hosts/none", 404, "the fleet has no host none"),
        ("/guests/none", 404, "the fleet has no guest none"),
        ("/operations/none", 404, "there is no operation none"),
        ("/moves/none", 404, "nobody knows a move none"),
        ("/plan?kind=drain&hosts=zzz", 404, "no agent has reported zzz"),
        ("/plan?kind=explode", 422, "makes no sense"),
        ("/history?week=yesterday", 422, "no week"),
    ):
        told = await page(web.admin, path, status)
        assert what in told.words, path
        assert "where" in told.words
        assert "to do" in told.words


@pytest.mark.parametrize(
    ("path", "said", "href"),
    [
        ("/hosts/none", "the page of hosts lists them", "/hosts"),
        ("/guests/none", "the page of guests lists them; a UUID names one for certain", "/guests"),
        ("/operations/none", "the page of operations lists them", "/operations"),
        ("/moves/none", "the page of moves lists finished moves", "/history"),
        ("/plan?kind=drain&hosts=zzz", "the page of hosts lists the fleet", "/hosts"),
        ("/no/such/page", "go on from the fleet, or search", "/search"),
    ],
)
async def test_where_the_next_step_is_a_page_an_error_leads_there(web: Web, path: str, said: str, href: str) -> None:
    text = (await web.admin.get(path)).text
    todo = text[text.index("<dt>to do</dt><dd>") :].partition("</dd>")[0]
    assert said in re.sub("<[^>]*>", "", todo)
    assert f'<a href="{href}">' in todo
    assert (await web.admin.get(href)).status_code == 200


async def test_an_operation_in_the_way_of_another_is_led_to(web: Web) -> None:
    begun = await web.controller.submit(_drain("a"), "operator", "", "")
    await web.controller.begin(begun.id, "operator", "")
    kept = await web.operator.send("/operations/keep", kind="drain", hosts="a")
    refused = await web.operator.send(f"{kept.headers['location']}/approve")
    assert f'wait for it, or <a href="/operations/{begun.id}">cancel {begun.id}</a>' in refused.text


async def test_an_empty_fleet_says_what_to_do_first(controller: Controller) -> None:
    web = await signed_in(app(controller, [extension()]), controller)
    for path, words in (
        ("/", "hosts.toml"),
        ("/guests", "QMP socket"),
        ("/operations", "its plan shown"),
        ("/history", "No move is over yet"),
        ("/cpu", "No processors are known yet"),
    ):
        assert words in (await page(web.viewer, path)).words, path


async def test_hostile_names_are_text_on_every_page(web: Web) -> None:
    now = time.time()
    guests = [guest(name, "b") for name in HOSTILE]
    nameless = msgspec.structs.replace(
        guests[0], key=HOSTILE[0], shown=msgspec.structs.replace(guests[0].shown, uuid=None)
    )
    await web.controller.registry.take("b", report("b", *guests[1:], nameless), now)
    await web.controller.registry.set_settings("b", HostSettings(rack=HOSTILE[0], labels=HOSTILE[1:3]))
    await web.controller.registry.silent({"c": HOSTILE[4]})
    kept = await web.operator.send("/operations/keep", kind="drain", hosts="b", why=HOSTILE[5])
    paths = [
        *PAGES,
        "/hosts/b",
        kept.headers["location"],
        "/search?q=%3Cimg",
        f"/guests?q={HOSTILE[2]}",
        "/hosts?group=x",
    ]
    paths += [f"/guests/{each.key}" for each in guests[1:]]
    for path in paths:
        elements = await page(web.operator, path)
        pictures = [attributes for tag, attributes in elements.found if tag == "img"]
        assert all(each["src"] in {"/cpu/pools.svg", "/cpu/matrix.svg"} for each in pictures), path
        assert not [tag for tag, attributes in elements.found if tag == "script" and not attributes.get("src")]
    shown = (await page(web.operator, "/guests")).words
    assert all(name in shown for name in HOSTILE)


async def test_a_search_leads_to_the_only_thing_of_that_name_and_lists_others(web: Web) -> None:
    exact = await web.viewer.get("/search?q=web1")
    assert exact.headers["location"].startswith("/guests/")
    assert "web2" in (await page(web.viewer, "/search?q=web")).words
    assert "Nothing is called" in (await page(web.viewer, "/search?q=zzz")).words


async def test_a_token_is_told_once_and_removed(web: Web) -> None:
    made = await web.admin.send("/tokens", name="night", role="viewer")
    word = re.search(r"limosa-[\w-]{40,}", made.text)
    assert word
    assert word[0] not in (await web.admin.get("/tokens")).text
    assert (await web.admin.send("/tokens/night/remove")).status_code == 303
    assert await web.controller.tokens.find(word[0]) is None


async def test_two_owners_and_silence_are_the_doctors_first_words(web: Web) -> None:
    await web.controller.registry.take("c", report("c", guest("web1", "c", epoch=1)), time.time())
    await web.controller.registry.seen({"b": time.time() - 100})
    told = (await page(web.viewer, "/doctor")).words
    assert "is claimed by a, c" in told
    assert "the agent of b (active) has been silent" in told


async def test_the_api_and_its_description_are_where_they_were(web: Web) -> None:
    assert (await web.nobody.get("/openapi.json")).json()["info"]["title"] == "limosa controller"
    assert (await web.nobody.get("/v1/hosts")).status_code == 401
    for path in ("/v1/nothing", "/v1/hosts/none/nothing"):
        assert (await web.nobody.get(path)).json()["code"] == "not-found", path
    assert "there is no page /nowhere/at/all" in (await page(web.nobody, "/nowhere/at/all", 404)).words
    assert (await web.nobody.get("/healthz")).json() == {"alive": True}


@pytest.fixture
async def hooked(web: Web, tmp_path: Path) -> Web:
    """With a hook that takes everything, and one that takes nothing."""
    wanted = (
        HookConfig(name="log", file=str(tmp_path / "told")),
        HookConfig(name="<b>dns</b>", command=("/bin/false",), events=("host.state",)),
    )
    await web.controller.hooks.deliver(leads=False)
    web.controller.hooks = FleetHooks(wanted, web.controller.database)
    return web


async def test_hooks_say_what_waits_was_delivered_and_failed(hooked: Web) -> None:
    assert "not told yet" in (await page(hooked.viewer, "/hooks")).words
    await hooked.controller.hooks.deliver(leads=True)
    await hooked.controller.set_state("b", HostState.MAINTENANCE, "admin", "")
    await hooked.controller.hooks.deliver(leads=True)
    async with asyncio.timeout(30):
        while not all(each.delivered or each.failed for each in await hooked.controller.hooks.shown()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # other processes are told, and nobody tells of that
    rows = re.findall(r"<tr><th scope=\"row\">.*?</tr>", (await hooked.viewer.get("/hooks")).text)
    log, dns = (Elements(row).words for row in rows)
    assert re.search("delivered.*all.*1 last just now", log), log
    assert re.search("<b>dns</b> command /bin/false.*failing.*host.state.*1 oldest .*, next try .*1 attempt", dns)


async def test_an_admin_tries_a_hook_and_nobody_else(hooked: Web, tmp_path: Path) -> None:
    assert "/hooks/test" not in (await hooked.operator.get("/hooks")).text
    assert (await hooked.operator.send("/hooks/test", hook="log")).status_code == 403
    assert not (tmp_path / "told").exists()
    told = await hooked.admin.send("/hooks/test", hook="<b>dns</b>")
    assert "did not" in Elements(told.text).words
    everybody = Elements((await hooked.admin.send("/hooks/test")).text).words
    assert re.search("log.*took it.*dns.*did not", everybody, re.DOTALL)
    assert "hooks.test" in (tmp_path / "told").read_text()
    missing = await hooked.admin.send("/hooks/test", hook="mail")
    assert 'see <a href="/hooks">the page of hooks</a>' in missing.text
    (line, *_) = re.findall(r"<tr><td>.*?</tr>", (await hooked.viewer.get("/audit?q=hook")).text)
    assert _audited(line)[::2] == ("Test a hook", "/hooks")


async def test_a_controller_without_hooks_says_how_one_is_made(web: Web) -> None:
    shown = await web.viewer.get("/hooks")
    assert "[[hooks]]" in shown.text
    assert '<a href="/hooks">Hooks</a>' in shown.text
