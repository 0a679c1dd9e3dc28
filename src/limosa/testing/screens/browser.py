"""Debian's Chromium without a screen, signed in at a dashboard, and what it can tell of a page."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urljoin

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from limosa.testing.chromium import chromium
from limosa.web.frame import Theme

PATIENCE = 60.0
"""Seconds that a page may take."""
TALLEST = 3600
"""Pixels of a picture; what lies below is more of the same."""


class Size(NamedTuple):
    """Of a window, in pixels of CSS."""

    width: int
    height: int
    phone: bool = False
    """Whether it is one that is touched, and lays pages out as phones do."""


DESK, PHONE = Size(1440, 900), Size(390, 844, phone=True)


class Screen:
    """One window.

    Args:
        driver: of the browser.
        site: the dashboard's address.
    """

    def __init__(self, driver: webdriver.Chrome, site: str) -> None:
        self.driver = driver
        self.site = site
        self.sized(DESK)

    def sized(self, size: Size) -> None:
        """Make it as wide and as high as this."""
        self.size = size
        self._resize()

    def _resize(self) -> None:
        width, height, phone = self.size
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)

    def coloured(self, theme: Theme) -> None:
        """Choose colours as the dashboard's button does."""
        self.driver.add_cookie({"name": "limosa-theme", "value": str(theme), "path": "/"})

    def sign_in(self, token: str) -> None:
        """Enter a token."""
        self.open("/sign-in")
        self.driver.find_element(By.NAME, "token").send_keys(token)
        self.driver.find_element(By.CSS_SELECTOR, ".signin button.main").click()
        WebDriverWait(self.driver, PATIENCE).until(lambda driver: "/sign-in" not in driver.current_url)

    def open(self, path: str, *, live: bool = True) -> None:
        """Load a page and wait until it is complete and, where it says that it will be, live."""
        self.driver.get(urljoin(self.site, path))
        if live:
            WebDriverWait(self.driver, PATIENCE).until(lambda driver: driver.execute_script(_SETTLED))

    def picture(self) -> bytes:
        """The whole page as PNG, as far down as TALLEST, in a window as high as that."""
        size, self.size = self.size, self.size._replace(height=min(self._height(), TALLEST))
        self._resize()
        told = self.cdp("Page.captureScreenshot", format="png")
        self.size = size
        self._resize()
        return base64.b64decode(told["data"])

    def _height(self) -> int:
        height: int = self.driver.execute_script("return document.documentElement.scrollHeight")
        return height

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window; 0 where nothing has to be scrolled sideways."""
        wider: int = self.driver.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wider

    def cdp(self, command: str, **told: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(command, told) or {}
        return answer


_SETTLED = """
const pulse = document.getElementById("pulse");
return document.readyState === "complete" && (!pulse || pulse.dataset.state === "live");
"""


@contextmanager
def screen(site: str) -> Iterator[Screen]:
    """A browser of its own until the block is left. Raises NotInstalled."""
    with chromium("--disable-gpu", "--hide-scrollbars", logs={}) as driver:
        yield Screen(driver, site)
