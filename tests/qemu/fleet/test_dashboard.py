"""A drain with real guests, clicked through in a real browser over TLS; what it says is what the API says."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from selenium.webdriver import Chrome

from limosa.lab.fleet import STUCK, LabFleet, guests_on_three_hosts, lab_name
from limosa.lab.relay import relay
from limosa.testing.chromium import Tab
from limosa.testing.said import same_audit, same_fleet, same_host, same_move, same_operation, same_plan
from limosa.testing.simulation import Api

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

WHY = "a fan of it is loud"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[LabFleet]:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    async with guests_on_three_hosts(lab_name("t-web"), leaving=2) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(fleet: LabFleet) -> AsyncIterator[str]:
    """Of the controller's dashboard, as this machine reaches it."""
    desk = fleet.desks[0]
    async with relay(desk.room, desk.room.addresses.peer, desk.port) as port:
        yield f"https://127.0.0.1:{port}/"


@pytest_asyncio.fixture(loop_scope="module")
async def tab(driver: Chrome, url: str) -> AsyncIterator[Tab]:
    """Without a complaint of the console, a dialog, or a request to anywhere else."""
    opened = await asyncio.to_thread(Tab, driver, url)
    yield opened
    assert await asyncio.to_thread(opened.faults) == []


@pytest.fixture
def api(fleet: LabFleet, url: str) -> Api:
    desk = fleet.desks[0]
    trust = ssl.create_default_context(cafile=str(desk.room.path(f"{desk.directory}/pki/ca-cert.pem")))
    trust.check_hostname = False  # its certificate is for its address in the lab
    return Api(url, desk.token, trust)


async def test_a_drain_is_clicked_through_from_its_plan_to_its_end(fleet: LabFleet, tab: Tab, api: Api) -> None:
    # In a thread: the loop carries what the browser and the controller say to each other.
    await asyncio.to_thread(drained, tab, api, fleet.desks[0].token)
    where = await fleet.look()
    assert [name for name, host in where.items() if host == "a"] == [STUCK]


def drained(tab: Tab, api: Api, token: str) -> None:
    tab.sign_in(token)
    same_fleet(tab, api)
    tab.click("a.tile[href='/hosts/a']")
    same_host(tab, api, "a")
    tab.press("Drain: show the plan")
    plan = same_plan(tab, api, {"kind": "drain", "hosts": ["a"]})
    assert [left["name"] for left in plan["left"]] == [STUCK]
    tab.fill("#why", WHY)
    tab.expect("409")
    while not tab.path.startswith("/operations/"):
        tab.press("Begin")
    operation = tab.path.rpartition("/")[2]
    same_operation(tab, api, operation)
    told = same_operation(tab, api, operation, phase="partly done")
    assert told["why"] == WHY
    (first, _) = told["items"]
    tab.click(f"a[href='/moves/{first['move']}']")
    status = same_move(tab, api, first["move"])["status"]
    assert status["measured"]["blackout_ms"] == first["blackout_ms"] > 0
    assert ("begin", WHY) in [line[1:] for line in same_audit(tab, api, operation)]
    tab.go("/hosts/a")
    same_host(tab, api, "a")
