"""Operations: the list of them, and one with every move of it. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limosa.fleet.inventory import Limits
from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.table import Choice, Column, Table, choices, table
from limosa.web.views.states import Sign, of_item, of_phase
from limosa.wire.fleet import About, Item, ItemState, LeftGuest, Operation, OperationKind, Phase

LIST = 50
"""Operations of one page."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How many moves of an operation are how far."""

    done: int
    moving: int
    failed: int
    waiting: int
    total: int

    @property
    def said(self) -> str:
        """In words."""
        parts = [f"{self.done} of {self.total} done"]
        parts += [f"{count} {what}" for what, count in (("moving", self.moving), ("failed", self.failed)) if count]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One operation of the list."""

    id: str
    title: str
    href: str
    sign: Sign
    about: str
    progress: Progress
    who: str
    why: str
    created: words.Moment
    ended: words.Moment | None
    took: str


@dataclass(frozen=True, slots=True)
class Operations:
    """The list."""

    rows: tuple[OperationRow, ...]
    next: str


def operations(found: Sequence[Operation], query: Query, now: float) -> Operations:
    """One page of operations, latest first; the next one begins after the last of them."""
    rows = tuple(_row(each, now) for each in found)
    return Operations(rows, address("/operations", query, after=found[-1].id) if len(found) == LIST else "")


def _row(operation: Operation, now: float) -> OperationRow:
    return OperationRow(
        id=operation.id,
        title=str(operation.kind),
        href=path("operations", operation.id),
        sign=of_phase(operation),
        about=about(operation),
        progress=progress(operation),
        who=operation.who,
        why=operation.why,
        created=words.moment(operation.created, now),
        ended=words.maybe(operation.ended, now),
        took=words.lasting(operation.ended - operation.began) if operation.ended and operation.began else words.NONE,
    )


def about(operation: Operation | About) -> str:
    """What an operation is about, in one line."""
    if operation.kind is OperationKind.MOVE:
        return words.listed([f"{item.name} to {item.destination}" for item in operation.items], 3)
    return words.listed(operation.hosts, 4) or "the whole fleet"


def progress(operation: Operation) -> Progress:
    """How far it is."""
    states = Counter(item.state for item in operation.items)
    return Progress(
        done=states[ItemState.DONE],
        moving=states[ItemState.MOVING],
        failed=states[ItemState.FAILED],
        waiting=states[ItemState.WAITING],
        total=len(operation.items) - states[ItemState.REROUTED],
    )


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One move of an operation."""

    place: int
    guest: str
    name: str
    guest_href: str
    source: str
    source_href: str
    destination: str
    destination_href: str
    sign: Sign
    stage: str
    role: str
    """Why it is in the plan."""
    sends: str
    """What it is predicted to send."""
    ends: str
    """When it is predicted to end, from the start of the plan."""
    after: str
    tried: str
    """Destinations at which it failed before."""
    attempts: str
    began: words.Moment | None
    took: str
    blackout: str
    bytes: str
    said: str
    remedy: str
    move: str
    move_href: str


@dataclass(frozen=True, slots=True)
class LeftRow:
    """A guest that stays, and why: what is said of each host, with the hosts of which it is."""

    name: str
    href: str
    host: str
    host_href: str
    why: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Clock:
    """When an operation was to be over, and when it will be."""

    predicted: str
    """How long it was predicted to take."""
    predicted_end: words.Moment | None
    elapsed: str
    expected_end: words.Moment | None
    """At the pace it has now."""
    verdict: str
    tone: str


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that may be done to it."""

    name: str
    title: str
    tells: str
    kind: str = ""
    """`main`, or `danger`."""


@dataclass(frozen=True, slots=True)
class OperationPage:
    """The page of one operation, or of a plan that nobody has begun."""

    id: str
    title: str
    sign: Sign
    about: str
    hosts: tuple[tuple[str, str], ...]
    who: str
    why: str
    created: words.Moment
    began: words.Moment | None
    ended: words.Moment | None
    progress: Progress
    clock: Clock
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    limits: tuple[tuple[str, str], ...]
    items: Table[ItemRow]
    shown: frozenset[str]
    """Names of the columns of its table: those that say something now."""
    filter: tuple[Choice, ...]
    left: tuple[LeftRow, ...]
    left_more: int
    deeds: tuple[Deed, ...]


MOST_LEFT = 100


def operation_page(operation: Operation, limits: Limits, retries: int, query: Query, now: float) -> OperationPage:
    """Everything about one operation.

    Args:
        operation: as GET /v1/operations/{id} says it.
        limits: those that hold for it.
        retries: attempts at one guest after its first.
        query: `state` of items, and what every table understands.
        now: seconds since 1970.
    """
    where = path("operations", operation.id) if operation.id else "/plan"
    done, items = progress(operation), _items(operation, where, query, now)
    return OperationPage(
        id=operation.id,
        title=title_of(operation),
        sign=of_phase(operation),
        about=about(operation),
        hosts=tuple((host, path("hosts", host)) for host in operation.hosts),
        who=operation.who,
        why=operation.why,
        created=words.moment(operation.created, now),
        began=words.maybe(operation.began, now),
        ended=words.maybe(operation.ended, now),
        progress=done,
        clock=clock(operation, now),
        facts=_facts(operation),
        notes=operation.forecast.notes,
        limits=_limits(limits, retries),
        items=items,
        shown=frozenset(head.name for head in items.heads),
        filter=choices("state", _item_states(operation), where, query),
        left=tuple(_left(left) for left in operation.left[:MOST_LEFT]),
        left_more=max(0, len(operation.left) - MOST_LEFT),
        deeds=tuple(_deeds(operation.phase)),
    )


def clock(operation: Operation, now: float) -> Clock:
    """The predicted end against the clock: what has been sent by now says how long the rest will take."""
    forecast, began, ended = operation.forecast.seconds, operation.began, operation.ended
    elapsed = None if began is None else (ended or now) - began
    share, expected = _share(operation), None
    if began is not None and ended is None and elapsed and share:
        expected = began + elapsed / share
    predicted_end = began + forecast if began is not None and forecast is not None else None
    end = ended or expected
    verdict, tone = "", ""
    if end is not None and predicted_end is not None:
        late = end - predicted_end
        near = abs(late) <= max(10.0, 0.1 * (forecast or 0.0))
        verdict = "as predicted" if near else f"{words.lasting(abs(late))} {'later' if late > 0 else 'earlier'}"
        tone = "good" if near or late < 0 else "warn"
    return Clock(
        predicted=words.lasting(forecast),
        predicted_end=words.maybe(predicted_end, now),
        elapsed=words.lasting(elapsed),
        expected_end=words.maybe(end, now),
        verdict=verdict,
        tone=tone,
    )


def _share(operation: Operation) -> float:
    """How much of an operation is behind it, 0 to 1, by what its moves send; by their number where that is unknown."""
    items = [item for item in operation.items if item.state is not ItemState.REROUTED]
    known = all(item.expected_bytes for item in items)
    weights = [(item.over, float(item.expected_bytes) if known else 1.0) for item in items]
    whole = sum(weight for _, weight in weights)
    return sum(weight for over, weight in weights if over) / whole if whole else 0.0


def _facts(operation: Operation) -> tuple[tuple[str, str], ...]:
    forecast = operation.forecast
    facts = {
        "moves": words.count(len(operation.items), "guest"),
        "sends": words.size(forecast.bytes),
        "sent so far": words.size(sum(item.bytes for item in operation.items)) if operation.began else "",
        "empties": words.listed(forecast.hosts_freed),
        "saves": f"{forecast.watts:,.0f} W" if forecast.watts else "",
        "saves money": f"{forecast.per_hour:,.3g} an hour" if forecast.per_hour else "",
    }
    return tuple((name, value) for name, value in facts.items() if value)


def _limits(limits: Limits, retries: int) -> tuple[tuple[str, str], ...]:
    return (
        ("into one host at once", words.count(limits.moves_in, "move")),
        ("out of one host at once", words.count(limits.moves_out, "move")),
        ("in all at once", words.count(limits.moves, "move")),
        ("bandwidth of all moves", words.rate(limits.bandwidth) if limits.bandwidth else "as the links give"),
        ("attempts at one guest", str(retries + 1)),
    )


def _item_states(operation: Operation) -> Iterator[tuple[str, str]]:
    states = Counter(str(item.state) for item in operation.items)
    yield "", f"all {len(operation.items):,}"
    yield from ((str(state), f"{state} {states[state]:,}") for state in ItemState if states[state])


def title_of(operation: Operation) -> str:
    """What it does, to which hosts."""
    return f"{str(operation.kind).capitalize()} {words.listed(operation.hosts, 3)}".strip()


def _items(operation: Operation, where: str, query: Query, now: float) -> Table[ItemRow]:
    placed = list(enumerate(operation.items))
    if wanted := query.get("state"):
        placed = [(place, item) for place, item in placed if item.state == wanted]
    found = table(placed, _columns(operation), lambda row: _words(row[1]), where, query)
    names = [item.name for item in operation.items]
    return found.with_rows(_item(place, item, names, now) for place, item in found.rows)


def _columns(operation: Operation) -> tuple[Column[tuple[int, Item]], ...]:
    """What is planned of moves until one of them has begun, and then how they go; without columns of dashes."""
    always: tuple[Column[tuple[int, Item]], ...] = (
        Column("place", "#", lambda row: row[0]),
        Column("name", "Guest", lambda row: row[1].name),
        Column("from", "From", lambda row: row[1].source),
        Column("to", "To", lambda row: row[1].destination),
    )
    state: Column[tuple[int, Item]] = Column("state", "State", lambda row: row[1].state)
    planned: tuple[Column[tuple[int, Item]], ...] = (
        Column("role", "Why", lambda row: row[1].role or None),
        Column("sends", "To send", lambda row: row[1].expected_bytes or None, number=True),
        Column("ends", "Done after", lambda row: row[1].expected_end, number=True),
        Column("after", "Waits for", lambda row: row[1].after or None),
    )
    going: tuple[Column[tuple[int, Item]], ...] = (
        Column("attempts", "Attempts", lambda row: row[1].attempts or None, number=True),
        Column("began", "Began", lambda row: row[1].began),
        Column("took", "Took", lambda row: _took(row[1]), number=True),
        Column("blackout", "Pause", lambda row: row[1].blackout_ms, number=True),
        Column("bytes", "Sent", lambda row: row[1].bytes or None, number=True),
    )
    rows = list(enumerate(operation.items))
    begun = any(item.attempts for item in operation.items)
    told = tuple(column for column in (going if begun else planned) if any(column.key(row) is not None for row in rows))
    return (*always, *(() if operation.phase is Phase.PLANNED else (state,)), *told)


def _words(item: Item) -> tuple[str, ...]:
    return item.name, item.guest, item.source, item.destination, str(item.state), item.said


def _took(item: Item) -> float | None:
    return None if item.began is None or item.ended is None else item.ended - item.began


def _item(place: int, item: Item, names: Sequence[str], now: float) -> ItemRow:
    moving = item.state is ItemState.MOVING
    return ItemRow(
        place=place + 1,
        guest=item.guest,
        name=item.name,
        guest_href=path("guests", item.guest),
        source=item.source,
        source_href=path("hosts", item.source),
        destination=item.destination,
        destination_href=path("hosts", item.destination),
        sign=of_item(item),
        stage=str(item.move_state) if moving and item.move_state is not None else "",
        role=item.role,
        sends=words.size(item.expected_bytes) if item.expected_bytes else words.NONE,
        ends=words.lasting(item.expected_end),
        tried=words.listed(item.tried, 3),
        after=words.listed([names[other] for other in item.after], 3) if item.state is ItemState.WAITING else "",
        attempts=str(item.attempts) if item.attempts else words.NONE,
        began=words.maybe(item.began, now),
        took=words.lasting(_took(item)),
        blackout=words.milliseconds(item.blackout_ms),
        bytes=words.size(item.bytes) if item.bytes else words.NONE,
        said=item.said,
        remedy=item.remedy,
        move=item.move,
        move_href=path("moves", item.move) if item.move else "",
    )


def _left(left: LeftGuest) -> LeftRow:
    said: dict[str, list[str]] = {}
    for host, why in left.hosts.items():
        said.setdefault(why, []).append(host)
    reasons = sorted(said.items(), key=lambda each: -len(each[1]))
    return LeftRow(
        name=left.name,
        href=path("guests", left.guest),
        host=left.host,
        host_href=path("hosts", left.host),
        why=left.why,
        reasons=tuple((why, f"{words.count(len(hosts), 'host')}: {words.listed(hosts, 4)}") for why, hosts in reasons),
    )


def _deeds(phase: Phase) -> Iterator[Deed]:
    if phase is Phase.PLANNED:
        yield Deed("approve", "Approve", "It runs from then on.", "main")
    if phase is Phase.RUNNING:
        yield Deed("pause", "Pause", "Moves in flight go on; no more are started.")
    if phase is Phase.PAUSED:
        yield Deed("resume", "Resume", "It goes on where it was.", "main")
    if phase in {Phase.PLANNED, Phase.RUNNING, Phase.PAUSED}:
        tells = "Nothing has begun." if phase is Phase.PLANNED else "Moves in flight that have not committed roll back."
        yield Deed("cancel", "Cancel", tells, "danger")
