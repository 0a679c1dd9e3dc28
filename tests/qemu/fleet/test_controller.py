"""A real controller over real agents and a guest: it sees them, plans, and drains a host."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from limosa.agent import pki
from limosa.lab.guestctl import GuestOptions, Status
from limosa.lab.guests import GuestSpec, blockdev, control, start
from limosa.lab.hosts import Host
from limosa.lab.inside import Process
from limosa.lab.lab import Lab

pytestmark = [pytest.mark.qemu, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

PORT = 8447
CLIENT = """
import json, ssl, sys, urllib.error, urllib.request
url, method, token, body = sys.argv[1:]
request = urllib.request.Request(url, method=method, data=body.encode() or None)
request.add_header("Authorization", f"Bearer {token}")
request.add_header("Content-Type", "application/json")
try:
    answer = urllib.request.urlopen(request, context=ssl.create_default_context(cafile="/etc/limosa/pki/ca-cert.pem"))
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError:
    print(0, "{}")  # it does not listen yet
"""


class Fleet:
    """Two hosts, and a controller on the first."""

    def __init__(self, lab: Lab, controller: Process, token: str) -> None:
        self.lab = lab
        self.controller = controller
        self._token = token

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request, over TLS, from the controller's host."""
        host = self.lab.host("a")
        url = f"https://{host.addresses.peer}:{PORT}{path}"
        words = [sys.executable, "-c", CLIENT, url, method, self._token, "" if body is None else json.dumps(body)]
        status, _, told = (await host.run(words)).stdout.partition(" ")
        return int(status), json.loads(told or "null")

    async def until(self, path: str, wanted: Any, limit: float = 60) -> Any:
        """The first answer for which something holds (polled: a test's client keeps no stream)."""
        deadline = time.monotonic() + limit
        while True:
            told = (await self.ask("GET", path))[1]
            if wanted(told):
                return told
            assert time.monotonic() < deadline, told
            await asyncio.sleep(0.3)


async def run(host: Host) -> Process:
    """A controller's process."""
    return await host.spawn([sys.executable, "-m", "limosa", "controller", "--json"], name="controller")


async def started(lab: Lab, host: Host) -> Process:
    """A controller on a host, with a certificate of the lab's CA."""
    directory = host.path("/etc/limosa/controller")
    directory.mkdir()
    pki.issue_host(lab.store.directory / "pki", "fleet-1", [host.addresses.peer], directory / "pki", controller=True)
    shutil.copy(host.path("/etc/limosa/hosts.toml"), directory / "hosts.toml")
    (directory / "controller.toml").write_text("reserve = 0\n")
    return await run(host)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    if os.geteuid() != 0:
        pytest.skip("lab hosts need root")
    async with Lab.up(hosts=2, name=f"t-fleet-{os.getpid()}") as lab:
        host = lab.host("a")
        controller = await started(lab, host)
        made = await host.run([sys.executable, "-m", "limosa", "controller", "token", "test", "--role", "operator"])
        made_fleet = Fleet(lab, controller, made.stdout.strip())
        yield made_fleet
        made_fleet.controller.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(fleet: Fleet) -> tuple[GuestSpec, Status]:
    """A guest with a disk on host a, and what it was when it had booted."""
    a = fleet.lab.host("a")
    a.path("/srv/data.raw").touch()
    os.truncate(a.path("/srv/data.raw"), 8 << 20)
    spec = GuestSpec(
        "web1",
        GuestOptions(addresses=("10.66.0.100/24",), pages=8, records="auto"),
        memory=192,
        uuid="0b9c3d52-7f4e-4c63-9d7b-2f1f6f6f7a01",
        devices=blockdev("data", "/srv/data.raw", "raw", serial="data"),
    )
    await start(a, spec)
    async with await control(a, spec) as agent:
        return spec, await agent.status()


async def whole(host: Host, web: tuple[GuestSpec, Status]) -> None:
    """The guest runs on this host as if nothing had been."""
    spec, before = web
    async with await control(host, spec) as agent:
        now = await agent.status()
        assert (await agent.check_pages()).intact
    assert now.boot_id == before.boot_id
    assert now.disk("data").acknowledged > before.disk("data").acknowledged
    assert now.disk("data").errors == 0


async def begin(fleet: Fleet, kind: str) -> str:
    """An operation on host a that was approved; where it is told of."""
    status, begun = await fleet.ask("POST", "/v1/operations", {"kind": kind, "hosts": ["a"], "approved": True})
    assert status == 202, begun
    return f"/v1/operations/{begun['id']}"


def over(told: dict[str, Any]) -> bool:
    return bool(told.get("phase") == "done")


async def test_a_drain_moves_a_running_guest_and_leaves_its_host_empty(
    fleet: Fleet, web: tuple[GuestSpec, Status]
) -> None:
    hosts = await fleet.until("/v1/hosts", lambda told: len(told.get("items", ())) == 2)
    assert {host["name"] for host in hosts["items"]} == {"a", "b"}
    await fleet.until("/v1/guests", lambda told: [g["name"] for g in told.get("items", ())] == ["web1"])
    status, planned = await fleet.ask("POST", "/v1/plans", {"kind": "drain", "hosts": ["a"]})
    assert status == 200, planned
    assert [(item["name"], item["destination"]) for item in planned["items"]] == [("web1", "b")]
    drain = await begin(fleet, "drain")
    begun = await fleet.until(drain, lambda told: told["items"][0]["move"] != "")
    move = f"/v1/moves/{begun['items'][0]['move']}"
    status, flying = await fleet.ask("GET", move)
    assert (status, flying["status"]["operation"]) == (200, begun["id"]), flying
    done = await fleet.until(drain, over)
    assert (await fleet.ask("GET", "/v1/hosts/a"))[1]["state"] == "drained", done
    await whole(fleet.lab.host("b"), web)
    await remembered(fleet, move, begun["id"])


async def remembered(fleet: Fleet, move: str, operation: str) -> None:
    """The controller keeps a finished move, and knows what both hosts logged of it."""
    history = await fleet.until(f"/v1/history?operation={operation}", lambda told: told.get("items"))
    assert [f"/v1/moves/{past['id']}" for past in history["items"]] == [move]
    final = await fleet.until(move, lambda told: told["ended"] is not None)
    assert (final["status"]["state"], final["pause"] is not None) == ("completed", True)
    assert {"ram", "disk-data"} <= {series["item"] for series in final["series"]}
    log = (await fleet.ask("GET", f"{move}/log"))[1]
    assert log["silent"] == {}
    assert {line["host"] for line in log["lines"]} == {"a", "b"}
    assert [line["at"] for line in log["lines"]] == sorted(line["at"] for line in log["lines"])


async def test_restore_brings_the_guest_home(fleet: Fleet, web: tuple[GuestSpec, Status]) -> None:
    fleet.lab.host("a").path("/srv/data.raw").unlink(missing_ok=True)
    for old in fleet.lab.host("a").path("/srv").glob("*.limosa-*"):
        old.unlink()  # what its move set aside
    await fleet.until(await begin(fleet, "restore"), over)
    assert (await fleet.ask("GET", "/v1/hosts/a"))[1]["state"] == "active"
    await whole(fleet.lab.host("a"), web)


async def test_a_controller_that_is_killed_in_a_drain_goes_on_with_it_when_it_is_back(
    fleet: Fleet, web: tuple[GuestSpec, Status]
) -> None:
    for old in fleet.lab.host("b").path("/srv").glob("data.raw*"):
        old.unlink()
    drain = await begin(fleet, "drain")
    await fleet.until(drain, lambda told: any(item["state"] == "moving" for item in told["items"]))
    fleet.controller.kill()
    await fleet.controller.wait(20)
    fleet.controller = await run(fleet.lab.host("a"))
    done = await fleet.until(drain, over)
    assert [item["state"] for item in done["items"]] == ["done"], done
    await whole(fleet.lab.host("b"), web)
