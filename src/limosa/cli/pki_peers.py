"""What `limosa pki` asks of other hosts, over peer links of its own: their side of a check, and a new certificate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog
from cryptography import x509

from limosa.agent.config import Config
from limosa.agent.dial import Peers
from limosa.agent.hosts import Hosts
from limosa.agent.service import renew_from
from limosa.errors import LimosaError, NotFound
from limosa.units import HostName
from limosa.wire.findings import Finding, Severity

ANSWER_SECONDS = 10.0


@asynccontextmanager
async def peers_of(config: Config) -> AsyncIterator[tuple[Peers, tuple[HostName, ...]]]:
    """Links to the other hosts, and their names."""
    # The agent's log lines are for a daemon's log; a command says its findings itself.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    hosts = Hosts(config.hosts_file)
    peers = Peers(config, hosts)
    try:
        yield peers, tuple(name for name in hosts.known() if name != config.host)
    finally:
        await peers.close()


async def check_peers(config: Config) -> tuple[Finding, ...]:
    """Try a link to every other host, and ask each what is wrong with its own certificates."""
    async with peers_of(config) as (peers, names):
        found = await asyncio.gather(*(_check(peers, name) for name in names))
    return tuple(finding for one in found for finding in one)


async def _check(peers: Peers, name: HostName) -> tuple[Finding, ...]:
    try:
        link = await peers.link(name)
        told = await link.call("pki.check", None, tuple[Finding, ...], timeout=ANSWER_SECONDS)
    except LimosaError as error:
        return (Finding(severity=Severity.WARNING, kind=name, what=error.what, remedy=error.remedy),)
    theirs = (msgspec.structs.replace(finding, kind=name) for finding in told)
    return (*theirs, *peers.clocks.get(name, ()))


async def renew_anywhere(config: Config) -> x509.Certificate:
    """A new certificate for this host's key, from whichever host keeps the CA.

    Raises:
        NotFound: no host that can be reached keeps it.
    """
    refusals = []
    async with peers_of(config) as (peers, names):
        for name in names:
            try:
                return await renew_from(config, await peers.link(name))
            except LimosaError as error:
                refusals.append(f"{name}: {error.what}")
    raise NotFound(
        "no host that keeps the CA renewed the certificate",
        remedy=f"limosa pki token {config.host}, on the host with the CA, and limosa pki join here",
        detail="\n".join(refusals),
    )
