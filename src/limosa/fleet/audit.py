"""Who owns which guest, over the whole fleet: no guest may have two owners. Pure."""

from collections import defaultdict
from collections.abc import Iterable

from limosa.wire.fleet import TwoOwners
from limosa.wire.reports import GuestReport

ON_THE_WAY = frozenset({"arriving", "inmigrate"})
"""A twin that waits for its guest owns nothing."""


def claims(report: GuestReport) -> bool:
    """Whether the host that reported a guest takes it for its own: it was not given up, or it executes all the same."""
    if report.shown.state in ON_THE_WAY:
        return False
    return report.here or report.shown.state == "running" or report.shown.run_state == "running"


def two_owners(reports: Iterable[tuple[str, GuestReport]]) -> tuple[TwoOwners, ...]:
    """Guests that more than one host claims, by id.

    Guests without a UUID are known by their name, and two of one name may well be two guests: they are left out.

    Args:
        reports: host and guest, for every guest that was last seen anywhere.
    """
    found: dict[str, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    for host, report in reports:
        if report.shown.uuid and claims(report):
            found[report.key].append(host)
            names[report.key] = report.shown.name
    return tuple(
        TwoOwners(id=key, name=names[key], hosts=tuple(sorted(hosts)))
        for key, hosts in sorted(found.items())
        if len(hosts) > 1
    )
