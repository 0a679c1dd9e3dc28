"""What an agent does for its peers beside moves: say how it is, learn of new hosts, renew certificates."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from limosa.agent import pki, pki_check, this_host
from limosa.agent.config import Config
from limosa.agent.cpu import CpuAsk, this_cpu
from limosa.agent.dial import Peers
from limosa.agent.hosts import HostEntry, Hosts, write_missing
from limosa.cpu.facts import HostCpu
from limosa.errors import Blocked, LimosaError, NotFound, UsageError
from limosa.units import HostName
from limosa.wire.findings import Finding
from limosa.wire.rpc import Caller, Handlers

_log = structlog.get_logger()


class NewHost(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `hosts.add`."""

    name: str
    entry: HostEntry


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `pki.renew`: a signing request, PEM. The addresses stay as the old certificate names them."""

    csr: str
    addresses: tuple[str, ...]


class Service:
    """Calls that peers may make."""

    def __init__(self, config: Config, hosts: Hosts, peers: Peers) -> None:
        self._config = config
        self._hosts = hosts
        self._peers = peers
        self._telling: set[asyncio.Task[None]] = set()

    def handlers(self) -> Handlers:
        """For `peer.serve`."""
        return {
            "hello": (type(None), self._hello),
            "cpu.show": (CpuAsk, self._cpu),
            "hosts.add": (NewHost, self._add_host),
            "pki.check": (type(None), self._check),
            "pki.renew": (Renewal, self._renew),
        }

    async def tell_of(self, name: HostName, entry: HostEntry) -> None:
        """Tell every other host of a new one, in the background; those that are off learn it from an operator."""
        others = self._hosts.known().keys() - {name, self._config.host}
        for other in others:
            task = asyncio.create_task(self._tell(other, NewHost(name=name, entry=entry)))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def close(self) -> None:
        """Stop telling."""
        for task in self._telling:
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def _tell(self, other: HostName, new: NewHost) -> None:
        try:
            link = await self._peers.link(other)
            await link.call("hosts.add", new, type(None), timeout=5)
        except LimosaError as error:
            remedy = f"add [hosts.{new.name}] to hosts.toml there"
            _log.warning("could not tell a host of a new one", host=other, new=new.name, why=error.what, remedy=remedy)

    async def _hello(self, _params: None, _caller: HostName) -> this_host.Condition:
        return await this_host.condition(self._config)

    async def _cpu(self, ask: CpuAsk, _caller: HostName) -> HostCpu:
        return await this_cpu(self._config, ask)

    async def _add_host(self, new: NewHost, caller: HostName) -> None:
        if new.name == self._config.host:
            return
        if write_missing(self._config.hosts_file, {HostName(new.name): new.entry}):
            _log.info("learned of a host", host=new.name, address=new.entry.address, told_by=caller)
        elif self._hosts.find(new.name) != new.entry:
            _log.warning("a host has another address now than hosts.toml says", host=new.name, new=new.entry.address)

    async def _check(self, _params: None, _caller: HostName) -> tuple[Finding, ...]:
        return pki_check.check(self._config.pki_dir, host=self._config.host)

    async def _renew(self, wanted: Renewal, caller: HostName) -> str:
        if not (self._config.pki_dir / pki.CA_KEY).exists():
            raise NotFound(f"{self._config.host} keeps no CA", remedy="ask the host where limosa pki init was run")
        taken = {self._config.host, *self._hosts.known()} - {caller}
        if taken & set(wanted.addresses):
            raise Blocked(f"{caller} asks for the name of another host")
        try:
            request = x509.load_pem_x509_csr(wanted.csr.encode())
        except ValueError as error:
            raise UsageError(f"not a signing request: {error}") from error
        if not request.is_signature_valid:
            raise UsageError("the signing request is not signed by its key")
        # The name comes from the certificate with which the caller came, not from what it asks for.
        certificate = pki.sign(
            self._config.pki_dir, caller, wanted.addresses, request.public_key(), now=datetime.now(UTC)
        )
        _log.info("renewed a certificate", host=caller)
        return pki.pem(certificate).decode()


async def renew_from(config: Config, link: Caller) -> x509.Certificate:
    """Renew this host's certificate at the CA's host, with the same key, over a peer link.

    Raises:
        NotFound: there is no certificate to renew, or that host keeps no CA.
        PeerError: the link is lost.
        UsageError: the answer is no certificate of this fleet's CA.
    """
    old = pki.load_certificate(config.pki_dir / pki.HOST_CERT)
    key = pki.load_key(config.pki_dir / pki.HOST_KEY)
    ca = pki.load_certificate(config.pki_dir / pki.CA_CERT)
    csr = pki.request(config.host, key).public_bytes(serialization.Encoding.PEM).decode()
    told: Any = await link.call("pki.renew", Renewal(csr=csr, addresses=pki.addresses_of(old)), str, timeout=10)
    new = x509.load_pem_x509_certificate(told.encode())
    try:
        new.verify_directly_issued_by(ca)
    except Exception as error:
        raise UsageError(f"{link.host} answered with a certificate of another CA", remedy="limosa pki check") from error
    pki.install(config.pki_dir, new, ca)
    return new
