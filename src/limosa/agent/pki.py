"""Certificates: one CA for the fleet, one certificate for each host, and what can be wrong with them.

    /etc/limosa/pki/ca-cert.pem     everywhere: whom to trust
    /etc/limosa/pki/ca-key.pem      on one host only (any): makes it the host that signs
    /etc/limosa/pki/host-cert.pem   this host, as server and as client
    /etc/limosa/pki/host-key.pem    never leaves this host

The names follow QEMU's and libvirt's habit (`ca-cert.pem`, `…-cert.pem`, `…-key.pem`); both ends of a peer
link are the same agent, so one certificate serves as `server-` and `client-cert.pem`. The common name
is the host's name; the subject alternative names are that name and the host's addresses.

A controller has such a certificate too, with its role as organizational unit: agents let it command moves, and
never take it for a host. Only who holds the CA's key can give that role; joining and renewing cannot.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from limosa.agent.config import parse_address, parse_host_name
from limosa.agent.files import replace_file
from limosa.errors import NotFound, UsageError
from limosa.units import HostName

CA_CERT, CA_KEY = "ca-cert.pem", "ca-key.pem"
HOST_CERT, HOST_KEY = "host-cert.pem", "host-key.pem"

CONTROLLER = "limosa controller"
"""Organizational unit in a controller's certificate."""

CA_LIFETIME = timedelta(days=3650)
HOST_LIFETIME = timedelta(days=730)
CLOCK_SLACK = timedelta(hours=1)
"""Certificates are dated back by this much, for hosts whose clocks lag."""

PrivateKey = ec.EllipticCurvePrivateKey


def create_ca(directory: Path, name: str, *, now: datetime | None = None) -> x509.Certificate:
    """Make a fleet's CA: `ca-cert.pem` and `ca-key.pem` in `directory`.

    Raises:
        UsageError: a CA is already there; it is never overwritten.
    """
    if (directory / CA_KEY).exists() or (directory / CA_CERT).exists():
        raise UsageError(
            f"{directory} already holds a CA",
            remedy=f"use it, or move {directory / CA_CERT} and {directory / CA_KEY} away",
        )
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key.public_key(), now or datetime.now(UTC), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _make_directory(directory)
    write_key(directory / CA_KEY, key)
    replace_file(directory / CA_CERT, pem(certificate), 0o644)
    return certificate


def issue_host(
    ca_dir: Path,
    host: str,
    addresses: Iterable[str],
    out_dir: Path,
    *,
    now: datetime | None = None,
    controller: bool = False,
) -> x509.Certificate:
    """Make a host's, or a controller's, key and certificate, and put them with the CA's into `out_dir`.

    Raises:
        NotFound: there is no CA in `ca_dir`.
        UsageError: the name or an address makes no sense, or `out_dir` belongs to another host or CA.
    """
    ca = load_certificate(ca_dir / CA_CERT)
    _refuse_foreign(out_dir, ca, host)
    key = new_key()
    certificate = sign(ca_dir, host, addresses, key.public_key(), now=now, controller=controller)
    _make_directory(out_dir)
    write_key(out_dir / HOST_KEY, key)
    install(out_dir, certificate, ca)
    return certificate


def sign(
    ca_dir: Path,
    host: str,
    addresses: Iterable[str],
    public_key: CertificatePublicKeyTypes,
    *,
    now: datetime | None = None,
    controller: bool = False,
) -> x509.Certificate:
    """Sign a host's public key, or a controller's.

    Raises:
        NotFound: there is no CA in `ca_dir`.
        UsageError: the name or an address makes no sense.
    """
    ca = load_certificate(ca_dir / CA_CERT)
    ca_key = load_key(ca_dir / CA_KEY)
    try:
        names = alternative_names(parse_host_name(host), [parse_address(a) for a in addresses])
    except ValueError as error:
        raise UsageError(str(error)) from error
    role = [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, CONTROLLER)] if controller else []
    subject = x509.Name([*role, x509.NameAttribute(NameOID.COMMON_NAME, host)])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(ca.subject, subject, public_key, now or datetime.now(UTC), HOST_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def renew(ca_dir: Path, directory: Path, *, now: datetime | None = None) -> x509.Certificate:
    """Give this host a new certificate with the same key, name and addresses, signed by a CA at hand.

    Raises:
        NotFound: there is no CA in `ca_dir`, or no certificate in `directory`.
    """
    old = load_certificate(directory / HOST_CERT)
    ca = load_certificate(ca_dir / CA_CERT)
    _refuse_foreign(directory, ca, name_of(old))
    key = load_key(directory / HOST_KEY)
    certificate = sign(
        ca_dir, name_of(old), addresses_of(old), key.public_key(), now=now, controller=is_controller(old)
    )
    install(directory, certificate, ca)
    return certificate


def install(directory: Path, certificate: x509.Certificate, ca: x509.Certificate) -> None:
    """Put a host's certificate, and the CA's unless it is there, beside the key."""
    _make_directory(directory)
    if not (directory / CA_CERT).exists():
        replace_file(directory / CA_CERT, pem(ca), 0o644)
    replace_file(directory / HOST_CERT, pem(certificate), 0o644)


def request(host: str, key: PrivateKey) -> x509.CertificateSigningRequest:
    """What a joining host sends instead of its key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())


def name_of(certificate: x509.Certificate) -> HostName:
    """The host a certificate speaks for; empty if it names none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return HostName(str(names[0].value) if names else "")


def is_controller(certificate: x509.Certificate) -> bool:
    """Whether its bearer is a controller, and no host."""
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    return any(unit.value == CONTROLLER for unit in units)


def addresses_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Subject alternative names without the host's own name."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    return (*(n for n in names.get_values_for_type(x509.DNSName) if n != name_of(certificate)), *addresses)


def alternative_names(host: str, addresses: Sequence[str]) -> list[x509.GeneralName]:
    """The host's name, then its addresses, each once."""
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    for address in addresses:
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(address))
        except ValueError:
            name = x509.DNSName(address)
        if name not in names:
            names.append(name)
    return names


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate in hex, as `openssl x509 -fingerprint -sha256` prints it without the colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def new_key() -> PrivateKey:
    """A P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as a file holds it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def write_key(file: Path, key: PrivateKey) -> None:
    """Write a private key, readable by its owner only from the first moment."""
    _make_directory(file.parent)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    replace_file(file, text, 0o600)


def load_certificate(file: Path) -> x509.Certificate:
    """Read one certificate.

    Raises:
        NotFound: the file is missing.
        UsageError: it cannot be read, or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(_content(file))
    except ValueError as error:
        raise UsageError(f"{file} holds no certificate: {error}", remedy="limosa pki check") from error


def load_key(file: Path) -> PrivateKey:
    """Read one private key.

    Raises:
        NotFound: the file is missing.
        UsageError: it cannot be read, or holds no elliptic-curve key.
    """
    try:
        key = serialization.load_pem_private_key(_content(file), password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file} holds no private key: {error}", remedy="limosa pki check") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{file} holds no elliptic-curve key", remedy="limosa pki issue makes one")
    return key


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        remedy = "limosa pki init" if file.name in {CA_CERT, CA_KEY} else "limosa pki issue, or limosa pki join"
        raise NotFound(f"{file} is missing", remedy=f"{remedy} makes it") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error


def _builder(
    issuer: x509.Name, subject: x509.Name, key: CertificatePublicKeyTypes, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _refuse_foreign(directory: Path, ca: x509.Certificate, host: str) -> None:
    """Certificates of two CAs, or of two hosts, in one directory would be a riddle later."""
    if (directory / CA_CERT).exists() and load_certificate(directory / CA_CERT) != ca:
        raise UsageError(f"{directory} trusts another CA", remedy=f"move {directory / CA_CERT} away, or use its CA")
    if (directory / HOST_CERT).exists() and (there := name_of(load_certificate(directory / HOST_CERT))) != host:
        raise UsageError(f"{directory} belongs to host {there}", remedy="choose another directory with --out")


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
