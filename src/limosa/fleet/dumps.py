"""Processors out of a directory of CPUID dumps."""

from pathlib import Path

from limosa.cpu.dump import read_dump
from limosa.cpu.facts import HostCpu, SourceError


def processors(directory: Path) -> tuple[HostCpu, ...]:
    """Every whole dump (`*.cpuid`) of an x86 processor there, by name; what is none, or cut off, is left out.

    Raises:
        OSError: the directory cannot be read.
        ValueError: it holds no such dump.
    """
    found = []
    for file in sorted(directory.glob("*.cpuid")):
        try:
            found.append(read_dump(file.read_text(encoding="latin-1"), file.stem))
        except SourceError:
            continue
    if not found:
        raise ValueError(f"{directory} holds no dump of a processor (*.cpuid)")
    return tuple(found)
