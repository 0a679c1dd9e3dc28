"""Pictures of every page: light and dark, wide and narrow, of a full fleet and of an empty one.

python -m limosa.testing.screens --to build/screenshots [--only fleet --only host]
"""

import argparse
import html
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from selenium.webdriver.common.by import By

from limosa.history.page import html as report_page
from limosa.testing.screens.browser import DESK, PHONE, Screen, screen
from limosa.testing.screens.fleets import Fleet, served
from limosa.testing.screens.story import Story, begun, documents, flying
from limosa.testing.simulation import Api
from limosa.web.frame import Theme
from limosa.wire.fleet import Role

FULL = Fleet(hosts=200, odd=True, hurry=4.0)
EMPTY = Fleet(hosts=0)
THEMES = (Theme.LIGHT, Theme.DARK)


SIZES = {"wide": DESK, "narrow": PHONE}


class Taken(NamedTuple):
    """One picture."""

    file: str
    page: str
    overflow: int


def pages_of(story: Story, move: str) -> Mapping[str, str]:
    """The pages of a full fleet, by the name of their pictures; `move` is in flight, and so looked at first."""
    return {
        "move-flying": f"/moves/{move}",
        "fleet": "/",
        "fleet-by-memory": "/?by=memory",
        "fleet-by-pool": "/?by=pool&group=pool",
        "hosts": "/hosts",
        "host": f"/hosts/{story.host}",
        "host-draining": f"/hosts/{story.draining}",
        "host-silent": f"/hosts/{story.silent}",
        "guests": "/guests",
        "guests-none-found": "/guests?q=no-such-guest",
        "guest": f"/guests/{story.guest}",
        "guest-hostile-name": f"/guests/{story.hostile}",
        "guest-two-owners": f"/guests/{story.doubled}",
        "plan-drain": f"/plan?kind=drain&hosts={story.host}",
        "plan-rebalance": "/plan?kind=rebalance",
        "plan-consolidate": "/plan?kind=consolidate",
        "plan-nonsense": "/plan?kind=drain&hosts=nowhere",
        "operations": "/operations",
        "operation-running": f"/operations/{story.running}",
        "operation-over": f"/operations/{story.over}",
        "operation-waiting": f"/operations/{story.waiting}",
        "move-completed": f"/moves/{story.moved}",
        "move-failed": f"/moves/{story.failed}",
        "history": "/history",
        "cpu": "/cpu",
        "audit": "/audit",
        "doctor": "/doctor",
        "search": "/search?q=r00",
        "search-nothing": "/search?q=no-such-thing",
        "hooks": "/hooks",
        "tokens": "/tokens",
        "not-found": "/hosts/no-such-host",
    }


EMPTY_PAGES = {
    "fleet": "/",
    "hosts": "/hosts",
    "guests": "/guests",
    "operations": "/operations",
    "history": "/history",
    "cpu": "/cpu",
    "audit": "/audit",
    "doctor": "/doctor",
    "search": "/search",
    "plan-consolidate": "/plan?kind=consolidate",
    "tokens": "/tokens",
}


def main(arguments: list[str]) -> int:
    """Take them; returns 1 where a page is wider than its window."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="a directory; what is in it is written over")
    parser.add_argument("--only", action="append", default=[], metavar="PAGE", help="of these pages alone")
    asked = parser.parse_args(arguments)
    asked.to.mkdir(parents=True, exist_ok=True)
    taken = [*_full(asked.to, asked.only), *_empty(asked.to, asked.only)]
    (asked.to / "index.html").write_text(_index(taken))
    wider = [each for each in taken if each.overflow > 0]
    for each in wider:
        print(f"{each.file}: {each.overflow} pixels wider than its window")
    print(f"{len(taken)} pictures: {asked.to / 'index.html'}")
    return 1 if wider else 0


def _full(to: Path, only: list[str]) -> Iterator[Taken]:
    with served(FULL) as serving:
        api = Api(serving.url, serving.tokens[Role.OPERATOR])
        story = begun(api, FULL)
        with screen(serving.url) as window:
            yield from _signing_in(window, to, only)
            window.sign_in(serving.tokens[Role.ADMIN])
            yield from _all(window, to, "full", lambda: _chosen(pages_of(story, flying(api, story)), only))
            yield from _keys(window, to, only)
            yield from _reports(window, to, api, story, only)


def _empty(to: Path, only: list[str]) -> Iterator[Taken]:
    with served(EMPTY) as serving, screen(serving.url) as window:
        window.sign_in(serving.tokens[Role.ADMIN])
        yield from _all(window, to, "empty", lambda: _chosen(EMPTY_PAGES, only))


def _chosen(pages: Mapping[str, str], only: list[str]) -> Mapping[str, str]:
    return {name: where for name, where in pages.items() if not only or name in only}


def _all(window: Screen, to: Path, fleet: str, pages: Callable[[], Mapping[str, str]]) -> Iterator[Taken]:
    for theme in THEMES:
        window.coloured(theme)
        for size, pixels in SIZES.items():
            window.sized(pixels)
            for name, where in pages().items():
                window.open(where)
                yield _take(window, to, f"{name}.{fleet}", theme, size)


def _take(window: Screen, to: Path, name: str, theme: Theme, size: str) -> Taken:
    file = f"{name}.{theme}.{size}.png"
    (to / file).write_bytes(window.picture())
    return Taken(file, name, window.overflow())


def _signing_in(window: Screen, to: Path, only: list[str]) -> Iterator[Taken]:
    window.open("/sign-in")
    yield from _all(window, to, "full", lambda: _chosen({"sign-in": "/sign-in"}, only))


def _keys(window: Screen, to: Path, only: list[str]) -> Iterator[Taken]:
    if only and "keys" not in only:
        return
    window.coloured(Theme.LIGHT)
    window.sized(DESK)
    window.open("/hosts")
    window.driver.find_element(By.TAG_NAME, "body").send_keys("?")
    yield _take(window, to, "keys.full", Theme.LIGHT, "wide")


def _reports(window: Screen, to: Path, api: Api, story: Story, only: list[str]) -> Iterator[Taken]:
    if only and "report" not in only:
        return
    for name, document in documents(api, story).items():
        page = to / f"report-{name}.html"
        page.write_text(report_page(document, made=time.time()))
        for theme in THEMES:
            preferred = [{"name": "prefers-color-scheme", "value": str(theme)}]
            window.cdp("Emulation.setEmulatedMedia", features=preferred)
            for size, pixels in SIZES.items():
                window.sized(pixels)
                window.open(page.absolute().as_uri())
                yield _take(window, to, f"report-{name}.full", theme, size)


_STYLE = """
body { font: 14px system-ui; margin: 20px }
figure { display: inline-block; margin: 0 12px 20px 0; vertical-align: top }
img { max-width: 420px; max-height: 560px; border: 1px solid #888 }
"""


def _index(taken: list[Taken]) -> str:
    """All pictures on one page, those of a page side by side."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>limosa: every page</title>',
        f"<style>{_STYLE}</style>",
    ]
    for page in dict.fromkeys(each.page for each in taken):
        parts.append(f"<h2>{html.escape(page)}</h2>")
        parts += [
            f'<figure><a href="{each.file}"><img loading="lazy" src="{each.file}" alt="{each.file}"></a>'
            f"<figcaption>{each.file}</figcaption></figure>"
            for each in taken
            if each.page == page
        ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
