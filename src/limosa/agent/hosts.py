"""The other hosts: `hosts.toml`, read again whenever it changes.

    [hosts.b]
    address = "10.0.0.2:7447"
    migration = "10.9.0.2"      # optional: a network of its own for RAM and disks

A host that is not listed here may not talk to this one, whatever its certificate says: striking a host out
is how it is shut out.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from limosa.agent.config import Endpoint, convert, parse_address, parse_endpoint, parse_host_name, read_toml, wrong
from limosa.agent.files import replace_file
from limosa.errors import NotFound
from limosa.units import HostName


class HostEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host as `hosts.toml`, and a peer, writes it."""

    address: str
    """`host:port` of its agent."""
    migration: str = ""
    """Where it takes RAM and disks; empty means the same address."""

    def __post_init__(self) -> None:
        """Both come from files and from other hosts: check them wherever they are read.

        Raises:
            ValueError: one of them is not an address.
        """
        parse_endpoint(self.address)
        if self.migration:
            parse_address(self.migration)

    @property
    def endpoint(self) -> Endpoint:
        """The agent's address."""
        return parse_endpoint(self.address)

    @property
    def migration_address(self) -> str:
        """Address for RAM and disks."""
        return self.migration or self.endpoint.host


Table = Mapping[HostName, HostEntry]


class Hosts:
    """The hosts of one file. Reading it costs one `stat` while it has not changed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._seen: tuple[int, int, int] | None = None
        self._known: dict[HostName, HostEntry] = {}

    def known(self) -> Table:
        """Every host listed, by name; none if there is no file.

        Raises:
            UsageError: the file is wrong; names line and key.
        """
        try:
            stat = self.file.stat()
        except FileNotFoundError:
            return {}
        seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if seen != self._seen:
            self._known, self._seen = read(self.file), seen
        return self._known

    def find(self, name: str) -> HostEntry:
        """One host.

        Raises:
            NotFound: it is not listed; names those that are.
            UsageError: the file is wrong.
        """
        known = self.known()
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise NotFound(
                f"no host {name} in {self.file} (known: {listed})",
                remedy=f'add [hosts.{name}] address = "ADDRESS:PORT" to {self.file}',
            )
        return known[HostName(name)]


def read(file: Path) -> dict[HostName, HostEntry]:
    """Read and check a hosts file.

    Raises:
        UsageError: it is wrong; names file, line and key.
    """
    values, text = read_toml(file)
    for key in values.keys() - {"hosts"}:
        raise wrong(file, text, key, "no such key; there is only [hosts.NAME]")
    found: dict[HostName, HostEntry] = {}
    tables = convert(values.get("hosts", {}), dict[str, dict[str, object]], file, text, inside="hosts")
    for name, table in tables.items():
        entry = convert(table, HostEntry, file, text, inside=name)
        try:
            found[parse_host_name(name)] = entry
        except ValueError as error:
            raise wrong(file, text, name, str(error)) from error
    return found


def write_missing(file: Path, wanted: Table) -> tuple[HostName, ...]:
    """Append the hosts that a file does not list yet; what an operator wrote is never changed.

    Returns:
        The names that were added.

    Raises:
        UsageError: the file that is there is wrong.
    """
    known = read(file) if file.exists() else {}
    missing = {name: entry for name, entry in wanted.items() if name not in known}
    if missing:
        old = file.read_text(encoding="utf-8") if file.exists() else ""
        text = (old if not old or old.endswith("\n") else old + "\n") + "".join(map(_table, missing, missing.values()))
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode(), 0o644)
    return tuple(missing)


def _table(name: HostName, entry: HostEntry) -> str:
    migration = f'migration = "{entry.migration}"\n' if entry.migration else ""
    quoted = f'"{name}"' if "." in name else name
    return f'\n[hosts.{quoted}]\naddress = "{entry.address}"\n{migration}'
