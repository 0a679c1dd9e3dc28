"""What the dashboard weighs, and how it keeps up: pages of a large fleet in Debian's Chromium.

    uv run python bench/web.py [--hosts 1000] [--requests 20] [--seconds 20]

A controller serves a fleet in memory, in a process of its own; on 200 hosts each second the load of a guest changes.
Every figure stands beside another of the same run, because machines differ and are busy: a page beside the lightest
one, a table that is followed beside the same one that is not, and beside a plain table with the same rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import httpx
import msgspec

from limosa.cli.table import table
from limosa.testing.screens.browser import DESK, Screen, screen
from limosa.testing.screens.fleets import Fleet, served
from limosa.testing.simulation import Api
from limosa.web.controller.simulated import Serving
from limosa.wire.fleet import FleetGuest, Role

CHANGING = 200
"""Hosts on which a guest changes each second."""
MOST_ROWS = 10_000
"""Of one page of a table."""
KNOWN_SECONDS = 300.0
FRAMES = 240
"""Of one scroll from the top of a table down."""
LIGHTEST = "/search"


class Server(NamedTuple):
    """Seconds from a request until its answer is whole, on loopback, and bytes as they went and as they are."""

    times: tuple[float, ...]
    sent: int
    raw: int


class Loaded(NamedTuple):
    """What a browser says of one load, from an empty cache; milliseconds, bytes."""

    requests: int
    transferred: int
    raw: int
    first_paint: float
    interactive: float
    nodes: int


class Followed(NamedTuple):
    """A page over some seconds."""

    updates: int
    changed: int
    """Elements that changed."""
    busy: float
    """Share of the time in which the main thread worked."""
    long_tasks: int
    """Of 50 ms and more."""
    seconds: float


class Scrolled(NamedTuple):
    """Milliseconds between frames while a table is scrolled."""

    p50: float
    p95: float
    longest: float
    late: int
    """Frames that took twice as long as the display's interval, of FRAMES."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    asked = parser.parse_args()
    print(f"{asked.hosts} hosts; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors at the start")
    with served(Fleet(hosts=asked.hosts, drifting=CHANGING)) as serving:
        guests = _known(Api(serving.url, serving.tokens[Role.OPERATOR]), asked.hosts)
        pages = _pages(guests)
        with httpx.Client(base_url=serving.url, timeout=120.0) as client:
            _sign_in(client, serving)
            _say_pages(serving, client, pages, asked.requests)
        _say_following(serving, asked.seconds)
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def _known(api: Api, hosts: int) -> list[FleetGuest]:
    until = time.monotonic() + KNOWN_SECONDS
    while time.monotonic() < until:
        if len([host for host in api.all("hosts") if host["cores"]]) == hosts:
            return msgspec.convert(api.all("guests"), list[FleetGuest])
        time.sleep(1.0)
    raise TimeoutError(f"not all of {hosts} hosts are known after {KNOWN_SECONDS:.0f} s")


def _pages(guests: Sequence[FleetGuest]) -> tuple[str, ...]:
    one = guests[len(guests) // 2]
    return (
        LIGHTEST,
        "/",
        "/hosts",
        f"/hosts/{one.host}",
        "/guests",
        f"/guests?size={MOST_ROWS}",
        f"/guests/{one.id}",
        "/operations",
        "/history",
        "/cpu",
        "/audit",
        "/doctor",
        f"/plan?kind=drain&hosts={one.host}",
    )


def _sign_in(client: httpx.Client, serving: Serving) -> None:
    word = serving.tokens[Role.OPERATOR]
    form = {"token": word, "next": "/"}
    answer = client.post("/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303, answer


# -- pages -----------------------------------------------------------------------------------------------------------


def _say_pages(serving: Serving, client: httpx.Client, pages: Sequence[str], requests: int) -> None:
    server = {page: _asked(client, page, requests) for page in pages}
    print(
        "server: " + ", ".join(f"{page} {1000 * statistics.median(told.times):.0f} ms" for page, told in server.items())
    )
    with screen(serving.url) as window:
        window.sign_in(serving.tokens[Role.OPERATOR])
        loaded = {page: _load(window, page) for page in pages}
    base, rows = statistics.median(server[LIGHTEST].times), []
    for page in pages:
        told, seen = server[page], loaded[page]
        p50, p99 = statistics.median(told.times), max(told.times)
        rows.append(
            (
                page if len(page) < 40 else f"{page[:37]}…",
                f"{1000 * p50:.0f}",
                f"{1000 * p99:.0f}",
                f"{p50 / base:.1f}x",
                f"{told.sent / 1000:.1f}",
                f"{told.raw / 1000:.0f}",
                str(seen.requests),
                f"{seen.transferred / 1000:.0f}",
                f"{seen.raw / 1000:.0f}",
                f"{seen.first_paint:.0f}",
                f"{seen.interactive:.0f}",
                f"{seen.nodes:,}",
            )
        )
    heads = (
        "PAGE",
        "p50 ms",
        "longest",
        "RATIO",
        "gzip kB",
        "raw kB",
        "REQ",
        "all kB",
        "all raw",
        "FCP",
        "TTI",
        "NODES",
    )
    print(table(heads, rows, right=heads[1:]))


def _asked(client: httpx.Client, page: str, requests: int) -> Server:
    times: list[float] = []
    for _ in range(requests):
        began = time.perf_counter()
        answer = client.get(page, headers={"Accept-Encoding": "gzip"})
        times.append(time.perf_counter() - began)
        answer.raise_for_status()
    return Server(tuple(times), int(answer.headers["content-length"]), len(answer.content))


def _load(window: Screen, page: str) -> Loaded:
    window.cdp("Network.clearBrowserCache")
    window.open(page, live=False)
    told: dict[str, Any] = window.driver.execute_script(_TIMES)
    return Loaded(**told)


_TIMES = """
const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter((each) => !each.name.includes("/live"));
const sum = (what) => all.reduce((total, each) => total + each[what], 0);
const [page] = performance.getEntriesByType("navigation");
return {
  requests: all.length, transferred: sum("transferSize"), raw: sum("decodedBodySize"),
  first_paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0,
  interactive: page.domContentLoadedEventEnd, nodes: document.getElementsByTagName("*").length,
};
"""


# -- following, scrolling --------------------------------------------------------------------------------------------


def _say_following(serving: Serving, seconds: float) -> None:
    rows, frames = [], []
    with screen(serving.url) as window:
        window.sign_in(serving.tokens[Role.OPERATOR])
        for page in ("/guests", f"/guests?size={MOST_ROWS}", "/"):
            window.open(page)
            live = _follow(window, seconds)
            frames.append((page, "followed", _scroll(window)))
            _quiet(window, page)
            still = _follow(window, seconds)
            frames.append((page, "not followed", _scroll(window)))
            rows.append((page, live, still))
        plain = _plain(window)
        frames.append((f"{plain:,} plain rows", "static", _scroll(window)))
    print(table(_FOLLOWED, list(_followed(rows)), right=_FOLLOWED[1:]))
    print(table(_SCROLLED, list(_scrolled(frames)), right=_SCROLLED[2:]))


_FOLLOWED = ("PAGE", "updates/s", "elements/s", "ms/update", "busy %", "still %", "long tasks", "still")
_SCROLLED = ("PAGE", "", "frame p50 ms", "p95", "longest", f"late of {FRAMES}", "RATIO")


def _followed(rows: Sequence[tuple[str, Followed, Followed]]) -> Iterator[tuple[str, ...]]:
    for page, live, still in rows:
        spent = 1000 * max(0.0, live.busy - still.busy) * live.seconds / max(1, live.updates)
        yield (
            page,
            f"{live.updates / live.seconds:.2f}",
            f"{live.changed / live.seconds:.0f}",
            f"{spent:.1f}",
            f"{100 * live.busy:.1f}",
            f"{100 * still.busy:.1f}",
            str(live.long_tasks),
            str(still.long_tasks),
        )


def _scrolled(frames: Sequence[tuple[str, str, Scrolled]]) -> Iterator[tuple[str, ...]]:
    base = frames[-1][2].p95
    for page, how, told in frames:
        yield (
            page,
            how,
            f"{told.p50:.1f}",
            f"{told.p95:.1f}",
            f"{told.longest:.0f}",
            str(told.late),
            f"{told.p95 / base:.2f}x",
        )


def _follow(window: Screen, seconds: float) -> Followed:
    window.driver.execute_script(_WATCH)
    before, began = _tasks(window), time.perf_counter()
    time.sleep(seconds)
    after, took = _tasks(window), time.perf_counter() - began
    told: dict[str, int] = window.driver.execute_script("return window.watched")
    return Followed(told["updates"], told["changed"], (after - before) / took, told["long"], took)


_WATCH = """
const seen = window.watched = { updates: 0, changed: 0, long: 0 };
document.addEventListener("htmx:sse:before:message", () => seen.updates++);
new PerformanceObserver((list) => (seen.long += list.getEntries().length)).observe({ entryTypes: ["longtask"] });
new MutationObserver((list) => {
  const parts = new Set(list.map((each) => (each.target.closest ?? each.target.parentElement?.closest)
    ?.call(each.target.closest ? each.target : each.target.parentElement, "tr, a.tile")));
  seen.changed += parts.size;
}).observe(document.getElementById("main"), { subtree: true, childList: true, attributes: true, characterData: true });
"""


def _tasks(window: Screen) -> float:
    """Seconds that the main thread has worked so far."""
    window.cdp("Performance.enable")
    told = window.cdp("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in told if each["name"] == "TaskDuration"))


def _quiet(window: Screen, page: str) -> None:
    """The same page, without its stream."""
    window.cdp("Network.enable")
    window.cdp("Network.setBlockedURLs", urls=["*hx-sse*"])
    window.driver.get(window.site.rstrip("/") + page)
    window.cdp("Network.setBlockedURLs", urls=[])


def _plain(window: Screen) -> int:
    """Nothing but rows of text, as many as the fleet has guests: what a browser does with a table by itself."""
    count = 10_000
    window.driver.get("about:blank")
    window.driver.execute_script(
        "const row = '<tr>' + '<td>r004-h19-1c211c11</td>'.repeat(8) + '</tr>';"
        f"document.body.innerHTML = '<table>' + row.repeat({count}) + '</table>';"
    )
    return count


def _scroll(window: Screen) -> Scrolled:
    window.sized(DESK)
    window.driver.set_script_timeout(120)
    gaps: list[float] = sorted(window.driver.execute_async_script(_FRAMES, FRAMES))
    usual = statistics.median(gaps)
    return Scrolled(usual, gaps[int(0.95 * len(gaps))], gaps[-1], sum(gap > 2 * 1000 / 60 for gap in gaps))


_FRAMES = """
const [count, done] = arguments, gaps = [];
const step = Math.max(1, (document.documentElement.scrollHeight - innerHeight) / count);
let last = performance.now();
const frame = (now) => {
  gaps.push(now - last);
  last = now;
  scrollBy(0, step);
  gaps.length < count ? requestAnimationFrame(frame) : done(gaps.slice(1));
};
scrollTo(0, 0);
requestAnimationFrame((now) => { last = now; requestAnimationFrame(frame); });
"""


if __name__ == "__main__":
    main()
