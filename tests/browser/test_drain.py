"""A drain in a fleet of a thousand hosts, clicked through from its plan to its end; the page says what the API says."""

import re
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.keys import Keys

from limosa.testing.chromium import Tab
from limosa.testing.said import (
    Told,
    same_audit,
    same_fleet,
    same_host,
    same_move,
    same_operation,
    same_plan,
)
from limosa.testing.simulation import Api, simulated_fleet
from limosa.web.controller.simulated import Serving
from limosa.wire.fleet import Role

WHY = "its memory throws ECC errors"
FEW, MANY = 5, 12
"""Guests of a host whose drain is long enough to be steered, and short enough to be waited for."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Serving]:
    with simulated_fleet("--hosts", "1000", "--hurry", "60", "--trouble", "0") as served:
        yield served


@pytest.fixture(scope="module")
def emptiable(api: Api) -> Iterator[str]:
    """Hosts that can be emptied, one after the other; those with little memory to send first."""
    movable: dict[str, list[Told]] = {}
    for guest in api.all("guests"):
        movable.setdefault(guest["host"], []).append(guest)
    found = (
        name
        for name, guests in sorted(movable.items(), key=lambda each: sum(guest["memory"] for guest in each[1]))
        if FEW <= len(guests) <= MANY and not any(guest["blocked"] for guest in guests)
    )
    return (name for name in found if not api.post("plans", drain_of(name))["left"])


@pytest.fixture
def host(emptiable: Iterator[str]) -> str:
    """One that no other test touches."""
    return next(emptiable)


def drain_of(host: str) -> Told:
    return {"kind": "drain", "hosts": [host]}


def begun(tab: Tab) -> str:
    """Press Begin until it is a plan of now that is begun: loads drift. Returns the operation."""
    tab.expect("409")
    tab.press("Begin")
    while not (found := re.fullmatch(r"/operations/([a-z0-9-]+)", tab.path)):
        assert "Nothing was begun" in tab.says("main .note.warn")
        tab.press("Begin")
    return found[1]


def test_from_the_map_to_the_end_and_back_home(tab: Tab, api: Api, fleet: Serving, host: str) -> None:
    tab.sign_in(fleet.tokens[Role.OPERATOR])
    same_fleet(tab, api)
    tab.click(f"a.tile[href='/hosts/{host}']")
    same_host(tab, api, host)

    tab.press("Drain: show the plan")
    plan = same_plan(tab, api, drain_of(host))
    assert api.get(f"hosts/{host}")["state"] == "active"
    tab.fill("#why", WHY)
    operation = begun(tab)
    told = same_operation(tab, api, operation)
    assert (told["why"], told["who"]) == (WHY, Role.OPERATOR)
    assert {item["guest"] for item in told["items"]} == {item["guest"] for item in plan["items"]}

    tab.fill("#why", "lunch")
    tab.press("Pause")
    paused = same_operation(tab, api, operation, phase="paused")
    assert any(item["state"] == "waiting" for item in paused["items"])
    tab.go(f"/hosts/{host}")
    same_host(tab, api, host)
    assert tab.says("h1 .sign").endswith("draining")
    tab.go(f"/operations/{operation}")
    tab.fill("#why", "lunch is over")
    tab.press("Resume")
    done = same_operation(tab, api, operation, phase="done")
    assert {item["state"] for item in done["items"]} == {"done"}

    tab.click("main table a.mono")
    same_move(tab, api, done["items"][0]["move"])
    assert same_audit(tab, api, operation)[:2] == [
        (Role.OPERATOR, "resume", "lunch is over"),
        (Role.OPERATOR, "pause", "lunch"),
    ]
    tab.go(f"/hosts/{host}")
    same_host(tab, api, host)
    assert tab.says("h1 .sign").endswith("drained")
    tab.press("Bring its guests home: show the plan")
    same_plan(tab, api, {"kind": "restore", "hosts": [host]})
    home = same_operation(tab, api, begun(tab), phase="done")
    assert {item["destination"] for item in home["items"]} == {host}
    tab.go("/")
    same_fleet(tab, api)
    assert api.get(f"hosts/{host}")["state"] == "active"


def test_a_drain_is_cancelled_with_a_reason(tab: Tab, api: Api, fleet: Serving, host: str) -> None:
    tab.go(f"/plan?kind=drain&hosts={host}")
    tab.sign_in(fleet.tokens[Role.OPERATOR])
    operation = begun(tab)
    tab.fill("#why", "the wrong host")
    tab.press("Cancel")
    told = same_operation(tab, api, operation, phase="cancelled")
    assert any(item["state"] == "cancelled" for item in told["items"])
    assert not tab.driver.find_elements("css selector", "main form.actions"), "nothing is left to be done to it"
    assert same_audit(tab, api, operation)[0] == (Role.OPERATOR, "cancel", "the wrong host")


def test_a_viewer_is_offered_nothing_and_obeyed_in_nothing(tab: Tab, api: Api, fleet: Serving, host: str) -> None:
    tab.go(f"/hosts/{host}")
    tab.sign_in(fleet.tokens[Role.VIEWER])
    same_host(tab, api, host)
    assert not tab.driver.find_elements("css selector", "main form[method=post], main a.button")
    assert not tab.one("main .actions button").is_enabled()
    tab.expect("403")
    send = """
        const done = arguments[arguments.length - 1], [where, fields] = arguments;
        const form = document.querySelector("form[action='/sign-out'] [name=form]").value;
        fetch(where, {method: "POST", body: new URLSearchParams({form, ...fields})}).then(told => done(told.status))"""
    forms: dict[str, Told] = {
        "/operations": {"kind": "drain", "hosts": host},
        "/operations/keep": {"kind": "drain", "hosts": host},
        "/operations/drain-1/cancel": {},
        f"/hosts/{host}/state": {"state": "lost"},
        "/tokens": {"name": "me", "role": "admin"},
    }
    for where, fields in forms.items():
        assert tab.driver.execute_async_script(send, where, fields) == 403, where
    for path in (f"/plan?kind=drain&hosts={host}", "/tokens"):
        tab.go(path)
        assert "this takes an" in tab.says("main .failure"), path
    assert api.get(f"hosts/{host}")["state"] == "active"


def tabbed_to(tab: Tab, said: str) -> None:
    """Press Tab until something that is called so has the focus, and see each time where that is."""
    script = """
        const at = document.activeElement, style = getComputedStyle(at);
        const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
        return [(at.labels?.[0] ?? at).innerText.trim(), at === document.body || seen]"""
    for _ in range(100):
        tab.keys(Keys.TAB)
        called, visible = tab.ask(script)
        assert visible, f"{called} has the focus, and does not look so"
        if called == said:
            return
    raise AssertionError(f"a hundred times Tab, and not at {said}")


def test_with_the_keyboard_alone(tab: Tab, api: Api, fleet: Serving, host: str) -> None:
    tab.go("/")
    tab.keys(fleet.tokens[Role.OPERATOR], Keys.ENTER)
    tab.one("a.tile")
    tab.keys("/")
    tab.keys(host, Keys.ENTER)
    same_host(tab, api, host)
    tabbed_to(tab, "Drain: show the plan")
    tab.keys(Keys.ENTER)
    tab.one("form[action='/operations']")
    tabbed_to(tab, "Why")
    tab.keys(WHY)
    tab.expect("409")
    while not tab.path.startswith("/operations/"):
        tabbed_to(tab, "Begin")
        tab.keys(Keys.ENTER)
        tab.one(".progress, .note.warn")
    operation = tab.path.rpartition("/")[2]
    tabbed_to(tab, "Pause")
    tab.keys(Keys.ENTER)
    same_operation(tab, api, operation, phase="paused")
    tabbed_to(tab, "Resume")
    tab.keys(Keys.SPACE)
    same_operation(tab, api, operation, phase="done")
    tab.keys("g", "o")
    tab.until(lambda: tab.path == "/operations" or pytest.fail(tab.path))
    tab.keys("j")
    tab.keys(Keys.ENTER)
    tab.until(lambda: tab.path.startswith("/operations/") or pytest.fail(tab.path))
    assert api.get(f"hosts/{host}")["state"] == "drained"


def test_without_scripts(tab: Tab, api: Api, fleet: Serving, host: str) -> None:
    tab.scripts(allowed=False)
    tab.sign_in(fleet.tokens[Role.OPERATOR])
    assert tab.says("#pulse") == "Not live. Refresh"
    same_fleet(tab, api)
    tab.fill("#search", host)
    tab.one("#search").submit()
    same_host(tab, api, host)
    tab.press("Drain: show the plan")
    same_plan(tab, api, drain_of(host))
    operation = begun(tab)
    tab.press("Pause")
    same_operation(tab, api, operation, phase="paused", reload=True)
    tab.press("Resume")
    same_operation(tab, api, operation, phase="done", reload=True)
