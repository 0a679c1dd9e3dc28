"""A dashboard on a controller that follows nobody, and browsers without scripts."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from limosa.agent import pki
from limosa.api.app import app
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.testing.browser import Web, signed_in
from limosa.testing.fleet import FLAGS, guest, report
from limosa.web.controller.dashboard import extension


@pytest.fixture
async def controller(tmp_path: Path) -> AsyncIterator[Controller]:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    (tmp_path / "controller.toml").write_text(f'state_dir = "{tmp_path}/state"\n')
    async with Controller.running(load(tmp_path)) as running:
        yield running


@pytest.fixture
async def web(controller: Controller) -> AsyncIterator[Web]:
    now = time.time()
    await controller.registry.take("a", report("a", guest("web1", "a"), guest("web2", "a")), now)
    await controller.registry.take("b", report("b", guest("db1", "b")), now)
    await controller.registry.take("c", report("c", flags=FLAGS[:2]), now)
    site = await signed_in(app(controller, [extension()]), controller)
    yield site
    for browser in (site.nobody, site.viewer, site.operator, site.admin):
        await browser.client.aclose()
