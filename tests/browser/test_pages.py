"""Every page, in light and dark, wide and on a phone: nothing that keeps somebody from using it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from limosa.testing.chromium import PHONE, WIDE, Tab
from limosa.testing.said import same_operation
from limosa.testing.simulation import Api, simulated_fleet
from limosa.web.controller.simulated import Serving
from limosa.wire.fleet import Role

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
SERIOUS = {"serious", "critical"}
HOSTS = "6"
"""A page of a thousand tiles is one tile a thousand times, and takes axe minutes."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Serving]:
    with simulated_fleet("--hosts", HOSTS, "--hurry", "1000", "--trouble", "0.3", "--seed", "2") as served:
        yield served


@pytest.fixture(scope="module")
def pages(api: Api) -> list[str]:
    """The addresses of pages that show as much as they can: moves that were made, and some that failed."""
    guests = api.all("guests")
    first = next(guest for guest in guests if not guest["blocked"])
    told = api.post("operations", {"kind": "drain", "hosts": [first["host"]], "why": "axe", "approved": True})
    return [
        "/",
        "/?by=pool&group=state",
        "/hosts",
        f"/hosts/{first['host']}",
        "/guests",
        f"/guests/{first['id']}",
        f"/plan?kind=drain&hosts={guests[-1]['host']}",
        "/operations",
        f"/operations/{told['id']}",
        "/cpu?flag=avx512f",
        "/history",
        "/audit",
        "/doctor",
        "/search?q=r000",
        "/hooks",
        "/tokens",
        "/hosts/nowhere",
    ]


def serious(tab: Tab) -> list[str]:
    """What axe finds on the page that is serious."""
    tab.ask(AXE.read_text())
    run = "const done = arguments[0]; axe.run({resultTypes: ['violations']}).then(done, why => done({error: `${why}`}))"
    told = tab.driver.execute_async_script(run)
    assert "error" not in told, told["error"]
    return [
        f"{found['id']} ({found['impact']}): {node['html'][:200]}"
        for found in told["violations"]
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]


NAMELESS_TABLES = """
  return [...document.querySelectorAll('table:not(.u-legend)')].filter(table => {
    const heads = [...table.querySelectorAll('th')];
    return !heads.length || heads.some(head => !head.scope && !head.closest('thead')) || !table.tHead;
  }).map(table => table.outerHTML.slice(0, 200))"""


@pytest.mark.parametrize(("theme", "size"), [("light", WIDE), ("dark", PHONE)])
def test_axe_finds_nothing_serious_and_no_page_is_wider_than_a_phone(
    tab: Tab, api: Api, fleet: Serving, pages: list[str], theme: str, size: tuple[int, int]
) -> None:
    tab.sign_in(fleet.tokens[Role.ADMIN])
    tab.driver.add_cookie({"name": "limosa-theme", "value": theme, "sameSite": "Strict"})
    operation = next(page for page in pages if page.startswith("/operations/")).rpartition("/")[2]
    tab.go(f"/operations/{operation}")
    item = same_operation(tab, api, operation, over=True)["items"][0]
    tab.expect("404")
    tab.size(*size)
    wrong: dict[str, list[str]] = {}
    for page in [*pages, f"/moves/{item['move']}"]:
        tab.go(page)
        assert tab.ask("return document.documentElement.dataset.theme") == theme

        found = serious(tab)
        found += [f"{tab.overflow()} px too wide"] if tab.overflow() else []
        found += [f"a table without heads: {table}" for table in tab.ask(NAMELESS_TABLES)]
        if found:
            wrong[page] = found
    assert wrong == {}
