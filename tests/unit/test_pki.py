"""Certificates, tokens, and what is found wrong with them."""

import hashlib
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from limosa.agent import pki, tokens
from limosa.agent.config import Config, load
from limosa.agent.hosts import Hosts
from limosa.agent.join import Door, Knock, new_token
from limosa.agent.pki_check import check, clock
from limosa.agent.tokens import Claim, Token
from limosa.errors import Blocked, NotFound, UsageError
from limosa.wire.findings import Severity

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECRET = bytes(range(32))
CLAIM = Claim("t1", "c", "ca", "10.0.0.3:7447", "", "csr")


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    pki.create_ca(tmp_path / "ca", "fleet", now=NOW)
    return tmp_path / "ca"


@pytest.fixture
def host(ca: Path, tmp_path: Path) -> Path:
    pki.issue_host(ca, "b", ["10.0.0.2", "fd00::2", "b.example"], tmp_path / "b", now=NOW)
    return tmp_path / "b"


def words(directory: Path, **kwargs: object) -> list[tuple[Severity, str]]:
    return [(f.severity, f.what) for f in check(directory, now=kwargs.pop("now", NOW), **kwargs)]  # type: ignore[arg-type]


def test_a_host_certificate_serves_both_ends_and_names_host_and_addresses(host: Path) -> None:
    certificate = pki.load_certificate(host / pki.HOST_CERT)
    assert pki.name_of(certificate) == "b"
    assert pki.addresses_of(certificate) == ("b.example", "10.0.0.2", "fd00::2")
    assert words(host, host="b", addresses=["10.0.0.2", "fd00::2"]) == []


def test_keys_are_their_owners_alone(ca: Path, host: Path) -> None:
    assert [stat.S_IMODE(f.stat().st_mode) for f in (ca / pki.CA_KEY, host / pki.HOST_KEY)] == [0o600, 0o600]


def test_a_ca_is_never_overwritten(ca: Path) -> None:
    before = (ca / pki.CA_KEY).read_bytes()
    with pytest.raises(UsageError, match="already holds a CA"):
        pki.create_ca(ca, "again")
    assert (ca / pki.CA_KEY).read_bytes() == before


def test_a_directory_takes_no_certificate_of_another_host_or_ca(ca: Path, host: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belongs to host b"):
        pki.issue_host(ca, "c", [], host)
    pki.create_ca(tmp_path / "other", "other")
    with pytest.raises(UsageError, match="trusts another CA"):
        pki.issue_host(tmp_path / "other", "b", [], host)


@pytest.mark.parametrize("name", ["", "B", "b_1", "-b", "10", "10.0.0.1", "b/..", "b\n", "x" * 254])
def test_a_host_name_that_certificates_cannot_carry_is_refused(ca: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a host name"):
        pki.issue_host(ca, name, [], tmp_path / "x")


def test_check_names_what_is_missing(tmp_path: Path) -> None:
    assert words(tmp_path) == [
        (Severity.BLOCKS, f"{tmp_path / name} is missing") for name in (pki.CA_CERT, pki.HOST_CERT, pki.HOST_KEY)
    ]


@pytest.mark.parametrize(
    ("now", "found"),
    [
        (NOW - timedelta(minutes=59), []),
        (NOW - timedelta(hours=2), ["ca-cert.pem is valid from", "host-cert.pem is valid from"]),
        (NOW + timedelta(days=729), ["host-cert.pem expires in 1 day"]),
        (NOW + timedelta(days=731), ["host-cert.pem expired on 2032-01-01"]),
    ],
)
def test_check_tells_dates(host: Path, now: datetime, found: list[str]) -> None:
    told = [what for _, what in words(host, now=now)]
    assert len(told) == len(found)
    assert all(begin in what for begin, what in zip(found, told, strict=True))


def test_check_tells_a_foreign_chain_a_foreign_key_and_another_name(host: Path, tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "other", "other", now=NOW)
    (host / pki.CA_CERT).write_bytes((tmp_path / "other" / pki.CA_CERT).read_bytes())
    pki.write_key(host / pki.HOST_KEY, pki.new_key())
    (host / pki.HOST_KEY).chmod(0o644)
    assert [what for _, what in words(host, host="a")] == [
        "host-key.pem can be read by others than its owner",
        "host-cert.pem is for host b, but this is a",
        "host-cert.pem was not signed by ca-cert.pem",
        "host-key.pem is not the key of host-cert.pem",
    ]


def test_check_tells_a_certificate_in_the_place_of_the_ca(host: Path) -> None:
    (host / pki.CA_CERT).write_bytes((host / pki.HOST_CERT).read_bytes())
    assert (Severity.BLOCKS, "ca-cert.pem is not the certificate of a CA") in words(host)


def test_check_tells_garbage(host: Path) -> None:
    (host / pki.HOST_CERT).write_text("-----BEGIN CERTIFICATE-----\nnonsense\n")
    assert any("holds no certificate" in what for _, what in words(host))


def test_an_address_that_is_not_named_is_a_note(host: Path) -> None:
    assert words(host, addresses=["10.9.9.9"]) == [(Severity.NOTE, "host-cert.pem does not name the address 10.9.9.9")]


def test_clocks_that_differ_by_minutes_are_told() -> None:
    assert clock(NOW, NOW + timedelta(minutes=4), "b") == ()
    assert [f.what for f in clock(NOW, NOW - timedelta(minutes=6), "b")] == [
        "the clocks of this host and b are 0:06:00 apart"
    ]


def test_renewal_keeps_key_name_and_addresses(ca: Path, host: Path) -> None:
    old, key = pki.load_certificate(host / pki.HOST_CERT), (host / pki.HOST_KEY).read_bytes()
    new = pki.renew(ca, host, now=NOW + timedelta(days=700))
    assert (pki.name_of(new), pki.addresses_of(new)) == (pki.name_of(old), pki.addresses_of(old))
    assert new.not_valid_after_utc == old.not_valid_after_utc + timedelta(days=700)
    assert (host / pki.HOST_KEY).read_bytes() == key
    assert words(host, now=NOW + timedelta(days=1000)) == []


# -- tokens ---------------------------------------------------------------------------------------------------


def test_a_token_is_one_word_and_comes_back_whole() -> None:
    token = Token("c", "a", "10.0.0.1:7447", "ab" * 32, "t1", SECRET, 1_900_000_000)
    word = tokens.write(token)
    assert tokens.read(f" {word}\n") == token
    assert word.split() == [word]


@pytest.mark.parametrize("cut", [0, 5, 20, -1, -40])
def test_a_part_of_a_token_is_refused(cut: int) -> None:
    word = tokens.write(Token("c", "a", "10.0.0.1:7447", "ab" * 32, "t1", SECRET, 1))
    with pytest.raises(UsageError, match="not a join token"):
        tokens.read(word[:cut])


def test_a_proof_holds_for_its_claim_and_its_secret_only() -> None:
    stored = hashlib.sha256(SECRET).digest()
    proof = tokens.prove(CLAIM, SECRET)
    assert tokens.proves(CLAIM, proof, stored)
    assert SECRET not in proof
    other = Claim("t1", "c", "ca", "10.6.6.6:7447", "", "csr")
    assert not tokens.proves(other, proof, stored)
    assert not tokens.proves(CLAIM, tokens.prove(CLAIM, bytes(32)), stored)
    assert not tokens.proves(CLAIM, stored, stored)
    assert not tokens.proves(CLAIM, b"", stored)


def test_the_file_of_tokens_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    _, secret, _ = tokens.keep(file, "c", datetime.now(UTC))
    kept = file.read_bytes()
    assert secret not in kept
    assert secret.hex().encode() not in kept
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# -- the join door, without its socket ---------------------------------------------------------------------------


@pytest.fixture
def ca_host(tmp_path: Path) -> Config:
    config = load(tmp_path, overrides={"host": "a", "listen": "10.0.0.1", "state_dir": str(tmp_path / "state")})
    pki.create_ca(config.pki_dir, "fleet")
    pki.issue_host(config.pki_dir, "a", ["10.0.0.1"], config.pki_dir)
    return config


async def _nobody(*_: object) -> None: ...


def knock(token: Token, host: str = "c", address: str = "10.0.0.3:7447", secret: bytes | None = None) -> Knock:
    csr = pki.request(host, pki.new_key()).public_bytes(serialization.Encoding.PEM).decode()
    claim = Claim(token.id, host, token.ca, address, "", csr)
    return Knock(claim, tokens.prove(claim, secret or token.secret))


def test_a_token_lets_its_host_in_once(ca_host: Config) -> None:
    door, token = Door(ca_host, _nobody), tokens.read(new_token(ca_host, "c"))
    welcome = door.admit(knock(token), datetime.now(UTC))
    certificate = x509.load_pem_x509_certificate(welcome.certificate.encode())
    assert (pki.name_of(certificate), pki.addresses_of(certificate)) == ("c", ("10.0.0.3",))
    assert {name: entry.address for name, entry in welcome.hosts.items()} == {
        "a": "10.0.0.1:7447",
        "c": "10.0.0.3:7447",
    }
    assert set(Hosts(ca_host.hosts_file).known()) == {"a", "c"}
    with pytest.raises(Blocked, match="was used"):
        door.admit(knock(token), datetime.now(UTC))


def test_an_expired_token_is_refused(ca_host: Config) -> None:
    token = tokens.read(new_token(ca_host, "c", lifetime=timedelta(minutes=1)))
    with pytest.raises(Blocked, match="expired"):
        Door(ca_host, _nobody).admit(knock(token), datetime.now(UTC) + timedelta(minutes=2))


def test_another_hosts_token_is_refused(ca_host: Config) -> None:
    token = tokens.read(new_token(ca_host, "c"))
    with pytest.raises(Blocked, match="for host c, not for d"):
        Door(ca_host, _nobody).admit(knock(token, host="d"), datetime.now(UTC))


def test_a_wrong_proof_is_refused_and_does_not_use_the_token_up(ca_host: Config) -> None:
    door, token = Door(ca_host, _nobody), tokens.read(new_token(ca_host, "c"))
    with pytest.raises(Blocked, match="not valid here"):
        door.admit(knock(token, secret=bytes(32)), datetime.now(UTC))
    assert "c" in door.admit(knock(token), datetime.now(UTC)).hosts


@pytest.mark.parametrize("address", ["a:7447", "10.0.0.3:99999", "", 'x"\nlisten="y'])
def test_a_joining_host_cannot_take_anothers_name_or_a_nonsense_address(ca_host: Config, address: str) -> None:
    token = tokens.read(new_token(ca_host, "c"))
    with pytest.raises((Blocked, UsageError)):
        Door(ca_host, _nobody).admit(knock(token, address=address), datetime.now(UTC))
    assert "c" not in Hosts(ca_host.hosts_file).known()


def test_only_the_host_with_the_ca_makes_tokens(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="keeps no CA"):
        new_token(load(tmp_path, overrides={"host": "b"}), "c")
