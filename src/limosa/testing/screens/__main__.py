"""Pictures of every page: light and dark, wide and narrow, of a full fleet or host and of an empty one.

python -m limosa.testing.screens --to build/screenshots [--axe axe.min.js] [--only fleet --only host]
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
from limosa.testing.axe import faults
from limosa.testing.screens.agent import EMPTY_PAGES as EMPTY_AGENT
from limosa.testing.screens.agent import PAGES, agent_served
from limosa.testing.screens.browser import DESK, PHONE, Screen, screen
from limosa.testing.screens.fleets import Fleet, served
from limosa.testing.screens.story import Story, begun, documents, flying
from limosa.testing.simulation import Api
from limosa.web.frame import Theme
from limosa.wire.fleet import Role

FULL = Fleet(hosts=100, odd=True, hurry=4.0)
EMPTY = Fleet(hosts=0)
THEMES = (Theme.LIGHT, Theme.DARK)


SIZES = {"wide": DESK, "narrow": PHONE}


class Taken(NamedTuple):
    """One picture."""

    file: str
    page: str
    faults: tuple[str, ...]
    """What keeps somebody from using it."""


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


class Camera(NamedTuple):
    """What to take.

    Attributes:
        to: a directory.
        only: names of pages; empty for all.
        axe: axe-core, which judges each page; None without.
    """

    to: Path
    only: tuple[str, ...]
    axe: Path | None

    def chosen(self, pages: Mapping[str, str]) -> Mapping[str, str]:
        """Those that are asked for."""
        return {name: where for name, where in pages.items() if not self.only or name in self.only}

    def take(self, window: Screen, name: str, theme: Theme, size: str) -> Taken:
        """The page that is open."""
        file = f"{name}.{theme}.{size}.png"
        (self.to / file).write_bytes(window.picture())
        wider = window.overflow()
        found = [f"{wider} pixels wider than its window"] if wider > 0 else []
        found += faults(window.driver, self.axe) if self.axe else []
        return Taken(file, name, tuple(found))

    def all(self, window: Screen, fleet: str, pages: Callable[[], Mapping[str, str]]) -> Iterator[Taken]:
        """Pages, in all colours and sizes; they are asked for again for each."""
        for theme in THEMES:
            window.coloured(theme)
            for size, pixels in SIZES.items():
                window.sized(pixels)
                for name, where in pages().items():
                    window.open(where)
                    yield self.take(window, f"{name}.{fleet}", theme, size)


def main(arguments: list[str]) -> int:
    """Take them; returns 1 where a page is wider than its window, or axe finds something serious."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="a directory; what is in it is written over")
    parser.add_argument("--only", action="append", default=[], metavar="PAGE", help="of these pages alone")
    parser.add_argument("--axe", type=Path, help="axe-core, as one file: it judges each page that is taken")
    asked = parser.parse_args(arguments)
    asked.to.mkdir(parents=True, exist_ok=True)
    camera = Camera(asked.to, tuple(asked.only), asked.axe)
    taken = [*_full(camera), *_empty(camera), *_agent(camera, "full", PAGES), *_agent(camera, "empty", EMPTY_AGENT)]
    (asked.to / "index.html").write_text(_index(taken))
    for each in taken:
        for fault in each.faults:
            print(f"{each.file}: {fault}")
    print(f"{len(taken)} pictures: {asked.to / 'index.html'}")
    return 1 if any(each.faults for each in taken) else 0


def _full(camera: Camera) -> Iterator[Taken]:
    if camera.only and all(page.startswith("agent-") for page in camera.only):
        return
    with served(FULL) as serving:
        api = Api(serving.url, serving.tokens[Role.OPERATOR])
        story = begun(api, FULL)
        with screen(serving.url) as window:
            window.open("/sign-in")
            yield from camera.all(window, "full", lambda: camera.chosen({"sign-in": "/sign-in"}))
            window.sign_in(serving.tokens[Role.ADMIN])
            yield from camera.all(window, "full", lambda: camera.chosen(pages_of(story, flying(api, story))))
            yield from _keys(window, camera)
            yield from _reports(window, camera, api, story)


def _empty(camera: Camera) -> Iterator[Taken]:
    if not camera.chosen(EMPTY_PAGES):
        return
    with served(EMPTY) as serving, screen(serving.url) as window:
        window.sign_in(serving.tokens[Role.ADMIN])
        yield from camera.all(window, "empty", lambda: camera.chosen(EMPTY_PAGES))


def _agent(camera: Camera, what: str, pages: Mapping[str, str]) -> Iterator[Taken]:
    if not camera.chosen(pages):
        return
    with agent_served(empty_handed=what == "empty") as link, screen(link) as window:
        window.open(link)
        yield from camera.all(window, what, lambda: camera.chosen(pages))


def _keys(window: Screen, camera: Camera) -> Iterator[Taken]:
    if not camera.chosen({"keys": "/hosts"}):
        return
    window.coloured(Theme.LIGHT)
    window.sized(DESK)
    window.open("/hosts")
    window.driver.find_element(By.TAG_NAME, "body").send_keys("?")
    yield camera.take(window, "keys.full", Theme.LIGHT, "wide")


def _reports(window: Screen, camera: Camera, api: Api, story: Story) -> Iterator[Taken]:
    if not camera.chosen({"report": ""}):
        return
    for name, document in documents(api, story).items():
        page = camera.to / f"report-{name}.html"
        page.write_text(report_page(document, made=time.time()))
        for theme in THEMES:
            preferred = [{"name": "prefers-color-scheme", "value": str(theme)}]
            window.cdp("Emulation.setEmulatedMedia", features=preferred)
            for size, pixels in SIZES.items():
                window.sized(pixels)
                window.open(page.absolute().as_uri())
                yield camera.take(window, f"report-{name}.full", theme, size)


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
