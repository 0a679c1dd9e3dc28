"""What a host costs a group, which guests pin a group to new hosts, which hosts nobody can leave. Pure; numpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from operator import and_
from typing import NamedTuple

from limosa.cpu.flags import ALL, CpuFlags
from limosa.cpu.fleet import Fleet, Hard, Host, common, fold, takers


class Guest(NamedTuple):
    """A guest as the fleet's arithmetic sees it: what it was told at its start."""

    name: str
    host: str
    flags: int
    hard: Hard = Hard()


@dataclass(frozen=True, slots=True)
class Admission:
    """A host joins a group.

    Attributes:
        before: the group's baseline without it.
        lost: the flags that the baseline loses.
        excluded: guests of the group that could not go there.
    """

    host: str
    before: CpuFlags
    lost: CpuFlags
    excluded: tuple[str, ...]

    @property
    def after(self) -> CpuFlags:
        """The baseline with it."""
        return self.before - self.lost


def admission(host: Host, group: Iterable[Host], guests: Iterable[Guest] = ()) -> Admission:
    """What admitting a host takes from a group.

    Raises:
        ValueError: the group is empty.
    """
    before = CpuFlags(common(fold(group)))
    alone = fold([host])
    excluded = tuple(guest.name for guest in guests if not takers(alone, guest.flags, guest.hard).any())
    return Admission(host.name, before, before - host.flags, excluded)


def held_back(group: Sequence[Host]) -> tuple[tuple[str, CpuFlags], ...]:
    """For each host of a group the flags that the baseline would gain without it; a group of one gains nothing."""
    masks = [CpuFlags(member.flags) for member in group]
    before = accumulate(masks, and_, initial=ALL)
    after = [*accumulate(reversed(masks), and_, initial=ALL)][-2::-1]
    whole = reduce(and_, masks, ALL)
    rest = (left & right for left, right in zip(before, after, strict=False)) if len(masks) > 1 else [whole]
    return tuple((member.name, flags - whole) for member, flags in zip(group, rest, strict=True))


@dataclass(frozen=True, slots=True)
class Pin:
    """A guest that not every host of the group can take.

    Attributes:
        beyond: its flags that the group's baseline lacks; empty where only its vendor or address bits stand against it.
        others: the hosts, besides its own, that can take it.
    """

    guest: str
    host: str
    beyond: CpuFlags
    others: tuple[str, ...]


def pins(guests: Iterable[Guest], hosts: Sequence[Host]) -> tuple[Pin, ...]:
    """Guests that pin the group to some of its hosts, those with the fewest ways out first.

    Raises:
        ValueError: there are no hosts.
    """
    fleet = fold(hosts)
    baseline = CpuFlags(common(fleet))
    found = []
    for guest in guests:
        fits = takers(fleet, guest.flags, guest.hard)
        if not fits.all():
            others = tuple(name for name, fit in zip(fleet.names, fits, strict=True) if fit and name != guest.host)
            found.append(Pin(guest.name, guest.host, CpuFlags(guest.flags) - baseline, others))
    return tuple(sorted(found, key=lambda pin: (len(pin.others), pin.guest)))


@dataclass(frozen=True, slots=True)
class Stranded:
    """A host that none of its guests can leave."""

    host: str
    guests: tuple[str, ...]


def stranded(guests: Sequence[Guest], hosts: Sequence[Host]) -> tuple[Stranded, ...]:
    """Hosts that no guest can leave: there are guests, and no other host takes any of them."""
    pinned = {pin.guest for pin in pins(guests, hosts) if not pin.others}
    found = []
    for host in dict.fromkeys(guest.host for guest in guests):
        here = tuple(guest.name for guest in guests if guest.host == host)
        if pinned.issuperset(here):
            found.append(Stranded(host, here))
    return tuple(found)


def islands(fleet: Fleet) -> tuple[str, ...]:
    """Hosts that a guest with every flag of theirs could not leave: no other host has as much."""
    return tuple(
        hosts[0]
        for hosts, (flags, hard) in zip(fleet.members, fleet.kinds, strict=True)
        if len(hosts) == 1 and takers(fleet, flags, hard).sum() == 1
    )
