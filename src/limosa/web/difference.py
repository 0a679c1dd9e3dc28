"""From the parts of a page to those of a later one, as little as possible. Pure; `static/limosa.js` applies it.

A part whose tags are as they were is told as slots: which text and which attributes of which of its elements say
something else now. Any other is told as it is drawn. Parts that stand side by side, as the rows of a table do, may
come, go and change places.

Parts hold neither attributes of htmx nor anything that scripts or visitors open or draw: those would be lost.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from html import unescape
from typing import NamedTuple

import msgspec

_TOKEN = re.compile(r"<[^>]*>|[^<]+")
_TAG = re.compile(r"<[\w-]+")
_ATTRIBUTE = re.compile(r'\s([\w:-]+)(?:="([^"]*)")?')


class Slot(NamedTuple):
    """A value in a part.

    Attributes:
        place: of the element, or, where it is a text, of the text; in the order of the document, the part itself is 0.
        attribute: its name; empty for a text.
        value: as the page shows it, not escaped.
    """

    place: int
    attribute: str
    value: str


class Placed(NamedTuple):
    """Where a part stands that has come or changed its place; done one after the other."""

    name: str
    after: str
    """The part before it; empty where it is the first one."""
    before: str
    """Where it is the first: the one behind it that stayed."""


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do to show later parts; applied in the order of its fields.

    Attributes:
        gone: parts that are no longer there.
        drawn: parts that are new or have other tags, as HTML.
        placed: those that stand elsewhere.
        slots: what the others say now.
    """

    gone: tuple[str, ...] = ()
    drawn: dict[str, str] = {}
    placed: tuple[Placed, ...] = ()
    slots: dict[str, tuple[Slot, ...]] = {}


Runs = Sequence[tuple[str, ...]]
"""Names of the parts that stand side by side, for each place of the page that has such."""


def difference(before: Mapping[str, str], runs: Runs, after: Mapping[str, str], later: Runs) -> Difference | None:
    """What leads from parts to later ones; None where all of a run have been replaced.

    Args:
        before: HTML of the parts, by name.
        runs: how they stand.
        after: HTML of the later parts.
        later: how those stand, in as many runs.
    """
    placed: list[Placed] = []
    for old, new in zip(runs, later, strict=True):
        if old != new:
            staying = _staying(old, new)
            if not staying:
                return None
            placed += _placed(new, staying)
    drawn, slots = {}, {}
    for name, html in after.items():
        known = before.get(name)
        if known == html:
            continue
        changed = None if known is None else changed_slots(known, html)
        if changed is None:
            drawn[name] = html
        elif changed:
            slots[name] = changed
    return Difference(tuple(name for name in before if name not in after), drawn, tuple(placed), slots)


def changed_slots(before: str, after: str) -> tuple[Slot, ...] | None:
    """What a part says now and did not before; None where its tags are others.

    What a `<time>` says is left out: pages count on from its attributes by themselves.
    """
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    if len(old) != len(new):
        return None
    found: list[Slot] = []
    element, text, said_by = -1, -1, ""
    for was, now in zip(old, new, strict=True):
        if now[0] != "<":
            text += 1
            if was[0] == "<":
                return None
            if was != now and said_by != "time":
                found.append(Slot(text, "", unescape(now)))
            continue
        if now[1] != "/":
            element += 1
        if was != now:
            changed = _attributes(was, now, element)
            if changed is None:
                return None
            found += changed
        said_by = now[1:5]
    return tuple(found)


def _attributes(was: str, now: str, element: int) -> list[Slot] | None:
    tags = _TAG.match(was), _TAG.match(now)
    if tags[0] is None or tags[1] is None or tags[0][0] != tags[1][0]:
        return None
    old, new = _ATTRIBUTE.findall(was), _ATTRIBUTE.findall(now)
    if [name for name, _ in old] != [name for name, _ in new]:
        return None
    return [
        Slot(element, name, unescape(value))
        for (_, known), (name, value) in zip(old, new, strict=True)
        if known != value
    ]


def _staying(old: Sequence[str], new: Sequence[str]) -> frozenset[str]:
    """As many as can stay where they are: the longest sequence that both have in the same order."""
    place = {name: number for number, name in enumerate(old)}
    ends: list[int] = []
    last: list[str] = []
    before: dict[str, str] = {}
    for name in new:
        if (number := place.get(name)) is None:
            continue
        length = bisect_left(ends, number)
        ends[length:] = [number, *ends[length + 1 :]]
        last[length:] = [name, *last[length + 1 :]]
        before[name] = last[length - 1] if length else ""
    found: set[str] = set()
    name = last[-1] if last else ""
    while name:
        found.add(name)
        name = before[name]
    return frozenset(found)


def _placed(new: Sequence[str], staying: frozenset[str]) -> Iterator[Placed]:
    first = next(name for name in new if name in staying)
    for number, name in enumerate(new):
        if name not in staying:
            yield Placed(name, new[number - 1], "") if number else Placed(name, "", first)
