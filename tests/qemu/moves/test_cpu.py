"""Processors that do not have what a guest saw at boot: refused before anything is made, every missing flag by name."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import flag
from limosa.lab import assets
from limosa.lab.commands import limosa, migrate
from limosa.lab.guestctl import GuestControl, GuestOptions, Status
from limosa.lab.guests import GuestSpec, control, start
from limosa.lab.hosts import Host
from limosa.lab.lab import Lab
from limosa.lab.trouble import Watched, refused, restarted_with, with_owner
from limosa.qmp.monitor import Monitor
from limosa.units import Side
from limosa.wire.moves import MoveState

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

OF_TOPOLOGY = CpuFlags.of("ht", "cmp-legacy")
"""They follow from the number of vCPUs, whatever the processor (docs/cpu.md)."""
OPTIONS = GuestOptions(addresses=("10.66.0.100/24",), pages=8, vectors=True)


def without(*names: str) -> dict[str, object]:
    """Settings of a host that looks older than it is."""
    return {"cpu": {"remove": list(names), "accel": "tcg"}}


async def computing(agent: GuestControl, rounds: int) -> Status:
    """The guest's status once it has computed so often (polled: the guest calls nobody)."""
    async with asyncio.timeout(30):
        while True:
            now = await agent.status()
            if now.vector_rounds >= rounds:
                return now
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(lab: Lab) -> AsyncIterator[Watched]:
    """A guest that sees all that TCG has, and computes with AVX2."""
    spec = with_owner(GuestSpec("web1", OPTIONS, memory=192))
    await start(lab.host("a"), spec)
    async with await control(lab.host("a"), spec) as agent:
        await computing(agent, 1)
    async with Watched.over(spec, lab.host("a"), lab.host("b")) as watched:
        yield watched


@pytest_asyncio.fixture(loop_scope="module")
async def older(web: Watched) -> AsyncIterator[Host]:
    """Host b, made to look like one without AVX2 and BMI1."""
    await restarted_with(web.destination, **without("avx2", "bmi1"))
    yield web.destination
    await restarted_with(web.destination)


async def test_a_guest_is_not_taken_where_its_flags_are_not(web: Watched, older: Host) -> None:
    refusal = await refused(web.source, "migrate", "web1", "--to", "b")
    assert refusal.status == 10
    assert refusal.what.startswith("b lacks bmi1, avx2 of the flags that web1 sees: ")
    assert "as before" in refusal.where
    assert "limosa hosts --fits web1" in refusal.remedy
    assert await web.changes() == []


async def test_a_plan_and_a_list_of_hosts_name_the_missing_flags(web: Watched, older: Host) -> None:
    plan = await limosa(web.source, "plan", "web1", "--to", "b", "--json")
    assert plan.status == 10
    (stop,) = [finding for finding in plan.plan().findings if finding.severity == "blocks"]
    assert (stop.kind, stop.side) == ("cpu", Side.DESTINATION)
    assert stop.what.startswith("b lacks bmi1, avx2 of the flags")
    fits = (await limosa(web.source, "hosts", "--fits", "web1", "--json")).json()
    assert [(host["host"], host["fits"]) for host in fits] == [("b", False)]
    assert fits[0]["reasons"] == [stop.what]
    assert await web.changes() == []


async def test_explain_says_what_the_missing_flags_are(web: Watched, older: Host) -> None:
    answer = await limosa(web.source, "cpu", "explain", "web1", "b", "--json")
    told = answer.json()
    assert (answer.status, told["compatible"]) == (10, False)
    assert [missing["name"] for missing in told["missing"]] == ["bmi1", "avx2"]
    assert told["missing"][1]["sentence"] == flag("avx2").sentence
    page = await limosa(web.source, "cpu", "explain", "web1", "b")
    assert "web1 on b: cannot go on there without a reboot" in page.out
    assert flag("avx2").sentence in page.out


async def test_what_a_host_takes_away_is_shown(web: Watched, older: Host) -> None:
    there = (await limosa(web.source, "cpu", "show", "b", "--json")).json()
    here = (await limosa(web.source, "cpu", "show", "a", "--json")).json()
    assert there["removed"] == ["bmi1", "avx2"]
    lacks = CpuFlags.from_hex(here["mask"]["hex"]) - CpuFlags.from_hex(there["mask"]["hex"])
    assert lacks == CpuFlags.of("avx2", "bmi1")
    assert CpuFlags.from_bits(there["mask"]["bits"]) == CpuFlags.from_hex(there["mask"]["hex"])


async def test_what_a_guest_sees_is_what_its_qemu_says(lab: Lab, web: Watched) -> None:
    told = (await limosa(web.source, "cpu", "show", "web1", "--json")).json()
    shown = CpuFlags.from_hex(told["mask"]["hex"])
    areas = CpuFlags.of(*(name for name in shown.names() if not flag(name).settable))
    assert shown - areas == await seen(web.source, web.spec) - OF_TOPOLOGY
    assert areas.names() == ("xcr0-x87", "xcr0-sse", "xcr0-avx", "xcr0-bndregs", "xcr0-bndcsr", "xcr0-pkru")
    assert (told["model"], told["accel"], told["unknown"]) == ("max", "tcg", [])


async def test_a_guest_that_does_not_see_them_goes_on_with_its_vectors(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    spec = GuestSpec("vec1", OPTIONS, memory=192, cpu="max,-adx,-rdseed", taps=())
    await start(a, spec)
    async with await control(a, spec) as agent:
        before = await computing(agent, 1)
    await restarted_with(b, **without("adx", "rdseed"))
    try:
        answer = await migrate(a, "vec1", b)
        assert answer.status == 0, answer.err
        assert (answer.move().state, answer.move().guest_runs) == (MoveState.COMPLETED, Side.DESTINATION)
        async with await control(b, spec) as agent:
            now = await computing(agent, (await agent.status()).vector_rounds + 20)
    finally:
        await b.run(["pkill", "-9", "-f", "[q]emu-system.*vec1"], check=False)
        await restarted_with(b)
    assert now.boot_id == before.boot_id
    assert (now.vector_errors, now.deaths) == (0, 0)
    assert not now.oopsed


async def seen(host: Host, spec: GuestSpec) -> CpuFlags:
    """What a guest sees, asked of its QEMU without limosa's profile."""
    monitor = await Monitor.connect(str(host.path(spec.monitor_path)), greeting_timeout=10)
    (vcpu,) = await monitor.execute("query-cpus-fast")
    path = vcpu["qom-path"]
    listed = await monitor.execute("qom-list", {"path": path})
    names = [known["name"] for known in listed if known["type"] == "bool"]
    values = await monitor.execute_many([("qom-get", {"path": path, "property": name}) for name in names])
    await monitor.close()
    return CpuFlags.sort(name for name, value in zip(names, values, strict=True) if value is True)[0]


def broadest(qemu: Path) -> CpuFlags:
    """All that a QEMU can give under TCG, asked without limosa."""
    words = (
        {"execute": "qmp_capabilities"},
        {"execute": "query-cpu-model-expansion", "arguments": {"type": "full", "model": {"name": "max"}}},
        {"execute": "quit"},
    )
    told = subprocess.run(
        [str(qemu), "-machine", "none", "-accel", "tcg", "-display", "none", "-S", "-qmp", "stdio"],
        input=b"".join(msgspec.json.encode(word) for word in words),
        capture_output=True,
        timeout=30,
        check=True,
    ).stdout
    answers: Sequence[Any] = [msgspec.json.decode(line) for line in told.splitlines()]
    (model,) = [a["return"]["model"] for a in answers if isinstance(a.get("return"), dict) and "model" in a["return"]]
    return CpuFlags.sort(name for name, value in model["props"].items() if value is True)[0]


@pytest.mark.skipif(assets.qemu_7() is None, reason="needs QEMU 7.2 beside 10.0")
async def test_an_older_qemu_is_refused_for_exactly_the_flags_that_it_lacks(lab: Lab) -> None:
    a, b, older = lab.host("a"), lab.host("b"), assets.qemu_7()
    assert older is not None
    spec = GuestSpec("new1", OPTIONS, memory=192, machine="pc-q35-7.2", taps=())
    await start(a, spec)
    async with await control(a, spec):
        pass
    expected = await seen(a, spec) - broadest(older) - OF_TOPOLOGY
    await restarted_with(b, qemu=[str(older)])
    try:
        told = (await limosa(a, "cpu", "explain", "new1", "b", "--json")).json()
        refusal = await refused(a, "migrate", "new1", "--to", "b")
    finally:
        await restarted_with(b)
        await a.run(["pkill", "-9", "-f", "[q]emu-system.*new1"], check=False)
    assert expected
    assert [missing["name"] for missing in told["missing"]] == list(expected.names())
    assert refusal.what.startswith(f"b lacks {expected} of the flags that new1 sees: ")


@pytest.mark.skipif(assets.qemu_7() is None, reason="needs QEMU 7.2 beside 10.0")
async def test_the_twin_of_a_broad_model_has_the_flags_of_the_guest_and_no_others(lab: Lab) -> None:
    a, b, older = lab.host("a"), lab.host("b"), assets.qemu_7()
    assert older is not None
    spec = GuestSpec("old1", OPTIONS, memory=192, machine="pc-q35-7.2", cpu="max,-pcommit", taps=(), qemu=older)
    await start(a, spec)
    async with await control(a, spec):
        pass
    await restarted_with(b, qemu=[str(assets.qemu_10())])
    try:
        plan = await limosa(a, "plan", "old1", "--to", "b", "--json")
    finally:
        await restarted_with(b)
        await a.run(["pkill", "-9", "-f", "[q]emu-system.*old1"], check=False)
    assert plan.status == 0, plan.out + plan.err
    assert plan.plan().possible
    assert [each for each in plan.plan().differences if "cpu" in each] == []
