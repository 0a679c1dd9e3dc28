"""Whatever guests, racks, labels and reasons are called, it appears as text, and pages stay whole."""

from collections.abc import Iterator

import msgspec
import pytest

from limosa.fleet.generate import Shape, generate
from limosa.fleet.simulated.processors import processors
from limosa.testing.chromium import PHONE, WIDE, Tab
from limosa.testing.said import same_audit, same_operation
from limosa.testing.simulation import Api, simulated_fleet
from limosa.units import GuestName
from limosa.web.controller.simulated import Serving
from limosa.wire.fleet import Role

MARKUP = """<img src=x onerror=alert(1)><script>alert(2)</script>"'><b>&amp;{{ 7*7 }}"""
TURNED = "\u202eexe.gnp\u2066 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd"
LONG = "w" * 5000
NAMES = (MARKUP, TURNED, LONG, "\U0001f427\u200d\U0001f525 \u0301\u0302", "javascript:alert(3)", "../..%2f?q=#x")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    made = generate(processors(), Shape(hosts=4, guests_per_host=6, fill=0.3, blocked=0.0, pinned=0.0, grouped=0.0))
    change = msgspec.structs.replace
    guests = [change(guest, name=GuestName(NAMES[place % 6])) for place, guest in enumerate(made.guests)]
    guests[0] = change(guests[0], blocked=(MARKUP, LONG))
    hosts = [change(host, rack=(MARKUP, TURNED)[place % 2], labels=NAMES[:2]) for place, host in enumerate(made.hosts)]
    directory = tmp_path_factory.mktemp("fleet")
    told = change(made, hosts=tuple(hosts), guests=tuple(guests))
    (directory / "fleet.json").write_bytes(msgspec.json.encode(told))
    scenario = directory / "fleet.toml"
    scenario.write_text('inventory = "fleet.json"\n[operation]\nkind = "drain"\n')
    with simulated_fleet(str(scenario), "--hurry", "1000", "--trouble", "0") as served:
        yield served


CAME_ALIVE = (
    "return document.querySelectorAll('main img:not([src^=\"/cpu/\"]), main script, main b b, main h1 b').length"
)


def whole(tab: Tab, page: str) -> list[str]:
    """What is wrong with a page, wide and on a phone."""
    tab.go(page)
    found = [f"{page}: a name came alive"] if tab.ask(CAME_ALIVE) else []
    for size in (WIDE, PHONE):
        tab.size(*size)
        found += [f"{page}: {tab.overflow()} px too wide at {size[0]}"] if tab.overflow() else []
    return found


def test_names_appear_as_text_and_pages_stay_whole(tab: Tab, api: Api, fleet: Serving) -> None:
    tab.sign_in(fleet.tokens[Role.ADMIN])
    guests, host = api.all("guests"), api.all("hosts")[0]["name"]
    why = (MARKUP + TURNED + LONG)[:2000]
    tab.go(f"/plan?kind=drain&hosts={host}")
    tab.expect("409")
    tab.ask("document.getElementById('why').value = arguments[0]", why)
    while not tab.path.startswith("/operations/"):
        tab.press("Begin")
    operation = tab.path.rpartition("/")[2]
    told = same_operation(tab, api, operation)  # its rows come in while it is looked at
    over = same_operation(tab, api, operation, over=True)
    assert over["why"] == why == told["why"]
    assert MARKUP in tab.says("main p.dim")
    tab.go("/guests")
    shown = {row[0] for row in tab.table()}
    assert {MARKUP, LONG, "javascript:alert(3)"} <= shown
    moved = next(item for item in over["items"] if item["move"])
    pages = [
        "/",
        "/?group=rack",
        "/hosts",
        *(f"/hosts/{each['name']}" for each in api.all("hosts")),
        "/guests",
        *(f"/guests/{guest['id']}" for guest in guests[:6]),
        "/operations",
        f"/operations/{operation}",
        *(f"/moves/{item['move']}" for item in over["items"][:3]),
        f"/plan?kind=drain&hosts={moved['destination']}",
        "/history",
        "/audit",
        "/doctor",
        "/search?q=www",
        "/search?q=%3Cimg%20src=x%20onerror=alert(1)%3E",
    ]
    assert [fault for page in pages for fault in whole(tab, page)] == []
    assert same_audit(tab, api, operation)
