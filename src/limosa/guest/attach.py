"""Find one guest on this host, and get a monitor of it."""

from collections.abc import Sequence

from limosa.errors import MonitorBusy, MonitorMissing, NotFound
from limosa.guest.parts import OURS
from limosa.guest.profile import FoundGuest, MonitorAddress
from limosa.qmp.monitor import Monitor


def pick(guests: Sequence[FoundGuest], wanted: str) -> FoundGuest:
    """The guest called `wanted`: a name, a UUID or a pid.

    Raises:
        NotFound: none is, or several have this name.
    """
    # A guest that once arrived here still has -incoming on its command line; one that waits comes second.
    started = [g for g in guests if not g.incoming]
    found = _called(wanted, started) or _called(wanted, guests)
    if len(found) > 1:
        pids = ", ".join(str(g.pid) for g in found)
        raise NotFound(
            f"{len(found)} guests here are called {wanted}: pids {pids}", remedy="name one by its pid or UUID"
        )
    if not found:
        names = ", ".join(sorted(g.name for g in guests)) or "none at all"
        raise NotFound(f"no guest here is called {wanted}; there are: {names}", remedy="`limosa ls` lists the guests")
    return found[0]


def _called(wanted: str, guests: Sequence[FoundGuest]) -> list[FoundGuest]:
    by_name = [g for g in guests if g.name == wanted]
    return by_name or [g for g in guests if wanted in {g.uuid, str(g.pid)}]


async def attach(guest: FoundGuest) -> Monitor:
    """Connect to a QMP monitor of a guest that nobody holds; limosa's own first.

    Raises:
        MonitorBusy: others hold every QMP socket it has.
        MonitorMissing: it has none that can be reached.
    """
    reachable = sorted((m for m in guest.monitors if m.mode == "control" and _address(m)), key=_theirs)
    troubles: list[MonitorBusy | MonitorMissing] = []
    for monitor in reachable:
        address = _address(monitor)
        assert address is not None
        try:
            return await Monitor.connect(address, pid=guest.pid)
        except (MonitorBusy, MonitorMissing) as trouble:
            troubles.append(trouble)
    if troubles:
        # "Somebody holds it" helps more than "it is not there", where both are true of different sockets.
        raise min(troubles, key=lambda t: not isinstance(t, MonitorBusy))
    raise MonitorMissing(
        f"{guest.name} (pid {guest.pid}) has no QMP monitor that limosa can reach",
        remedy="start it with -qmp unix:/run/NAME.qmp,server=on,wait=off",
    )


def _theirs(monitor: MonitorAddress) -> bool:
    return not (monitor.chardev or "").startswith(OURS)


def _address(monitor: MonitorAddress) -> str | tuple[str, int] | None:
    if monitor.path:
        return monitor.path
    if monitor.address:
        host, _, port = monitor.address.rpartition(":")
        return (host.strip("[]") or "127.0.0.1", int(port))
    return None
