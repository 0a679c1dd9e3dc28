"""Every CPU flag that a QEMU guest can be given, each at a position of its own.

The table is `flags.tsv`, beside this file: made once from what QEMU answers (scripts/cpu_flags.py), then kept.
A position is never moved and never used again for another flag: masks are kept and sent by people, and must mean
tomorrow what they mean today. New flags are appended.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import msgspec

REGISTERS = ("eax", "ebx", "ecx", "edx")


class UnknownFlag(ValueError):
    """No flag has this name."""


class Cpuid(msgspec.Struct, frozen=True, order=True):
    """One bit of what the CPUID instruction answers."""

    leaf: int
    subleaf: int
    register: str
    bit: int

    def __str__(self) -> str:
        return f"{self.leaf:x}.{self.subleaf:x}.{self.register}.{self.bit}"


class Msr(msgspec.Struct, frozen=True, order=True):
    """One bit of a model-specific register.

    In the registers of VMX controls it is the bit of the control, not of the half that says that it may be set.
    """

    index: int
    bit: int

    def __str__(self) -> str:
        return f"msr.{self.index:x}.{self.bit}"


Place = Cpuid | Msr


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """One flag."""

    position: int
    """Its bit in every mask."""
    name: str
    """QEMU's property, spelled with dashes. The areas of XSAVE (`xcr0-…`, `xss-…`) have no property in QEMU:
    they follow from other flags, and their names are limosa's."""
    place: Place
    also: tuple[Place, ...]
    """Further bits that come and go with it: QEMU has one property for them all."""
    qemu: tuple[str, ...]
    """Other spellings that QEMU takes."""
    linux: tuple[str, ...]
    """Its names in `/proc/cpuinfo`; with `vmx:` before those of the line `vmx flags`."""
    libcpuid: tuple[str, ...]
    sentence: str

    @property
    def settable(self) -> bool:
        """Whether `-cpu MODEL,+FLAG` knows it."""
        return not self.name.startswith(("xcr0-", "xss-"))


def parse_place(text: str) -> Place:
    """Read `7.0.ebx.5` or `msr.48b.1`; leaf, subleaf and index are hexadecimal, the bit is decimal.

    Raises:
        ValueError: it is neither.
    """
    if match := re.fullmatch(r"msr\.([0-9a-f]+)\.(\d+)", text):
        return Msr(int(match[1], 16), int(match[2]))
    if match := re.fullmatch(r"([0-9a-f]+)\.([0-9a-f]+)\.(e[abcd]x)\.(\d+)", text):
        return Cpuid(int(match[1], 16), int(match[2], 16), match[3], int(match[4]))
    raise ValueError(f"{text!r} is no place of a flag")


def _rows(table: str) -> Iterator[dict[str, str]]:
    head, *lines = files("limosa.cpu").joinpath(table).read_text(encoding="utf-8").splitlines()
    columns = head.split("\t")
    for line in lines:
        yield dict(zip(columns, line.split("\t"), strict=True))


def _flag(row: Mapping[str, str]) -> Flag:
    place, *also = map(parse_place, row["place"].split())
    return Flag(
        position=int(row["position"]),
        name=row["name"],
        place=place,
        also=tuple(also),
        qemu=tuple(row["qemu"].split()),
        linux=tuple(row["linux"].split()),
        libcpuid=tuple(row["libcpuid"].split()),
        sentence=row["sentence"],
    )


FLAGS: tuple[Flag, ...] = tuple(map(_flag, _rows("flags.tsv")))
"""All flags, by position."""

WIDTH = len(FLAGS)
"""Bits of a mask."""

BEYOND: Mapping[Place, str] = MappingProxyType({parse_place(r["place"]): r["name"] for r in _rows("beyond.tsv")})
"""Bits of the same words that no QEMU up to 10.0 can give to a guest, by the name that Linux or libcpuid uses."""


@cache
def by_name() -> Mapping[str, Flag]:
    """Every spelling -> flag. QEMU's own names come first where one word means two things."""
    found: dict[str, Flag] = {flag.name: flag for flag in FLAGS}
    for flag in FLAGS:
        for alias in (*flag.qemu, flag.name.replace("-", "_"), flag.name.replace(".", "_")):
            found.setdefault(alias, flag)
    for flag in FLAGS:
        for alias in (*flag.linux, *flag.libcpuid):
            found.setdefault(alias, flag)
    return found


@cache
def by_place() -> Mapping[Place, Flag]:
    """Bit -> flag, for the bit that decides."""
    return {flag.place: flag for flag in FLAGS}


def flag(name: str) -> Flag:
    """The flag that QEMU, Linux or libcpuid calls so.

    Raises:
        UnknownFlag: nobody does.
    """
    try:
        return by_name()[name.lower()]
    except KeyError:
        raise UnknownFlag(f"no CPU flag is called {name!r}; `limosa cpu flags` lists them all") from None
