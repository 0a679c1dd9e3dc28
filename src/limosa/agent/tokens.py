"""One-time tokens with which a host joins: made, kept hashed, proved, used up. Pure, but for one file.

The proof is SCRAM's (RFC 5802, section 3), with a random 256-bit secret in the place of a salted password: who reads
the file of tokens cannot join with what it holds, and who plays the CA host learns nothing he could join with.

    stored_key = SHA-256(secret)
    proof      = secret XOR HMAC-SHA-256(stored_key, claim)
"""

import base64
import fcntl
import hashlib
import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from limosa.agent.files import replace_file
from limosa.errors import Blocked, UsageError

LIFETIME = timedelta(hours=1)
PREFIX = "limosa-join-"


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What `limosa pki token` prints, unpacked."""

    host: str
    """Who may join with it."""
    ca_host: str
    """Name of the host that signs."""
    address: str
    """Where its agent listens, `host:port`."""
    ca: str
    """SHA-256 fingerprint of the CA's certificate, hex."""
    id: str
    secret: bytes
    expires: int
    """Seconds since 1970."""


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What a joining host says, and proves: nothing in it can be changed on the way."""

    token: str
    host: str
    ca: str
    address: str
    migration: str
    csr: str
    """PEM."""


class Kept(msgspec.Struct, frozen=True):
    """A token as the CA host keeps it."""

    host: str
    stored_key: str
    expires: int
    used: int | None = None


def write(token: Token) -> str:
    """A token as one word, to be carried by people."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def read(text: str) -> Token:
    """A token from the word.

    Raises:
        UsageError: it is not one, or a part is missing.
    """
    word = text.strip()
    try:
        packed = base64.urlsafe_b64decode(word.removeprefix(PREFIX) + "=" * (-len(word.removeprefix(PREFIX)) % 4))
        token = msgspec.msgpack.decode(packed, type=Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise UsageError(
            "this is not a join token", remedy="copy the whole word that limosa pki token printed"
        ) from error
    if not word.startswith(PREFIX) or len(token.secret) != 32:
        raise UsageError("this is not a join token", remedy="copy the whole word that limosa pki token printed")
    return token


def prove(claim: Claim, secret: bytes) -> bytes:
    """Show that one knows a token's secret, without telling it."""
    return _xor(secret, _signature(hashlib.sha256(secret).digest(), claim))


def proves(claim: Claim, proof: bytes, stored_key: bytes) -> bool:
    """Whether whoever made this proof knows the secret, and claims just this."""
    if len(proof) != 32:
        return False
    secret = _xor(proof, _signature(stored_key, claim))
    return hmac.compare_digest(hashlib.sha256(secret).digest(), stored_key)


def keep(file: Path, host: str, now: datetime, lifetime: timedelta = LIFETIME) -> tuple[str, bytes, int]:
    """Make a token and keep its hash in a file, where the agent will look for it.

    Returns:
        Its id, its secret, and when it expires (seconds since 1970).
    """
    name, secret, expires = secrets.token_hex(8), secrets.token_bytes(32), int((now + lifetime).timestamp())
    with _locked(file) as kept:
        kept[name] = Kept(host=host, stored_key=hashlib.sha256(secret).hexdigest(), expires=expires)
    return name, secret, expires


def use_up(file: Path, claim: Claim, proof: bytes, now: datetime) -> None:
    """Accept a claim once; from then on its token is used, whatever happens next.

    Raises:
        Blocked: the token is unknown, used, expired or another host's, or the proof is wrong.
    """
    again = f"limosa pki token {claim.host}, on the host with the CA, makes a new one"
    with _locked(file) as kept:
        token = kept.get(claim.token)
        # Strangers learn nothing about tokens: only who has proved that he knows it hears what is wrong with it.
        if token is None or not proves(claim, proof, bytes.fromhex(token.stored_key)):
            raise Blocked("the token is not valid here", remedy=again)
        if token.used is not None:
            raise Blocked(f"the token was used at {_time(token.used)}", remedy=again)
        if now.timestamp() > token.expires:
            raise Blocked(f"the token expired at {_time(token.expires)}", remedy=again)
        if token.host != claim.host:
            raise Blocked(f"the token is for host {token.host}, not for {claim.host}", remedy=again)
        kept[claim.token] = msgspec.structs.replace(token, used=int(now.timestamp()))


@contextmanager
def _locked(file: Path) -> Iterator[dict[str, Kept]]:
    """The tokens of a file, to be changed; written back unless an error leaves the block. Old ones are dropped."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = msgspec.json.decode(file.read_bytes(), type=dict[str, Kept]) if file.exists() else {}
        yield kept
        stale = datetime.now(UTC).timestamp() - timedelta(days=30).total_seconds()
        replace_file(file, msgspec.json.encode({n: t for n, t in kept.items() if t.expires > stale}), 0o600)


def _signature(key: bytes, claim: Claim) -> bytes:
    return hmac.digest(key, b"limosa join\0" + msgspec.msgpack.encode(claim), "sha256")


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
