"""How a host joins the fleet with a one-time token: the door on the CA's host, and the knock.

    CA host        limosa pki token c            -> one word: CA fingerprint, address, secret, expiry
    joining host   limosa pki join WORD          1. fetches the CA's certificate, compares the fingerprint
                                                 2. connects again, now trusting that CA only, and its host's name
                                                 3. sends a signing request and a proof that it knows the secret
    CA host                                      4. signs, lists the new host, tells the others
    joining host                                 5. keeps key, certificate, CA certificate and hosts

The private key never leaves the joining host, and the secret is never sent.
"""

import http.client
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from limosa.agent import pki, tokens
from limosa.agent.config import Config, Endpoint, address_towards, parse_endpoint, parse_host_name
from limosa.agent.hosts import HostEntry, Hosts, write_missing
from limosa.agent.pki_check import explain
from limosa.agent.tokens import Claim, Token
from limosa.errors import Blocked, LimosaError, NotFound, PeerError, UsageError, from_wire
from limosa.units import HostName

T = TypeVar("T")

CONNECT_LIMIT = 10.0

_log = structlog.get_logger()


class Knock(msgspec.Struct, frozen=True):
    """The body of POST /v1/join."""

    claim: Claim
    proof: bytes


class Welcome(msgspec.Struct, frozen=True):
    """Its answer."""

    certificate: str
    """PEM."""
    hosts: dict[str, HostEntry]


class Joined(msgspec.Struct, frozen=True):
    """What joining brought."""

    host: str
    ca_host: str
    hosts: tuple[str, ...]
    """Hosts that were added to this host's `hosts.toml`."""


# -- the CA's host ----------------------------------------------------------------------------------------


def new_token(config: Config, host: str, *, address: str | None = None, lifetime: timedelta = tokens.LIFETIME) -> str:
    """A token for one host to join with, once.

    Args:
        config: of this host, which must keep the CA's key.
        host: the joining host's name.
        address: `host[:port]` under which it reaches this host's agent; default is what `hosts.toml` says of
            this host, else its address on the default route.
        lifetime: how long the token is good.

    Raises:
        NotFound: this host keeps no CA.
        UsageError: a name or an address makes no sense.
    """
    _require_ca(config)
    ca = pki.load_certificate(config.pki_dir / pki.CA_CERT)
    try:
        parse_host_name(host)
        entry = own_entry(config, str(parse_endpoint(address, config.listen.port)) if address else None)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if host == config.host:
        raise UsageError(f"{host} is this host", remedy=f"limosa pki issue {host} makes its certificate")
    name, secret, expires = tokens.keep(config.tokens_file, host, datetime.now(UTC), lifetime)
    return tokens.write(Token(host, config.host, entry.address, pki.fingerprint(ca), name, secret, expires))


def own_entry(config: Config, address: str | None = None) -> HostEntry:
    """This host as others should list it."""
    known = Hosts(config.hosts_file).known().get(config.host)
    if known and not address:
        return known
    listen = config.listen
    own = listen.host if listen.host not in {"0.0.0.0", "::"} else address_towards()  # noqa: S104  (compared, not bound)
    migration = config.migration_address or (known.migration if known else "")
    return HostEntry(address=address or str(Endpoint(own, listen.port)), migration=migration)


class Door:
    """The join door of an agent.

    Args:
        config: of this host.
        tell: called with each host that has joined, to tell the others.
    """

    def __init__(self, config: Config, tell: Callable[[HostName, HostEntry], Awaitable[None]]) -> None:
        self._config = config
        self._tell = tell

    def routes(self) -> list[web.RouteDef]:
        """For `peer.serve`. They answer NotFound on a host that keeps no CA."""
        return [web.get("/v1/join/ca", self._show_ca), web.post("/v1/join", self._admit)]

    async def _show_ca(self, _request: web.Request) -> web.Response:
        if not (self._config.pki_dir / pki.CA_KEY).exists():
            return _refusal(NotFound(f"{self._config.host} keeps no CA"))
        return web.Response(body=(self._config.pki_dir / pki.CA_CERT).read_bytes())

    async def _admit(self, request: web.Request) -> web.Response:
        try:
            knock = msgspec.json.decode(await request.read(), type=Knock)
            welcome = self.admit(knock, datetime.now(UTC))
        except msgspec.MsgspecError as error:
            return _refusal(UsageError(f"not a request to join: {error}"))
        except LimosaError as error:
            _log.warning("refused to let a host join", address=request.remote, why=error.what)
            return _refusal(error)
        name, claim = HostName(knock.claim.host), knock.claim
        _log.info("a host joined", host=name, address=request.remote)
        await self._tell(name, HostEntry(address=claim.address, migration=claim.migration))
        return web.Response(body=msgspec.json.encode(welcome), content_type="application/json")

    def admit(self, knock: Knock, now: datetime) -> Welcome:
        """Let a host in, once for each token.

        Raises:
            NotFound: this host keeps no CA.
            Blocked: the token does not allow it.
            UsageError: name, address or signing request make no sense.
        """
        _require_ca(self._config)
        claim = knock.claim
        entry, request = self._understand(claim)
        tokens.use_up(self._config.tokens_file, claim, knock.proof, now)
        addresses = dict.fromkeys((entry.endpoint.host, entry.migration_address))
        certificate = pki.sign(self._config.pki_dir, claim.host, addresses, request.public_key(), now=now)
        own = own_entry(self._config)
        write_missing(self._config.hosts_file, {self._config.host: own, HostName(claim.host): entry})
        hosts = {**Hosts(self._config.hosts_file).known()}
        return Welcome(pki.pem(certificate).decode(), {str(name): each for name, each in hosts.items()})

    def _understand(self, claim: Claim) -> tuple[HostEntry, x509.CertificateSigningRequest]:
        try:
            entry = msgspec.convert({"address": claim.address, "migration": claim.migration}, HostEntry)
            parse_host_name(claim.host)
            request = x509.load_pem_x509_csr(claim.csr.encode())
        except (ValueError, msgspec.ValidationError) as error:
            raise UsageError(f"not a request to join: {error}") from error
        if not request.is_signature_valid:
            raise UsageError("the signing request is not signed by its key")
        taken = {self._config.host, *Hosts(self._config.hosts_file).known()} - {claim.host}
        if claim.host == self._config.host or taken & {entry.endpoint.host, entry.migration_address}:
            raise Blocked(f"{claim.host} ({claim.address}) would take another host's name", remedy="join by IP address")
        return entry, request


# -- the joining host -------------------------------------------------------------------------------------


def join(config: Config, word: str, *, address: str | None = None, migration: str | None = None) -> Joined:
    """Join a fleet: make a key, have it signed, keep certificates and hosts.

    Blocks; runs in no event loop.

    Args:
        config: of this host; its name must be the token's.
        word: the token.
        address: `host[:port]` under which others reach this host's agent; default is this host's own
            address on the way to the CA's host.
        migration: address for RAM and disks, where that is a network of its own.

    Raises:
        UsageError: the token is not one, or this host has another name or another fleet's certificates.
        PeerError: the CA's host is unreachable, or is not the one that made the token.
        Blocked: it refused.
    """
    token = tokens.read(word)
    _require_fresh(config, token)
    there = parse_endpoint(token.address)
    ca = _fetch_ca(token, there)
    try:
        endpoint = parse_endpoint(address or _own_address(there), config.listen.port or there.port)
        entry = HostEntry(address=str(endpoint), migration=migration or config.migration_address)
    except ValueError as error:
        raise UsageError(str(error), remedy="--address 10.0.0.3 names this host's own address") from error
    key = pki.new_key()
    csr = pki.request(token.host, key).public_bytes(serialization.Encoding.PEM).decode()
    claim = Claim(token.id, token.host, token.ca, entry.address, entry.migration, csr)
    knock = msgspec.json.encode(Knock(claim, tokens.prove(claim, token.secret)))
    told = _ask(there, _pinned(ca), token.ca_host, "POST", "/v1/join", knock)
    welcome = _decoded(told, Welcome, token)
    certificate = x509.load_pem_x509_certificate(welcome.certificate.encode())
    certificate.verify_directly_issued_by(ca)
    pki.write_key(config.pki_dir / pki.HOST_KEY, key)
    pki.install(config.pki_dir, certificate, ca)
    added = write_missing(config.hosts_file, {HostName(name): each for name, each in welcome.hosts.items()})
    return Joined(token.host, token.ca_host, added)


def _require_fresh(config: Config, token: Token) -> None:
    if token.host != config.host:
        remedy = f'set host = "{token.host}" in agent.toml, or ask for a token for {config.host}'
        raise UsageError(f"the token is for host {token.host}, but this is {config.host}", remedy=remedy)
    ca = config.pki_dir / pki.CA_CERT
    if ca.exists() and pki.fingerprint(pki.load_certificate(ca)) != token.ca:
        raise UsageError(f"{config.pki_dir} trusts another CA than the token's", remedy=f"move {ca} away first")
    if datetime.now(UTC).timestamp() > token.expires:
        remedy = f"limosa pki token {token.host}, on {token.ca_host}, makes a new one; or correct this host's clock"
        raise Blocked("the token has expired", remedy=remedy)


def _fetch_ca(token: Token, there: Endpoint) -> x509.Certificate:
    """Fetch the CA's certificate from whoever answers, and believe it by its fingerprint only."""
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    told = _ask(there, unchecked, token.ca_host, "GET", "/v1/join/ca")
    try:
        ca = x509.load_pem_x509_certificate(told)
    except ValueError as error:
        raise PeerError(f"{there} did not show a CA's certificate", remedy="is that limosa's peer port?") from error
    if pki.fingerprint(ca) != token.ca:
        raise PeerError(
            f"{there} shows another CA than the one that the token names",
            remedy="somebody may stand between; nothing was sent. Ask for a new token, and check its address",
        )
    return ca


def _pinned(ca: x509.Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=pki.pem(ca).decode())
    return context


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address, where a name is expected."""

    def __init__(self, there: Endpoint, context: ssl.SSLContext, expected: str) -> None:
        super().__init__(there.host, there.port, timeout=CONNECT_LIMIT, context=context)
        self._tls, self._expected = context, expected

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), CONNECT_LIMIT)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self._expected)


def _ask(
    there: Endpoint, context: ssl.SSLContext, expected: str, method: str, path: str, body: bytes | None = None
) -> bytes:
    connection = _Connection(there, context, expected)
    remedy = f"see whether limosa-agent runs on {expected} and port {there.port} is open"
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read(1024 * 1024)
    except ssl.SSLError as error:
        raise PeerError(explain(error, expected), remedy="check the token's address", detail=str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise PeerError(f"{expected} ({there}) cannot be reached: {error}", remedy=remedy) from error
    finally:
        connection.close()
    if response.status != 200:
        raise _told_error(content, response.status, expected)
    return content


def _told_error(content: bytes, status: int, host: str) -> LimosaError:
    try:
        return from_wire(msgspec.json.decode(content, type=dict[str, Any]))
    except (msgspec.MsgspecError, ValueError):
        return PeerError(f"{host} refused: HTTP {status}", remedy=f"does {host} keep the CA?")


def _decoded(told: bytes, kind: type[T], token: Token) -> T:
    try:
        return msgspec.json.decode(told, type=kind)
    except msgspec.MsgspecError as error:
        raise PeerError(f"{token.ca_host} answered nonsense: {error}", remedy="run the same version on both") from error


def _own_address(there: Endpoint) -> str:
    family, _, _, _, address = socket.getaddrinfo(there.host, there.port, type=socket.SOCK_STREAM)[0]
    own = address_towards(str(address[0]))
    return f"[{own}]" if family == socket.AF_INET6 else own


def _require_ca(config: Config) -> None:
    if not (config.pki_dir / pki.CA_KEY).exists():
        raise NotFound(
            f"this host ({config.host}) keeps no CA", remedy="do it on the host where limosa pki init was run"
        )


def _refusal(error: LimosaError) -> web.Response:
    status = {NotFound: 404, UsageError: 400}.get(type(error), 403)
    return web.Response(status=status, body=msgspec.json.encode(error.to_wire()), content_type="application/json")
