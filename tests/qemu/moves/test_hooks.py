"""The rest of the infrastructure hears where a guest lives now: once, with the right facts, in the way of no move."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from limosa.lab.commands import Answer, limosa, migrate
from limosa.lab.guestctl import GuestControl, GuestOptions
from limosa.lab.guests import GuestSpec, mac_of
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.lab import Lab
from limosa.lab.provision import start_agent
from limosa.lab.trouble import Flight, copying_ram

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module")]

Starter = Callable[..., Awaitable[tuple[GuestSpec, GuestControl]]]

RECEIVER = Path(__file__).parents[3] / "docs/examples/receive_hooks.py"
PORT = 8765
SECRET = f"whsec_{base64.b64encode(b'0123456789abcdef0123456789abcdef').decode()}\n"
HOOKS = f"""
[[hooks]]
name = "ipam"
url = "http://127.0.0.1:{PORT}/limosa"
secret_file = "/etc/limosa/ipam.secret"

[[hooks]]
name = "log"
file = "/srv/moves.jsonl"

[[hooks]]
name = "slow"
command = ["/bin/sleep", "1000"]
timeout = 300
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def hooked(lab: Lab) -> AsyncIterator[None]:
    """Both hosts tell a receiver that listens to itself, a file, and a program that never ends."""
    for host in lab.hosts.values():
        host.path("/etc/limosa/ipam.secret").write_text(SECRET)
        host.path("/etc/limosa/conf.d").mkdir(exist_ok=True)
        host.path("/etc/limosa/conf.d/hooks.toml").write_text(HOOKS)
        await restart(host)
    yield


async def restart(host: Host) -> None:
    """Kill an agent with -9, and start it again."""
    assert host.agent is not None
    host.agent.kill()
    await host.agent.wait(20)
    await start_agent(host)


async def receive(host: Host) -> Process:
    """Start the receiver of docs/hooks.md on a host."""
    return await host.spawn([sys.executable, str(RECEIVER), str(PORT), "/etc/limosa/ipam.secret"])


def heard(receiver: Process) -> list[Any]:
    """What it has verified so far."""
    assert receiver.stdout_path is not None
    return [json.loads(line) for line in receiver.stdout_path.read_text().splitlines()]


async def listed(host: Host) -> dict[str, Any]:
    """Each hook as `limosa hooks ls` shows it."""
    answer = await limosa(host, "hooks", "ls", "--json")
    assert answer.status == 0, answer.err
    return {hook["name"]: hook for hook in answer.json()}


async def told(host: Host, hook: str, times: int) -> None:
    """Wait until a hook was told so often; what an agent delivers it announces to nobody else."""
    deadline = time.monotonic() + 60
    while (await listed(host))[hook]["delivered"] < times:
        assert time.monotonic() < deadline, await listed(host)
        await asyncio.sleep(0.2)


async def moved(lab: Lab, guest: Starter, name: str) -> tuple[GuestSpec, Answer]:
    """A guest that has gone from a to b."""
    spec, agent = await guest(GuestSpec(name, GuestOptions(addresses=("10.66.0.100/24",))))
    await agent.close()
    answer = await migrate(lab.host("a"), name, lab.host("b"))
    assert answer.status == 0, answer.err
    return spec, answer


async def test_a_file_and_a_receiver_hear_of_a_move_once_with_the_right_facts(lab: Lab, guest: Starter) -> None:
    a, b = lab.host("a"), lab.host("b")
    receivers = [await receive(host) for host in (a, b)]
    try:
        spec, answer = await moved(lab, guest, "web1")
        report = answer.move()
        assert report.measured is not None
        for hook in ("ipam", "log"):
            await told(b, hook, 1)
        (event,) = heard(receivers[1])
        assert [json.loads(line) for line in b.path("/srv/moves.jsonl").read_text().splitlines()] == [event]
        assert (event["type"], event["teller"]) == ("guest.moved", "b")
        began, ended = event["data"].pop("began"), event["data"].pop("ended")
        assert began < ended == event["timestamp"]
        assert event["data"] == {
            "guest": "web1",
            "uuid": report.uuid,
            "macs": [mac_of("web1", 0)],
            "host": "b",
            "epoch": 1,
            "move": report.id,
            "source": "a",
            "destination": "b",
            "blackout_ms": report.measured.blackout_ms,
            "error": None,
        }
        assert spec.name == "web1"
        assert heard(receivers[0]) == []  # the source owns nothing any more, and tells nothing
        assert not a.path("/srv/moves.jsonl").exists()
    finally:
        for receiver in receivers:
            receiver.kill()
            await receiver.wait(10)


async def test_a_move_that_is_rolled_back_is_told_of_by_the_host_that_still_has_the_guest(
    lab: Lab, guest: Starter
) -> None:
    a, b = lab.host("a"), lab.host("b")
    told_b = (await listed(b))["log"]["delivered"]
    _, agent = await guest(GuestSpec("web3", GuestOptions(addresses=("10.66.0.100/24",), pages=8, pages_rate=1)))
    await agent.close()
    flight = await Flight.depart(a, "web3", "b", "--bandwidth", "3M")
    assert not (await flight.until(copying_ram)).state.over, flight.story()
    assert (await limosa(a, "abort", "web3")).status == 0
    await told(a, "log", 1)
    (event,) = (json.loads(line) for line in a.path("/srv/moves.jsonl").read_text().splitlines())
    data = event["data"]
    assert (event["type"], event["teller"], data["host"], data["epoch"]) == ("guest.move-failed", "a", "a", 0)
    assert (data["guest"], data["destination"], data["error"]["code"]) == ("web3", "b", "aborted")
    assert (await listed(b))["log"]["delivered"] == told_b


async def test_a_move_arrives_while_all_receivers_are_down_and_they_hear_of_it_later(lab: Lab, guest: Starter) -> None:
    b = lab.host("b")
    before = (await listed(b))["ipam"]["delivered"]
    _, answer = await moved(lab, guest, "web2")
    await told(b, "log", (await listed(b))["log"]["delivered"])
    doctor = await limosa(b, "doctor")
    assert doctor.status == 40
    assert "hook ipam was not told of 1 event" in doctor.out
    tried = await limosa(b, "hooks", "test", "ipam")
    assert tried.status == 40
    assert "ClientConnectorError" in tried.out
    receiver = await receive(b)
    try:
        await restart(b)  # what was not delivered outlives an agent that is killed
        await told(b, "ipam", before + 1)
        (event,) = heard(receiver)
        assert (event["data"]["guest"], event["data"]["move"]) == ("web2", answer.move().id)
        assert (await limosa(b, "hooks", "test", "ipam")).status == 0
        assert [each["type"] for each in heard(receiver)] == ["guest.moved", "hooks.test"]
    finally:
        receiver.kill()
        await receiver.wait(10)
