"""The controller's API on real databases, with reports of agents that are not there."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest

from limosa.agent import pki
from limosa.api.app import app
from limosa.fleet.config import load
from limosa.fleet.controller import Controller
from limosa.testing.fleet import FLAGS, FRESH, guest, report
from limosa.wire.fleet import Role

JSON = {"Content-Type": "application/json"}


class Api(NamedTuple):
    """A controller with three hosts, and clients with tokens of each role."""

    controller: Controller
    viewer: httpx.AsyncClient
    operator: httpx.AsyncClient
    admin: httpx.AsyncClient


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Api]:
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    (tmp_path / "controller.toml").write_text(f'database = "{database_url}"\nstate_dir = "{tmp_path}/state"\n')
    async with Controller.running(load(tmp_path)) as controller:
        now = time.time() + FRESH
        await controller.registry.take("a", report("a", guest("web1", "a"), guest("web2", "a")), now)
        await controller.registry.take("b", report("b", guest("db1", "b")), now)
        await controller.registry.take("c", report("c", flags=FLAGS[:2]), now)
        # In the controller's own loop, as uvicorn runs it.
        transport = httpx.ASGITransport(cast("Any", app(controller)))
        async with httpx.AsyncClient(transport=transport, base_url="https://fleet-1") as client:
            clients = [await _client(client, controller, role) for role in Role]
            yield Api(controller, *clients)


async def _client(client: Any, controller: Controller, role: Role) -> Any:
    token = await controller.tokens.make(role, role, "test")
    return _With(client, {"Authorization": f"Bearer {token.word}"})


class _With:
    """A client whose requests carry a token."""

    def __init__(self, client: Any, headers: dict[str, str]) -> None:
        self._client, self._headers = client, headers

    def __getattr__(self, method: str) -> Any:
        async def ask(path: str, **how: Any) -> Any:
            headers = {**self._headers, **how.pop("headers", {})}
            return await getattr(self._client, method)(path, headers=headers, **how)

        return ask


async def test_who_has_no_token_learns_nothing_but_that_the_controller_lives(api: Api) -> None:
    bare = api.viewer._client  # type: ignore[attr-defined]
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic eDp5"}):
        answer = await bare.get("/v1/hosts", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "no-token")
    assert (await bare.get("/healthz")).json() == {"alive": True}
    assert (await bare.get("/readyz")).json()["ready"] is True
    assert "paths" in (await bare.get("/openapi.json")).json()


async def test_roles_see_order_and_set(api: Api) -> None:
    drain = {"kind": "drain", "hosts": ["a"]}
    asked = [("get", "/v1/hosts", None), ("post", "/v1/plans", drain), ("put", "/v1/hosts/a/settings", {"rack": "r1"})]
    seen = []
    for client in (api.viewer, api.operator, api.admin):
        answers = [await getattr(client, method)(path, **({"json": j} if j else {})) for method, path, j in asked]
        seen.append([answer.status_code for answer in answers])
    assert seen == [[200, 403, 403], [200, 200, 403], [200, 200, 200]]
    assert (await api.viewer.get("/v1/hosts/a")).json()["settings"]["rack"] == "r1"


async def test_lists_come_in_pages_that_miss_nothing(api: Api) -> None:
    names, after = [], ""
    while True:
        page = (await api.viewer.get("/v1/hosts", params={"limit": 2, "after": after})).json()
        names += [host["name"] for host in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert names == ["a", "b", "c"]


async def test_a_guest_fits_where_its_flags_are_and_the_others_say_what_they_lack(api: Api) -> None:
    fits = {fit["host"]: fit for fit in (await api.viewer.get("/v1/guests/web1/fits")).json()}
    assert (fits["b"]["fits"], fits["c"]["fits"]) == (True, False)
    assert "avx" in fits["c"]["reasons"][0]


async def test_a_plan_is_shown_and_kept_nowhere(api: Api) -> None:
    planned = (await api.operator.post("/v1/plans", json={"kind": "drain", "hosts": ["a"], "why": "fans"})).json()
    assert {(item["name"], item["destination"]) for item in planned["items"]} == {("web1", "b"), ("web2", "b")}
    assert (await api.viewer.get("/v1/operations")).json()["items"] == []
    assert (await api.viewer.get("/v1/hosts/a")).json()["state"] == "active"


async def test_an_approved_drain_closes_its_host_first_and_a_cancelled_one_opens_it_again(api: Api) -> None:
    begun = await api.operator.post("/v1/operations", json={"kind": "drain", "hosts": ["a"], "approved": True})
    assert begun.status_code == 202
    name = begun.json()["id"]
    assert begun.headers["location"] == f"/v1/operations/{name}"
    assert (await api.viewer.get("/v1/hosts/a")).json()["state"] == "draining"
    refused = await api.operator.post("/v1/operations", json={"kind": "drain", "hosts": ["a"], "approved": True})
    assert (refused.status_code, refused.json()["code"]) == (409, "blocked")
    # No agent answers, so that nothing moves: the drain waits, and can be ended.
    assert (await api.operator.post(f"/v1/operations/{name}/pause", json={"why": "lunch"})).status_code == 202
    assert (await api.operator.post(f"/v1/operations/{name}/resume", json={"why": "back"})).status_code == 202
    assert (await api.operator.post(f"/v1/operations/{name}/cancel", json={})).status_code == 202
    changes = (await api.viewer.get("/v1/audit/changes")).json()["items"]
    assert [(c["who"], c["what"], c["why"]) for c in changes if c["subject"] == name][:4] == [
        ("operator", "cancel", ""),
        ("operator", "resume", "back"),
        ("operator", "pause", "lunch"),
        ("operator", "begin", ""),
    ]


async def test_a_planned_operation_waits_for_its_approval_and_is_approved_once(api: Api) -> None:
    name = (await api.operator.post("/v1/operations", json={"kind": "drain", "hosts": ["c"]})).json()["id"]
    assert (await api.viewer.get(f"/v1/operations/{name}")).json()["phase"] == "planned"
    assert (await api.viewer.post(f"/v1/operations/{name}/approve", json={})).status_code == 403
    assert (await api.operator.post(f"/v1/operations/{name}/approve", json={})).status_code == 202
    assert (await api.operator.post(f"/v1/operations/{name}/approve", json={})).status_code == 409
    final = ""
    async for line in _lines(api, f"/v1/operations/{name}/events"):
        final = line if line.startswith("data:") else final
    assert '"phase":"done"' in final  # nobody is on c
    assert (await api.viewer.get("/v1/hosts/c")).json()["state"] == "drained"


async def _lines(api: Api, path: str) -> AsyncIterator[str]:
    with_token: Any = api.viewer
    async with with_token._client.stream("GET", path, headers=with_token._headers) as answer:
        async for line in answer.aiter_lines():
            yield line


async def test_a_repeated_request_with_its_key_begins_nothing_new(api: Api) -> None:
    asked = {"kind": "drain", "hosts": ["c"]}
    key = {"Idempotency-Key": "k1"}
    first, again = [(await api.operator.post("/v1/operations", json=asked, headers=key)).json() for _ in range(2)]
    assert first["id"] == again["id"]
    other = await api.operator.post("/v1/operations", json={"kind": "drain", "hosts": ["b"]}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "blocked")


async def test_a_repeated_request_is_answered_even_if_it_could_not_be_planned_any_more(api: Api) -> None:
    asked = {"kind": "move", "moves": [{"guest": "web1", "to": "b"}]}
    key = {"Idempotency-Key": "k2"}
    first = (await api.operator.post("/v1/operations", json=asked, headers=key)).json()
    await api.controller.registry.take("a", report("a", guest("web2", "a")), time.time())
    assert (await api.operator.post("/v1/operations", json=asked)).status_code == 404
    assert (await api.operator.post("/v1/operations", json=asked, headers=key)).json()["id"] == first["id"]


REFUSED: tuple[tuple[str, str, Any, int], ...] = (
    ("get", "/v1/hosts/z", None, 404),
    ("get", "/v1/nothing", None, 404),
    ("get", "/v1/hosts/", None, 404),
    ("get", "/v1/guests//fits", None, 404),
    ("get", "/v1/moves/%2F", None, 404),
    ("get", "/v1/guests/z/fits", None, 404),
    ("get", "/v1/hosts?limit=0", None, 400),
    ("post", "/v1/plans", {"kind": "drain", "hosts": ["z"]}, 404),
    ("post", "/v1/plans", {"kind": "drain"}, 422),
    ("post", "/v1/plans", {"kind": "explode"}, 400),
    ("post", "/v1/plans", {"kind": "drain", "hosts": ["a"], "surprise": 1}, 400),
    ("put", "/v1/hosts/a/state", {"state": "drained"}, 400),
    ("put", "/v1/guests/z/rules", {"priority": 1}, 404),
    ("post", "/v1/operations/none/approve", {}, 404),
    ("delete", "/v1/tokens/none", None, 404),
)


async def test_what_cannot_be_is_refused_in_the_usual_parts(api: Api) -> None:
    for method, path, body, status in REFUSED:
        answer = await getattr(api.admin, method)(path, **({"json": body} if body is not None else {}))
        assert answer.status_code == status, (path, answer.text)
        assert set(answer.json()) == {"code", "what", "guest_runs", "remedy", "detail"}


async def test_a_huge_body_is_refused(api: Api) -> None:
    answer = await api.operator.post("/v1/plans", content=b"[" + b" " * 2_000_000 + b"]", headers=JSON)
    assert answer.status_code == 413


async def test_a_guest_with_two_owners_is_found(api: Api) -> None:
    assert (await api.viewer.get("/v1/audit/owners")).json() == []
    await api.controller.registry.take("c", report("c", guest("web1", "c", epoch=1)), time.time())
    (found,) = (await api.viewer.get("/v1/audit/owners")).json()
    assert (found["name"], found["hosts"]) == ("web1", ["a", "c"])


async def test_a_silent_host_is_shown_as_silent_and_its_guests_as_last_seen(api: Api) -> None:
    await api.controller.registry.seen({"a": time.time() - 100})
    await api.controller.registry.silent({"a": "no route"})
    host = (await api.viewer.get("/v1/hosts/a")).json()
    assert (host["silent_for"] > 90, host["trouble"], host["guests"]) == (True, "no route", 2)
    assert (await api.viewer.get("/v1/guests/web1")).json()["silent_for"] > 90
    planned = (await api.operator.post("/v1/plans", json={"kind": "drain", "hosts": ["a"]})).json()
    assert planned["items"] == []
    assert planned["left"][0]["why"].startswith("the agent of a has been silent since 20")
    (away,) = [fit for fit in (await api.viewer.get("/v1/guests/db1/fits")).json() if fit["host"] == "a"]
    assert [why.partition(" since ")[0] for why in away["reasons"]] == ["has been silent"]
    assert (await api.admin.put("/v1/hosts/a/state", json={"state": "lost"})).status_code == 200
    given_up = (await api.operator.post("/v1/plans", json={"kind": "drain", "hosts": ["a"]})).json()
    assert given_up["left"][0]["why"] == "a is lost"


async def test_rules_keep_guests_apart(api: Api) -> None:
    for name in ("web1", "db1"):
        answer = await api.admin.put(f"/v1/guests/{name}/rules", json={"groups": ["pair"]})
        assert answer.json()["rules"]["groups"] == ["pair"]
    fits = {fit["host"]: fit for fit in (await api.viewer.get("/v1/guests/web1/fits")).json()}
    assert fits["b"]["reasons"] == ["db1 of the group pair is there"]


async def test_a_removed_token_opens_nothing(api: Api) -> None:
    made = (await api.admin.post("/v1/tokens", json={"name": "night", "role": "viewer"})).json()
    bare = api.viewer._client  # type: ignore[attr-defined]
    with_it = {"Authorization": f"Bearer {made['word']}"}
    assert (await bare.get("/v1/guests", headers=with_it)).status_code == 200
    assert all(token["word"] == "" for token in (await api.admin.get("/v1/tokens")).json())
    assert (await api.admin.delete("/v1/tokens/night")).status_code == 204
    assert (await bare.get("/v1/guests", headers=with_it)).status_code == 401
