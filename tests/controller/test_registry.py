"""What controllers see of one database: what each of them, and every other one, wrote last."""

import pytest

from limosa.errors import NotFound
from limosa.fleet.census import Census
from limosa.fleet.db.engine import Database
from limosa.fleet.inventory import HostState
from limosa.fleet.registry import Registry, moved
from limosa.testing.fleet import guest, machine, report
from limosa.wire.fleet import GuestRules, HostSettings
from limosa.wire.reports import Report


def names(census: Census) -> list[tuple[str, str]]:
    return sorted((each.report.shown.name, each.host) for each in census.guests())


def change(number: int, *, gone: tuple[str, ...] = ()) -> Report:
    return Report(
        incarnation="one", number=number, since=number - 1, machine=None, guests=(guest("new", "a"),), gone=gone
    )


async def test_a_controller_that_does_not_lead_sees_what_the_leading_one_wrote(database: Database) -> None:
    leads, other = Registry(database), Registry(database)
    await leads.take_all([("a", report("a", guest("x", "a"), guest("y", "a"))), ("b", report("b"))], 1.0)
    assert names(await other.census()) == [("x", "a"), ("y", "a")]
    await leads.take("a", change(2, gone=(guest("x", "a").key,)), 2.0)
    assert names(await other.census()) == [("new", "a"), ("y", "a")] == names(await leads.census())
    await leads.take("a", report("a", guest("y", "a")), 3.0)
    assert names(await other.census()) == [("y", "a")]
    assert (await other.host("a")).machine == machine("a")


async def test_what_operators_set_at_one_controller_is_seen_at_the_other(database: Database) -> None:
    here, there = Registry(database), Registry(database)
    await here.take("a", report("a", guest("x", "a")), 1.0)
    await there.census()
    key = guest("x", "a").key
    await here.set_state(["a"], HostState.MAINTENANCE, "fans")
    await here.set_settings("a", HostSettings(rack="r1"))
    await here.set_rules(key, GuestRules(priority=3))
    async with database.write() as connection:
        await moved(connection, key, away_from="a", now=5.0)
    host, found = await there.host("a"), await there.guest("x")
    assert (host.state, host.reason, host.settings.rack) == (HostState.MAINTENANCE, "fans", "r1")
    assert (found.rules.priority, found.home, found.moved_at) == (3, "a", 5.0)


async def test_signs_of_life_and_silence_are_seen_without_any_report(database: Database) -> None:
    here, there = Registry(database), Registry(database)
    await here.take("a", report("a"), 1.0)
    assert (await there.host("a")).seen == 1.0
    await here.silent({"a": "no route"})
    assert (await there.host("a")).trouble == "no route"
    await here.seen({"a": 9.0})
    host = await there.host("a")
    assert (host.seen, host.trouble) == (9.0, "")


async def test_a_name_that_two_guests_have_names_none(database: Database) -> None:
    registry = Registry(database)
    twins = [guest("x", "a"), guest("y", "a")]
    await registry.take("a", report("a", *twins), 1.0)
    assert (await registry.guest(twins[0].key)).report.shown.name == "x"
    with pytest.raises(NotFound, match="no guest z"):
        await registry.guest("z")
    await registry.take("b", report("b", guest("x", "b", epoch=2)), 2.0)
    assert (await registry.guest("x")).host == "b"  # the same guest, seen twice: where its ownership is newer
