"""What changed on a host since when, numbered. Pure."""

from collections.abc import Mapping

from limosa.wire.reports import GuestReport, Known, MachineReport, Report

FORGET = 1000
"""Guests that are gone and still remembered; who knows an older report is told everything."""


class Ledger:
    """The latest state of a host, with the number of the report in which each part changed last.

    Args:
        incarnation: name of this run of the agent.
    """

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._number = 0
        self._machine: tuple[int, MachineReport] | None = None
        self._guests: dict[str, tuple[int, GuestReport]] = {}
        self._gone: dict[str, int] = {}
        self._complete_from = 0

    @property
    def number(self) -> int:
        """The latest report's; 0 before the first."""
        return self._number

    def note(self, machine: MachineReport, guests: Mapping[str, GuestReport]) -> bool:
        """Take in how the host is now; whether that is news."""
        changed = {k: g for k, g in guests.items() if k not in self._guests or self._guests[k][1] != g}
        gone = self._guests.keys() - guests.keys()
        new_machine = self._machine is None or self._machine[1] != machine
        if not (changed or gone or new_machine):
            return False
        self._number += 1
        if new_machine:
            self._machine = self._number, machine
        for key in gone:
            del self._guests[key]
            self._gone[key] = self._number
        for key, guest in changed.items():
            self._guests[key] = self._number, guest
            self._gone.pop(key, None)
        self._forget()
        return True

    def _forget(self) -> None:
        for key in list(self._gone)[: max(0, len(self._gone) - FORGET)]:
            self._complete_from = max(self._complete_from, self._gone.pop(key))

    def since(self, known: Known | None) -> Report:
        """What somebody who has this report does not know; everything if it cannot be told from there."""
        start = self._start(known)
        return Report(
            incarnation=self._incarnation,
            number=self._number,
            since=start,
            machine=self._machine[1] if self._machine and self._machine[0] > start else None,
            guests=tuple(guest for number, guest in self._guests.values() if number > start),
            gone=tuple(key for key, number in self._gone.items() if number > start) if start else (),
        )

    def _start(self, known: Known | None) -> int:
        if known is None or known.incarnation != self._incarnation:
            return 0
        return known.number if self._complete_from <= known.number <= self._number else 0
