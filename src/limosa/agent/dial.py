"""Calling other agents: one link for each host, opened when it is first needed."""

import asyncio
import os
import ssl
from collections import defaultdict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol

import aiohttp
import structlog

from limosa.agent import pki_check, trust
from limosa.agent.config import Endpoint
from limosa.agent.hosts import Hosts
from limosa.agent.link import Heard, PeerLink
from limosa.agent.pki import CA_CERT, HOST_CERT, HOST_KEY
from limosa.agent.websocket import ClientChannel
from limosa.errors import LimosaError, PeerError, UsageError
from limosa.units import HostName, Seconds
from limosa.wire.findings import Finding
from limosa.wire.rpc import LARGEST_MESSAGE, PROTOCOL

DIAL_LIMIT = 5.0
"""Seconds for TCP, TLS and the upgrade together."""

DIALLED_AT_ONCE = 16
"""Hosts; a controller that starts knows a thousand, and all of their handshakes together would take longer than one
may."""
DIAL = "dial"
"""What opening a link is called among the calls."""

PEER_PATH = f"/v{PROTOCOL}/peer"

_log = structlog.get_logger()


_Stamp = tuple[int, int, int] | None


def _stamp(file: Path) -> _Stamp:
    """What changes when a file is replaced; None where there is none."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


class Caller(Protocol):
    """Who dials: an agent's settings, or a controller's."""

    @property
    def host(self) -> HostName:
        """The name in its certificate."""

    @property
    def pki_dir(self) -> Path:
        """Where its certificates are."""

    @property
    def silence(self) -> Seconds:
        """Seconds without a sign of life after which a peer counts as gone."""


class Peers:
    """Links to other hosts. Use it in one event loop, and close it."""

    def __init__(self, config: Caller, hosts: Hosts, heard: Heard | None = None) -> None:
        self._config = config
        self._heard = heard
        self._hosts = hosts
        self._links: dict[HostName, PeerLink] = {}
        self._locks: dict[HostName, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._dialling = asyncio.Semaphore(DIALLED_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None
        self._trusted: tuple[tuple[_Stamp, ...], ssl.SSLContext] | None = None
        self.clocks: dict[HostName, tuple[Finding, ...]] = {}
        """What was found about each peer's clock when it was last dialled."""

    async def link(self, host: HostName) -> PeerLink:
        """The link to a host, opened or used again.

        Raises:
            NotFound: the host is not in `hosts.toml`; names those that are.
            UsageError: it is this host.
            PeerError: it is unreachable, or one does not trust the other.
        """
        if host == self._config.host:
            raise UsageError(f"{host} is this host", remedy="choose another one: limosa hosts")
        entry = self._hosts.find(host)
        async with self._locks[host]:
            link = self._links.get(host)
            if link is None or link.lost:
                link = self._links[host] = await self._try_dial(host, entry.endpoint)
            return link

    @property
    def open(self) -> frozenset[PeerLink]:
        """Links that were dialled and live."""
        return frozenset(link for link in self._links.values() if not link.lost)

    async def close(self) -> None:
        """End every link."""
        await asyncio.gather(*(link.close("this agent stops") for link in self._links.values()))
        if self._session:
            await self._session.close()

    async def _try_dial(self, host: HostName, endpoint: Endpoint) -> PeerLink:
        try:
            return await self._dial(host, endpoint)
        except LimosaError as error:
            if self._heard is not None:
                self._heard(DIAL, error.code)
            raise

    async def _dial(self, host: HostName, endpoint: Endpoint) -> PeerLink:
        remedy = f"see whether limosa-agent runs on {host} and port {endpoint.port} is open between the hosts"
        try:
            async with self._dialling, asyncio.timeout(DIAL_LIMIT):
                socket = await self._upgrade(host, endpoint)
        except TimeoutError as error:
            raise PeerError(f"{host} ({endpoint}) does not answer within {DIAL_LIMIT:g} s", remedy=remedy) from error
        except aiohttp.WSServerHandshakeError as error:
            raise self._refused(host, endpoint, error) from error
        except (aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
            raise self._hung_up(host, endpoint) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(host, endpoint, error, remedy) from error
        tls = socket.get_extra_info("ssl_object")
        certified = trust.certified_name(tls)
        if certified != host or trust.is_controller(tls):
            await socket.close()
            role = "controller " if trust.is_controller(tls) else ""
            raise PeerError(f"{endpoint} should be {host}, but its certificate is for {role}{certified}", remedy=_CHECK)
        _log.info("linked to peer", peer=host, address=str(endpoint))
        return PeerLink(host, ClientChannel(socket), {}, silence=self._config.silence, heard=self._heard)

    async def _upgrade(self, host: HostName, endpoint: Endpoint) -> "aiohttp.ClientWebSocketResponse[bool]":
        context = self._context()
        if self._session is None:
            # Each link keeps its connection; aiohttp would leave it at a hundred of them.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        socket = await self._session.ws_connect(
            f"https://{endpoint}{PEER_PATH}",
            ssl=context,
            server_hostname=host,
            max_msg_size=LARGEST_MESSAGE,
            timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
        )
        self._note_clock(host, socket)
        return socket

    def _context(self) -> ssl.SSLContext:
        """One for all links, as long as the files are the same: a certificate may be renewed, and each costs memory.

        Raises:
            NotFound, PeerError: as `trust.client_context` does.
        """
        stamps = tuple(_stamp(self._config.pki_dir / name) for name in (CA_CERT, HOST_CERT, HOST_KEY))
        if self._trusted is None or self._trusted[0] != stamps:
            self._trusted = stamps, trust.client_context(self._config.pki_dir)
        return self._trusted[1]

    def _note_clock(self, host: HostName, socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
        date = socket._response.headers.get("Date")  # noqa: SLF001  (aiohttp offers no public way to the upgrade's headers)
        if date:
            self.clocks[host] = pki_check.clock(datetime.now(UTC), parsedate_to_datetime(date), host)

    def _hung_up(self, host: HostName, endpoint: Endpoint) -> PeerError:
        # In TLS 1.3 a server looks at the client's certificate when the client thinks that all is well, and asyncio
        # sends no alert when it refuses one: all that is seen here is the end of the connection.
        own = pki_check.check(self._config.pki_dir, host=self._config.host)
        why = own[0].what if own else "it trusts another CA, or its clock is wrong"
        what = f"{host} ({endpoint}) hung up on this host's certificate: {why}"
        return PeerError(what, remedy=own[0].remedy if own else _CHECK)

    def _refused(self, host: HostName, endpoint: Endpoint, error: aiohttp.WSServerHandshakeError) -> PeerError:
        if error.status == 403:
            what = f"{host} ({endpoint}) does not know host {self._config.host}"
            return PeerError(what, remedy=f"list {self._config.host} in hosts.toml on {host}")
        if error.status == 404:
            what = f"{host} ({endpoint}) speaks another version of the peer protocol than {PROTOCOL}"
            return PeerError(what, remedy="run the same version of limosa on both hosts")
        return PeerError(f"{host} ({endpoint}) refused the link: {error.status} {error.message}", remedy=_CHECK)


_CHECK = "limosa pki check, on both hosts"


def _unreachable(host: HostName, endpoint: Endpoint, error: Exception, remedy: str) -> PeerError:
    tls = _tls_error(error)
    if tls is not None:
        return PeerError(pki_check.explain(tls, host), remedy=_CHECK, detail=str(tls))
    system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return PeerError(f"{host} ({endpoint}) cannot be reached: {_words(system)}", remedy=remedy)


def _words(error: Exception) -> str:
    """What an operator calls it: `connection refused`, without addresses that were said already."""
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) and number > 0 else str(error) or type(error).__name__


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """TLS's own words in a chain of causes; aiohttp's wrappers are SSLErrors too, and know less."""
    while error is not None:
        inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        if inner is None and isinstance(error, ssl.SSLError):
            return error
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None
