"""The way to a controller: TLS to its address, and the token that says who asks."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from limosa.cli.transport import CONNECT_SECONDS, Peer
from limosa.errors import ControllerUnreachable, LimosaError, NoToken, Untrusted, UsageError

PORT = 443
"""What https:// means without a port; a controller's own is CONTROLLER_PORT."""
CONTROLLER_PORT = 8447
FLEET_CA = "/etc/limosa/pki/ca-cert.pem"
HOST_TOKEN = "/etc/limosa/token"  # noqa: S105  (a file's name)

_WRITTEN = f"write https://controller:{CONTROLLER_PORT}"

# OpenSSL's X509_V_ERR_*, as `SSLCertVerificationError.verify_code` gives them (openssl/x509_vfy.h).
_TOO_EARLY, _EXPIRED = 9, 10
_OTHER_NAME = frozenset({62, 64})


@dataclass(frozen=True)
class Https:
    """A controller at its address.

    Args:
        host: name or address, which its certificate must prove.
        port: where it listens.
        peer: what to call it, and what to send with each request.
        ca: file with the certificates that are trusted; None for the system's.
    """

    host: str
    port: int
    peer: Peer
    ca: str | None

    def connect(self) -> socket.socket:
        """Connect, and have the controller prove who it is.

        Raises:
            ControllerUnreachable: nobody answers there.
            Untrusted: somebody else does, or one who cannot prove it.
            UsageError: what answers does not speak TLS, or the file of the CA is none.
        """
        context = self._context()
        plain = self._plain()
        try:
            return context.wrap_socket(plain, server_hostname=self.host)
        except OSError as error:  # TLS's own errors are of this kind, too
            plain.close()
            raise self._refused(error) from error

    def why_lost(self) -> str:
        """Nothing: a network says nothing for itself."""
        return ""

    def close(self) -> None:
        """Nothing to end."""

    def _plain(self) -> socket.socket:
        try:
            return socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        except socket.gaierror as error:
            raise ControllerUnreachable(
                f"no host is called {self.host}: {error.strerror}", remedy="correct -H, or LIMOSA_HOST"
            ) from error
        except OSError as error:
            raise ControllerUnreachable(
                f"{self.peer.name} does not answer: {error.strerror or error}",
                remedy=f"look whether it runs (limosa controller), and on which port; {CONTROLLER_PORT} is usual",
            ) from error

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # an SSLError where the file holds no certificate
            raise UsageError(
                f"{self.ca} cannot serve as CA: {error.strerror or error}",
                remedy="--ca, or LIMOSA_CA, names the ca-cert.pem of the fleet (limosa pki init made it)",
            ) from error
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _refused(self, error: OSError) -> LimosaError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _untrusted(error, self.peer.name, self.host, self.ca)
        if isinstance(error, ssl.SSLError):
            return UsageError(
                f"{self.peer.name} does not speak TLS as a controller does",
                remedy=f"look at the port in -H; a controller's is {CONTROLLER_PORT}",
                detail=str(error),
            )
        return ControllerUnreachable(
            f"{self.peer.name} broke off while it should prove who it is: {error.strerror or error}",
            remedy="look whether it runs, and try again",
        )


def _untrusted(error: ssl.SSLCertVerificationError, name: str, host: str, ca: str | None) -> Untrusted:
    if error.verify_code in _OTHER_NAME:
        return Untrusted(
            f"{name} shows a certificate that is not for {host}",
            remedy=f"name it as its certificate does, or issue one for it: limosa pki issue NAME --controller "
            f"--address {host}",
            detail=error.verify_message,
        )
    if error.verify_code in {_TOO_EARLY, _EXPIRED}:
        return Untrusted(
            f"{name} shows a certificate that is not valid now",
            remedy="look at both clocks; limosa pki renew, on the controller's host, makes a new one",
            detail=error.verify_message,
        )
    return Untrusted(
        f"{name} shows a certificate that {ca or 'no CA of this system'} did not sign",
        remedy="--ca, or LIMOSA_CA, names the fleet's ca-cert.pem; any of its hosts has it in /etc/limosa/pki",
        detail=error.verify_message,
    )


def way_to_controller(url: str, ca: str | None = None) -> Https:
    """The way that `-H https://…` names.

    Args:
        url: `https://host`, with a port or not, and below a path where a proxy has one.
        ca: file of `--ca`; None leaves it to $LIMOSA_CA, the fleet's own CA, the system.

    Raises:
        UsageError: it is no such URL, or would send the token in clear.
        NoToken: there is no token to send.
    """
    parts = urlsplit(url)
    if parts.scheme == "http":
        raise UsageError(f"{url} would send the token in clear", remedy=_WRITTEN)
    if not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"{url!r} names no controller", remedy=_WRITTEN)
    if "@" in parts.netloc:
        raise UsageError("the URL of a controller holds no user and no password", remedy=_how_to_give())
    port = _port(url, parts)
    name = f"the controller {parts.netloc}"
    peer = Peer(
        name=name,
        lost=ControllerUnreachable,
        # An agent's port wants a certificate, and with TLS 1.3 breaks off only after the handshake.
        if_lost=f"look whether it runs, and whether the port is a controller's ({CONTROLLER_PORT}) and not an agent's",
        strange=UsageError,
        if_strange=f"name a controller of limosa: -H https://controller:{CONTROLLER_PORT}",
        authority=parts.netloc,
        prefix=parts.path.rstrip("/"),
        headers={"Authorization": f"Bearer {token(name)}"},
    )
    return Https(host=parts.hostname, port=port, peer=peer, ca=ca or trusted())


def _port(url: str, parts: SplitResult) -> int:
    try:
        return parts.port or PORT
    except ValueError as error:
        raise UsageError(f"{url!r} names no port", remedy=_WRITTEN) from error


def trusted() -> str | None:
    """Whom to trust: $LIMOSA_CA, the fleet's CA where this host has it, else None for the system's."""
    return os.environ.get("LIMOSA_CA") or (FLEET_CA if Path(FLEET_CA).exists() else None)


def token(name: str) -> str:
    """The word that says who asks: $LIMOSA_TOKEN, or what the first file of a token holds.

    Args:
        name: of the controller, for the error.

    Raises:
        NoToken: there is none.
        UsageError: a file cannot be read, or what is there is no token.
    """
    if word := os.environ.get("LIMOSA_TOKEN", "").strip():
        return _checked(word, "LIMOSA_TOKEN")
    for file in token_files():
        try:
            return _checked(file.read_text(encoding="ascii").strip(), str(file))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise UsageError(f"{file} cannot be read: {why}", remedy=_how_to_give()) from error
    raise NoToken(f"there is no token for {name}", remedy=_how_to_give())


def token_files() -> tuple[Path, ...]:
    """Where a token may be: $LIMOSA_TOKEN_FILE alone where it is set, else the user's file, then the host's."""
    if named := os.environ.get("LIMOSA_TOKEN_FILE"):
        return (Path(named),)
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home, "limosa", "token").expanduser(), Path(HOST_TOKEN)


def _checked(word: str, place: str) -> str:
    if not word or not word.isascii() or not word.isprintable() or " " in word:
        raise UsageError(f"{place} holds no token", remedy="limosa controller token NAME --role operator makes one")
    return word


def _how_to_give() -> str:
    return f"put it in {token_files()[0]}, or in LIMOSA_TOKEN; limosa controller token NAME, on its host, makes one"
