"""Who changed what, when and why: in the words of the buttons. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from limosa.web import words
from limosa.web.links import Query, address, path
from limosa.web.look import Look
from limosa.web.views.operations import about
from limosa.wire.fleet import About, Change, OperationKind

PAGE = 100


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One line."""

    number: int
    at: words.Moment
    who: str
    what: str
    subject: str
    id: str
    """Tells operations of one name apart; empty where the name does."""
    href: str
    admins: bool
    """Whether the address is for admins only."""
    why: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The page."""

    rows: tuple[ChangeRow, ...]
    q: str
    next: str


def audit(look: Look, named: Mapping[str, About], changes: Sequence[Change], query: Query) -> Audit:
    """One page of changes, latest first; the next one begins after the last of them.

    Args:
        look: the fleet.
        named: what operations are about, by id; those of `operations_of` at least.
        changes: as GET /v1/audit/changes says them.
        query: `q`, `after`.
    """
    rows = tuple(_row(look, named, change) for change in changes)
    following = address("/audit", query, after=changes[-1].number) if len(changes) == PAGE else ""
    return Audit(rows, query.get("q", ""), following)


def operations_of(changes: Sequence[Change]) -> frozenset[str]:
    """Ids of the operations that these changes are of."""
    return frozenset(each.subject for each in changes if each.subject.partition("-")[0] in _KINDS)


class _Subject(NamedTuple):
    name: str
    href: str
    id: str = ""
    admins: bool = False


def _row(look: Look, named: Mapping[str, About], change: Change) -> ChangeRow:
    of = _subject(look, named, change)
    return ChangeRow(
        number=change.number,
        at=words.moment(change.at, look.at),
        who=change.who,
        what=_deed(change.what),
        subject=of.name,
        id=of.id,
        href=of.href,
        admins=of.admins,
        why=change.why,
    )


def _deed(what: str) -> str:
    """`plan drain` -> `Plan`, of a drain; what older controllers noted as `run` was Resume."""
    first = what.partition(" ")[0]
    return "Resume" if what == "run" else "Plan" if first == "plan" else what[:1].upper() + what[1:]


def _subject(look: Look, named: Mapping[str, About], change: Change) -> _Subject:
    """What was changed. What it is, the deed says: a token may be called as a host is."""
    subject = change.subject
    if change.what.startswith(("make token", "remove token")):
        return _Subject(subject, "/tokens", admins=True)
    if change.what.endswith("a hook"):
        return _Subject(subject, "/hooks")
    if operation := named.get(subject):
        title = f"{str(operation.kind).capitalize()} {about(operation)}"
        return _Subject(title, path("operations", subject), subject.rpartition("-")[2])
    if subject in look.host:
        return _Subject(subject, path("hosts", subject))
    if subject in look.guest:
        return _Subject(look.guest[subject].name, path("guests", subject))
    return _Subject(subject, "")


_KINDS = frozenset(map(str, OperationKind))
