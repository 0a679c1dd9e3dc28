"""What QEMU is given for a move's encryption."""

import base64
from decimal import Decimal, localcontext
from pathlib import Path

from limosa.migration.credentials import CIPHERS_OF_CHOICE, client, write_key


def test_a_key_is_its_owners_alone_and_comes_with_the_group_of_rfc_7919(tmp_path: Path) -> None:
    place = write_key(tmp_path, "c0ffee")
    assert (place / "keys.psk").read_text() == "limosa:c0ffee\n"
    assert [(place.stat().st_mode & 0o777), ((place / "keys.psk").stat().st_mode & 0o777)] == [0o700, 0o600]

    _, *body, _ = (place / "dh-params.pem").read_text().splitlines()
    assert base64.b64decode("".join(body)) == pkcs3(ffdhe2048(), 2)


def test_a_system_that_says_which_ciphers_programs_may_use_is_obeyed(tmp_path: Path) -> None:
    policy = tmp_path / "gnutls.config"
    assert client("creds", tmp_path, policy)["priority"] == CIPHERS_OF_CHOICE
    policy.write_text("[overrides]\n")
    assert "priority" not in client("creds", tmp_path, policy)


def ffdhe2048() -> int:
    """RFC 7919, A.1: p = 2^2048 - 2^1984 + ([2^1918 e] + 560316) 2^64 - 1."""
    with localcontext() as context:
        context.prec = 700
        return int(2**2048 - 2**1984 + (int(Decimal(1).exp() * 2**1918) + 560316) * 2**64 - 1)


def pkcs3(prime: int, generator: int) -> bytes:
    """SEQUENCE of two INTEGERs, in DER: the prime's first bit is set, so it has a zero before it."""
    value = b"\0" + prime.to_bytes(256, "big")
    both = b"\x02\x82" + len(value).to_bytes(2, "big") + value + b"\x02\x01" + bytes([generator])
    return b"\x30\x82" + len(both).to_bytes(2, "big") + both
