"""Tokens of the controller's API: told once, kept hashed.

A token is 256 random bits, so a plain hash of it is as good as a slow one: nobody guesses it from its hash.
"""

import hashlib
import secrets
import time

import sqlalchemy as sa

from limosa.errors import Blocked, NotFound
from limosa.fleet.chronicle import note
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import tokens
from limosa.wire.fleet import Role, TokenShown

PREFIX = "limosa-"
_ORDER = list(Role)


def allows(role: Role, wanted: Role) -> bool:
    """Whether a role includes another."""
    return _ORDER.index(role) >= _ORDER.index(wanted)


class Tokens:
    """Tokens in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def make(self, name: str, role: Role, who: str) -> TokenShown:
        """A new token, with its word.

        Raises:
            Blocked: there is one of this name.
        """
        word, now = PREFIX + secrets.token_urlsafe(32), time.time()
        row = {"name": name, "role": role, "hash": _hash(word), "created": now}
        async with self._database.write() as connection:
            known = await connection.execute(sa.select(tokens.c.name).where(tokens.c.name == name))
            if known.first() is not None:
                raise Blocked(f"there is a token {name} already", remedy="choose another name, or remove that one")
            await connection.execute(sa.insert(tokens).values(row))
            await note(connection, who, f"make token ({role})", name)
        return TokenShown(name=name, role=role, created=now, word=word)

    async def remove(self, name: str, who: str) -> None:
        """Let a token open nothing any more. Raises NotFound."""
        async with self._database.write() as connection:
            gone = await connection.execute(sa.delete(tokens).where(tokens.c.name == name))
            if gone.rowcount == 0:
                raise NotFound(f"there is no token {name}")
            await note(connection, who, "remove token", name)

    async def all(self) -> tuple[TokenShown, ...]:
        """Every token, by name, without its word."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(tokens).order_by(tokens.c.name))
            return tuple(TokenShown(name=row.name, role=Role(row.role), created=row.created) for row in rows)

    async def find(self, word: str) -> tuple[str, Role] | None:
        """Whose token this is, and what it allows; None for a word that opens nothing."""
        wanted = sa.select(tokens.c.name, tokens.c.role).where(tokens.c.hash == _hash(word))
        async with self._database.read() as connection:
            row = (await connection.execute(wanted)).first()
        return None if row is None else (row.name, Role(row.role))


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
