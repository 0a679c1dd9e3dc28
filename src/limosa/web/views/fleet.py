"""The map: every host as a tile, by load, memory, state or CPU pool. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from limosa.web import words
from limosa.web.links import Query, path
from limosa.web.look import Look
from limosa.web.table import Choice, choices
from limosa.web.views.states import Sign, of_host
from limosa.wire.fleet import FleetHost, Operation

LEVELS = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Shares at which a tile takes the next of its colours."""
BY = (("load", "Load"), ("memory", "Memory"), ("pool", "CPU pool"))
GROUPS = (("rack", "Rack"), ("pool", "CPU pool"), ("state", "State"))
STATES = ("active", "draining", "drained", "maintenance", "silent", "lost")
TINTS = 8
"""Colours that pools take in turn; their numbers tell them apart."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One host."""

    name: str
    short: str
    """The last part of its name, as far as the group's name says the rest."""
    href: str
    figure: str
    """What is read from it: `46%` of what was chosen, or its pool."""
    level: str
    """Its colour: `l0` to `l5` by share, `p0` to `p7` by pool, `lx` where nothing is known."""
    sign: Sign
    pool: str
    """Empty also where the figure says it."""
    told: str
    """All of it, for a pointer and a screen reader."""


SHORT = 6
"""Letters of a name that a narrow tile has room for."""


@dataclass(frozen=True, slots=True)
class Group:
    """Hosts side by side."""

    title: str
    told: str
    tiles: tuple[Tile, ...]

    @property
    def long(self) -> bool:
        """Whether names need wide tiles."""
        return any(len(tile.short) > SHORT for tile in self.tiles)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number about the fleet."""

    title: str
    value: str
    more: str
    href: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class FleetMap:
    """The page."""

    empty: bool
    figures: tuple[Figure, ...]
    groups: tuple[Group, ...]
    by: tuple[Choice, ...]
    group: tuple[Choice, ...]
    states: tuple[Choice, ...]
    shown: str
    """What tiles are coloured by: `load`, `memory` or `pool`."""
    legend: tuple[tuple[str, str], ...]
    """Colours and what they mean."""


def fleet_map(look: Look, operations: Sequence[Operation], query: Query) -> FleetMap:
    """The map as its address asks for it.

    Args:
        look: the fleet.
        operations: those that are not over.
        query: `by`, `group`, `state`.
    """
    by = _asked(query, "by", [name for name, _ in BY])
    grouped = _asked(query, "group", [name for name, _ in GROUPS])
    only = query.get("state", "")
    hosts = [host for host in look.hosts if not only or of_host(host).word == only]
    there = Counter(of_host(host).word for host in look.hosts)
    options = [("", f"all {len(look.hosts):,}"), *((state, f"{state} {there[state]:,}") for state in STATES)]
    return FleetMap(
        empty=not look.hosts,
        figures=tuple(_figures(look, operations, there)),
        groups=tuple(_groups(look, hosts, by, grouped)),
        by=choices("by", BY, "/", query, BY[0][0]),
        group=choices("group", GROUPS, "/", query, GROUPS[0][0]),
        states=tuple(
            choice
            for choice, (state, _) in zip(choices("state", options, "/", query), options, strict=True)
            if not state or there[state] or choice.chosen
        ),
        shown=by,
        legend=_legend(by),
    )


def _asked(query: Query, name: str, known: Sequence[str]) -> str:
    return query.get(name, "") if query.get(name) in known else known[0]


def _figures(look: Look, operations: Sequence[Operation], states: Counter[str]) -> Iterator[Figure]:
    cores = sum(host.cores or 0 for host in look.hosts)
    memory = sum(host.memory or 0 for host in look.hosts)
    busy = sum(use.busy for use in look.use.values())
    has = sum(use.memory for use in look.use.values())
    away = len(look.hosts) - states["active"]
    others = ", ".join(f"{states[state]} {state}" for state in STATES[1:] if states[state])
    yield Figure("Hosts", f"{len(look.hosts):,}", others or "all active", "/hosts", "warn" if away else "")
    stuck = sum(bool(guest.blocked) for guest in look.guests)
    more = f"{stuck:,} cannot be moved" if stuck else "nothing stands against moving any"
    if disputed := sum(bool(guest.owners) for guest in look.guests):
        yield Figure("Guests", f"{len(look.guests):,}", f"✕ {disputed:,} with several owners", "/doctor", "bad")
    else:
        yield Figure("Guests", f"{len(look.guests):,}", more, "/guests?can=no" if stuck else "/guests")
    yield Figure("Cores busy", words.percent(busy / cores if cores else None), f"{busy:,.0f} of {cores:,}", "/hosts")
    told = f"{words.size(has)} of {words.size(memory)}"
    yield Figure("Memory given", words.percent(has / memory if memory else None), told, "/hosts?sort=memory")
    moving = sum(item.state == "moving" for operation in operations for item in operation.items)
    told = f"{words.count(moving, 'move')} in flight" if operations else "nothing is under way"
    yield Figure("Operations open", str(len(operations)), told, "/operations", "busy" if operations else "")


def _groups(look: Look, hosts: Sequence[FleetHost], by: str, grouped: str) -> Iterator[Group]:
    found: dict[tuple[int, str], list[FleetHost]] = defaultdict(list)
    for host in hosts:
        found[_key(look, host, grouped)].append(host)
    for (_, title), members in sorted(found.items()):
        tiles = tuple(_tile(look, host, by, title) for host in sorted(members, key=lambda host: host.name))
        yield Group(title, words.count(len(members), "host"), tiles)


def _key(look: Look, host: FleetHost, grouped: str) -> tuple[int, str]:
    if grouped == "pool":
        pool = look.pool_of.get(host.name, 0)
        return (pool, f"pool {pool}") if pool else (1 << 30, "pool not known")
    if grouped == "state":
        word = of_host(host).word
        return STATES.index(word) if word in STATES else len(STATES), word
    return (0, host.settings.rack) if host.settings.rack else (1, "no rack")


def _tile(look: Look, host: FleetHost, by: str, group: str) -> Tile:
    use, sign, pool = look.use[host.name], of_host(host), look.pool_of.get(host.name, 0)
    share = use.full if by == "memory" else use.load
    if by == "pool":
        figure, level = (f"P{pool}", f"p{(pool - 1) % TINTS}") if pool else ("", "lx")
    else:
        figure, level = _figure(share), _level(share)
    told = (
        f"{host.name}, {sign.word}{': ' + sign.more if sign.more else ''}; load {words.percent(use.load)}, "
        f"memory {words.percent(use.full)}, {words.count(host.guests, 'guest')}"
        f"{f', pool {pool}' if pool else ''}"
    )
    return Tile(
        name=host.name,
        short=host.name.removeprefix(f"{group}-") if group else host.name,
        href=path("hosts", host.name),
        figure=figure,
        level=level,
        sign=sign,
        pool=f"P{pool}" if pool and by != "pool" else "",
        told=told,
    )


def _figure(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.0f}%"


def _level(share: float | None) -> str:
    return "lx" if share is None else f"l{sum(share >= level for level in LEVELS)}"


def _legend(by: str) -> tuple[tuple[str, str], ...]:
    if by == "pool":
        return ()
    bounds = [0, *(round(level * 100) for level in LEVELS)]
    said = [f"{low} to {high} %" for low, high in pairwise(bounds)]
    return (*((f"l{number}", words_) for number, words_ in enumerate(said)), ("l5", f"{bounds[-1]} % and more"))
