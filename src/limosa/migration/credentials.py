"""One-time TLS-PSK credentials of a move (QEMU docs/system/tls.rst, pre-shared keys)."""

import os
from pathlib import Path

USER = "limosa"
CREDS = "limosa-tls"
"""Id of the tls-creds-psk object in both QEMUs."""

CIPHERS_OF_CHOICE = "NORMAL:-CHACHA20-POLY1305:+CHACHA20-POLY1305"
"""GnuTLS's own order, but for the last place. Of `NORMAL`, a pre-shared key of TLS 1.3 leaves ChaCha20, AES-128-GCM and
AES-128-CCM, those with SHA-256, in this order: the slowest first, for which processors have no instructions. The order
of the client counts (docs/qemu-notes.md)."""

SYSTEM_POLICY = Path("/etc/crypto-policies/back-ends/gnutls.config")
"""crypto-policies(7): of Fedora, RHEL and their relatives, where QEMU is built to follow it."""

FFDHE2048 = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group of RFC 7919, section A.1, as PKCS #3."""


def client(creds: str, directory: Path, policy: Path = SYSTEM_POLICY) -> dict[str, str]:
    """Arguments of `object-add` for the side that connects: the source, for RAM and for disks.

    Args:
        creds: the object's id.
        directory: what `write_key` returned.
        policy: where a system says which ciphers its programs may use. QEMU's own order follows it there, and stays.
    """
    told = {
        "qom-type": "tls-creds-psk",
        "id": creds,
        "dir": str(directory),
        "endpoint": "client",
        "username": USER,
    }
    return told if policy.exists() else told | {"priority": CIPHERS_OF_CHOICE}


def write_key(directory: Path, key: str) -> Path:
    """Write `keys.psk` for QEMU, readable by its owner only, and `dh-params.pem` beside it.

    Without the latter a server looks for a group of 2048 bits of its own when its credentials are made, which takes a
    processor a tenth of a second to two seconds: each twin's start would be so much later (docs/qemu-notes.md).

    Args:
        directory: the move's own directory.
        key: hexadecimal.

    Returns:
        The directory to name as `dir` of the tls-creds-psk object.
    """
    place = directory / "psk"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = place / "keys.psk"
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{USER}:{key}\n")
    (place / "dh-params.pem").write_text(FFDHE2048)
    return place
