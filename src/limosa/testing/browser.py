"""A browser without scripts, for tests of the dashboard."""

from typing import Any, NamedTuple, cast

import httpx
from litestar import Litestar

from limosa.fleet.controller import Controller
from limosa.fleet.sessions import form_word
from limosa.wire.fleet import Role

SITE = "https://fleet-1"
COOKIE = "__Host-limosa"
OWN = {"Sec-Fetch-Site": "same-origin"}


class Browser:
    """Follows links and sends forms; keeps cookies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    @property
    def session(self) -> str:
        """The word of its session; empty before it is signed in."""
        return self.client.cookies.get(COOKIE) or ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Follow a link."""
        return await self.client.get(path, headers=headers)

    async def send(self, path: str, **fields: str) -> httpx.Response:
        """A form of this session."""
        return await self.client.post(path, data={"form": form_word(self.session), **fields}, headers=OWN)


class Web(NamedTuple):
    """A controller with three hosts, and a browser signed in with each role; one that is not."""

    controller: Controller
    nobody: Browser
    viewer: Browser
    operator: Browser
    admin: Browser


async def signed_in(application: Litestar, controller: Controller) -> Web:
    """Browsers in the application's own loop, as uvicorn runs it."""
    transport = httpx.ASGITransport(cast("Any", application))
    browsers = [Browser(httpx.AsyncClient(transport=transport, base_url=SITE)) for _ in range(4)]
    for browser, role in zip(browsers[1:], Role, strict=True):
        token = await controller.tokens.make(f"test-{role}", role, "test")
        answer = await browser.client.post("/sign-in", data={"token": token.word, "next": "/"}, headers=OWN)
        assert answer.status_code == 303
    return Web(controller, *browsers)
