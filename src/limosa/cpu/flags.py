"""Sets of CPU flags as masks: one integer, bit N for the flag at position N of the registry.

    host & guest == guest       the host has every flag of the guest
    guest - host                the flags that it lacks

A mask is written for people as a bit string of fixed width, most significant first, or as hexadecimal digits.
"""

from collections.abc import Iterable
from typing import Self

from limosa.cpu.registry import FLAGS, WIDTH, UnknownFlag, by_name, flag

_DIGITS = (WIDTH + 3) // 4


class CpuFlags(int):
    """A set of CPU flags; bit N is registry position N.

    It is an int, for speed and for numpy, but `-` is the difference of sets and not int's own: `a - b` are the flags
    of a that b lacks. `&`, `|` and `^` give sets again.
    """

    __slots__ = ()

    @classmethod
    def of(cls, *names: str) -> Self:
        """The set of these flags, by any of their names.

        Raises:
            UnknownFlag: no flag has one of the names.
        """
        mask = 0
        for name in names:
            mask |= 1 << flag(name).position
        return cls(mask)

    @classmethod
    def sort(cls, names: Iterable[str]) -> tuple[Self, tuple[str, ...]]:
        """The set of those names that are flags, and the names that are none, sorted."""
        known = by_name()
        mask, unknown = 0, set()
        for name in names:
            if (found := known.get(name)) is None:
                unknown.add(name)
            else:
                mask |= 1 << found.position
        return cls(mask), tuple(sorted(unknown))

    @classmethod
    def from_bits(cls, text: str) -> Self:
        """Read `00111011`, most significant first; leading zeros may be left out.

        Raises:
            ValueError: other digits, or bits beyond the registry.
        """
        return cls._within(text, 2, "bit string")

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read hexadecimal digits, with or without `0x`.

        Raises:
            ValueError: other digits, or bits beyond the registry.
        """
        return cls._within(text.removeprefix("0x"), 16, "hexadecimal mask")

    @classmethod
    def _within(cls, text: str, base: int, what: str) -> Self:
        # int() would take signs, blanks and underscores, and a megabyte of digits.
        digits = "01" if base == 2 else "0123456789abcdefABCDEF"
        if not text or len(text) > WIDTH or set(text) - set(digits):
            raise ValueError(f"{text[:40]!r} is no {what} of at most {WIDTH} bits")
        mask = int(text, base)
        if mask.bit_length() > WIDTH:
            raise UnknownFlag(f"{text[:40]!r} has flags beyond the {WIDTH} that this limosa knows")
        return cls(mask)

    def names(self) -> tuple[str, ...]:
        """QEMU's names, by position."""
        return tuple(f.name for f in FLAGS if self >> f.position & 1)

    def bits(self, width: int = WIDTH) -> str:
        """A bit string of `width` digits, most significant first."""
        return format(int(self), f"0{width}b")

    def hex(self) -> str:
        """Hexadecimal digits, as many as the registry needs."""
        return format(int(self), f"0{_DIGITS}x")

    def __contains__(self, name: str) -> bool:
        return bool(self >> flag(name).position & 1)

    def __and__(self, other: int) -> Self:
        return type(self)(int(self) & int(other))

    def __or__(self, other: int) -> Self:
        return type(self)(int(self) | int(other))

    def __xor__(self, other: int) -> Self:
        return type(self)(int(self) ^ int(other))

    def __sub__(self, other: int) -> Self:
        return type(self)(int(self) & ~int(other))

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __rsub__(self, other: int) -> Self:
        return type(self)(int(other) & ~int(self))

    def __str__(self) -> str:
        return ", ".join(self.names())

    def __repr__(self) -> str:
        return f"CpuFlags.of({', '.join(map(repr, self.names()))})"


NONE = CpuFlags(0)
ALL = CpuFlags((1 << WIDTH) - 1)
