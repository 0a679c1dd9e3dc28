"""The way to a controller: who may answer, who asks, and what is said where it goes wrong."""

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from limosa.agent import pki
from limosa.cli import fleet_client, fleet_doctor, https, limosa
from limosa.cli.fleet_client import FleetClient
from limosa.cli.https import token, trusted, way_to_controller
from limosa.cli.lazy import run
from limosa.errors import ControllerUnreachable, LimosaError, NoToken, Untrusted, UsageError
from limosa.wire.doctor import FleetDiagnosis, Trouble, Weight
from limosa.wire.fleet import Forecast, Operation, OperationAsked, OperationKind, Phase

RUNNING = Operation(
    id="drain-1",
    kind=OperationKind.DRAIN,
    hosts=("a",),
    who="w",
    why="",
    created=0.0,
    phase=Phase.RUNNING,
    items=(),
    left=(),
    forecast=Forecast(),
)
DONE = msgspec.structs.replace(RUNNING, phase=Phase.DONE)

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(autouse=True)
def _a_token_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LIMOSA_HOST", "LIMOSA_SOCKET", "LIMOSA_CA", "LIMOSA_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIMOSA_TOKEN", "word")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(https, "FLEET_CA", str(tmp_path / "none" / "ca-cert.pem"))
    monkeypatch.setattr(https, "HOST_TOKEN", str(tmp_path / "etc" / "token"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    pki.create_ca(directory / "ca", "ca")
    pki.issue_host(directory / "ca", "fleet-1", ["127.0.0.1"], directory / "host", controller=True)
    return directory


@contextmanager
def server(certificates: Path, answer: Answer, *, mutual: bool = False) -> Iterator[tuple[str, list[Any]]]:
    """An HTTPS server that answers every request in this way; its URL, and the requests.

    With `mutual` it wants a certificate of whoever asks, as agents do of each other.
    """
    asked: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.command, self.path, dict(self.headers)))
            answer(self)

        def do_POST(self) -> None:
            self.do_GET()

        def handle(self) -> None:
            with suppress(OSError):  # a client may leave at any time
                super().handle()

        def log_message(self, *_: Any) -> None:
            """Tests look at `asked`."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "host" / pki.HOST_CERT, certificates / "host" / pki.HOST_KEY)

    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca" / pki.CA_CERT)

    class Server(http.server.ThreadingHTTPServer):
        block_on_close = False

        def finish_request(self, request: Any, client_address: Any) -> None:
            # Who does not trust us says good-bye in the middle.
            with suppress(OSError), context.wrap_socket(request, server_side=True) as stream:
                super().finish_request(stream, client_address)

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()
        thread.join()


def says(status: int, body: bytes, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def asked_for_hosts(url: str, certificates: Path) -> LimosaError:
    with (
        FleetClient(way_to_controller(url, str(certificates / "ca" / pki.CA_CERT))) as fleet,
        pytest.raises(LimosaError) as caught,
    ):
        fleet.hosts()
    return caught.value


def test_a_request_carries_the_token_and_goes_below_the_urls_path(certificates: Path) -> None:
    with server(certificates, says(200, b'{"items": [], "next": null}')) as (url, asked):
        with FleetClient(way_to_controller(f"{url}/limosa/", str(certificates / "ca" / pki.CA_CERT))) as fleet:
            assert fleet.hosts() == ()
        ((method, path, headers),) = asked
    assert (method, path) == ("GET", "/limosa/v1/hosts?limit=500")
    assert headers["Authorization"] == "Bearer word"
    assert headers["Host"] == url.removeprefix("https://")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (says(502, b"<html>"), ControllerUnreachable, "in front of"),
        (says(404, b"<html>"), UsageError, "HTTP status 404"),
        (says(200, b"<html>"), UsageError, "what is no JSON"),
        (says(302, b"", Location="https://elsewhere/"), UsageError, "HTTP status 302"),
        (says(200, b'{"items": 5}'), LimosaError, "not what this limosa expects"),
        (says(401, json.dumps(NoToken("unknown").to_wire()).encode()), NoToken, "unk"),
    ],
)
def test_who_is_no_controller_or_stands_before_one_is_told(
    certificates: Path, answer: Answer, kind: type[LimosaError], words: str
) -> None:
    with server(certificates, answer) as (url, _):
        error = asked_for_hosts(url, certificates)
    assert type(error) is kind
    assert words in error.what


def test_another_ca_another_name_and_no_certificate_are_three_errors(certificates: Path, tmp_path: Path) -> None:
    pki.create_ca(tmp_path / "ca", "other")
    with server(certificates, says(200, b"")) as (url, asked):
        unknown = asked_for_hosts(url, tmp_path)
        renamed = asked_for_hosts(url.replace("127.0.0.1", "localhost"), certificates)
        with FleetClient(way_to_controller(url, str(tmp_path / "nothing.pem"))) as fleet, pytest.raises(UsageError):
            fleet.hosts()
        assert asked == []
    assert (type(unknown), type(renamed)) == (Untrusted, Untrusted)
    assert "did not sign" in unknown.what
    assert "not for localhost" in renamed.what


def test_what_speaks_no_tls_and_what_does_not_answer_are_told_apart(certificates: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        thread = threading.Thread(target=_speak_plainly, args=(plain,))
        thread.start()
        error = asked_for_hosts(f"https://127.0.0.1:{port}", certificates)
        thread.join()
    assert isinstance(error, UsageError)
    assert "does not speak TLS" in error.what
    assert isinstance(asked_for_hosts(f"https://127.0.0.1:{port}", certificates), ControllerUnreachable)


def test_where_an_agents_port_breaks_off_the_port_is_asked_about(certificates: Path) -> None:
    with server(certificates, says(200, b""), mutual=True) as (url, _):
        error = asked_for_hosts(url, certificates)
    assert isinstance(error, ControllerUnreachable)
    assert "and not an agent's" in error.remedy


def _speak_plainly(listening: socket.socket) -> None:
    stream, _ = listening.accept()
    with stream:
        stream.recv(100)
        stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    "url",
    ["http://h:8447", "https://", "https://user@h", "https://user:word@h", "https://h:99999", "https://h/?token=word"],
)
def test_what_names_no_controller_or_would_betray_the_token_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        way_to_controller(url)


def test_a_token_comes_from_the_environment_a_named_file_the_users_or_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert token("c") == "word"
    monkeypatch.delenv("LIMOSA_TOKEN")
    with pytest.raises(NoToken) as caught:
        token("the controller c")
    assert str(tmp_path / "config" / "limosa" / "token") in caught.value.remedy
    for place, word in (("etc/token", "hosts"), ("config/limosa/token", "users"), ("named", "named")):
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{word}\n")
        if place == "named":
            monkeypatch.setenv("LIMOSA_TOKEN_FILE", str(file))
        assert token("c") == word


@pytest.mark.parametrize("word", ["two words", "a\nb", "\u00fc"])
def test_what_is_no_token_is_not_sent(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("LIMOSA_TOKEN", word)
    with pytest.raises(UsageError):
        token("c")


def test_the_fleets_own_ca_is_trusted_where_it_is_and_another_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trusted() is None
    monkeypatch.setattr(https, "FLEET_CA", str(tmp_path))
    assert trusted() == str(tmp_path)
    monkeypatch.setenv("LIMOSA_CA", "/x.pem")
    assert trusted() == "/x.pem"


def test_a_lost_answer_is_asked_for_again_with_the_same_key(certificates: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if len(asked) == 1:
            handler.close_connection = True  # and says nothing
        else:
            says(202, msgspec.json.encode(RUNNING))(handler)

    with server(certificates, answer) as (url, asked):
        with FleetClient(way_to_controller(url, str(certificates / "ca" / pki.CA_CERT))) as fleet:
            assert fleet.begin(OperationAsked(kind=OperationKind.DRAIN, hosts=("a",))).id == "drain-1"
        keys = [headers["Idempotency-Key"] for _, _, headers in asked]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_watch_outlives_a_controller_that_is_away_for_a_while(certificates: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        match len(asked):
            case 1:  # a stream that breaks off after a heartbeat
                handler.send_response(200)
                handler.end_headers()
                handler.wfile.write(b"data: " + msgspec.json.encode(RUNNING) + b"\n\n: alive\n\n")
                handler.close_connection = True
            case 2:
                says(503, b"<html>")(handler)
            case 3:
                handler.close_connection = True
            case _:
                says(200, msgspec.json.encode(DONE))(handler)

    with (
        server(certificates, answer) as (url, asked),
        FleetClient(way_to_controller(url, str(certificates / "ca" / pki.CA_CERT))) as fleet,
    ):
        assert list(fleet.events("drain-1")) == [RUNNING, RUNNING, DONE]
        assert [path.endswith("/events") for _, path, _ in asked] == [True, False, False, False]


def test_a_watch_ends_where_no_controller_comes_back(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_client, "PATIENCE_SECONDS", 0.0)
    with server(certificates, says(503, b"")) as (url, _):
        way = way_to_controller(url, str(certificates / "ca" / pki.CA_CERT))
        with FleetClient(way) as fleet, pytest.raises(ControllerUnreachable):
            list(fleet.events("drain-1"))


@pytest.mark.parametrize("words", [["drain", "a"], ["operations"], ["operations", "drain-1"], ["host", "set", "a"]])
def test_what_needs_a_controller_says_how_to_name_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, words) == 2
    assert "-H https://controller:8447" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["speed", "5M"], ["cpu", "show", "a"]])
def test_what_needs_an_agent_says_so_to_a_controller(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["-H", "https://fleet-1:8447", *words]) == 2
    assert "this takes an agent" in capsys.readouterr().err


def test_a_fleets_doctor_tells_three_parts_and_that_not_everybody_answered() -> None:
    trouble = Trouble(weight=Weight.ERROR, host="a", what="web1 is in doubt", guest_runs="paused on a", remedy="ask b")
    sick = FleetDiagnosis(at=0.0, hosts=3, asked=2, troubles=(trouble,))
    assert fleet_doctor.page(sick).splitlines() == [
        "error: a: web1 is in doubt",
        "  the guest runs: paused on a",
        "  to do: ask b",
        "",
        "2 of 3 hosts looked at: something is wrong",
    ]
    well = msgspec.structs.replace(sick, asked=3, troubles=())
    assert fleet_doctor.page(well) == "3 of 3 hosts looked at: all is well"


def test_a_fleets_doctor_is_asked_of_the_controller(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMOSA_CA", str(certificates / "ca" / pki.CA_CERT))
    found = FleetDiagnosis(at=0.0, hosts=1, asked=1, troubles=(Trouble(weight=Weight.WARNING, host="a", what="w"),))
    with server(certificates, says(200, msgspec.json.encode(found))) as (url, asked):
        assert run(limosa, ["-H", url, "doctor", "--json"]) == 40
        assert run(limosa, ["-H", url, "doctor", "--fix"]) == 2
    assert [path for _, path, _ in asked] == ["/v1/doctor"]
    told = capsys.readouterr()
    assert msgspec.json.decode(told.out, type=FleetDiagnosis) == found
    assert "limosa -H ssh://root@HOST doctor --fix" in told.err


def test_an_option_of_agents_is_not_dropped_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-H", "https://fleet-1:8447", "migrate", "web1", "--to", "b", "--insecure-plaintext"]
    assert run(limosa, words) == 2
    assert "--insecure-plaintext cannot be given through a controller" in capsys.readouterr().err
