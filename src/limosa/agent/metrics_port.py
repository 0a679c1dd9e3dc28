"""The port that Prometheus scrapes: plain HTTP on a loopback address, mutual TLS anywhere else.

Who scrapes over TLS shows a certificate of the fleet's CA; it need not be in `hosts.toml`, and this port offers
nothing but numbers.
"""

import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from limosa.agent import trust
from limosa.agent.config import Config, Endpoint, is_loopback
from limosa.errors import UsageError

PATH = "/metrics"


class MetricsPort:
    """Serves what `text` gives. `open` it, `close` it."""

    def __init__(self, config: Config, endpoint: Endpoint, text: Callable[[], Awaitable[bytes]]) -> None:
        self._config = config
        self._endpoint = endpoint
        self._text = text
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Listen.

        Raises:
            NotFound, PeerError: it is no loopback address, and the certificates are missing or no good.
            UsageError: the port cannot be had.
        """
        context = None if is_loopback(self._endpoint.host) else self._context()
        app = web.Application()
        app.add_routes([web.get(PATH, self._scrape)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._endpoint.host, self._endpoint.port, ssl_context=context).start()
        except OSError as error:
            await runner.cleanup()
            what = f"cannot serve metrics on {self._endpoint}: {error.strerror}"
            raise UsageError(what, remedy="set metrics in agent.toml, or stop what uses that port") from error
        self._runner = runner

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _scrape(self, _request: web.Request) -> web.Response:
        return web.Response(body=await self._text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _context(self) -> ssl.SSLContext:
        context = trust.server_context(self._config.pki_dir)
        context.verify_mode = ssl.CERT_REQUIRED  # also where hosts join: nobody joins here
        return context
