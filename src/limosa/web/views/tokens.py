"""Tokens: who may sign in. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from limosa.web import words
from limosa.wire.fleet import Role, TokenShown


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token."""

    name: str
    role: str
    created: words.Moment


@dataclass(frozen=True, slots=True)
class Tokens:
    """The page."""

    rows: tuple[TokenRow, ...]
    roles: tuple[tuple[str, str], ...]
    made: TokenShown | None
    """A token that was made just now: its word is told this once."""


ROLES = (
    (str(Role.VIEWER), "sees everything"),
    (str(Role.OPERATOR), "orders and steers operations"),
    (str(Role.ADMIN), "sets what hosts and guests are for, and makes tokens"),
)


def tokens(found: Sequence[TokenShown], now: float, made: TokenShown | None = None) -> Tokens:
    """Every token, without its word."""
    return Tokens(
        tuple(TokenRow(each.name, str(each.role), words.moment(each.created, now)) for each in found), ROLES, made
    )
