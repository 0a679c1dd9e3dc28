"""Who may do what: every route of the application, asked by each role and by nobody."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from litestar.routes import HTTPRoute

from limosa.api.app import app
from limosa.api.description import PATH
from limosa.testing.served import Served, served
from limosa.wire.fleet import Role


class May(NamedTuple):
    """Which role is needed, None for nobody's; what is sent; and what is answered to who may."""

    role: Role | None
    status: int = 200
    body: Any = None


SEE = May(Role.VIEWER)
RIGHTS: dict[str, May] = {
    "GET /openapi.json": May(None),
    "GET /healthz": May(None),
    "GET /readyz": May(None),
    "GET /metrics": SEE,
    "GET /v1/doctor": SEE,
    "GET /v1/hooks": SEE,
    "POST /v1/hooks/test": May(Role.ADMIN, 200, {}),
    "GET /v1/hosts": SEE,
    "GET /v1/hosts/{name}": SEE,
    "GET /v1/guests": SEE,
    "GET /v1/guests/{guest}": SEE,
    "GET /v1/guests/{guest}/fits": SEE,
    "GET /v1/audit/owners": SEE,
    "GET /v1/audit/changes": SEE,
    "GET /v1/events": SEE,
    "GET /v1/moves": SEE,
    "GET /v1/moves/{move}": May(Role.VIEWER, 404),
    "GET /v1/moves/{move}/events": May(Role.VIEWER, 404),
    "GET /v1/moves/{move}/log": May(Role.VIEWER, 404),
    "GET /v1/history": SEE,
    "GET /v1/history/weeks": SEE,
    "GET /v1/operations": SEE,
    "GET /v1/operations/{operation}": SEE,
    "GET /v1/operations/{operation}/events": SEE,
    "POST /v1/plans": May(Role.OPERATOR, 200, {"kind": "drain", "hosts": ["a"]}),
    "POST /v1/operations": May(Role.OPERATOR, 202, {"kind": "drain", "hosts": ["b"]}),
    "POST /v1/operations/{operation}/approve": May(Role.OPERATOR, 202, {}),
    "POST /v1/operations/{operation}/pause": May(Role.OPERATOR, 202, {}),
    "POST /v1/operations/{operation}/resume": May(Role.OPERATOR, 202, {}),
    "POST /v1/operations/{operation}/cancel": May(Role.OPERATOR, 202, {}),
    "POST /v1/moves": May(Role.OPERATOR, 202, {"guest": "db1", "to": "a"}),
    "PUT /v1/hosts/{name}/state": May(Role.ADMIN, 200, {"state": "active"}),
    "PUT /v1/hosts/{name}/settings": May(Role.ADMIN, 200, {}),
    "PUT /v1/guests/{guest}/rules": May(Role.ADMIN, 200, {}),
    "GET /v1/tokens": May(Role.ADMIN),
    "POST /v1/tokens": May(Role.ADMIN, 201, {"name": "night", "role": "viewer"}),
    "DELETE /v1/tokens/{name}": May(Role.ADMIN, 204),
}
"""In an order in which each can be asked: what is begun is steered before it is over."""


def routes() -> set[str]:
    """Every method and path that the application answers, but OPTIONS, which only names the others."""
    made = app(cast("Any", None))
    found = {(method, route) for route in made.routes if isinstance(route, HTTPRoute) for method in route.methods}
    named = {f"{method} {path_of(route)}" for method, route in found if method != "OPTIONS"}
    return {each for each in named if not each.startswith(f"GET {PATH}/")}  # Litestar's own, below the description


def path_of(route: HTTPRoute) -> str:
    parts = (part if isinstance(part, str) else f"{{{part.name}}}" for part in route.path_components)
    return "/" + "/".join(parts)


def test_every_route_says_who_may() -> None:
    assert routes() == set(RIGHTS)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Path(tmp_path_factory.mktemp("controller"))) as running:
        yield running


def ask(controller: Served, method: str, path: str, role: Role | None, body: Any) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"}
    if role is not None:
        headers["Authorization"] = f"Bearer {controller.tokens[role]}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(controller.url + path, data, headers, method=method)
    context = ssl.create_default_context(cafile=controller.ca)
    try:
        with urllib.request.urlopen(request, context=context) as answer:
            stream = answer.headers.get("Content-Type", "").startswith("text/event-stream")
            return answer.status, b"" if stream else answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def expected(may: May, role: Role | None, *, again: bool) -> set[int]:
    if may.role is None:
        return {may.status}
    if role is None:
        return {401}
    if list(Role).index(role) < list(Role).index(may.role):
        return {403}
    return {may.status, 409} if again else {may.status}  # what a lower role has done cannot always be done again


def test_each_role_may_exactly_what_it_should(controller: Served) -> None:
    operation = ""
    for route, may in RIGHTS.items():
        method, template = route.split()
        if not operation and "{operation}" in template:
            asked = {"kind": "move", "moves": [{"guest": "web1", "to": "b"}]}
            status, answer = ask(controller, "POST", "/v1/operations", Role.OPERATOR, asked)
            assert status == 202
            operation = json.loads(answer)["id"]
        names = {
            "name": "night" if "tokens" in template else "a",
            "guest": "web2",
            "operation": operation,
            "move": "m0",
        }
        again = False
        for role in (None, *Role):
            status, answer = ask(controller, method, template.format(**names), role, may.body)
            assert status in expected(may, role, again=again), (route, role, answer)
            again = again or status == may.status
