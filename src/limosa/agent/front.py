"""Where browsers reach an agent: on its unix socket, and, where `agent.toml` sets `web`, on a loopback port.

What pages show is made above the agent (`limosa.web.agent`), and imported when the first one is asked for.

Whoever may open the socket is let in: the kernel says who it is. A loopback port is open to every user of this host, so
there a browser shows a session's cookie; `limosa agent web-link` prints the way to one. Browsers send a cookie to
every port of a name, and so to servers of this host's other users, if it were set for `127.0.0.1`: pages are served
under a name below `.localhost` that is made up when the agent starts, that only the link tells, and that no other name
is the same site as.
"""

import asyncio
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog
from aiohttp import web

from limosa.agent.api import peer_uid, user
from limosa.agent.browsers import API, LOCAL, name_of
from limosa.agent.config import Endpoint
from limosa.agent.visits import INVITED, LASTS, Visits
from limosa.errors import UsageError
from limosa.wire.guests import WebLink

COOKIE = "limosa-agent"
LARGEST_FORM = 64 * 1024
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who looks.

    Attributes:
        who: as the log names him.
        form: what his forms have to carry.
        inside: whether he may still look.
        leave: ends his session; None where he has none.
    """

    who: str
    form: str
    inside: Callable[[], bool]
    leave: Callable[[], None] | None = None


Answer = Callable[[web.Request, Caller | None], Awaitable[web.StreamResponse]]
"""Answers a browser; without a caller, somebody whom nobody let in."""


class Front:
    """Browsers' way to one agent.

    Args:
        endpoint: the loopback port; None for the unix socket only.
        pages: makes what answers, in a thread of its own, when somebody asks; None for no pages.
    """

    def __init__(self, endpoint: Endpoint | None, pages: Callable[[], Answer] | None) -> None:
        self._endpoint = endpoint
        self._pages = pages
        self._answer: Answer | None = None
        self._making = asyncio.Lock()
        self._visits = Visits()
        self._name = secrets.token_hex(8) + LOCAL
        self._secret = secrets.token_bytes(32)
        self._runner: web.AppRunner | None = None
        self.port = 0
        """The port that is listened on; 0 where there is none."""

    def routes(self) -> list[web.RouteDef]:
        """For the API on the unix socket; pages are everything that is not below `/v1`."""
        link = [web.post(f"{API}web-link", self._link)]
        if self._pages is None:
            return link
        pages = "/{page:(?!v1(?:/|$)).*}"
        return [*link, web.get(pages, self._on_socket), web.post(pages, self._on_socket)]

    async def open(self) -> None:
        """Listen on the loopback port, where there is one.

        Raises:
            UsageError: the port cannot be had.
        """
        if self._endpoint is None or self._pages is None:
            return
        app = web.Application(client_max_size=LARGEST_FORM)
        app.add_routes([web.get("/{page:.*}", self._on_port), web.post("/{page:.*}", self._on_port)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._endpoint.host, self._endpoint.port).start()
        except (OSError, socket.gaierror) as error:
            await runner.cleanup()
            what = f"cannot serve pages on {self._endpoint}: {error.strerror}"
            raise UsageError(what, remedy="set web in agent.toml, or stop what uses that port") from error
        self._runner = runner
        self.port = int(runner.addresses[0][1])

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _link(self, request: web.Request) -> web.StreamResponse:
        if self._runner is None:
            raise UsageError(
                "this agent serves no pages on a port",
                remedy='set web = "127.0.0.1:8448" in agent.toml and restart it; or: ssh -L 8448:SOCKET HOST',
            )
        who = user(peer_uid(request))
        word = self._visits.invite(who)
        _log.info("let a browser in", who=who)
        told = WebLink(url=f"http://{self._name}:{self.port}/sign-in?word={word}", seconds=INVITED)
        return web.Response(body=msgspec.json.encode(told), content_type="application/json")

    async def _on_socket(self, request: web.Request) -> web.StreamResponse:
        who = user(peer_uid(request))
        form = hmac.digest(self._secret, who.encode(), "sha256").hex()
        return await self._page(request, Caller(who, form, inside=lambda: True))

    async def _on_port(self, request: web.Request) -> web.StreamResponse:
        if name_of(request.headers.get("Host", "")) != self._name:
            # Nothing is told to whoever asks under another name, least of all this one.
            return web.Response(status=421, text="limosa agent web-link, as root, prints the address of these pages.\n")
        if request.method == "GET" and request.path == "/sign-in":
            return await self._enter(request)
        word = request.cookies.get(COOKIE, "")
        who = self._visits.who(word)
        if who is None:
            return await self._page(request, None)
        caller = Caller(
            who,
            hmac.digest(self._secret, word.encode(), "sha256").hex(),
            inside=lambda: self._visits.who(word) is not None,
            leave=lambda: self._visits.leave(word),
        )
        return await self._page(request, caller)

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        word = self._visits.enter(request.query.get("word", ""))
        if word is None:
            return await self._page(request, None)
        headers = {"Location": "/", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        answer = web.Response(status=303, headers=headers)
        # Loopback has no TLS, so the cookie cannot be `Secure`; its name's server is this one only.
        answer.set_cookie(COOKIE, word, path="/", max_age=int(LASTS), httponly=True, samesite="Strict")
        return answer

    async def _page(self, request: web.Request, caller: Caller | None) -> web.StreamResponse:
        assert self._pages is not None  # routes that lead here exist only with pages
        async with self._making:
            if self._answer is None:
                # Imports and templates take a second, and a move may be in its pause.
                self._answer = await asyncio.to_thread(self._pages)
        return await self._answer(request, caller)
