"""TLS between agents: contexts, and the name in a peer's certificate."""

import ssl
from pathlib import Path
from typing import Any

from limosa.agent.pki import CA_CERT, CA_KEY, CONTROLLER, HOST_CERT, HOST_KEY
from limosa.errors import NotFound, PeerError
from limosa.units import HostName


def client_context(pki_dir: Path) -> ssl.SSLContext:
    """For calling other agents: shows this host's certificate, trusts the fleet's CA only.

    Raises:
        NotFound: a file is missing.
        PeerError: a file is no good.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, pki_dir)
    context.check_hostname = True
    return context


def server_context(pki_dir: Path) -> ssl.SSLContext:
    """For being called.

    A client certificate is demanded in the handshake; on the host that keeps the CA's key it may be missing, because
    hosts join there, and then `peer.py` lets its bearer reach nothing but the join door.

    Raises:
        NotFound: a file is missing.
        PeerError: a file is no good.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, pki_dir)
    signs = (pki_dir / CA_KEY).exists()
    context.verify_mode = ssl.CERT_OPTIONAL if signs else ssl.CERT_REQUIRED
    context.num_tickets = 0  # every connection shows its certificate anew
    return context


def certified_name(tls: ssl.SSLObject | None) -> HostName | None:
    """The host, or controller, that the other end's verified certificate speaks for; None if it showed none."""
    return next((HostName(value) for key, value in _subject(tls) if key == "commonName"), None)


def is_controller(tls: ssl.SSLObject | None) -> bool:
    """Whether the other end's verified certificate is a controller's."""
    return ("organizationalUnitName", CONTROLLER) in _subject(tls)


def _subject(tls: ssl.SSLObject | None) -> tuple[tuple[str, str], ...]:
    told: Any = tls.getpeercert() if tls else None
    return tuple((str(k), str(v)) for relative in (told or {}).get("subject", ()) for k, v in relative)


def _context(protocol: int, pki_dir: Path) -> ssl.SSLContext:
    for name in (CA_CERT, HOST_CERT, HOST_KEY):
        if not (pki_dir / name).exists():
            raise NotFound(f"{pki_dir / name} is missing", remedy="limosa pki issue, or limosa pki join, makes it")
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=pki_dir / CA_CERT)
        context.load_cert_chain(pki_dir / HOST_CERT, pki_dir / HOST_KEY)
    except (ssl.SSLError, OSError) as error:
        raise PeerError(f"the certificates in {pki_dir} are no good: {error}", remedy="limosa pki check") from error
    return context
