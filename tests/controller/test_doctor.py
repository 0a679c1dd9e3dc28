"""The doctor of a fleet, over agents that answer, refuse, or say nothing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from limosa.agent import pki
from limosa.errors import PeerError
from limosa.fleet import doctor
from limosa.fleet.doctor import FleetDoctor
from limosa.migration.diagnosis import NOWHERE, diagnose, runs_on
from limosa.units import HostName
from limosa.wire.doctor import Facts, FleetDiagnosis, OpenShown, Qemu, Weight
from limosa.wire.fleet import FleetHost, HostSettings, TwoOwners

UUID = "6d7a3a3e-6a3c-4e0e-9a0b-0d6a5b1f2c11"


def host(name: str, *, silent: float = 0.0, state: str = "active", guests: int = 0) -> FleetHost:
    return FleetHost(
        name=name,
        state=state,
        reason="",
        settings=HostSettings(),
        silent_for=silent,
        trouble="no route to host" if silent else "",
        guests=guests,
    )


class Agents:
    """Answers for hosts; counts who was asked, and how many at once."""

    def __init__(self, **answers: Facts | Exception | None) -> None:
        self._answers = answers
        self.asked: list[str] = []
        self.at_once = self.most = 0

    async def link(self, name: HostName) -> "Link":
        return Link(self, name)

    async def answer(self, name: str) -> Facts:
        self.asked.append(name)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        try:
            answer = self._answers.get(name, Facts(host=name))
            if answer is None:
                await asyncio.Event().wait()
            if isinstance(answer, Exception):
                raise answer
            assert answer is not None
            return answer
        finally:
            self.at_once -= 1


class Link:
    """A link to one of them."""

    def __init__(self, agents: Agents, name: str) -> None:
        self._agents, self._name = agents, name

    async def call(self, method: str, params: None, result: type[Facts], *, timeout: float | None = None) -> Facts:
        assert (method, params, result) == ("fleet.doctor", None, Facts)
        return await self._agents.answer(self._name)


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", [], tmp_path / "pki", controller=True)
    return tmp_path / "pki"


async def examined(
    own: Path, agents: Agents, hosts: Sequence[FleetHost], owners: Sequence[TwoOwners] = ()
) -> FleetDiagnosis:
    async def known() -> Sequence[FleetHost]:
        return hosts

    async def claimed() -> Sequence[TwoOwners]:
        return owners

    return await FleetDoctor(agents.link, known, claimed, own, HostName("fleet-1")).examine()


async def test_a_healthy_fleet_is_clean_and_every_agent_was_asked(certified: Path) -> None:
    agents = Agents()
    found = await examined(certified, agents, [host("a"), host("b")])
    assert (found.hosts, found.asked, found.troubles, found.clean) == (2, 2, (), True)
    assert sorted(agents.asked) == ["a", "b"]


async def test_what_is_wrong_is_told_worst_first_with_host_guest_and_remedy(certified: Path) -> None:
    doubt = OpenShown(
        id="m1", side="source", guest="web1", identity=UUID, peer="b", state="in doubt", waits_for="b", remedy="ask b"
    )
    agents = Agents(a=Facts(host="a", moves=(doubt,)), b=PeerError("b hung up"))
    owners = [TwoOwners(id=UUID, name="db1", hosts=("c", "d"))]
    found = await examined(certified, agents, [host("a"), host("b"), host("e", silent=99, guests=3)], owners)
    told = [(each.weight, each.host) for each in found.troubles]
    assert told == [
        (Weight.ERROR, "c"),
        (Weight.ERROR, "e"),
        (Weight.ERROR, "a"),
        (Weight.WARNING, "b"),
    ]
    by_host = {each.host: each for each in found.troubles}
    assert by_host["a"].guest_runs == "paused on a until b has said whether it took the guest"
    assert by_host["c"].guest_runs == "not known: c, d each report it as their own"
    assert (
        by_host["e"].what
        == "the agent of e (active) has been silent for 1 min 39 s, with 3 guests as last seen: no route to host"
    )
    assert by_host["b"].what == "b could not be asked: b hung up"
    assert all(each.remedy for each in found.troubles)
    assert not found.clean
    assert found.asked == 1


async def test_a_silent_host_is_not_asked_and_no_trouble_where_nobody_expects_it_to_talk(certified: Path) -> None:
    agents = Agents()
    found = await examined(certified, agents, [host("a", silent=40, state="maintenance")])
    assert agents.asked == []
    assert [each.weight for each in found.troubles] == [Weight.NOTE]
    assert found.clean


async def test_agents_that_never_answer_do_not_hold_the_others_up(
    certified: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ALL_SECONDS", 0.2)
    found = await examined(certified, Agents(a=None), [host("a"), host("b")])
    assert found.asked == 1
    assert [each.what for each in found.troubles] == [
        "a could not be asked: not asked within 0.2 s: too many others are slow"
    ]


async def test_few_are_asked_at_the_same_time(certified: Path) -> None:
    agents = Agents()
    found = await examined(certified, agents, [host(f"h{number}") for number in range(3 * doctor.AT_ONCE)])
    assert found.asked == 3 * doctor.AT_ONCE
    assert 1 < agents.most <= doctor.AT_ONCE


async def test_who_asks_again_soon_gets_the_same_answer_and_nobody_is_asked_twice(certified: Path) -> None:
    agents = Agents()

    async def known() -> Sequence[FleetHost]:
        return [host("a")]

    async def nobody() -> Sequence[TwoOwners]:
        return ()

    fleet = FleetDoctor(agents.link, known, nobody, certified, HostName("fleet-1"))
    answers = await asyncio.gather(*(fleet.examine() for _ in range(5)))
    answers.append(await fleet.examine())
    assert len({id(answer) for answer in answers}) == 1
    assert agents.asked == ["a"]
    await fleet.close()


async def test_the_controllers_own_certificates_are_looked_at_too(tmp_path: Path) -> None:
    found = await examined(tmp_path, Agents(), [])
    assert {each.host for each in found.troubles} == {"fleet-1"}
    assert all("controller fleet-1: " in each.what for each in found.troubles)


def test_a_guest_that_runs_on_two_hosts_is_told_with_both() -> None:
    hosts = [
        Facts(host=name, qemus=(Qemu(pid=1, name="w", uuid=UUID, state="running", move=None, ours=False),))
        for name in "ab"
    ]
    assert [each.guest_runs for each in diagnose(hosts, {})] == ["a, b"]
    assert runs_on([Facts(host="c")], UUID) == NOWHERE
