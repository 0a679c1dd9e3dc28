"""The API against its own description, by schemathesis: every route, with tokens of each role and with none.

`make api` does the same with many more examples. Streams never end, so that they have tests of their own in
test_api_hostile.py; everything else in /openapi.json is asked, the real controller over TLS.
"""

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from limosa.testing.served import Served, served
from limosa.wire.fleet import Role

MANY = os.environ.get("LIMOSA_API_EXAMPLES", "")
EXAMPLES = MANY or "3"
"""For each route, beyond those that follow from its description."""
ALL = "examples,coverage,fuzzing,stateful"
SOME = ALL if MANY else "fuzzing"
"""What is tried again with other roles and databases; the most thorough phase, coverage, asks a thousand times."""
STREAMS = "/events$"
SETTINGS = """
hooks = "{hooks}"

[checks.positive_data_acceptance]
# 422: a plan that is well formed and makes no sense, such as a drain of no host.
expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429]

[dictionaries.names]
values = {names}

[parameters]
"path.name" = {{ dictionary = "names", probability = 0.5 }}
"path.guest" = {{ dictionary = "names", probability = 0.5 }}
"path.operation" = {{ dictionary = "names", probability = 0.5 }}
"""


def planned(controller: Served, host: str) -> str:
    """The id of an operation that waits for its approval."""
    headers = {"Authorization": f"Bearer {controller.tokens[Role.OPERATOR]}", "Content-Type": "application/json"}
    body = json.dumps({"kind": "drain", "hosts": [host]}).encode()
    request = urllib.request.Request(f"{controller.url}/v1/operations", body, headers)
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=controller.ca)) as answer:
        return str(json.load(answer)["id"])


def names_of(controller: Served) -> list[str]:
    """What there is, to be asked for by name."""
    return ["a", "b", "c", "web1", "web2", "db1", *(planned(controller, host) for host in "abc")]


def try_everything(controller: Served, names: list[str], token: str | None, phases: str = SOME) -> None:
    settings = controller.directory / "schemathesis.toml"
    settings.write_text(
        SETTINGS.format(hooks=Path(__file__).with_name("schemathesis_hooks.py"), names=json.dumps(names))
    )
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "--config-file", str(settings), "run", f"{controller.url}/openapi.json"]
    command += ["--tls-verify", str(controller.ca), "--exclude-path-regex", STREAMS, "--continue-on-failure"]
    command += ["--generation-deterministic", "--max-examples", EXAMPLES, "--no-color", "--warnings", "off"]
    command += ["--phases", phases]
    command += ["--generation-with-security-parameters", "false"]
    command += ["--header", f"Authorization: Bearer {token}"] if token else []
    environment = os.environ | {"REQUESTS_CA_BUNDLE": str(controller.ca)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=controller.directory, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{controller.log}"
    assert "a request failed" not in controller.log


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, list[str]]]:
    """One controller, and its names, for all who cannot take a token from each other."""
    with served(Path(tmp_path_factory.mktemp("controller"))) as controller:
        yield controller, names_of(controller)


@pytest.mark.parametrize("role", [None, Role.VIEWER, Role.OPERATOR])
def test_whatever_a_role_asks_is_answered_as_described(role: Role | None, common: tuple[Served, list[str]]) -> None:
    controller, names = common
    try_everything(controller, names, None if role is None else controller.tokens[role])


def test_whatever_an_admin_asks_is_answered_as_described(tmp_path: Path) -> None:
    with served(tmp_path) as controller:
        try_everything(controller, names_of(controller), controller.tokens[Role.ADMIN], ALL)


def test_postgresql_answers_as_described_too(postgres_url: str, tmp_path: Path) -> None:
    with served(tmp_path, postgres_url) as controller:
        try_everything(controller, names_of(controller), controller.tokens[Role.ADMIN])
