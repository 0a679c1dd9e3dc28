"""Sessions of the dashboard: begun with a token, kept hashed, over with their time or with their token.

A session's word is 256 random bits, as a token's is, and so a plain hash of it is enough.
"""

import hashlib
import hmac
import secrets
import time
from typing import NamedTuple

import sqlalchemy as sa

from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import sessions, tokens
from limosa.fleet.tokens import Tokens
from limosa.wire.fleet import Role

LASTS = 12 * 3600.0
"""Seconds from sign-in to the end of a session: a long shift."""


class Session(NamedTuple):
    """Who is signed in."""

    name: str
    role: Role


class Sessions:
    """Sessions in a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tokens = Tokens(database)

    async def begin(self, token: str) -> str | None:
        """A new session's word for a token's; None for a token that opens nothing."""
        found = await self._tokens.find(token)
        if found is None:
            return None
        word, now = secrets.token_urlsafe(32), time.time()
        row = {"hash": _hash(word), "token": found[0], "created": now, "until": now + LASTS}
        async with self._database.write() as connection:
            await connection.execute(sa.delete(sessions).where(sessions.c.until < now))
            await connection.execute(sa.insert(sessions).values(row))
        return word

    async def find(self, word: str) -> Session | None:
        """Whose session this is, and what his token allows now; None for one that is over, or never was."""
        joined = sa.select(tokens.c.name, tokens.c.role).join_from(sessions, tokens, sessions.c.token == tokens.c.name)
        wanted = joined.where((sessions.c.hash == _hash(word)) & (sessions.c.until >= time.time()))
        async with self._database.read() as connection:
            row = (await connection.execute(wanted)).first()
        return None if row is None else Session(row.name, Role(row.role))

    async def end(self, word: str) -> None:
        """Sign out."""
        async with self._database.write() as connection:
            await connection.execute(sa.delete(sessions).where(sessions.c.hash == _hash(word)))


def form_word(session: str) -> str:
    """What a form of this session has to carry: it follows from the session's word, which no other site can know."""
    return hmac.digest(session.encode(), b"limosa form", "sha256").hex()


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
