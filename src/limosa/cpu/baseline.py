"""What a group of hosts has in common, as a value for `-cpu`: a named model, plus and minus flags. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import and_

from limosa.cpu.flags import ALL, CpuFlags
from limosa.cpu.models import LEFT_TO_QEMU, SAID, CpuModel, models, shut
from limosa.cpu.registry import FLAGS, Cpuid

SETTABLE = ALL - LEFT_TO_QEMU
"""Flags that a value decides."""

BY_CPUID = CpuFlags.of(*(flag.name for flag in FLAGS if isinstance(flag.place, Cpuid)))
"""Flags that the CPUID instruction tells; those in model-specific registers are in no dump of it."""


def common(masks: Iterable[CpuFlags]) -> CpuFlags:
    """The flags that all have.

    Raises:
        ValueError: there are none to have any.
    """
    every = tuple(masks)
    if not every:
        raise ValueError("no hosts: there is nothing that they have in common")
    return reduce(and_, every)


@dataclass(frozen=True, slots=True)
class CpuValue:
    """A value for `-cpu`.

    Attributes:
        model: the named model, with its version.
        on: flags added to it.
        off: flags taken from it.
        sees: what a guest started with it sees, of the flags that a value decides.
    """

    model: CpuModel
    on: CpuFlags
    off: CpuFlags
    sees: CpuFlags

    @property
    def changes(self) -> int:
        """How many flags it names that the model does not already give."""
        return ((self.on | self.off) - SAID).bit_count()

    def __str__(self) -> str:
        words = [f"{name}=on" for name in self.on.names()] + [f"{name}=off" for name in self.off.names()]
        return ",".join((self.model.name, *words))


def value(model: CpuModel, wanted: CpuFlags, known: CpuFlags = ALL) -> CpuValue:
    """Write a mask as a model with flags added and taken.

    Args:
        model: where to start.
        wanted: what the guest is to see.
        known: flags about which `wanted` can tell; the others stay as the model has them.
    """
    decided = SETTABLE & known
    closed = shut(wanted)
    has = (model.flags | model.with_vmx if "vmx" in wanted else model.flags) & SETTABLE
    target = (wanted - closed) & decided
    said = SAID & decided - closed
    on = (target - has) | (target & said)
    off = (has & decided - target - closed) | (said - target)
    return CpuValue(model, on, off, sees=target | (has - decided - closed))


def nearest(wanted: CpuFlags, *, vendor: str = "", known: CpuFlags = ALL) -> tuple[CpuValue, ...]:
    """A mask as each of QEMU's models would say it, the fewest changes first.

    Args:
        wanted: what the guest is to see.
        vendor: models of this vendor only, as long as QEMU has any of it: a guest's software looks at the vendor too.
        known: as in `value`.

    Returns:
        One value for each model. Among equals the one that adds least comes first, then the alphabet decides.
    """
    fitting = [model for model in models() if model.vendor == vendor] or models()
    values = [value(model, wanted, known) for model in fitting]
    return tuple(sorted(values, key=lambda one: (one.changes, one.on.bit_count(), one.model.name)))
