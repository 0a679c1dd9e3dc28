"""Headless Chromium, and a tab of a test in it: what it asks for and complains about is kept, and judged at the end."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")

BINARY, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
"""Of Debian's packages chromium and chromium-driver."""
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking")
"""Tests run as root and in containers, where Chromium's sandbox cannot."""
WIDE, PHONE = (1280, 900), (390, 844)
LIMIT = 60.0
"""Seconds that a page may take to become what a test waits for."""
AGAIN = 0.1
SETTLED = 3.0
"""Seconds after which a page that was given another size has found its shape."""
MEANWHILE = (
    AssertionError,
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
)
"""What fails because a page is on its way to something else."""
LOGS = {"browser": "ALL", "performance": "ALL"}


class NotInstalled(Exception):
    """There is no Chromium here."""


@contextmanager
def chromium(*more: str, logs: Mapping[str, str] = LOGS) -> Iterator[webdriver.Chrome]:
    """One Chromium, without anybody's settings, until the block is left.

    Args:
        more: flags beside FLAGS.
        logs: what it keeps for who asks, and from which level on.

    Raises:
        NotInstalled: there is none.
    """
    for needed in (BINARY, DRIVER):
        if not needed.exists():
            raise NotInstalled(f"there is no {needed}: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(BINARY)
    for flag in (*FLAGS, *more):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", dict(logs))
    options.accept_insecure_certs = True  # a lab's CA is its own
    driver = webdriver.Chrome(options, Service(str(DRIVER), env={**os.environ, "SE_OFFLINE": "true"}))
    try:
        yield driver
    finally:
        driver.quit()


class Tab:
    """Somebody at the dashboard.

    Args:
        driver: his browser; cookies of tests before are forgotten.
        url: of the dashboard, with a slash at the end.
    """

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        self._expected: list[str] = []
        driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.scripts(allowed=True)
        self.size(*WIDE)
        driver.get("about:blank")
        for kind in LOGS:
            self._logged(kind)

    # -- what he does -------------------------------------------------------------------------------------------

    def go(self, path: str) -> None:
        """Enter an address."""
        self.driver.get(self.url + path.removeprefix("/"))

    def sign_in(self, token: str) -> None:
        """By the form, on whatever page asks for it."""
        if not self.driver.current_url.startswith(self.url):
            self.go("/")
        self.one("#token").send_keys(token)
        self.press("Sign in")
        self.one("nav[aria-label=Pages]")

    def press(self, said: str) -> None:
        """Click the link or button of the page's content that is called so, and wait for the page that it leads to."""
        self._click(lambda: self._called(said))

    def click(self, css: str) -> None:
        """The same with the first element that a selector finds."""
        self._click(lambda: self.driver.find_element("css selector", css))

    def fill(self, css: str, words: str) -> None:
        """Write into a field."""
        field = self.one(css)
        field.clear()
        field.send_keys(words)

    def keys(self, *pressed: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*pressed).perform()

    def size(self, width: int, height: int) -> None:
        """Give the page a window of this size, in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scripts(self, *, allowed: bool) -> None:
        """Let pages run scripts, or not."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    # -- what he sees -------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Of the page's address."""
        return urlsplit(self.driver.current_url).path

    def one(self, css: str) -> WebElement:
        """The first element that a selector finds, waited for."""
        return self.until(lambda: self.driver.find_element("css selector", css))

    def says(self, css: str) -> str:
        """Its text, as it can be read; "" where there is no such element."""
        told: str = self.ask("return document.querySelector(arguments[0])?.innerText ?? ''", css)
        return " ".join(told.split())

    def table(self, css: str = "main table[data-rove]") -> list[list[str]]:
        """The cells of a table's body, as they can be read."""
        script = """
            return [...document.querySelectorAll(arguments[0] + ' > tbody > tr')]
              .map(row => [...row.cells].map(cell => cell.innerText.trim()))"""
        told: list[list[str]] = self.ask(script, css)
        return told

    def ask(self, script: str, *arguments: Any) -> Any:
        """What a script returns; it runs beside the page's own, which no rule of the page forbids."""
        return self.driver.execute_script(script, *arguments)

    def until(self, look: Callable[[], T], limit: float = LIMIT) -> T:
        """What a look returns as soon as it neither fails nor misses anything: a page changes while it is looked at."""
        end = time.monotonic() + limit
        while True:
            try:
                return look()
            except MEANWHILE:
                if time.monotonic() > end:
                    raise
            time.sleep(AGAIN)

    def overflow(self) -> int:
        """Pixels that the page stays wider than its window: plots take a moment to follow it."""
        end = time.monotonic() + SETTLED
        while (wider := self.ask("return document.scrollingElement.scrollWidth - innerWidth")) > 0:
            if time.monotonic() > end:
                return int(wider)
            time.sleep(AGAIN)
        return 0

    def picture(self) -> Path:
        """Keep how the page looks now; returns where."""
        kept = Path(tempfile.mkdtemp(prefix="limosa-page-")) / "page.png"
        self.driver.save_screenshot(str(kept))
        return kept

    # -- what he must not see -----------------------------------------------------------------------------------

    def expect(self, complaint: str) -> None:
        """A line of the console that holds these words is meant to be there."""
        self._expected.append(complaint)

    def faults(self) -> list[str]:
        """What the console complained of, dialogs, and requests to anywhere else, since the last time."""
        lines = [line["message"] for line in self._logged("browser")]
        found = [line for line in lines if not any(expected in line for expected in self._expected)]
        for line in self._logged("performance"):
            found += self._foreign(json.loads(line["message"])["message"])
        return found

    def _logged(self, kind: str) -> list[dict[str, Any]]:
        """Lines of a log that have not been read yet."""
        told: list[dict[str, Any]] = self.driver.execute("getLog", {"type": kind})["value"]
        return told

    def _foreign(self, event: dict[str, Any]) -> Iterator[str]:
        told = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                url = told["request"]["url"]
                if not url.startswith((self.url, "data:", "about:")):
                    yield f"a request to {url}"
            case "Network.webSocketCreated":
                yield f"a socket to {told['url']}"
            case "Page.javascriptDialogOpening":
                yield f"a dialog: {told['message']}"
            case _:
                pass

    def _called(self, said: str) -> WebElement:
        found = [
            each
            for each in self.driver.find_elements("css selector", "main a, main button")
            if each.text.strip() == said and each.is_displayed()
        ]
        assert found, f"nothing here is called {said}"
        return found[0]

    def _click(self, find: Callable[[], WebElement]) -> None:
        before = self.driver.find_element("css selector", "html")
        self.until(lambda: find().click())
        self.until(lambda: self._gone(before))

    def _gone(self, document: WebElement) -> None:
        with suppress(StaleElementReferenceException):
            assert not document.is_enabled(), "the page is still the one before"
