"""One-time TLS-PSK credentials of a move (QEMU docs/system/tls.rst, pre-shared keys)."""

import os
from pathlib import Path

USER = "limosa"
CREDS = "limosa-tls"
"""Id of the tls-creds-psk object in both QEMUs."""


def write_key(directory: Path, key: str) -> Path:
    """Write `keys.psk` for QEMU, readable by its owner only.

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
    return place
