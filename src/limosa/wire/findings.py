"""Findings: what a check found, how bad it is, and what would help."""

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from limosa.units import Side


class Severity(StrEnum):
    """What a finding means for the move."""

    NOTE = "note"
    WARNING = "warning"
    BLOCKS = "blocks"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a check noticed.

    `consent` names the word with which the operator may allow what would block (`--allow WORD`);
    None where nothing can be allowed.
    """

    severity: Severity
    kind: str
    """Kind of cargo, or the part of limosa, that found it."""
    what: str
    remedy: str = ""
    side: Side | None = None
    consent: str | None = None


def blocking(findings: Iterable[Finding], allowed: Iterable[str] = ()) -> tuple[Finding, ...]:
    """The findings that forbid the move, given the consents the operator spoke."""
    words = frozenset(allowed)
    return tuple(f for f in findings if f.severity is Severity.BLOCKS and f.consent not in words)
