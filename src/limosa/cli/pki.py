"""`limosa pki`: one CA for the fleet, one certificate for each host, one-time tokens to join with."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limosa.cli.options import config_dir_option, example, json_option
from limosa.cli.table import pairs, table

if TYPE_CHECKING:
    from cryptography import x509

    from limosa.agent.config import Config
    from limosa.wire.findings import Finding

BLOCKED = 10

ADDRESS = click.option(
    "--address", metavar="ADDRESS[:PORT]", help="Where other hosts reach this host's agent. Default: its own address."
)


def _config(directory: Path | None) -> Config:
    from limosa.agent.config import load

    return load(directory)


def _answer(told: dict[str, Any], text: str, as_json: bool) -> None:
    import msgspec

    click.echo(msgspec.json.encode(told) if as_json else text)


@click.group(
    epilog=example(
        "host-a# limosa pki init",
        "host-a# limosa pki token host-b        # prints one word",
        "host-b# limosa pki join limosa-join-…  # within the hour",
    )
)
def pki() -> None:
    """Certificates with which agents know each other.

    One host keeps the CA. Every other host joins with a word that is good once; its private key never leaves it.
    """


@pki.command(
    short_help="Make the fleet's CA on this host.",
    epilog=example("limosa pki init", "limosa pki init --name fleet-1 --address 10.0.0.1"),
)
@click.option("--name", default="limosa", show_default=True, help="The CA's name.")
@ADDRESS
@config_dir_option
@json_option
def init(name: str, address: str | None, config_dir: Path | None, as_json: bool) -> None:
    """Make the fleet's CA here, and this host's own certificate."""
    from limosa.agent.hosts import write_missing
    from limosa.agent.join import own_entry
    from limosa.agent.pki import create_ca, fingerprint, issue_host

    config = _config(config_dir)
    entry = own_entry(config, _endpoint(address, config))
    ca = create_ca(config.pki_dir, name)
    addresses = dict.fromkeys((entry.endpoint.host, entry.migration_address))
    issue_host(config.pki_dir, config.host, addresses, config.pki_dir)
    write_missing(config.hosts_file, {config.host: entry})
    told = {"host": config.host, "directory": str(config.pki_dir), "ca": fingerprint(ca), "address": entry.address}
    text = (
        f"{config.host} keeps the CA {name!r} in {config.pki_dir}\n"
        f"other hosts will reach it at {entry.address}\n"
        "next: start the agent here, then limosa pki token HOST for each host that joins"
    )
    _answer(told, text, as_json)


def _endpoint(address: str | None, config: Config) -> str | None:
    """An address with its port.

    Raises:
        UsageError: it is none.
    """
    from limosa.agent.config import parse_endpoint
    from limosa.errors import UsageError

    try:
        return str(parse_endpoint(address, config.listen.port)) if address else None
    except ValueError as error:
        raise UsageError(str(error), remedy="write --address 10.0.0.1 or 10.0.0.1:7447") from error


@pki.command(
    short_help="Make a host's certificate, to carry there.",
    epilog=example(
        "limosa pki issue host-c --address 10.0.0.3 --out ./host-c",
        "limosa pki issue fleet-1 --controller --address 10.0.0.9 --out ./fleet-1",
    ),
)
@click.argument("host")
@click.option("--address", "addresses", multiple=True, required=True, help="An address of that host. Repeatable.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where to put key and certificates.")
@click.option("--controller", is_flag=True, help="For a controller, which may command moves on every host.")
@config_dir_option
@json_option
def issue(
    host: str, addresses: Sequence[str], out: Path | None, controller: bool, config_dir: Path | None, as_json: bool
) -> None:
    """Make a host's key and certificate here, to be carried there by hand.

    For hosts that cannot reach this one. `limosa pki token` is better where they can: no private key travels.
    A controller has its certificate from here too.
    """
    from limosa.agent.pki import issue_host

    config = _config(config_dir)
    own = config.pki_dir if host == config.host and not controller else Path(host)
    directory = out or own
    certificate = issue_host(config.pki_dir, host, addresses, directory, controller=controller)
    told = {"host": host, "directory": str(directory), "expires": certificate.not_valid_after_utc.isoformat()}
    _answer(told, f"{host}: key and certificates are in {directory}; they belong into /etc/limosa/pki there", as_json)


@pki.command(
    short_help="Print a word with which a host may join.",
    epilog=example("limosa pki token host-b", "limosa pki token host-b --address 10.0.0.1 --hours 24"),
)
@click.argument("host")
@click.option("--address", metavar="ADDRESS[:PORT]", help="Where HOST reaches this host's agent.")
@click.option("--hours", type=click.FloatRange(0, 24 * 30, min_open=True), default=1.0, show_default=True)
@config_dir_option
@json_option
def token(host: str, address: str | None, hours: float, config_dir: Path | None, as_json: bool) -> None:
    """Print a word with which HOST may join, once, while this host's agent runs."""
    from datetime import timedelta

    from limosa.agent.join import new_token

    word = new_token(_config(config_dir), host, address=address, lifetime=timedelta(hours=hours))
    _answer({"host": host, "token": word, "hours": hours}, word, as_json)


@pki.command(
    short_help="Join a fleet with such a word.",
    epilog=example("limosa pki join limosa-join-…", "limosa pki join - < word"),
)
@click.argument("word")
@ADDRESS
@click.option("--migration", metavar="ADDRESS", help="Where this host takes RAM and disks, if that is another network.")
@config_dir_option
@json_option
def join(word: str, address: str | None, migration: str | None, config_dir: Path | None, as_json: bool) -> None:
    """Join a fleet with the word that `limosa pki token` printed; `-` reads it from standard input."""
    import sys

    import msgspec

    from limosa.agent.join import join as join_fleet

    joined = join_fleet(
        _config(config_dir), sys.stdin.readline() if word == "-" else word, address=address, migration=migration
    )
    known = ", ".join(joined.hosts) or "none that was new"
    text = f"{joined.host} joined by {joined.ca_host}; hosts learned: {known}\nnext: start the agent here"
    _answer(msgspec.to_builtins(joined), text, as_json)


@pki.command(
    short_help="Look for what makes hosts refuse each other.",
    epilog=example("limosa pki check", "limosa pki check --json"),
)
@click.option("--peers/--no-peers", default=True, help="Ask the other hosts too.  [default: peers]")
@config_dir_option
@json_option
def check(peers: bool, config_dir: Path | None, as_json: bool) -> int:
    """Look for whatever would make hosts refuse each other: chain, names, dates, key usage, file modes, clocks.

    Every other host is tried and asked about its own side, so that both ends are checked. Exit status 10 says
    that something is wrong with this host's own certificates.
    """
    import asyncio

    import msgspec

    from limosa.agent.pki_check import check as check_files
    from limosa.cli.pki_peers import check_peers
    from limosa.wire.findings import blocking

    config = _config(config_dir)
    own = check_files(config.pki_dir, host=config.host)
    bad = blocking(own)
    findings = own if bad or not peers else (*own, *asyncio.run(check_peers(config)))
    told = {"directory": str(config.pki_dir), "findings": msgspec.to_builtins(findings)}
    _answer(told, _check_page(config, findings), as_json)
    return BLOCKED if bad else 0


def _check_page(config: Config, findings: Sequence[Finding]) -> str:
    from limosa.cli.report import findings_page

    return findings_page(findings) or f"{config.host}: the certificates in {config.pki_dir} are good"


@pki.command(short_help="Give this host a new certificate.", epilog=example("limosa pki renew"))
@config_dir_option
@json_option
def renew(config_dir: Path | None, as_json: bool) -> None:
    """Give this host a new certificate for the key, name and addresses it has.

    The host that keeps the CA signs it, over the peer link where that is another one.
    """
    import asyncio

    from limosa.agent import pki as certificates
    from limosa.cli.pki_peers import renew_anywhere

    config = _config(config_dir)
    if (config.pki_dir / certificates.CA_KEY).exists():
        certificate = certificates.renew(config.pki_dir, config.pki_dir)
    else:
        certificate = asyncio.run(renew_anywhere(config))
    expires = certificate.not_valid_after_utc
    text = f"{config.host}: certificate good until {expires:%Y-%m-%d}; SIGHUP makes a running agent use it"
    _answer({"host": config.host, "expires": expires.isoformat()}, text, as_json)


@pki.command(name="list", short_help="Show certificates, and the hosts it knows.", epilog=example("limosa pki list"))
@config_dir_option
@json_option
def list_(config_dir: Path | None, as_json: bool) -> None:
    """Show this host's certificates and the hosts it knows."""
    from limosa.agent import pki as certificates
    from limosa.agent.hosts import Hosts

    config = _config(config_dir)
    shown = [
        _shown(name, certificates.load_certificate(config.pki_dir / name))
        for name in (certificates.CA_CERT, certificates.HOST_CERT)
        if (config.pki_dir / name).exists()
    ]
    known = Hosts(config.hosts_file).known()
    keeps_ca = (config.pki_dir / certificates.CA_KEY).exists()
    told = {
        "host": config.host,
        "keeps_ca": keeps_ca,
        "certificates": shown,
        "hosts": {
            name: {"address": entry.address, "migration": entry.migration_address} for name, entry in known.items()
        },
    }
    rows = [(name, entry.address, entry.migration_address) for name, entry in known.items()]
    sections = [
        pairs([("host", config.host), ("keeps the CA", "yes" if keeps_ca else "no")], indent=""),
        *(pairs([(key, str(value)) for key, value in one.items()], indent="") for one in shown),
        table(("HOST", "ADDRESS", "MIGRATION"), rows),
    ]
    _answer(told, "\n\n".join(sections), as_json)


def _shown(file: str, certificate: x509.Certificate) -> dict[str, str]:
    from limosa.agent.pki import addresses_of, fingerprint

    told = {
        "file": file,
        "subject": certificate.subject.rfc4514_string(),
        "expires": certificate.not_valid_after_utc.isoformat(),
        "sha256": fingerprint(certificate),
    }
    if addresses := addresses_of(certificate):
        told["addresses"] = ", ".join(addresses)
    return told


# The name by which people of other systems look for `issue`.
_host = copy(issue)
_host.hidden = True
pki.add_command(_host, "host")
