"""A page that followed what happened is the page that is loaded then: in every state between, and at the end."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import pytest

from limosa.agent import pki
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.fleet.generate import Shape, generate
from limosa.fleet.simulated.agents import SimulatedAgents
from limosa.fleet.simulated.processors import processors
from limosa.testing.chromium import Tab
from limosa.testing.fleet import FRESH, guest, report
from limosa.testing.inside import Inside, inside
from limosa.testing.simulation import Api
from limosa.web.controller import looks, pages
from limosa.web.controller.simulated import simulated
from limosa.web.parts import Parts, Recent
from limosa.wire.fleet import Role
from limosa.wire.reports import GuestReport

SHAPE = Shape(hosts=52, guests_per_host=10, fill=0.5, blocked=0.0, pinned=0.0, grouped=0.0)
"""More guests than a table has rows before it is cut into groups."""
HURRY = 150.0

RECORDER = """
// What is on the page for somebody who sees it or has it read out; not what only the browser put there.
const shown = (node) => {
  if (node.nodeType === Node.TEXT_NODE) {
    const said = node.data.replace(/\\s+/g, " ").trim();
    return node.parentElement.localName === "time" || !said ? [] : [said];
  }
  if (node.nodeType !== Node.ELEMENT_NODE) return [];
  const kept = [...node.attributes].filter(({ name }) => !name.startsWith("data-htmx") && name !== "hx-sse:connect");
  const tag = [node.localName, ...kept.map(({ name, value }) => `${name}="${value}"`).sort()].join(" ");
  const inner = node.matches("[data-plot]") ? [] : [...node.childNodes].flatMap(shown);
  return [`<${tag}>`, ...inner, `</${node.localName}>`];
};
const around = (all, at) => all.slice(Math.max(0, at - 3), at + 4).join(" ");
const parsed = (html) => new DOMParser().parseFromString(html, "text/html");
const unlike = (one, other) => {
  const [mine, fresh] = [one, other].map((region) => [...region.childNodes].flatMap(shown));
  const at = mine.findIndex((each, place) => each !== fresh[place]);
  if (at < 0 && mine.length === fresh.length) return "";
  const from = at < 0 ? mine.length : at;
  return `shows ${around(mine, from)}, and not ${around(fresh, from)}`;
};
const live = () => document.getElementById("live");
const seen = (page) => page.getElementById("live").getAttribute("hx-sse:connect").match(/seen=(\\w+)/)[1];
const followed = { states: [], kinds: {}, waiting: [] };
const note = (message) => {
  followed.states.push([message.id, live().cloneNode(true)]);
  for (const wake of followed.waiting.splice(0)) wake();
};
const count = (kind, number) => (followed.kinds[kind] = (followed.kinds[kind] ?? 0) + number);
window.addEventListener("htmx:sse:before:message", ({ detail: { message } }) => {
  if (message.event !== "parts") return;
  const { gone = [], drawn = {}, placed = [], slots = {} } = JSON.parse(message.data);
  const come = placed.filter(([name]) => name in drawn).length;
  count("gone", gone.length);
  count("come", come);
  count("drawn", Object.keys(drawn).length - come);
  count("placed", placed.length - come);
  count("filled", Object.keys(slots).length);
  note(message);
});
window.addEventListener("htmx:sse:after:message", ({ detail: { message } }) => {
  count("whole", 1);
  note(message);
});
"""
"""Runs before the page's own scripts; `window` hears of each message after them."""

UNLIKE = """
const [states] = arguments;
const region = (html) => parsed(`<div>${html}</div>`).body.firstChild;
return followed.states
  .map(([id, then]) => [id, id in states ? unlike(then, region(states[id])) : "it was never drawn"])
  .filter(([, wrong]) => wrong);
"""
CAUGHT_UP = """
const done = arguments[arguments.length - 1];
let [told, fresh] = [];
setTimeout(() => done(`was told ${followed.states.map(([id]) => id)}, and is at ${fresh && seen(fresh)}`), 25000);
(async () => {
  for (;;) {
    const before = followed.states.length;
    const news = new Promise((wake) => followed.waiting.push(wake));
    fresh = parsed(await (await fetch(location)).text());
    told = followed.states.at(-1)?.[0] ?? seen(document);
    if (told === seen(fresh)) {
      const names = document.title === fresh.title ? "" : `is called ${document.title}, and not ${fresh.title}`;
      return names || unlike(live(), fresh.getElementById("live"));
    }
    if (followed.states.length === before) await news;
  }
})().then(done, (why) => done(`${why}`));
"""


@pytest.fixture(scope="module")
def states() -> Iterator[dict[str, str]]:
    """Every region that was drawn, by its digest; looks follow each other quickly."""
    kept: dict[str, str] = {}
    keep = Recent.keep

    def noted(recent: Recent, parts: Parts) -> None:
        kept[parts.digest] = parts.whole
        keep(recent, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recent, "keep", noted)
        patch.setattr(pages, "LOOK_EVERY", 0.2)
        patch.setattr(looks, "FRESH", 0.0)
        patch.setattr(looks, "SHARE", 0.0)
        yield kept


@pytest.fixture(scope="module")
def fleet(states: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """Nothing happens in it but what is asked for."""
    inventory = generate(processors(), SHAPE)

    @asynccontextmanager
    async def running() -> AsyncIterator[tuple[Controller, Mapping[Role, str]]]:
        agents = SimulatedAgents(inventory, hurry=HURRY, drift=0)
        async with simulated(inventory, agents, tmp_path_factory.mktemp("fleet")) as made:
            yield made

    with inside(running) as made:
        yield made


@pytest.fixture
def windows(tab: Tab) -> Iterator["Windows"]:
    opened = Windows(tab)
    yield opened
    opened.close()


class Windows:
    """Pages side by side, each in a window that keeps what it was told."""

    def __init__(self, tab: Tab) -> None:
        self.tab, self.driver = tab, tab.driver
        self._first = self.driver.current_window_handle
        self._open: dict[str, str] = {}

    def open(self, page: str) -> None:
        self.driver.switch_to.new_window("window")
        self._open[page] = self.driver.current_window_handle
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORDER})
        self.driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        self.tab.go(page)
        self.tab.one("#pulse[data-state=live]")

    def __iter__(self) -> Iterator[str]:
        for page, handle in self._open.items():
            self.driver.switch_to.window(handle)
            yield page

    def close(self) -> None:
        for _ in self:
            self.driver.close()
        self.driver.switch_to.window(self._first)


def test_pages_of_a_drain_are_in_every_state_what_is_loaded_then(
    tab: Tab, windows: Windows, api: Api, fleet: Inside, states: dict[str, str]
) -> None:
    tab.sign_in(fleet.tokens[Role.OPERATOR])
    tab.driver.get("about:blank")  # a browser has six connections to one site, and each stream takes one
    hosts = sorted(api.all("hosts"), key=lambda host: host["guests"])
    host = hosts[len(hosts) // 2]["name"]
    operation = api.post("operations", {"kind": "drain", "hosts": [host]})["id"]
    for page in (
        "/?group=state",
        "/hosts?sort=guests",
        "/guests?size=2000&sort=host",
        f"/hosts/{host}",
        f"/operations/{operation}?sort=state",
    ):
        windows.open(page)
    api.post(f"operations/{operation}/approve", {"why": "now"})
    seen: Counter[str] = Counter()
    for page in windows:
        if page.startswith("/operations/"):
            tab.until(lambda: _over(tab))
    for page in windows:
        assert tab.driver.execute_async_script(CAUGHT_UP) == "", page
        assert tab.ask(UNLIKE, states) == [], page
        seen.update(tab.ask("return followed.kinds"))
    assert seen.keys() == {"come", "gone", "drawn", "placed", "filled", "whole"}
    assert all(seen.values()), seen


def _over(tab: Tab) -> None:
    assert tab.says("h1 .sign").endswith("done"), tab.says("h1 .sign")


OPENED = """
const [page, done] = [arguments[0], arguments[arguments.length - 1]];
const opened = window.open(page);
const turn = (where) => new Promise((go) => where.setTimeout(go));
(async () => {
  while (!opened.htmx) await turn(window);
  for (let turns = 0; turns < 10; turns++) await turn(opened);
  window.opened = opened;
})().then(done, (why) => done(`${why}`));
"""
FOLLOWED = """
const done = arguments[arguments.length - 1];
const pulse = () => opened.document.getElementById("pulse").dataset.state;
opened.addEventListener("htmx:sse:after:connection", () => done(pulse()));
if (pulse() === "live") done("live");
"""


def test_a_page_follows_however_late_a_script_comes(tab: Tab, fleet: Inside) -> None:
    tab.sign_in(fleet.tokens[Role.VIEWER])
    tab.go("/search")
    tab.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
    with fleet.holding("/static/vendor/hx-sse.min.js") as let_go:
        assert tab.driver.execute_async_script(OPENED, "/hosts") is None
        let_go()
        assert tab.driver.execute_async_script(FOLLOWED) == "live"
    tab.ask("opened.close()")


# -- what somebody is at ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quiet(states: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """A controller that follows nobody: what it shows is what a test tells it."""
    directory = tmp_path_factory.mktemp("quiet")
    pki.create_ca(directory / "ca", "ca")
    pki.issue_host(directory / "ca", "fleet-1", ["127.0.0.1"], directory / "pki", controller=True)
    (directory / "controller.toml").write_text(f'state_dir = "{directory}/state"\n')

    @asynccontextmanager
    async def running() -> AsyncIterator[tuple[Controller, Mapping[Role, str]]]:
        async with Controller.running(load(directory)) as controller:
            yield controller, {role: (await controller.tokens.make(role, role, "test")).word for role in Role}

    with inside(running) as made:
        yield made


class Watched:
    """A page that a test tells news and looks at."""

    def __init__(self, tab: Tab, quiet: Inside, page: str, guests: Iterable[GuestReport]) -> None:
        self.tab, self._quiet = tab, quiet
        self.tell(guests)
        tab.url = quiet.url
        self._script = tab.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": RECORDER})
        tab.sign_in(quiet.tokens[Role.ADMIN])
        tab.go(page)
        tab.one("#pulse[data-state=live]")

    def tell(self, guests: Iterable[GuestReport]) -> None:
        self._quiet.do(self._quiet.controller.registry.take("a", report("a", *guests), time.time() + FRESH))

    def becomes(self, guests: Iterable[GuestReport]) -> None:
        """Tell news, and wait until the page shows them."""
        self.tell(guests)
        assert self.tab.driver.execute_async_script(CAUGHT_UP) == ""

    def at(self, guest: str) -> str:
        """A script that finds a guest's link."""
        return f"[...document.querySelectorAll('main tbody th a')].find(link => link.title === '{guest}')"

    def height(self, guest: str) -> float:
        """Where on the screen it stands, in pixels from the top."""
        told: float = self.tab.ask(f"return {self.at(guest)}.getBoundingClientRect().top")
        return told

    def focused(self) -> str:
        told: str = self.tab.ask("return document.activeElement.title || document.activeElement.id")
        return told

    def marked(self) -> str:
        told: str = self.tab.ask("return document.getSelection().toString()")
        return told


def guests_of(loads: Mapping[str, float]) -> dict[str, GuestReport]:
    return {name: msgspec.structs.replace(guest(name, "a"), load=load) for name, load in loads.items()}


NAMES = [f"g{number:03}" for number in range(120)]


@pytest.fixture
def watched(tab: Tab, quiet: Inside, request: pytest.FixtureRequest) -> Iterator[Watched]:
    page: str = request.param
    made = Watched(tab, quiet, page, guests_of(dict.fromkeys(NAMES, 0.5)).values())
    yield made
    script = {"identifier": made._script["identifier"]}
    tab.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.mark.parametrize("watched", ["/guests?size=500"], indirect=True)
def test_what_is_in_sight_has_the_focus_or_is_marked_stays_so_when_rows_come_and_go(watched: Watched) -> None:
    tab = watched.tab
    tab.ask(f"{watched.at('g060')}.scrollIntoView({{block: 'center'}}); {watched.at('g060')}.focus()")
    tab.ask(f"document.getSelection().selectAllChildren({watched.at('g061')})")
    before = watched.height("g060")
    there = guests_of(
        dict.fromkeys(NAMES[10:], 0.5) | {"g060": 0.7, "g061": 0.9} | {f"a{n:03}": 0.5 for n in range(25)}
    )
    there["g060"] = msgspec.structs.replace(there["g060"], blocked=("a device",))
    watched.becomes(there.values())
    assert (watched.focused(), watched.marked()) == ("g060", "g061")
    assert abs(watched.height("g060") - before) < 2


@pytest.mark.parametrize("watched", ["/guests?size=500&sort=load"], indirect=True)
def test_the_focus_and_what_is_marked_go_with_a_row_and_the_rest_stays_in_sight(watched: Watched) -> None:
    tab = watched.tab
    tab.ask(f"{watched.at('g060')}.scrollIntoView({{block: 'center'}}); {watched.at('g060')}.focus()")
    tab.ask(f"document.getSelection().selectAllChildren({watched.at('g060')})")
    beside = tab.ask(f"return {watched.at('g060')}.closest('tr').previousElementSibling.querySelector('a').title")
    before = watched.height(beside)
    watched.becomes(guests_of(dict.fromkeys(NAMES, 0.5) | {"g060": 0.9}).values())
    assert tab.table()[0][0] == "g060"
    assert (watched.focused(), watched.marked()) == ("g060", "g060")
    assert abs(watched.height(beside) - before) < 2


@pytest.mark.parametrize("watched", ["/guests?size=500"], indirect=True)
def test_the_next_row_is_the_next_when_the_one_with_the_focus_is_gone(watched: Watched) -> None:
    tab = watched.tab
    tab.keys(*"jjjj")
    assert watched.focused() == "g003"
    watched.becomes(guests_of(dict.fromkeys([name for name in NAMES if name != "g003"], 0.5)).values())
    tab.keys("j")
    assert watched.focused() == "g004"


@pytest.mark.parametrize("watched", ["/hosts/a"], indirect=True)
def test_what_is_typed_stays_when_a_page_is_sent_whole(watched: Watched) -> None:
    tab = watched.tab
    tab.fill("#state-why", "half a sentence")
    tab.ask("document.getElementById('state-why').setSelectionRange(4, 6); scrollTo(0, 120)")
    watched.becomes(guests_of(dict.fromkeys(NAMES[:50], 0.9)).values())
    assert tab.ask("return followed.kinds.whole") > 0
    script = "const at = document.activeElement; return [at.id, at.value, at.selectionStart, at.selectionEnd, scrollY]"
    assert tab.ask(script) == ["state-why", "half a sentence", 4, 6, 120]
