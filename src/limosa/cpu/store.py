"""Hosts that `limosa cpu import` has read: one JSON file each, below the state directory.

    store = CpuStore(default_directory())
    store.save(read_dump(text, "rack4-07"))     replaces what was there under this name
    store.load("rack4-07")                      -> HostCpu
    store.names(), store.all(), store.remove("rack4-07")

They are hosts on paper: no agent answers for them, and the fleet's commands take them beside those that are alive.
"""

import os
import re
from pathlib import Path

import msgspec

from limosa.cpu.facts import HostCpu

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}")


class StoreError(ValueError):
    """A name cannot be a file's, or a file is not what `save` wrote."""


def default_directory() -> Path:
    """`$LIMOSA_STATE_DIR/cpu`, else `/var/lib/limosa/cpu`."""
    return Path(os.environ.get("LIMOSA_STATE_DIR") or "/var/lib/limosa") / "cpu"


class CpuStore:
    """Imported hosts in one directory, which need not exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def names(self) -> tuple[str, ...]:
        """Names of the hosts, sorted."""
        return tuple(sorted(file.stem for file in self.directory.glob("*.json")))

    def load(self, name: str) -> HostCpu:
        """One host.

        Raises:
            KeyError: there is none of this name.
            StoreError: its file is damaged, or of a newer limosa.
        """
        file = self._file(name)
        try:
            return msgspec.json.decode(file.read_bytes(), type=HostCpu)
        except FileNotFoundError:
            raise KeyError(name) from None
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise StoreError(f"{file} is not a host that this limosa wrote: {error}") from error

    def all(self) -> tuple[HostCpu, ...]:
        """Every host, by name.

        Raises:
            StoreError: a file is damaged.
        """
        return tuple(map(self.load, self.names()))

    def save(self, cpu: HostCpu) -> Path:
        """Keep a host under its name; what was there is replaced.

        Raises:
            StoreError: the name cannot be a file's.
            OSError: the directory cannot be written.
        """
        file = self._file(cpu.host)
        self.directory.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(cpu)))
        draft.replace(file)
        return file

    def remove(self, name: str) -> None:
        """Forget a host.

        Raises:
            KeyError: there is none of this name.
        """
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            raise KeyError(name) from None

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StoreError(f"{name!r} cannot be a host's name here: use letters, digits and . _ + @ -")
        return self.directory / f"{name}.json"
