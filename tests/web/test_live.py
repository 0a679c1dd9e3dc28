"""What is sent to a page that somebody looks at."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from litestar.response import ServerSentEventMessage
from litestar.testing import RequestFactory

from limosa.testing.browser import Web
from limosa.testing.fleet import FLAGS, guest, report
from limosa.web.controller import looks, pages, show
from limosa.web.controller.looks import Looks
from limosa.web.controller.visit import Site, Visit
from limosa.web.difference import Difference
from limosa.web.parts import news, taken_apart
from limosa.web.render import mark, titled

HOSTS = next(page for page in show.PAGES if page.where == "/hosts")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(looks, "FRESH", 0.0)
    monkeypatch.setattr(looks, "SHARE", 0.0)


async def stream(
    web: Web, seen: str = "", last: str = "", site: Site | None = None
) -> AsyncIterator[ServerSentEventMessage]:
    """The messages of the table of hosts, without signs of life."""
    session = await web.controller.sessions.find(web.viewer.session)
    assert session
    headers = {"last-event-id": last} if last else {}
    request = RequestFactory().get("/live/hosts", headers=headers, query_params={"seen": seen})
    site = site or Site(web.controller, Looks(web.controller), secure=True)
    visit = Visit(site, request, session, web.viewer.session)
    async for message in pages._changes(visit, HOSTS):
        if message.data is not None:
            yield message


async def first(messages: AsyncIterator[ServerSentEventMessage]) -> ServerSentEventMessage:
    async with asyncio.timeout(60):
        return await anext(messages)


async def seen_by(web: Web) -> str:
    found = re.search(r"seen=([0-9a-f]+)", (await web.viewer.get("/hosts")).text)
    assert found
    return found[1]


async def test_a_page_that_is_as_things_are_is_sent_nothing_until_something_changes(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, region = asyncio.Event(), pages._region

    async def look(*asked: Any) -> Any:
        try:
            return await region(*asked)
        finally:
            looked.set()

    monkeypatch.setattr(pages, "_region", look)
    messages = stream(web, seen=await seen_by(web))
    waiting = asyncio.create_task(first(messages))
    await looked.wait()
    assert not waiting.done()
    await web.controller.registry.take("b", report("b", guest("db1", "b"), guest("db2", "b")), time.time())
    message = await waiting
    told = msgspec.json.decode(str(message.data), type=Difference)
    assert message.event == "parts"
    assert list(told.slots) == [mark("h", "b")]
    assert "2" in [slot.value for slot in told.slots[mark("h", "b")]]
    assert not told.drawn


async def test_a_page_that_shows_something_else_is_sent_whole(web: Web) -> None:
    message = await first(stream(web, seen="0123456789abcdef"))
    assert "<h1>Hosts</h1>" in str(message.data)
    assert message.event is None


async def test_after_a_lost_connection_it_goes_on_from_what_was_told_last(web: Web) -> None:
    stale, site = await seen_by(web), Site(web.controller, Looks(web.controller), secure=True)
    await web.controller.registry.take("b", report("b", guest("db1", "b"), guest("db2", "b")), time.time())
    known = (await first(stream(web, seen=stale, site=site))).id
    messages = stream(web, seen=stale, last=str(known), site=site)
    waiting = asyncio.create_task(first(messages))
    await web.controller.registry.take("c", report("c", guest("new", "c"), flags=FLAGS[:2]), time.time())
    assert list(msgspec.json.decode(str((await waiting).data))["slots"]) == [mark("h", "c")]


async def test_a_page_that_was_told_of_the_fleet_as_it_was_is_told_the_rest_without_another_change(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "FRESH", 0.2)
    monkeypatch.setattr(pages, "COUNT_ON", 1_000_000)
    site = Site(web.controller, Looks(web.controller), secure=True)
    messages = stream(web, seen="0123456789abcdef", site=site)
    await first(messages)
    await web.controller.registry.take("b", report("b", guest("db1", "b"), guest("db2", "b")), time.time())
    told = msgspec.json.decode(str((await first(messages)).data), type=Difference)
    assert mark("h", "b") in told.slots


def test_an_open_page_is_told_what_it_is_called_now() -> None:
    parts = taken_apart(titled('"><b>'))
    assert 'data-title="&#34;&gt;&lt;b&gt; · limosa"' in parts.parts["page-title"]


async def test_a_stream_ends_with_its_session(web: Web) -> None:
    messages = stream(web)
    await first(messages)
    await web.controller.sessions.end(web.viewer.session)
    await web.controller.registry.take("b", report("b"), time.time())
    with pytest.raises(StopAsyncIteration):
        await first(messages)


async def test_a_stream_is_for_who_is_signed_in(web: Web) -> None:
    assert (await web.nobody.get("/live/hosts")).status_code == 401


async def test_a_load_that_drifts_changes_tiles_and_figures_of_the_map_and_nothing_else(web: Web) -> None:
    fleet = next(page for page in show.PAGES if page.where == "/")
    site = Site(web.controller, Looks(web.controller), secure=True)
    session = await web.controller.sessions.find(web.viewer.session)
    assert session
    visit = Visit(site, RequestFactory().get("/live"), session, web.viewer.session)
    before, _ = await pages._region(visit, fleet)
    busy = msgspec.structs.replace(guest("db1", "b"), load=1.0)
    await web.controller.registry.take("b", report("b", busy), time.time())
    after, _ = await pages._region(visit, fleet)
    told = news(before, after).parts
    assert told
    assert {name[:2] for name in told.slots} == {"t-", "n-"}
    assert "load 6 %" in str(told.slots[mark("t", "b")])
    assert not told.drawn


async def test_what_is_drawn_once_for_all_says_nothing_of_who_looks(web: Web) -> None:
    for page in show.PAGES:
        if page.shared:
            texts = [(await browser.get(page.where)).text for browser in (web.viewer, web.admin)]
            regions = [re.sub(r".*<div id=\"live\"[^>]*>(.*)</main>.*", r"\1", text, flags=re.DOTALL) for text in texts]
            assert regions[0] == regions[1]
            assert not re.search(r"viewer|admin|name=\"form\"", regions[0]), page.where


async def test_a_long_table_is_cut_into_groups_and_the_rest_of_it_is_found_by_its_address(web: Web) -> None:
    many = tuple(guest(f"g{number:04}", "a") for number in range(650))
    await web.controller.registry.take("a", report("a", *many), time.time())
    told = (await web.viewer.get("/guests?size=10000")).text
    assert told.count("<tbody>") == 7
    assert told.count("<tr id=") == 651
    assert "1 to 651 of 651 guests" in told
