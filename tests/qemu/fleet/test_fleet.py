"""Three hosts, eight guests and a controller, as a night shift uses them: drained, restored, evened out, packed."""

import asyncio
import http.client
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from limosa.fleet.rebalance import TOLERANCE
from limosa.lab.dial import dial
from limosa.lab.fleet import LACKING, STUCK, LabFleet, guests_on_three_hosts, lab_name
from limosa.lab.guests import control
from limosa.lab.hosts import Host
from limosa.lab.kills import departures

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

CORES = os.cpu_count() or 1
LONGEST_SILENCE_MS = 5_000
"""Of a guest on the network. Two processors emulate eight guests here; what a move costs is measured in bench/."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[LabFleet]:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    async with guests_on_three_hosts(lab_name("t-fleet")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def homes(fleet: LabFleet) -> dict[str, str]:
    """Where each guest was at first."""
    return await fleet.look()


def at_once(items: Iterable[Mapping[str, Any]], side: str) -> int:
    """The most moves that one host had in hand at a time, on this side of them."""
    edges = [(item[edge], step, item[side]) for item in items for edge, step in (("began", 1), ("ended", -1))]
    now: Counter[str] = Counter()
    most = 0
    for _, step, host in sorted(edges):
        now[host] += step
        most = max(most, now[host])
    return most


async def test_the_whole_fleet_is_listed(fleet: LabFleet, homes: dict[str, str]) -> None:
    guests = (await fleet.limosa("ls", "--json")).json()
    assert {guest["name"]: guest["host"] for guest in guests} == homes
    hosts = (await fleet.limosa("hosts", "--json")).json()
    assert {host["name"]: host["guests"] for host in hosts} == {"a": 6, "b": 1, "c": 1}
    page = (await fleet.limosa("hosts", "--fits", STUCK)).out
    assert "adx" in page


async def test_a_plan_of_a_drain_changes_nothing_and_says_who_stays_and_why(
    fleet: LabFleet, homes: dict[str, str]
) -> None:
    answer = await fleet.limosa("drain", "a", "--dry-run")
    assert answer.status == 40
    assert STUCK in answer.out
    assert ", ".join(LACKING) in answer.out
    assert await fleet.look() == homes
    assert (await fleet.ask("GET", "/v1/hosts/a"))[1]["state"] == "active"


async def test_a_drain_under_limits_leaves_one_guest_and_ends_with_40(fleet: LabFleet, homes: dict[str, str]) -> None:
    addresses = [tenant.address for tenant in fleet.tenants]
    async with fleet.lab.observer.ping(addresses, interval=0.02) as pings:
        answer = await fleet.limosa("drain", "a", "--yes", "--limit-out", "2", "--limit-in", "1", "--json")
    assert answer.status == 40, answer.err
    told = answer.json()
    assert [left["name"] for left in told["left"]] == [STUCK]
    assert ", ".join(LACKING) in str(told["left"])
    assert at_once(told["items"], "source") <= 2
    assert at_once(told["items"], "destination") == 1
    where = await fleet.look()
    assert [name for name, host in where.items() if host == "a"] == [STUCK]
    assert pings.largest_gap_ms < LONGEST_SILENCE_MS


async def test_every_move_of_the_drain_is_remembered_with_its_readings_and_both_hosts_logs(fleet: LabFleet) -> None:
    (drain, *_) = (await fleet.ask("GET", "/v1/operations"))[1]["items"]
    done = [item for item in drain["items"] if item["state"] == "done"]
    history = f"/v1/history?operation={drain['id']}"
    past = (await fleet.until(history, lambda told: len(told["items"]) >= len(done)))["items"]
    assert {item["move"] for item in done} <= {move["id"] for move in past}
    told = (await fleet.limosa("report", drain["id"], "--json")).json()
    for record in told["records"]:
        assert record["status"]["operation"] == drain["id"]
        if record["status"]["state"] == "completed":
            assert record["pause"]["blackout_ms"] == record["status"]["measured"]["blackout_ms"]
            assert "ram" in {series["item"] for series in record["series"]}
    log = (await fleet.ask("GET", f"/v1/moves/{done[0]['move']}/log"))[1]
    assert log["silent"] == {}
    assert {line["host"] for line in log["lines"]} == {done[0]["source"], done[0]["destination"]}
    assert [line["at"] for line in log["lines"]] == sorted(line["at"] for line in log["lines"])


async def test_restore_brings_everybody_home_though_its_controller_dies_meanwhile(
    fleet: LabFleet, homes: dict[str, str]
) -> None:
    left = departures(fleet.hosts)
    restore = asyncio.create_task(fleet.limosa("restore", "a", "--yes", "--json"))
    await fleet.until("/v1/moves", bool)
    await fleet.desks[0].kill()
    await fleet.desks[0].start()
    answer = await restore
    assert answer.status == 0, answer.err
    assert await fleet.look() == homes
    assert (await fleet.ask("GET", "/v1/hosts/a"))[1]["state"] == "active"
    moved = Counter(item["guest"] for item in answer.json()["items"])
    assert departures(fleet.hosts) - left == moved, "each left its host once"


async def scraped(host: Host) -> Callable[..., float]:
    """What a host's agent tells a Prometheus there: name and labels -> value."""

    def ask() -> str:
        asking = http.client.HTTPConnection("127.0.0.1", 9177)
        asking.sock = dial(host, "127.0.0.1", 9177)
        try:
            asking.request("GET", "/metrics")
            return asking.getresponse().read().decode()
        finally:
            asking.close()

    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in text_string_to_metric_families(await asyncio.to_thread(ask))
        for sample in metric.samples
    }
    return lambda name, **labels: samples[name, frozenset(labels.items())]


async def test_an_agent_tells_prometheus_of_the_moves_that_began_on_its_host(
    fleet: LabFleet, homes: dict[str, str]
) -> None:
    seen = await scraped(fleet.host("a"))
    gone = departures([fleet.host("a")]).total()
    assert gone
    assert seen("limosa_moves_total", outcome="completed", cause="none") == gone
    assert seen("limosa_move_blackout_seconds_count") == seen("limosa_move_downtime_seconds_count") == gone
    assert 0 < seen("limosa_move_downtime_seconds_sum") < 10 * gone
    assert seen("limosa_move_bytes_total", what="disk") > 0
    assert seen("limosa_move_bytes_total", what="ram") > gone << 20
    assert seen("limosa_ownership_conflicts") == seen("limosa_moves_in_flight", state="in doubt") == 0
    assert seen("limosa_agent_guests") == len([name for name, host in homes.items() if host == "a"])
    assert time.time() - seen("limosa_agent_controller_asked_timestamp_seconds") < 60


async def test_the_fleets_doctor_has_asked_every_agent(fleet: LabFleet) -> None:
    status, found = await fleet.ask("GET", "/v1/doctor")
    assert status == 200
    assert found["hosts"] == found["asked"] == 3
    assert [each for each in found["troubles"] if each["weight"] == "error"] == []


def off_the_mean(told: Mapping[str, Any]) -> float:
    """By which share of its cores host a is busier than the fleet, as the controller was told."""
    found: Counter[str] = Counter()
    for guest in told["items"]:
        found[guest["host"]] += guest["load"] or 0
    return (found["a"] - found.total() / 3) / CORES


async def test_rebalance_evens_the_load_out(fleet: LabFleet) -> None:
    for tenant in fleet.tenants[:4]:
        async with await control(fleet.host(tenant.home), tenant.spec) as agent:
            await agent.start_dirtier(1)
    told = await fleet.until("/v1/guests", lambda told: off_the_mean(told) > 1.2 * TOLERANCE)
    answer = await fleet.limosa("rebalance", "--yes", "--json")
    assert answer.status == 0, answer.err
    moved = answer.json()["items"]
    assert moved
    assert {(item["source"], item["state"]) for item in moved} == {("a", "done")}
    where = await fleet.look()
    assert all(where[item["name"]] == item["destination"] for item in moved)
    # By the loads that were seen: what guests get of two processors afterwards is the machine's affair.
    assert off_the_mean({"items": [{**guest, "host": where[guest["name"]]} for guest in told["items"]]}) < off_the_mean(
        told
    )
    for tenant in fleet.tenants[:4]:
        async with await control(fleet.host(tenant.home), tenant.spec) as agent:
            await agent.stop_dirtiers()


async def test_consolidate_frees_a_host_and_says_what_that_saves(fleet: LabFleet) -> None:
    answer = await fleet.limosa("consolidate", "--yes", "--json")
    assert answer.status == 0, answer.err
    told = answer.json()
    assert told["forecast"]["hosts_freed"]
    assert "a" not in told["hosts"], "one of its guests can go nowhere"
    where = await fleet.look()
    assert not set(told["hosts"]) & set(where.values())
    for host in told["hosts"]:
        assert (await fleet.ask("GET", f"/v1/hosts/{host}"))[1]["state"] == "drained"
