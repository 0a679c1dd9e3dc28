"""What an operator may set: `agent.toml`, `conf.d/*.toml`, the environment, arguments.

A later source wins: the built-in default, `agent.toml`, the files of `conf.d` in the order of their names,
the environment (directories only), arguments. An unknown key is an error, because a misspelt one would
otherwise be a default that nobody asked for.
"""

import ipaddress
import os
import re
import shutil
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from limosa.agent.hooks.config import HookConfig, require_distinct
from limosa.cpu.expansion import BROADEST
from limosa.cpu.flags import CpuFlags
from limosa.errors import UsageError
from limosa.units import BytesPerSecond, HostName, Seconds, parse_size
from limosa.wire.hooks import EventKind

T = TypeVar("T")

PEER_PORT = 7447
METRICS_PORT = 9177
WEB_PORT = 8448
MIGRATION_PORTS = range(49152, 49216)
"""The range that firewalls of this field already know."""

_ENDPOINT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?")
_ADDRESS = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_HOOK = re.compile(r"^[ \t]*\[\[[ \t]*[\"']?hooks[\"']?[ \t]*\]\]", re.MULTILINE)
_EVENTS = tuple(kind for kind in EventKind if kind is not EventKind.TEST)
_UNKNOWN_FIELD = re.compile(r"unknown field `(?P<key>[^`]+)`")
_AT = re.compile(r" - at `\$\.?(?P<key>[^`\[]*)[^`]*`")


class Endpoint(NamedTuple):
    """A host name or IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class CpuConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[cpu]` of `agent.toml`."""

    remove: tuple[str, ...] = ()
    """Flags that no guest shall rely on here: guests that see one of them are refused."""
    accel: str = ""
    """Accelerator that is asked where no guest says which; empty for KVM where it is there, else TCG."""

    def __post_init__(self) -> None:
        """Say at once that a name is misspelt.

        Raises:
            ValueError: there is no such flag or accelerator.
        """
        CpuFlags.of(*self.remove)
        if self.accel and self.accel not in BROADEST:
            raise ValueError(f"{self.accel!r} is no accelerator that limosa knows: {', '.join(BROADEST)}")


class HistoryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[history]` of `agent.toml`: how much the journal keeps of finished moves."""

    moves: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    days: Annotated[float, msgspec.Meta(gt=0)] = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One agent's settings, complete and checked."""

    host: HostName
    listen: Endpoint
    """Where the peer link is served; port 0 takes a free one."""
    migration_address: str
    """Where this host takes RAM and disks; empty means the address at which the other agent reached it."""
    migration_ports: range
    config_dir: Path
    state_dir: Path
    run_dir: Path
    pki_dir: Path
    storage: tuple[Path, ...]
    """Directories in which disks may be made whose old path is not usable here."""
    bridges: Mapping[str, str]
    """Bridge at a source -> bridge here, where the names differ."""
    qemu: tuple[Path, ...]
    """QEMU binaries that may run a guest here."""
    cpu: CpuConfig
    """What guests are given of this host's processor."""
    bandwidth: BytesPerSecond | None
    """Bytes per second of one move that does not say; None lets limosa choose."""
    silence: Seconds
    """Seconds without a sign of life after which a peer counts as gone."""
    history: HistoryConfig
    """How much is kept of finished moves."""
    controllers: tuple[str, ...] | None = None
    """Controllers that may command this agent; None for every one that the fleet's CA made."""
    metrics: Endpoint | None = None
    """Where Prometheus finds this agent; None where it is not to be found."""
    web: Endpoint | None = None
    """Loopback port for browsers; None for the unix socket only."""
    hooks: tuple[HookConfig, ...] = ()
    """Who is told where guests live; those of all files together."""

    @property
    def hosts_file(self) -> Path:
        """The other hosts."""
        return self.config_dir / "hosts.toml"

    @property
    def socket(self) -> Path:
        """Where the command line finds this agent."""
        return self.run_dir / "agent.sock"

    @property
    def hooks_file(self) -> Path:
        """How far each hook is."""
        return self.state_dir / "hooks.json"

    @property
    def tokens_file(self) -> Path:
        """Join tokens that this host handed out; only on the host that keeps the CA."""
        return self.state_dir / "join-tokens.json"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of `agent.toml`."""

    host: str | None = None
    listen: str | None = None
    migration_address: str | None = None
    migration_ports: str | None = None
    state_dir: str | None = None
    run_dir: str | None = None
    pki_dir: str | None = None
    storage: list[str] | None = None
    bridges: dict[str, str] | None = None
    qemu: list[str] | None = None
    cpu: CpuConfig | None = None
    bandwidth: str | int | float | None = None
    silence: float | int | None = None
    controllers: list[str] | None = None
    metrics: str | None = None
    web: str | None = None
    history: HistoryConfig | None = None
    hooks: list[dict[str, Any]] | None = None


def load(config_dir: Path | None = None, *, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read this host's settings.

    Args:
        config_dir: default `$LIMOSA_CONFIG_DIR`, else `/etc/limosa`.
        overrides: keys as in `agent.toml`, from the command line; a value of None does not count.

    Raises:
        UsageError: a file cannot be read, a key is unknown, or a value makes no sense; names file, key and
            line.
    """
    directory = config_dir or Path(os.environ.get("LIMOSA_CONFIG_DIR") or "/etc/limosa")
    merged: dict[str, Any] = {}
    hooks: tuple[HookConfig, ...] = ()
    for file in (directory / "agent.toml", *sorted((directory / "conf.d").glob("*.toml"))):
        if file.exists():
            read, text = _read_file(file)
            merged |= _fields(read)
            hooks = hooks_of(read.hooks or (), file, text, _EVENTS, before=hooks)
    merged |= {key: os.environ[name] for key, name in _ENVIRONMENT.items() if os.environ.get(name)}
    if overrides:
        given = {k: v for k, v in overrides.items() if v is not None}
        merged |= _fields(convert(given, _File, "arguments", ""))
    return _settle(directory, merged, hooks)


def hooks_of(
    tables: Sequence[Mapping[str, Any]],
    file: Path,
    text: str,
    kinds: Sequence[str],
    *,
    before: tuple[HookConfig, ...] = (),
) -> tuple[HookConfig, ...]:
    """The tables `[[hooks]]` of one file, added to those of the files before it.

    Args:
        tables: as TOML has them.
        file: the file.
        text: its text.
        kinds: events that this daemon tells of.
        before: of the files before.

    Raises:
        UsageError: one makes no sense; names file, line and key.
    """
    starts = [found.start() for found in _HOOK.finditer(text)]
    found = before
    for number, table in enumerate(tables):
        # Blank lines in place of what stands before: the key is looked for in this table, and its line stays right.
        first = starts[number] if number < len(starts) else 0
        own = "\n" * text.count("\n", 0, first) + text[first : starts[number + 1] if number + 1 < len(starts) else None]
        hook = convert(table, HookConfig, file, own, "hooks")
        try:
            require_distinct((*found, hook), kinds)
        except ValueError as error:
            raise wrong(file, own, "hooks", str(error)) from error
        found = (*found, hook)
    return found


def read_toml(file: Path) -> tuple[dict[str, Any], str]:
    """A TOML file's values, and its text for `line_of`.

    Raises:
        UsageError: it cannot be read, or is not TOML; names file and line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: {error}", remedy=f"correct {file}") from error


def line_of(text: str, key: str) -> int | None:
    """The line, from 1, on which a key (or a table of that name) is set; None if it cannot be told."""
    quoted = re.escape(key.rpartition(".")[2])
    found = re.search(rf"""^[ \t]*(?:\[[^\]\n]*?)?["']?(?<![\w-]){quoted}["']?[ \t]*[=\].]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else None


def wrong(file: Path | str, text: str, key: str, why: str) -> UsageError:
    """An error that names file, line and key."""
    line = line_of(text, key) if key else None
    where = f"{file}, line {line}" if line else f"{file}"
    return UsageError(f"{where}: {f'{key}: ' if key else ''}{why}", remedy=f"correct {file}")


def parse_endpoint(text: str, default_port: int = PEER_PORT) -> Endpoint:
    """`10.0.0.2:7447`, `host-b`, `[fe80::1]:7447`.

    Raises:
        ValueError: the text is none of these.
    """
    match = _ENDPOINT.fullmatch(text.strip())
    port = int(match["port"] or default_port) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise ValueError(f"{text!r} is not an address: write 10.0.0.2:7447, host-b:7447 or [fd00::2]:7447")
    return Endpoint(match["six"] or match["host"], port)


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_address(text: str) -> str:
    """An IP address or DNS name without a port.

    Raises:
        ValueError: it is neither.
    """
    if not _ADDRESS.fullmatch(text):
        raise ValueError(f"{text!r} is not an IP address or a DNS name")
    return text


def parse_host_name(text: str) -> HostName:
    """A host's name as certificates carry it: lower case, letters, digits, hyphens and dots, not a number.

    Raises:
        ValueError: it is not such a name.
    """
    if not _HOST_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name: use lower-case letters, digits, hyphens and dots")
    return HostName(text)


def address_towards(peer: str = "192.0.2.1") -> str:
    """This host's own address on the way to another one (default: on its default route); sends nothing."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "::1" if family is socket.AF_INET6 else "127.0.0.1"


_ENVIRONMENT = {"state_dir": "LIMOSA_STATE_DIR", "run_dir": "LIMOSA_RUN_DIR", "pki_dir": "LIMOSA_PKI_DIR"}


def _fields(file: _File) -> dict[str, Any]:
    return {key: value for key, value in msgspec.structs.asdict(file).items() if value is not None}


def _read_file(file: Path) -> tuple[_File, str]:
    values, text = read_toml(file)
    read = convert(values, _File, file, text)
    for key, value in _fields(read).items():
        try:
            _PARSERS.get(key, lambda _: None)(value)
        except ValueError as error:
            raise wrong(file, text, key, str(error)) from error
    return read, text


def convert(values: Any, to: type[T], file: Path | str, text: str, inside: str = "") -> T:
    """Values of a TOML file as a type.

    Raises:
        UsageError: a key is unknown, missing or of the wrong type; names file, line and key.
    """
    try:
        return msgspec.convert(values, to)
    except msgspec.ValidationError as error:
        unknown, at = _UNKNOWN_FIELD.search(str(error)), _AT.search(str(error))
        if unknown:
            known = ", ".join(getattr(to, "__struct_fields__", ()))
            raise wrong(file, text, unknown["key"], f"no such key; there are {known}") from error
        key = (at["key"] if at else "") or inside
        raise wrong(file, text, key, _AT.sub("", str(error))) from error


def _settle(directory: Path, given: Mapping[str, Any], hooks: tuple[HookConfig, ...]) -> Config:
    state_dir = Path(given.get("state_dir", "/var/lib/limosa"))
    try:
        parsed = {key: _PARSERS[key](value) for key, value in given.items() if key in _PARSERS}
        host = parsed["host"] if "host" in parsed else parse_host_name(socket.gethostname().lower())
    except ValueError as error:
        raise UsageError(str(error), remedy=f"set it in {directory / 'agent.toml'}") from error
    return Config(
        host=host,
        listen=parsed.get("listen", Endpoint("0.0.0.0", PEER_PORT)),  # noqa: S104  (peers come from other hosts; TLS decides)
        migration_address=given.get("migration_address", ""),
        migration_ports=parsed.get("migration_ports", MIGRATION_PORTS),
        config_dir=directory,
        state_dir=state_dir,
        run_dir=Path(given.get("run_dir", "/run/limosa")),
        pki_dir=Path(given.get("pki_dir", directory / "pki")),
        storage=tuple(Path(p) for p in given.get("storage", ())),
        bridges=given.get("bridges", {}),
        qemu=tuple(Path(p) for p in given["qemu"]) if "qemu" in given else find_qemu(),
        cpu=given.get("cpu", CpuConfig()),
        bandwidth=parsed.get("bandwidth"),
        silence=parsed.get("silence", Seconds(5.0)),
        controllers=tuple(given["controllers"]) if "controllers" in given else None,
        metrics=parsed.get("metrics"),
        web=parsed.get("web"),
        history=given.get("history", HistoryConfig()),
        hooks=hooks,
    )


def find_qemu(path: str | None = None) -> tuple[Path, ...]:
    """The system emulators on a search path (default `$PATH`), each once, first hit first."""
    found: dict[str, Path] = {}
    for directory in (path or os.environ.get("PATH") or os.defpath).split(os.pathsep):
        for binary in sorted(Path(directory or ".").glob("qemu-system-*")):
            if shutil.which(binary) and binary.name not in found:
                found[binary.name] = binary
    return tuple(found.values())


def _ports(text: str) -> range:
    first, dash, last = text.partition("-")
    if not (first.strip().isdigit() and (last.strip().isdigit() if dash else True)):
        raise ValueError(f"{text!r} is not a range of ports: write 49152-49215")
    ports = range(int(first), int(last or first) + 1)
    if len(ports) < 2 or not 0 < ports.start < ports.stop <= 65536:
        raise ValueError(f"{text!r}: a move needs two ports or more, of 1 to 65535")
    return ports


def _loopback(text: str) -> Endpoint:
    endpoint = parse_endpoint(text, WEB_PORT)
    if not is_loopback(endpoint.host):
        raise ValueError(f"{text!r} is reached from elsewhere: write 127.0.0.1:{WEB_PORT}, and come by ssh -L")
    return endpoint


def _bandwidth(value: str | float) -> BytesPerSecond:
    rate = float(parse_size(value)) if isinstance(value, str) else float(value)
    if rate <= 0:
        raise ValueError("must be more than 0 bytes per second")
    return BytesPerSecond(rate)


def _silence(value: float) -> Seconds:
    if not 1.5 <= value <= 600:
        raise ValueError("must be 1.5 to 600 seconds: a peer gives a sign of life each second")
    return Seconds(float(value))


def _absolute(value: str | Sequence[str]) -> None:
    for path in (value,) if isinstance(value, str) else value:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} must start with /")


_PARSERS: dict[str, Any] = {
    "host": parse_host_name,
    "listen": parse_endpoint,
    "migration_address": lambda text: parse_address(text) if text else "",
    "migration_ports": _ports,
    "metrics": lambda text: parse_endpoint(text, METRICS_PORT) if text else None,
    "web": lambda text: _loopback(text) if text else None,
    "bandwidth": _bandwidth,
    "silence": _silence,
    "state_dir": _absolute,
    "run_dir": _absolute,
    "pki_dir": _absolute,
    "storage": _absolute,
    "qemu": _absolute,
}
