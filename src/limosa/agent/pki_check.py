"""What can be wrong with a host's certificates, found before a handshake fails without saying why."""

import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from limosa.agent import pki
from limosa.errors import LimosaError
from limosa.units import format_count
from limosa.wire.findings import Finding, Severity

WARN_BEFORE = timedelta(days=30)
CLOCK_LIMIT = timedelta(minutes=5)
"""A peer's clock that is further off is worth a warning."""


def check(
    directory: Path, *, host: str | None = None, addresses: Sequence[str] = (), now: datetime | None = None
) -> tuple[Finding, ...]:
    """Look for whatever would make a peer refuse this host, or this host refuse its peers.

    Args:
        directory: holds `ca-cert.pem`, `host-cert.pem`, `host-key.pem`.
        host: name that the certificate must carry.
        addresses: addresses that it must name.
        now: default is the clock.
    """
    now = now or datetime.now(UTC)
    findings: list[Finding] = []
    ca, certificate = (_load(directory / name, findings) for name in (pki.CA_CERT, pki.HOST_CERT))
    key = _load_key(directory / pki.HOST_KEY, findings)
    for kept in (pki.HOST_KEY, pki.CA_KEY):
        findings += _modes(directory / kept)
    if ca:
        findings += _dates(ca, pki.CA_CERT, now)
        findings += _authority(ca)
    if certificate:
        findings += _dates(certificate, pki.HOST_CERT, now)
        findings += _names(certificate, host, addresses)
        findings += _usages(certificate)
    if ca and certificate:
        findings += _chain(ca, certificate)
    if key and certificate and key.public_key() != certificate.public_key():
        findings.append(_blocks(f"{pki.HOST_KEY} is not the key of {pki.HOST_CERT}", "limosa pki issue or join again"))
    return tuple(findings)


def clock(ours: datetime, theirs: datetime, peer: str) -> tuple[Finding, ...]:
    """Compare two clocks: certificates look expired, or not yet valid, to a host whose clock is wrong."""
    apart = abs(ours - theirs)
    if apart < CLOCK_LIMIT:
        return ()
    return (_warns(f"the clocks of this host and {peer} are {apart} apart", "synchronise them (chrony, timesyncd)"),)


def explain(error: ssl.SSLError, host: str) -> str:
    """What a failed handshake with a host means, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} was refused: {error.verify_message}"
    alert = (error.reason or str(error)).lower().replace("_", " ")
    if alert in {"wrong version number", "http request", "record layer failure", "unexpected eof while reading"}:
        return f"what listens where {host} should be does not speak TLS"
    return f"no trust between this host and {host}: {alert}"


def _load(file: Path, findings: list[Finding]) -> x509.Certificate | None:
    try:
        return pki.load_certificate(file)
    except LimosaError as error:
        findings.append(_blocks(error.what, error.remedy))
        return None


def _load_key(file: Path, findings: list[Finding]) -> pki.PrivateKey | None:
    try:
        return pki.load_key(file)
    except LimosaError as error:
        findings.append(_blocks(error.what, error.remedy))
        return None


def _modes(file: Path) -> Iterator[Finding]:
    if file.exists() and file.stat().st_mode & 0o077:
        yield _warns(f"{file.name} can be read by others than its owner", f"chmod 600 {file}")


def _dates(certificate: x509.Certificate, name: str, now: datetime) -> Iterator[Finding]:
    renewal = "limosa pki renew" if name == pki.HOST_CERT else "make a new CA with limosa pki init, and join every host"
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        yield _blocks(f"{name} is valid from {begins:%Y-%m-%d %H:%M} UTC only", "correct the clock of this host")
    elif now > ends:
        yield _blocks(f"{name} expired on {ends:%Y-%m-%d %H:%M} UTC", renewal)
    elif now > ends - WARN_BEFORE:
        yield _warns(f"{name} expires in {format_count((ends - now).days, 'day')}", renewal)


def _authority(ca: x509.Certificate) -> Iterator[Finding]:
    try:
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        signs = ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        is_ca = signs = False
    if not (is_ca and signs):
        yield _blocks(f"{pki.CA_CERT} is not the certificate of a CA", "limosa pki init makes one")


def _chain(ca: x509.Certificate, certificate: x509.Certificate) -> Iterator[Finding]:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        yield _blocks(f"{pki.HOST_CERT} was not signed by {pki.CA_CERT}", "limosa pki issue or join again")


def _names(certificate: x509.Certificate, host: str | None, addresses: Sequence[str]) -> Iterator[Finding]:
    named = pki.name_of(certificate)
    if host and named != host:
        remedy = f"set host = {named!r} in agent.toml, or issue a certificate for {host}"
        yield _blocks(f"{pki.HOST_CERT} is for host {named}, but this is {host}", remedy)
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        has_name = named in san.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        has_name = False
    if not has_name:
        yield _blocks(
            f"{pki.HOST_CERT} lacks {named} among its alternative names", "limosa pki issue makes a right one"
        )
    if missing := [a for a in addresses if a not in {named, *pki.addresses_of(certificate)}]:
        # Peers check the name, not the address, so other programs may mind, and limosa does not.
        yield Finding(
            severity=Severity.NOTE, kind="pki", what=f"{pki.HOST_CERT} does not name the address {', '.join(missing)}"
        )


def _usages(certificate: x509.Certificate) -> Iterator[Finding]:
    try:
        allowed = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return
    words = {ExtendedKeyUsageOID.SERVER_AUTH: "a server", ExtendedKeyUsageOID.CLIENT_AUTH: "a client"}
    for usage in words.keys() - allowed:
        yield _blocks(f"{pki.HOST_CERT} may not be used as {words[usage]}", "limosa pki issue makes a right one")


def _blocks(what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.BLOCKS, kind="pki", what=what, remedy=remedy)


def _warns(what: str, remedy: str) -> Finding:
    return Finding(severity=Severity.WARNING, kind="pki", what=what, remedy=remedy)
