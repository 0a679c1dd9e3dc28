"""For each test a tab in Chromium that is judged when the test is over."""

from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome

from limosa.testing.chromium import Tab
from limosa.testing.simulation import Api
from limosa.web.controller.simulated import Serving
from limosa.wire.fleet import Role


@pytest.fixture
def tab(driver: Chrome, fleet: Serving) -> Iterator[Tab]:
    """Without a complaint of the console, a dialog, or a request to anywhere else."""
    opened = Tab(driver, fleet.url)
    yield opened
    assert opened.faults() == []


@pytest.fixture(scope="module")
def api(fleet: Serving) -> Api:
    """When every host has told what it has."""
    asked = Api(fleet.url, fleet.tokens[Role.OPERATOR])
    asked.known()
    return asked
