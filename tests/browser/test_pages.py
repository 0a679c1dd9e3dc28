"""Every page, in light and dark, wide and on a phone: nothing that keeps somebody from using it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from limosa.testing.axe import NAMELESS_TABLES, serious
from limosa.testing.chromium import PHONE, WIDE, Tab
from limosa.testing.said import same_operation
from limosa.testing.simulation import Api, simulated_fleet
from limosa.web.controller.simulated import Serving
from limosa.wire.fleet import Role

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
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
    # Without second attempts: those are made after ten seconds, and after twenty.
    drain = {"kind": "drain", "hosts": [first["host"]], "why": "axe", "limits": {"retries": 0}, "approved": True}
    told = api.post("operations", drain)
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

        found = serious(tab.driver, AXE)
        found += [f"{tab.overflow()} px too wide"] if tab.overflow() else []
        found += [f"a table without heads: {table}" for table in tab.ask(NAMELESS_TABLES)]
        if found:
            wrong[page] = found
    assert wrong == {}
