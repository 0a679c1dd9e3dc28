import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from limosa.cli.agent_stdio import relay
from limosa.cli.client import AgentClient
from limosa.cli.rest import refusal, server_sent
from limosa.cli.transport import Ssh, Unix, default_socket, way_to
from limosa.errors import AgentUnreachable, Blocked, UsageError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMOSA_HOST", "LIMOSA_SOCKET", "LIMOSA_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_an_agent_is_named_by_url_or_socket() -> None:
    assert way_to(None, None) == Unix("/run/limosa/agent.sock")
    assert way_to(None, "/x.sock") == Unix("/x.sock")
    assert way_to("unix:///x.sock", None) == Unix("/x.sock")
    assert way_to("ssh://root@host-b", None) == Ssh("root@host-b")
    assert way_to("ssh://host-b:2222/", "/x.sock") == Ssh(
        "host-b", 2222, ("limosa", "agent-stdio", "--socket", "/x.sock")
    )


def test_the_environment_serves_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMOSA_RUN_DIR", "/tmp/lab/run")
    assert default_socket() == "/tmp/lab/run/agent.sock"
    monkeypatch.setenv("LIMOSA_SOCKET", "/y.sock")
    assert default_socket() == "/y.sock"
    monkeypatch.setenv("LIMOSA_HOST", "ssh://root@host-c")
    assert way_to(None, None) == Ssh("root@host-c")
    assert way_to(None, "/x.sock") == Unix("/x.sock")


@pytest.mark.parametrize(
    "url", ["host-b", "http://x", "ssh://", "ssh://-oProxyCommand=x", "unix://x/y", "ssh://h:port"]
)
def test_what_names_no_agent_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        way_to(url, None)


def test_ssh_gets_a_target_that_it_cannot_take_for_an_option() -> None:
    way = way_to("ssh://root@host-b:2222", None)
    assert isinstance(way, Ssh)
    assert way.argv() == ["ssh", "-p", "2222", "-T", "--", "root@host-b", "limosa agent-stdio"]


def test_what_ssh_says_becomes_the_errors_detail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "ssh"
    stub.write_text("#!/bin/sh\necho 'bash: line 1: limosa: command not found' >&2\nexit 127\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with AgentClient(way_to("ssh://root@host-b", None)) as agent, pytest.raises(AgentUnreachable) as caught:
        agent.hello()
    assert "command not found" in caught.value.detail
    assert "install limosa" in caught.value.remedy


def test_agent_stdio_carries_both_directions_to_the_end() -> None:
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    out_reader, out_writer = os.pipe()
    thread = threading.Thread(target=relay, args=(near, reader, out_writer))
    thread.start()
    os.write(writer, b"question")
    assert far.recv(100) == b"question"
    os.close(writer)
    assert far.recv(100) == b""
    far.sendall(b"answer")
    far.close()
    thread.join(5)
    assert not thread.is_alive()
    assert os.read(out_reader, 100) == b"answer"
    near.close()
    for descriptor in (reader, out_reader, out_writer):
        os.close(descriptor)


def test_events_are_read_as_the_standard_says() -> None:
    stream = [b": beat\n", b"\n", b"event: x\n", b"data: {\n", b"data:}\n", b"\n", b"data: last"]
    assert list(server_sent(stream)) == [None, b"{\n}"]


def test_a_refusal_is_the_agents_own_error_or_names_the_status() -> None:
    told = refusal(409, b'{"code": "blocked", "what": "no", "guest_runs": null}')
    assert isinstance(told, Blocked)
    assert refusal(500, b"<html>").what == "the agent answered with HTTP status 500"


def test_help_imports_neither_the_wire_nor_the_screen() -> None:
    code = """
import sys
from limosa.cli import main
try:
    main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"msgspec", "rich", "asyncio", "http.client", "aiohttp"} & set(told.stderr.split())
