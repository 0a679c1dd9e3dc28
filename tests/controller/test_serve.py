"""The controller's process: it runs once, on a port that is its own, and ends when it is told to."""

import asyncio
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from limosa.agent import pki
from limosa.agent.config import Endpoint
from limosa.api.serve import listening, only_one
from limosa.errors import UsageError
from limosa.fleet.config import load
from limosa.fleet.db.engine import Database
from limosa.fleet.operations.store import OperationStore
from limosa.fleet.tokens import Tokens
from limosa.testing.ports import free_port
from limosa.wire.fleet import Forecast, Operation, OperationKind, Phase, Role

PATIENCE = 60
"""Seconds that a process may take to start or to end; both are waited for."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory of a controller."""
    pki.create_ca(tmp_path / "ca", "ca")
    pki.issue_host(tmp_path / "ca", "fleet-1", ["127.0.0.1"], tmp_path / "pki", controller=True)
    text = f'listen = "127.0.0.1:{free_port()}"\nstate_dir = "{tmp_path}/state"\n'
    (tmp_path / "controller.toml").write_text(text)
    return tmp_path


@asynccontextmanager
async def started(place: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    words = (sys.executable, "-m", "limosa", "controller", "--config-dir", place, "--json")
    process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def said(process: asyncio.subprocess.Process, wanted: str) -> None:
    """Read what it logs until it says this."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while wanted not in (line := (await process.stderr.readline()).decode()):
            assert line, f"it ended without saying {wanted}"


def client(place: Path, token: str) -> httpx.AsyncClient:
    listen = load(place).listen
    trusted = ssl.create_default_context(cafile=place / "pki" / pki.CA_CERT)
    return httpx.AsyncClient(
        base_url=f"https://{listen}", verify=trusted, headers={"Authorization": f"Bearer {token}"}, timeout=PATIENCE
    )


def planned() -> Operation:
    return Operation(
        id="drain-1",
        kind=OperationKind.DRAIN,
        hosts=(),
        who="test",
        why="",
        created=0.0,
        phase=Phase.PLANNED,
        items=(),
        left=(),
        forecast=Forecast(),
    )


async def test_sigterm_ends_it_with_a_stream_open_and_its_leases_are_free(place: Path) -> None:
    database = load(place).database
    async with Database.opened(database) as opened:
        token = (await Tokens(opened).make("t", Role.VIEWER, "test")).word
        await OperationStore(opened, "nobody").add(planned())
    async with started(place) as process, client(place, token) as asking:
        await said(process, "this controller leads")
        async with asking.stream("GET", "/v1/operations/drain-1/events") as stream:
            await anext(stream.aiter_lines())
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0
    with sqlite3.connect(place / "state" / "controller.db") as left:
        assert left.execute("select name from leases").fetchall() == []


async def test_a_second_controller_in_the_same_directory_is_refused(place: Path) -> None:
    config = load(place)
    with only_one(config), pytest.raises(UsageError, match="a controller runs in"), only_one(config):
        pass
    with only_one(config):  # the first one has let go
        pass


def test_a_port_that_is_taken_is_told_and_one_that_is_free_is_had() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        endpoint = Endpoint(*taken.getsockname())
        with pytest.raises(UsageError, match=f"cannot listen on {endpoint}"), listening(endpoint):
            pass
    with listening(endpoint) as door:
        assert door.getsockname() == endpoint


async def test_a_controller_whose_port_is_taken_says_so_in_three_parts_and_ends(place: Path) -> None:
    with socket.create_server(load(place).listen):
        async with started(place) as process:
            _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 2
    assert b"cannot listen on 127.0.0.1" in told
    assert b"set listen in controller.toml" in told
