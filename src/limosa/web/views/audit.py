"""Who changed what, when and why. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.look import Look
from limosa.wire.fleet import Change

PAGE = 100


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One line."""

    number: int
    at: words.Moment
    who: str
    what: str
    subject: str
    href: str
    why: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The page."""

    rows: tuple[ChangeRow, ...]
    q: str
    next: str


def audit(look: Look, changes: Sequence[Change], query: Query) -> Audit:
    """One page of changes, latest first; the next one begins after the last of them."""
    rows = tuple(_row(look, change) for change in changes)
    following = address("/audit", query, after=changes[-1].number) if len(changes) == PAGE else ""
    return Audit(rows, query.get("q", ""), following)


def _row(look: Look, change: Change) -> ChangeRow:
    return ChangeRow(
        number=change.number,
        at=words.moment(change.at, look.at),
        who=change.who,
        what=change.what,
        subject=_subject(look, change.subject),
        href=_href(look, change.subject),
        why=change.why,
    )


def _subject(look: Look, subject: str) -> str:
    return look.guest[subject].name if subject in look.guest else subject


def _href(look: Look, subject: str) -> str:
    if subject in look.host:
        return path("hosts", subject)
    if subject in look.guest:
        return path("guests", subject)
    return path("operations", subject) if subject.partition("-")[0] in _KINDS else ""


_KINDS = frozenset({"drain", "restore", "rebalance", "consolidate", "move"})
