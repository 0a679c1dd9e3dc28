"""The fleet as the database keeps it, in memory: decoded once, and found by host, id and name. Pure.

A text that has not changed keeps its value, so that what is worked out from a guest can be kept for as long as the
guest is the same value.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from limosa.fleet.audit import claims
from limosa.fleet.inventory import HostState
from limosa.wire.fleet import GuestRules, HostSettings
from limosa.wire.reports import GuestReport, MachineReport

NEVER = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHost:
    """One row; `seen` is when its agent last spoke, seconds since 1970, or NEVER."""

    name: str
    state: HostState
    reason: str
    settings: HostSettings
    machine: MachineReport | None
    seen: float
    trouble: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptGuest:
    """A guest on a host as it was last seen, and what operators say of it."""

    host: str
    report: GuestReport
    seen: float
    rules: GuestRules
    home: str | None
    moved_at: float | None

    @property
    def place(self) -> tuple[str, str]:
        """Its id and its host: what tells it from every other one."""
        return self.report.key, self.host


class GuestText(NamedTuple):
    """A guest's row."""

    id: str
    report: str
    seen: float


class Said(NamedTuple):
    """What is kept of a guest, wherever it is."""

    rules: GuestRules = GuestRules()
    home: str | None = None
    moved_at: float | None = None


_NOTHING = Said()


class Census:
    """Hosts and guests. Whoever reads the database puts in what changed there."""

    def __init__(self) -> None:
        self._hosts: dict[str, KeptHost] = {}
        self._machines: dict[str, tuple[str, MachineReport]] = {}
        self._on: dict[str, dict[str, KeptGuest]] = defaultdict(dict)
        self._texts: dict[tuple[str, str], str] = {}
        self._where: dict[str, set[str]] = defaultdict(set)
        self._called: dict[str, set[str]] = defaultdict(set)
        self._said: dict[str, Said] = {}
        self._ids: list[str] | None = None
        """Sorted; None after a guest came or went."""

    # -- what changed -------------------------------------------------------------------------------------------

    def put_host(self, host: KeptHost, machine: str | None, guests: Iterable[GuestText]) -> None:
        """A host as it is now, with its guests; `machine` is the text of what it reported of itself."""
        if machine is not None:
            known = self._machines.get(host.name)
            if known is None or known[0] != machine:
                known = self._machines[host.name] = machine, msgspec.json.decode(machine, type=MachineReport)
            host = replace(host, machine=known[1])
        self._hosts[host.name] = host
        told = {guest.id: guest for guest in guests}
        for key in self._on[host.name].keys() - told.keys():
            self._drop(host.name, key)
        for guest in told.values():
            self._put_guest(host.name, guest)

    def put_sign(self, host: str, seen: float, trouble: str) -> None:
        """When a host's agent last spoke, and why it does not; of a host that is not known yet, nothing."""
        known = self._hosts.get(host)
        if known is not None and (known.seen, known.trouble) != (seen, trouble):
            self._hosts[host] = replace(known, seen=seen, trouble=trouble)

    def put_said(self, guest: str, said: Said) -> None:
        """What is kept of a guest beside reports."""
        self._said[guest] = said
        for host in self._where.get(guest, ()):
            self._on[host][guest] = _with(self._on[host][guest], said)

    def _put_guest(self, host: str, row: GuestText) -> None:
        known = self._on[host].get(row.id)
        if known is not None and self._texts[row.id, host] == row.report:
            if known.seen != row.seen:
                self._on[host][row.id] = replace(known, seen=row.seen)
            return
        report = msgspec.json.decode(row.report, type=GuestReport)
        if known is None:
            self._where[row.id].add(host)
            self._ids = None
        else:
            self._forget_name(known)
            if known.report.cpu == report.cpu:  # the larger part of a report, and it hardly ever changes
                report = msgspec.structs.replace(report, cpu=known.report.cpu)
        self._texts[row.id, host] = row.report
        self._called[report.shown.name].add(row.id)
        said = self._said.get(row.id, _NOTHING)
        self._on[host][row.id] = KeptGuest(host=host, report=report, seen=row.seen, **said._asdict())

    def _drop(self, host: str, key: str) -> None:
        gone = self._on[host].pop(key)
        del self._texts[key, host]
        self._where[key].discard(host)
        if not self._where[key]:
            del self._where[key]
        self._ids = None
        self._forget_name(gone)

    def _forget_name(self, guest: KeptGuest) -> None:
        """Its name means it no longer, unless it has this name on another host too."""
        name = guest.report.shown.name
        others = (self._on[host].get(guest.report.key) for host in self._where.get(guest.report.key, ()))
        if not any(other and other is not guest and other.report.shown.name == name for other in others):
            self._called[name].discard(guest.report.key)
            if not self._called[name]:
                del self._called[name]

    # -- what is known ------------------------------------------------------------------------------------------

    def hosts(self) -> tuple[KeptHost, ...]:
        """Every host, by name."""
        return tuple(self._hosts[name] for name in sorted(self._hosts))

    def host(self, name: str) -> KeptHost | None:
        """One host; None where there is none of this name."""
        return self._hosts.get(name)

    def guests(self) -> tuple[KeptGuest, ...]:
        """Every guest, by id; one that two hosts report comes twice."""
        return tuple(guest for key in self._sorted() for guest in self.reports_of(key))

    def on(self, host: str) -> tuple[KeptGuest, ...]:
        """What a host reports, by id."""
        there = self._on.get(host, {})
        return tuple(there[key] for key in sorted(there))

    def claimed_by(self, host: str) -> int:
        """How many guests a host takes for its own."""
        return sum(claims(guest.report) for guest in self._on.get(host, {}).values())

    def reports_of(self, key: str) -> tuple[KeptGuest, ...]:
        """One guest as each host reports it that does, by the hosts' names."""
        where = self._where.get(key, ())
        if len(where) == 1:
            (host,) = where
            return (self._on[host][key],)
        return tuple(self._on[host][key] for host in sorted(where))

    def called(self, wanted: str) -> frozenset[str]:
        """Ids of guests with this id or name."""
        found = self._called.get(wanted, set())
        return frozenset(found | {wanted}) if wanted in self._where else frozenset(found)

    def ids_from(self, key: str) -> Iterator[str]:
        """Ids from this one on, in their order."""
        ids = self._sorted()
        place = bisect_right(ids, key)
        yield from ids[place - 1 if place and ids[place - 1] == key else place :]

    def _sorted(self) -> Sequence[str]:
        if self._ids is None:
            self._ids = sorted(self._where)
        return self._ids


def _with(guest: KeptGuest, said: Said) -> KeptGuest:
    return replace(guest, **said._asdict())
