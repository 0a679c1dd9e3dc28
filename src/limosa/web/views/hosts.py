"""The table of hosts. Pure."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.look import Look
from limosa.web.table import Choice, Column, Table, choices, table
from limosa.web.views.fleet import STATES
from limosa.web.views.states import Sign, of_host
from limosa.wire.fleet import FleetHost


@dataclass(frozen=True, slots=True)
class HostRow:
    """One host; shares of 1."""

    name: str
    href: str
    sign: Sign
    rack: str
    pool: str
    guests: int
    guests_href: str
    load: float | None
    load_said: str
    full: float | None
    full_said: str
    cores: str
    memory: str
    link: str
    processor: str


@dataclass(frozen=True, slots=True)
class Hosts:
    """The page."""

    empty: bool
    """The fleet has none at all."""
    table: Table[HostRow]
    states: tuple[Choice, ...]


def hosts(look: Look, query: Query) -> Hosts:
    """One page of hosts, as its address asks for it: `state`, `rack`, `pool`, and what every table understands."""
    chosen = [host for host in look.hosts if _wanted(look, host, query)]
    columns: tuple[Column[FleetHost], ...] = (
        Column("name", "Host", lambda host: host.name),
        Column("state", "State", lambda host: of_host(host).word),
        Column("rack", "Rack", lambda host: host.settings.rack or None),
        Column("pool", "Pool", lambda host: look.pool_of.get(host.name)),
        Column("guests", "Guests", lambda host: host.guests, number=True),
        Column("load", "Load", lambda host: look.use[host.name].load, number=True, right=False),
        Column("full", "Memory given", lambda host: look.use[host.name].full, number=True, right=False),
        Column("cores", "Cores", lambda host: host.cores, number=True),
        Column("memory", "Memory", lambda host: host.memory, number=True),
        Column("link", "Link", lambda host: host.link, number=True),
        Column("processor", "Processor", lambda host: host.processor or None),
    )
    found = table(chosen, columns, _words, "/hosts", query)
    states = Counter(of_host(host).word for host in look.hosts)
    options = [("", f"all {len(look.hosts):,}"), *((s, f"{s} {states[s]:,}") for s in STATES if states[s])]
    return Hosts(
        empty=not look.hosts,
        table=found.with_rows(_row(look, host) for host in found.rows),
        states=_states(options, query),
    )


def _states(options: list[tuple[str, str]], query: Query) -> tuple[Choice, ...]:
    return choices("state", options, "/hosts", query)


def _wanted(look: Look, host: FleetHost, query: Query) -> bool:
    state, rack, pool = query.get("state"), query.get("rack"), query.get("pool")
    return (
        (not state or of_host(host).word == state)
        and (not rack or host.settings.rack == rack)
        and (not pool or str(look.pool_of.get(host.name, "")) == pool)
    )


def _words(host: FleetHost) -> Iterator[str]:
    yield from (host.name, host.settings.rack, host.processor, of_host(host).word, *host.settings.labels)


def _row(look: Look, host: FleetHost) -> HostRow:
    use, pool = look.use[host.name], look.pool_of.get(host.name)
    return HostRow(
        name=host.name,
        href=path("hosts", host.name),
        sign=of_host(host),
        rack=host.settings.rack,
        pool=f"P{pool}" if pool else words.NONE,
        guests=host.guests,
        guests_href=address("/guests", {}, host=host.name),
        load=words.drawn(use.load),
        load_said=words.percent(use.load),
        full=words.drawn(use.full),
        full_said=words.percent(use.full),
        cores=words.NONE if host.cores is None else str(host.cores),
        memory=words.size(host.memory),
        link=words.rate(host.link),
        processor=host.processor or words.NONE,
    )
