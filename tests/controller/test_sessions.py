"""Sessions of the dashboard on real databases."""

import time

import sqlalchemy as sa

from limosa.fleet.chronicle import changes_before, events_about, note, tell
from limosa.fleet.db.engine import Database
from limosa.fleet.db.tables import sessions
from limosa.fleet.sessions import Session, Sessions, form_word
from limosa.fleet.tokens import Tokens
from limosa.wire.fleet import Role


async def test_a_session_lasts_as_long_as_it_may_and_its_token_does(database: Database) -> None:
    tokens, kept = Tokens(database), Sessions(database)
    token = await tokens.make("night", Role.OPERATOR, "test")
    assert await kept.begin("limosa-wrong") is None
    first, second = await kept.begin(token.word), await kept.begin(token.word)
    assert first
    assert second
    assert await kept.find(first) == Session("night", Role.OPERATOR)
    await kept.end(first)
    assert (await kept.find(first), await kept.find(second)) == (None, Session("night", Role.OPERATOR))
    await tokens.remove("night", "test")
    assert await kept.find(second) is None
    async with database.read() as connection:
        assert (await connection.execute(sa.select(sessions))).all() == []


async def test_sessions_that_are_over_are_swept_away_by_the_next_one(database: Database) -> None:
    tokens, kept = Tokens(database), Sessions(database)
    token = await tokens.make("night", Role.VIEWER, "test")
    old = await kept.begin(token.word)
    async with database.write() as connection:
        await connection.execute(sa.update(sessions).values(until=time.time() - 1))
    assert old
    assert await kept.find(old) is None
    await kept.begin(token.word)
    async with database.read() as connection:
        assert len((await connection.execute(sa.select(sessions))).all()) == 1


def test_the_word_of_a_form_follows_from_the_session_alone() -> None:
    assert form_word("one") == form_word("one")
    assert form_word("one") != form_word("two")
    assert "one" not in form_word("one")


async def test_changes_are_found_by_any_of_their_words_taken_literally(database: Database) -> None:
    async with database.write() as connection:
        for number, why in enumerate(("Fans 100%", "fans_2", "lunch")):
            await note(connection, "night", "pause", f"drain-{number}", why)
        await tell(connection, "guest.moved", "g1", {"from": "a", "to": "b"})
        await tell(connection, "guest.moved", "g2", {"from": "a", "to": "b"})
    assert [each.subject for each in await changes_before(database, None, 10, "fans")] == ["drain-1", "drain-0"]
    assert [each.subject for each in await changes_before(database, None, 10, "0%")] == ["drain-0"]
    assert [each.subject for each in await changes_before(database, None, 10, "s_2")] == ["drain-1"]
    assert [each.subject for each in await events_about(database, "g1", 10)] == ["g1"]
