"""What changed between two looks at a page: only that is sent. Pure.

A template puts each thing that changes by itself, a row, a tile, a figure, between two comments:

    <!--part:g-1f3a--><tr id="g-1f3a">…</tr><!--end-->

Escaping is always on, so no guest's name can write such a comment. Times are left out of the comparison: pages count
them on by themselves.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_PART = re.compile(r"<!--part:([\w.-]+)-->(.*?)<!--end-->", re.DOTALL)
_SAID = re.compile(r"(<time\b[^>]*>)[^<]*(</time>)")


@dataclass(frozen=True, slots=True)
class Parts:
    """A page's live region, taken apart.

    Attributes:
        whole: all of it.
        frame: all but its parts.
        parts: by the id of the element that each is.
        digest: names it, but for its times.
    """

    whole: str
    frame: str
    parts: Mapping[str, str]
    digest: str


NOTHING = Parts("", "", {}, "")


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


def taken_apart(whole: str) -> Parts:
    """Find the parts of a live region."""
    frame = _PART.sub(lambda found: f"<!--{found[1]}-->", whole)
    parts = {found[1]: found[2] for found in _PART.finditer(whole)}
    digest = hashlib.sha256(_timeless(whole).encode(errors="replace")).hexdigest()[:16]
    return Parts(whole, _timeless(frame), parts, digest)


def news(before: Parts, after: Parts) -> str:
    """What a page that shows `before` needs to show `after`; empty where nothing changed.

    Either the whole region again, or, where its frame is the same, each changed part as an `hx-partial`.
    """
    if before.frame != after.frame:
        return after.whole
    return "".join(
        f'<hx-partial hx-target="#{name}" hx-swap="outerMorph">{part}</hx-partial>'
        for name, part in _changed(before, after)
    )


def _changed(before: Parts, after: Parts) -> Iterator[tuple[str, str]]:
    for name, part in after.parts.items():
        known = before.parts.get(name, "")
        if known != part and _timeless(known) != _timeless(part):
            yield name, part


def _timeless(html: str) -> str:
    return _SAID.sub(r"\1\2", html)
