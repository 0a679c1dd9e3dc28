"""What changed between two looks at a page: only that is sent. Pure.

A template puts each thing that changes by itself, a row, a tile, a figure, between two comments:

    <!--part:g-1f3a--><tr id="g-1f3a">…</tr><!--end-->

Escaping is always on, so no guest's name can write such a comment. Times are left out of the comparison: pages count
them on by themselves.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import msgspec

from limosa.web.difference import Difference, difference

_BEGIN, _NAMED, _END = "<!--part:", "-->", "<!--end-->"
_PLACE = "<!--parts-->"
"""Stands in the frame for parts side by side."""
_SAID = re.compile(r"(<time\b[^>]*>)[^<]*(</time>)")


@dataclass(frozen=True, slots=True)
class Parts:
    """A page's live region, taken apart.

    Attributes:
        whole: all of it.
        frame: all but its parts.
        parts: by the id of the element that each is.
        runs: ids of those that stand side by side, for each place in the frame that has such.
        digest: names it, but for its times.
    """

    whole: str
    frame: str
    parts: Mapping[str, str]
    runs: tuple[tuple[str, ...], ...]
    digest: str


NOTHING = Parts("", "", {}, (), "")


@dataclass(frozen=True, slots=True)
class News:
    """What a page needs to show what is so now: its whole live region, or what differs in its parts."""

    whole: str = ""
    parts: Difference | None = None

    @property
    def event(self) -> str | None:
        """What the message is called, that tells it."""
        return PARTS if self.parts is not None else None

    @property
    def data(self) -> str:
        """What it says: HTML, or JSON."""
        return self.whole if self.parts is None else msgspec.json.encode(self.parts).decode()


PARTS = "parts"
"""The name of messages that say what differs; `static/limosa.js` knows it."""


class Recent:
    """Regions that were sent lately, by their digests: who shows one of them is sent only what differs.

    Args:
        most: letters of all of them together; beyond, the oldest ones are forgotten.
    """

    def __init__(self, most: int = 32 * 1024**2) -> None:
        self._most, self._held = most, 0
        self._known: OrderedDict[str, Parts] = OrderedDict()

    def keep(self, parts: Parts) -> None:
        """Remember one."""
        if (before := self._known.pop(parts.digest, None)) is not None:
            self._held -= len(before.whole)
        self._known[parts.digest] = parts
        self._held += len(parts.whole)
        while self._held > self._most:
            self._held -= len(self._known.popitem(last=False)[1].whole)

    def find(self, digest: str) -> Parts:
        """The one of this digest; NOTHING where it is forgotten."""
        return self._known.get(digest, NOTHING)


class Drawn:
    """Regions as they are drawn now, for all who look at the same page.

    Args:
        most: pages that are remembered; beyond, the one that was not asked for longest is forgotten.
    """

    def __init__(self, most: int = 8) -> None:
        self._most = most
        self._known: OrderedDict[Hashable, tuple[object, Parts]] = OrderedDict()

    def region(self, page: Hashable, view: object, draw: Callable[[], Parts]) -> Parts:
        """The region of a page; drawn only where it shows something else than before."""
        known = self._known.pop(page, None)
        if known is None or known[0] != view:
            known = view, draw()
        self._known[page] = known
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return known[1]


def taken_apart(whole: str) -> Parts:
    """Find the parts of a live region."""
    first, *pieces = whole.split(_BEGIN)
    frame, parts = [first], {}
    runs: list[list[str]] = []
    beside = False
    for piece in pieces:
        name, _, rest = piece.partition(_NAMED)
        parts[name], _, behind = rest.partition(_END)
        if beside:
            runs[-1].append(name)
        else:
            frame.append(_PLACE)
            runs.append([name])
        beside = not behind or behind.isspace()
        if not beside:
            frame.append(behind)
    around = _timeless("".join(frame))
    said = (around, *(f"{name} {_timeless(part)}" for name, part in parts.items()), *map(" ".join, runs))
    digest = hashlib.sha256("\n".join(said).encode(errors="replace")).hexdigest()[:16]
    return Parts(whole, around, parts, tuple(map(tuple, runs)), digest)


def news(before: Parts, after: Parts) -> News:
    """What a page that shows `before` needs to show `after`.

    The whole region again where more than its parts has changed.
    """
    found = None
    if before.frame == after.frame:
        found = difference(before.parts, before.runs, after.parts, after.runs)
    return News(after.whole) if found is None else News(parts=found)


def _timeless(html: str) -> str:
    return _SAID.sub(r"\1\2", html) if "<time" in html else html
