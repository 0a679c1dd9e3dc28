"""What an operator may set of a controller: `controller.toml`.

    name = "fleet-1"                    # the name in its certificate
    listen = "0.0.0.0:8447"
    database = "postgresql://limosa@db/limosa"
    overcommit = 2.0                    # vCPUs for each logical processor

    [limits]
    moves_out = 4

    [racks.r12]
    bandwidth = "2GiB/s"                # of all moves into it, and of all out of it

An unknown key is an error, because a misspelt one would otherwise be a default that nobody asked for.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from limosa.agent import pki
from limosa.agent.config import Endpoint, convert, hooks_of, parse_endpoint, read_toml, wrong
from limosa.agent.hooks.config import HookConfig
from limosa.errors import NotFound
from limosa.fleet.hooks import KINDS as HOOK_EVENTS
from limosa.fleet.inventory import Limits
from limosa.units import BytesPerSecond, HostName, Seconds, parse_size

PORT = 8447
DIRECTORY = "/etc/limosa/controller"
STATE = "/var/lib/limosa/controller"


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[limits]`: what operations may use of the fleet, where they do not ask for less."""

    moves_in: Annotated[int, msgspec.Meta(ge=1)] = 2
    moves_out: Annotated[int, msgspec.Meta(ge=1)] = 2
    moves: Annotated[int, msgspec.Meta(ge=1)] = 50
    bandwidth: Annotated[float, msgspec.Meta(gt=0)] | None = None
    retries: Annotated[int, msgspec.Meta(ge=0)] = 3


class RackConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table `[racks.NAME]`: what moves into, or out of, a rack may send together."""

    bandwidth: str | Annotated[float, msgspec.Meta(gt=0)]
    """Bytes per second, or a size such as "500MiB/s"."""

    def __post_init__(self) -> None:
        """Say at once that it is none.

        Raises:
            ValueError: it is no size, or nothing.
        """
        if not self.rate > 0:
            raise ValueError("a rack without any bandwidth takes no moves: leave it out, or close its hosts")

    @property
    def rate(self) -> BytesPerSecond:
        """Bytes per second."""
        return BytesPerSecond(parse_size(self.bandwidth) if isinstance(self.bandwidth, str) else self.bandwidth)


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[metrics]`."""

    guests: Annotated[int, msgspec.Meta(ge=-1)] = 20
    """How many guests are named, those with the fewest compatible hosts first; -1: all of them."""


class HistoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[history]`: for how long finished moves are kept."""

    days: Annotated[float, msgspec.Meta(gt=0)] = 400.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of `controller.toml`."""

    name: str | None = None
    listen: str = f"0.0.0.0:{PORT}"
    database: str | None = None
    pki_dir: str | None = None
    state_dir: str | None = None
    hosts_file: str | None = None
    overcommit: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    reserve: Annotated[int, msgspec.Meta(ge=0)] = 1
    cooldown: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    limits: LimitsConfig = LimitsConfig()
    metrics: MetricsConfig = MetricsConfig()
    history: HistoryConfig = HistoryConfig()
    hooks: tuple[dict[str, Any], ...] = ()
    racks: dict[str, RackConfig] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerConfig:
    """One controller's settings, complete and checked."""

    host: HostName
    """Its name, as its certificate says it."""
    listen: Endpoint
    database: str
    pki_dir: Path
    state_dir: Path
    hosts_file: Path
    limits: Limits
    retries: int
    silence: Seconds
    named_guests: int = MetricsConfig().guests
    """Guests that metrics name; -1 for all."""
    history_seconds: float
    """For how long after its end a move is kept."""
    hooks: tuple[HookConfig, ...] = ()
    """Who is told of what happens to the fleet."""


def load(directory: Path | None = None) -> ControllerConfig:
    """Read a controller's settings.

    Args:
        directory: default `$LIMOSA_CONTROLLER_DIR`, else `/etc/limosa/controller`.

    Raises:
        NotFound: there is no certificate.
        UsageError: the file is wrong; names file, key and line.
    """
    place = directory or Path(os.environ.get("LIMOSA_CONTROLLER_DIR") or DIRECTORY)
    file = place / "controller.toml"
    values, text = read_toml(file) if file.exists() else ({}, "")
    read = convert(values, _File, file, text)
    try:
        listen = parse_endpoint(read.listen, PORT)
    except ValueError as error:
        raise wrong(file, text, "listen", str(error)) from error
    pki_dir = Path(read.pki_dir or place / "pki")
    state = Path(read.state_dir or os.environ.get("LIMOSA_CONTROLLER_STATE") or STATE)
    return ControllerConfig(
        host=_name(pki_dir, read.name, file, text),
        listen=listen,
        database=read.database or f"sqlite:///{state}/controller.db",
        pki_dir=pki_dir,
        state_dir=state,
        hosts_file=Path(read.hosts_file or place / "hosts.toml"),
        limits=_limits(read),
        retries=read.limits.retries,
        silence=Seconds(5.0),
        named_guests=read.metrics.guests,
        history_seconds=read.history.days * 86400,
        hooks=hooks_of(read.hooks, file, text, HOOK_EVENTS),
    )


def _name(pki_dir: Path, wanted: str | None, file: Path, text: str) -> HostName:
    if not (pki_dir / pki.HOST_CERT).exists():
        raise NotFound(
            f"{pki_dir / pki.HOST_CERT} is missing",
            remedy="limosa pki issue NAME --controller, on the host with the CA, makes it",
        )
    certificate = pki.load_certificate(pki_dir / pki.HOST_CERT)
    if not pki.is_controller(certificate):
        raise wrong(pki_dir / pki.HOST_CERT, "", "", "it is a host's, not a controller's")
    name = pki.name_of(certificate)
    if wanted is not None and wanted != name:
        raise wrong(file, text, "name", f"the certificate in {pki_dir} is for {name}")
    return name


def _limits(read: _File) -> Limits:
    own = read.limits
    return Limits(
        moves_in=own.moves_in,
        moves_out=own.moves_out,
        moves=own.moves,
        bandwidth=None if own.bandwidth is None else BytesPerSecond(own.bandwidth),
        racks={name: rack.rate for name, rack in read.racks.items()},
        overcommit=read.overcommit,
        reserve=read.reserve,
        cooldown=Seconds(read.cooldown),
    )
