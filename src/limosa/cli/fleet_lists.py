"""`limosa ls`, `limosa show` and `limosa hosts` over a fleet: what its controller knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from limosa.cli.output import answer
from limosa.cli.table import table
from limosa.units import format_duration, format_rate, format_size
from limosa.wire.fleet import Fit, FleetGuest, FleetHost

if TYPE_CHECKING:
    from limosa.cli.fleet_client import FleetClient


def ls(fleet: FleetClient, as_json: bool) -> None:
    """List every guest where it was last seen."""
    guests = fleet.guests()
    answer(guests, lambda: guest_table(guests), as_json=as_json)


def hosts(fleet: FleetClient, fits: str | None, as_json: bool) -> None:
    """List every host; or say which of them could take a guest now, and why the others could not."""
    if fits is not None:
        answers = fleet.fits(fits)
        answer(answers, lambda: fit_table(answers), as_json=as_json)
        return
    known = fleet.hosts()
    answer(known, lambda: host_table(known), as_json=as_json)


def show(fleet: FleetClient, guest: str, as_json: bool) -> None:
    """Show what the controller knows of a guest, and where it could go."""
    known = fleet.guest(guest)
    answers = fleet.fits(known.id)
    answer({"guest": known, "fits": answers}, lambda: guest_page(known, answers), as_json=as_json)


def guest_page(guest: FleetGuest, answers: Iterable[Fit]) -> str:
    """What `limosa show` prints."""
    rules = guest.rules
    said = {
        "guest": f"{guest.name} ({guest.id})",
        "owner": f"{guest.host}, epoch {guest.epoch}",
        "state": guest.state + _silence(guest.silent_for),
        "vcpus": "-" if guest.vcpus is None else str(guest.vcpus),
        "memory": _size(guest.memory),
        "disk": format_size(guest.disk) if guest.disk else "-",
        "load": "-" if guest.load is None else f"{guest.load:.1f} processors",
        "movable": "; ".join(guest.blocked) or "yes",
        "home": guest.home or "where it is",
        "groups": ", ".join(rules.groups) or "-",
        "pinned to": ", ".join((*rules.pin_hosts, *(f"hosts labelled {label}" for label in rules.pin_labels))) or "-",
        "priority": str(rules.priority),
    }
    facts = "\n".join(f"{word:<10} {value}" for word, value in said.items())
    return f"{facts}\n\n{fit_table(answers)}"


def guest_table(guests: Iterable[FleetGuest]) -> str:
    """What `limosa ls` prints."""
    rows = [
        (
            guest.name,
            guest.host,
            guest.state + _silence(guest.silent_for),
            "-" if guest.vcpus is None else str(guest.vcpus),
            _size(guest.memory),
            format_size(guest.disk) if guest.disk else "-",
            "-" if guest.load is None else f"{guest.load:.1f}",
            guest.blocked[0] if guest.blocked else "yes",
            guest.home or "",
            guest.id[:8],
        )
        for guest in sorted(guests, key=lambda guest: (guest.name, guest.host))
    ]
    heads = ("NAME", "HOST", "STATE", "VCPUS", "MEMORY", "DISK", "LOAD", "MOVABLE", "HOME", "ID")
    return table(heads, rows, right=("VCPUS", "MEMORY", "DISK", "LOAD"))


def host_table(hosts: Iterable[FleetHost]) -> str:
    """What `limosa hosts` prints."""
    rows = [
        (
            host.name,
            host.state + _silence(host.silent_for),
            str(host.guests),
            "-" if host.cores is None else str(host.cores),
            f"{_size(host.memory_free)} of {_size(host.memory)}" if host.memory is not None else "-",
            _size(host.disk_free),
            "-" if host.link is None else format_rate(host.link),
            host.settings.rack,
            ", ".join(host.qemu_versions) or "-",
            host.trouble if host.silent_for else host.reason,
        )
        for host in hosts
    ]
    heads = ("HOST", "STATE", "GUESTS", "CORES", "FREE MEMORY", "FREE DISK", "LINK", "RACK", "QEMU", "WHY")
    return table(heads, rows, right=("GUESTS", "CORES", "FREE MEMORY", "FREE DISK", "LINK"))


def fit_table(answers: Iterable[Fit]) -> str:
    """What `limosa hosts --fits` prints: one line for each reason."""
    rows = []
    for fit in answers:
        first, *more = fit.reasons or ("",)
        rows.append((fit.host, "yes" if fit.fits else "no", first))
        rows.extend(("", "", reason) for reason in more)
    return table(("HOST", "FITS", "WHY NOT"), rows)


def _size(size: int | None) -> str:
    return "-" if size is None else format_size(size)


def _silence(seconds: float) -> str:
    return f", silent for {format_duration(seconds)}" if seconds else ""
