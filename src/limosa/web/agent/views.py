"""What an agent says of its host, as the fleet's views take it, and what only its own pages have. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from limosa.cpu.compat import Severity, compatible
from limosa.cpu.facts import HostCpu
from limosa.fleet.census import KeptGuest
from limosa.fleet.inventory import Inventory
from limosa.fleet.picture import shown_guest
from limosa.units import format_size
from limosa.web import words
from limosa.web.links import Query, path
from limosa.web.look import Look
from limosa.web.views.guest import GuestPage, Past, guest_page
from limosa.web.views.search import Hit, Kind, Search, search
from limosa.web.views.states import Sign, of_move
from limosa.wire.fleet import Fit, FleetGuest, GuestRules
from limosa.wire.guests import HostShown
from limosa.wire.history import PastMove
from limosa.wire.moves import MoveStatus
from limosa.wire.reports import GuestReport

PROVISO = (
    "Only looked at: whether this host reaches the other one, its processor, and its free memory. "
    "limosa plan GUEST --to HOST makes every check, with a real twin, and changes nothing."
)


def look_at(host: str, reports: Sequence[GuestReport], now: float) -> Look:
    """This host's guests, as views of a fleet take them; `now` in seconds since 1970."""
    guests = tuple(fleet_guest(host, report, now) for report in reports)
    return Look(hosts=(), guests=guests, inventory=Inventory(hosts=(), guests=()), at=now)


def fleet_guest(host: str, report: GuestReport, now: float) -> FleetGuest:
    """A guest of this host; nobody says anything of it beside its agent."""
    kept = KeptGuest(host=host, report=report, seen=now, rules=GuestRules(), home=None, moved_at=None)
    return shown_guest(kept, silent=0.0)


# -- one guest --------------------------------------------------------------------------------------------------


def local_guest(
    host: str,
    report: GuestReport,
    fits: Sequence[Fit],
    moves: tuple[Sequence[MoveStatus], Sequence[PastMove]],
    query: Query,
    now: float,
) -> GuestPage:
    """A guest's page.

    Args:
        host: this one.
        report: the guest.
        fits: as `fits_of` says them.
        moves: of this guest: those in flight, and finished ones, latest first.
        query: as the fleet's page takes it.
        now: seconds since 1970.
    """
    page = guest_page(fleet_guest(host, report, now), fits, (), query, now)
    flying, past = moves
    return replace(
        page,
        facts=tuple(_facts(host, report, dict(page.facts))),
        past=(*(_flying(move, now) for move in flying), *(_past(move, now) for move in past)),
        proviso=PROVISO,
    )


def _facts(host: str, report: GuestReport, known: dict[str, str]) -> Iterator[tuple[str, str]]:
    shown, cpu = report.shown, report.cpu
    if not report.here:
        known["owner"] = f"not {host}: its journal says that the guest was given up"
    if cpu is None:  # never looked into: nothing is known of its disks
        known.pop("local disks", None)
    yield from known.items()
    yield "started by", shown.owner
    if shown.run_state:
        yield "QEMU says", shown.run_state
    if shown.pid:
        yield "process", str(shown.pid)
    if shown.monitor:
        yield "monitor", shown.monitor
    if cpu is not None:
        version = ".".join(map(str, cpu.qemu))
        yield "QEMU", f"{version}, {cpu.machine}, {cpu.accel}"
        yield "CPU model", f"{cpu.model}, {words.count(len(cpu.flags), 'flag')}"
    if report.networks:
        yield "networks", ", ".join(report.networks)


def _flying(move: MoveStatus, now: float) -> Past:
    what = f"{move.state}: from {move.source} to {move.destination}, {move.stage}"
    return Past(words.moment(move.began, now), what, path("moves", move.id))


def _past(move: PastMove, now: float) -> Past:
    why = f": {move.what}" if move.what else ""
    what = f"{move.state}: from {move.source} to {move.destination}{why}"
    return Past(words.moment(move.ended, now), what, path("moves", move.id))


def fits_of(report: GuestReport, hosts: Sequence[HostShown], cpus: Mapping[str, HostCpu | str]) -> tuple[Fit, ...]:
    """Where a guest could go, as far as this host knows.

    Args:
        report: the guest.
        hosts: all but this one.
        cpus: what each would give a guest like this, or why it does not tell.
    """
    return tuple(_fit(report, host, cpus.get(host.name)) for host in hosts)


def _fit(report: GuestReport, host: HostShown, cpu: HostCpu | str | None) -> Fit:
    why = tuple(_misfits(report, host, cpu))
    return Fit(host=host.name, fits=not why, reasons=why)


def _misfits(report: GuestReport, host: HostShown, cpu: HostCpu | str | None) -> Iterator[str]:
    yield from report.blocked
    if not host.reachable:
        yield host.why_not or "unreachable"
        return
    if report.cpu is None or cpu is None:
        yield "nobody could ask what processor the guest sees"
    elif isinstance(cpu, str):
        yield f"it does not tell of its processor: {cpu}"
    else:
        yield from (found.what for found in compatible(report.cpu, cpu) if found.severity is Severity.BLOCKS)
    memory, free = report.shown.memory, host.memory_free
    if memory is not None and free is not None and free < memory:
        yield f"it has {format_size(free)} of memory free, and the guest has {format_size(memory)}"


# -- moves ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MoveRow:
    """One move."""

    id: str
    href: str
    guest: str
    source: str
    destination: str
    sign: Sign
    stage: str
    began: words.Moment
    elapsed: str


@dataclass(frozen=True, slots=True)
class Moves:
    """The page: moves out of this host since its agent started, those in flight first."""

    host: str
    rows: tuple[MoveRow, ...]


def moves(host: str, known: Sequence[MoveStatus], now: float) -> Moves:
    """Moves, as GET /v1/moves says them, oldest first."""
    latest = sorted(known, key=lambda move: (move.state.over, -move.began))
    return Moves(host, tuple(_row(move, now) for move in latest))


def _row(move: MoveStatus, now: float) -> MoveRow:
    return MoveRow(
        id=move.id,
        href=path("moves", move.id),
        guest=move.guest,
        source=move.source,
        destination=move.destination,
        sign=of_move(move.state),
        stage="" if move.state.over else str(move.stage),
        began=words.moment(move.began, now),
        elapsed=words.lasting(move.elapsed),
    )


# -- other hosts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One host that this one knows."""

    name: str
    href: str
    address: str
    migration: str
    sign: Sign
    round_trip: str
    free: str
    cpus: str
    qemu: str
    version: str


@dataclass(frozen=True, slots=True)
class Peers:
    """The page of all of them, or of one."""

    host: str
    rows: tuple[PeerRow, ...]
    only: PeerRow | None = None

    @property
    def alone(self) -> bool:
        """Whether it knows no other host."""
        return all(row.name == self.host for row in self.rows) and self.only is None


def peers(host: str, known: Sequence[HostShown]) -> Peers:
    """Hosts, as GET /v1/hosts says them."""
    return Peers(host, tuple(map(_peer, known)))


def one_peer(host: str, known: HostShown) -> Peers:
    """One of them."""
    row = _peer(known)
    return Peers(host, (row,), row)


def _peer(host: HostShown) -> PeerRow:
    reached = Sign("reachable", "●", "good") if host.reachable else Sign("silent", "✕", "bad", host.why_not)
    return PeerRow(
        name=host.name,
        href=path("hosts", host.name),
        address=host.address,
        migration=host.migration_address,
        sign=reached,
        round_trip=words.NONE if host.round_trip is None else f"{host.round_trip * 1000:.1f} ms",
        free=words.size(host.memory_free),
        cpus=words.NONE if host.cpus is None else str(host.cpus),
        qemu=", ".join(host.qemu_versions) or words.NONE,
        version=host.version or words.NONE,
    )


# -- search -----------------------------------------------------------------------------------------------------


def local_search(
    look: Look, hosts: Sequence[str], known: Sequence[MoveStatus], past: Sequence[PastMove], q: str
) -> Search:
    """Guests, hosts and moves of this host, by name or by the beginning of an id."""
    found, wanted = search(look, (), q), q.strip().casefold()
    if not wanted:
        return found
    named = [Hit(int(name != wanted), name, path("hosts", name), Sign("known", "·", "off"), "") for name in hosts]
    ids: dict[str, MoveStatus | PastMove] = {each.id: each for each in past}
    ids |= {each.id: each for each in known}
    moved = [
        Hit(int(move.id != wanted), move.id, path("moves", move.id), of_move(move.state), _between(move))
        for move in ids.values()
    ]
    kinds = (_kind("Hosts", named, wanted), _kind("Moves", moved, wanted))
    return replace(found, kinds=(*found.kinds, *(kind for kind in kinds if kind.hits)))


MOST = 20


def _kind(title: str, hits: Sequence[Hit], wanted: str) -> Kind:
    found = [hit for hit in hits if hit.title.casefold().startswith(wanted)]
    return Kind(title, tuple(found[:MOST]), len(found), "")


def _between(move: MoveStatus | PastMove) -> str:
    return f"{move.guest}, {move.source} to {move.destination}"
