"""Hosts out of files: CPUID dumps and copies of `/proc/cpuinfo`, told apart by what is in them."""

from __future__ import annotations

from pathlib import Path

from limosa.cpu.cpuinfo import MAX_BYTES, read_cpuinfo
from limosa.cpu.dump import read_dump
from limosa.cpu.facts import HostCpu, SourceError
from limosa.errors import UsageError


def read_host(file: Path, name: str | None = None) -> HostCpu:
    """The host that a file was taken on, named after the file where no name is given.

    Raises:
        UsageError: the file cannot be read, or is not what it should be; names file and line.
    """
    try:
        # Never more than is believed, however large the file is, or whatever it is.
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        text = content.decode("ascii")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _wrong(file, line, "not text") from error
    try:
        return (read_dump if _is_dump(text) else read_cpuinfo)(text, name or file.stem)
    except SourceError as error:
        raise _wrong(file, error.line, error.why) from error


def _is_dump(text: str) -> bool:
    return text.lstrip().startswith("CPUID")


def _wrong(file: Path, line: int, why: str) -> UsageError:
    where = f"{file}, line {line}" if line else str(file)
    return UsageError(
        f"{where}: {why}", remedy="take it again: a CPUID dump of the form in docs/cpu.md, or `cat /proc/cpuinfo`"
    )
