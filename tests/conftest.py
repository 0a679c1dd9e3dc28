"""How the suite is spread over workers: by file, since the tests of a file share a lab; and what many files use."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # what only some tests need is imported by its fixture
    from selenium.webdriver import Chrome

    from limosa.testing.postgres import Cluster


LONGEST_FIRST = (
    "tests/qemu/moves/test_faults.py",
    "tests/qemu/test_demo.py",
    "tests/qemu/fleet/",
    "tests/browser/",
    "tests/controller/test_api_schema.py",
    "tests/qemu/",
    "tests/controller/",
    "tests/metrics/",
)
"""What workers begin with, so that none is left with minutes of work when the others are done; small files last.

xdist's own order, by the number of tests, has it the other way round: the demo, a minute long, is one test.
"""


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups in a hook of the same name
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker, but where they say themselves how they may be parted."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    if hasattr(config, "workerinput"):  # a person who runs them one by one wants the quick ones first
        items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    places = (place for place, start in enumerate(LONGEST_FIRST) if item.nodeid.startswith(start))
    return next(places, len(LONGEST_FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that looked at a page and failed keeps how the page looked then."""
    report = yield
    given: dict[str, Any] = getattr(item, "funcargs", {})
    if call.when == "call" and report.failed and "tab" in given:
        report.sections.append(("page", str(given["tab"].picture())))
    return report


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Cluster]":
    """A PostgreSQL for all tests of this run."""
    from limosa.testing.postgres import NotInstalled, running

    try:
        with running() as cluster:
            yield cluster
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def driver() -> "Iterator[Chrome]":
    """One Chromium for the tests of a file."""
    from limosa.testing.chromium import NotInstalled, chromium

    try:
        with chromium() as started:
            yield started
    except NotInstalled as error:
        pytest.skip(str(error))
