"""Signatures as Standard Webhooks has them, so that receivers can use a library they have. Pure.

Source:
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
LEAST = 24
"""Bytes that a key has at least, as the specification asks."""


def keys(text: str) -> tuple[bytes, ...]:
    """The keys in a secret file, one a line; two while one replaces the other.

    Args:
        text: lines of `whsec_` and base64, or of any other text, which is then the key itself.

    Raises:
        ValueError: there is none, or one is too short or not base64.
    """
    found = tuple(_key(line) for line in text.split())
    if not found:
        raise ValueError("there is no key in it")
    return found


def headers(event_id: str, timestamp: int, body: bytes, secrets: Sequence[bytes]) -> dict[str, str]:
    """The headers that let a receiver know an event, its age and its sender.

    Args:
        event_id: the same at each attempt.
        timestamp: of this attempt, in seconds since 1970.
        body: exactly what is sent.
        secrets: keys; the receiver needs one of them.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    made = [base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in made),
    }


def _key(line: str) -> bytes:
    if not line.startswith(PREFIX):
        key = line.encode()
    else:
        try:
            key = base64.b64decode(line.removeprefix(PREFIX), validate=True)
        except binascii.Error as error:
            raise ValueError(f"what follows {PREFIX} is not base64") from error
    if len(key) < LEAST:
        raise ValueError(f"a key has {LEAST} bytes or more: `openssl rand -base64 32` makes one")
    return key
