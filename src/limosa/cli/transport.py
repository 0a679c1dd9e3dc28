"""Ways to an agent: its unix socket here, or ssh to another host and its socket there.

The way to a controller is in https.py, for those who name one: TLS takes its time to import.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from limosa.errors import AgentUnreachable, LimosaError, UsageError

DEFAULT_SOCKET = "/run/limosa/agent.sock"
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Peer:
    """Who answers at the other end of a way, in requests and in errors."""

    name: str
    """As errors call it."""
    lost: type[LimosaError]
    """The error where it does not answer, and what to do then."""
    if_lost: str
    strange: type[LimosaError]
    """The error where what answers is no limosa, and what to do then."""
    if_strange: str
    authority: str
    """The `Host` of requests."""
    prefix: str = ""
    """Put before each path."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with each request."""


AGENT = Peer(
    name="the agent",
    lost=AgentUnreachable,
    if_lost="look whether the agent runs, and try again",
    strange=LimosaError,
    if_strange="install the same version of limosa at both ends (limosa --version)",
    authority="limosa-agent",
)


class Way(Protocol):
    """How to reach one agent or controller; each `connect` is a stream of its own."""

    @property
    def peer(self) -> Peer:
        """Who answers there."""

    def connect(self) -> socket.socket:
        """Open a stream to the peer.

        Raises:
            AgentUnreachable, ControllerUnreachable: nobody answers at the other end.
        """

    def why_lost(self) -> str:
        """What the means of transport said for itself, after a stream ended too early; empty if nothing."""

    def close(self) -> None:
        """End whatever processes carry the streams."""


@dataclass(frozen=True)
class Unix:
    """The agent's socket on this host."""

    path: str

    @property
    def peer(self) -> Peer:
        """The agent."""
        return AGENT

    def connect(self) -> socket.socket:
        """Connect to the socket."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(CONNECT_SECONDS)
        try:
            stream.connect(self.path)
        except OSError as error:
            stream.close()
            raise AgentUnreachable(
                f"no agent answers at {self.path}: {error.strerror or error}", remedy=_remedy(error)
            ) from error
        return stream

    def why_lost(self) -> str:
        """Nothing: the agent itself closed the stream."""
        return ""

    def close(self) -> None:
        """Nothing to end."""


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "run it as root (sudo limosa …)"
    return "start the agent (systemctl start limosa-agent, or limosa agent), or name another with -H or --socket"


@dataclass
class Ssh:
    """Another host's agent, over the system's ssh.

    Args:
        target: what ssh is given, `user@host` or `host`.
        port: ssh's port, None for its own choice.
        command: what runs there.
    """

    target: str
    port: int | None = None
    command: tuple[str, ...] = ("limosa", "agent-stdio")
    _carriers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _said: IO[bytes] | None = None

    @property
    def peer(self) -> Peer:
        """The agent."""
        return AGENT

    def argv(self) -> list[str]:
        """The command line of ssh."""
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", *port, "-T", "--", self.target, shlex.join(self.command)]

    def connect(self) -> socket.socket:
        """Start an ssh whose standard input and output are one end of a socket pair."""
        if self._said is None:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                carrier = _spawn_deaf_to_ctrl_c(self.argv(), theirs, self._said)
            except FileNotFoundError as error:
                ours.close()
                raise AgentUnreachable("ssh is not installed here", remedy="install openssh-client") from error
        self._carriers.append(carrier)
        return ours

    def why_lost(self) -> str:
        """The last lines that ssh, or the shell there, wrote to standard error."""
        if self._said is None:
            return ""
        for carrier in self._carriers:
            try:
                carrier.wait(timeout=2)
            except subprocess.TimeoutExpired:
                continue
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()[-2000:]

    def close(self) -> None:
        """End the ssh processes this object started."""
        for carrier in self._carriers:
            carrier.terminate()
            carrier.wait()
        self._carriers.clear()
        if self._said is not None:
            self._said.close()
            self._said = None


def _spawn_deaf_to_ctrl_c(argv: list[str], stream: socket.socket, said: IO[bytes]) -> subprocess.Popen[bytes]:
    # Ctrl-C reaches the whole foreground process group; ssh must outlive it to carry the abort. ssh leaves an
    # ignored SIGINT ignored (clientloop.c), and stays in our group so that it can ask for a password.
    deaf = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if deaf else None
    try:
        return subprocess.Popen(argv, stdin=stream.fileno(), stdout=stream.fileno(), stderr=said)
    finally:
        if deaf:
            signal.signal(signal.SIGINT, before)


def default_socket() -> str:
    """Where this host's agent listens: $LIMOSA_SOCKET, or $LIMOSA_RUN_DIR/agent.sock, or /run/limosa/agent.sock."""
    if path := os.environ.get("LIMOSA_SOCKET"):
        return path
    if directory := os.environ.get("LIMOSA_RUN_DIR"):
        return str(Path(directory) / "agent.sock")
    return DEFAULT_SOCKET


def place_named(url: str | None, socket_path: str | None) -> str | None:
    """The URL that `-H` gives, or $LIMOSA_HOST where nothing is given; None for this host's agent."""
    if url is None and socket_path is None:
        return os.environ.get("LIMOSA_HOST") or None
    return url


def is_controller(url: str) -> bool:
    """Whether a URL names a controller rather than an agent; a mistaken `http://` does, too."""
    return urlsplit(url).scheme in {"https", "http"}


def way_to(url: str | None, socket_path: str | None) -> Way:
    """The way that `-H URL` and `--socket PATH` name; $LIMOSA_HOST serves where neither is given.

    Raises:
        UsageError: the URL is of no kind that limosa knows, or names a controller.
    """
    url = place_named(url, socket_path)
    if url is None:
        return Unix(socket_path or default_socket())
    parts = urlsplit(url)
    if is_controller(url):
        raise UsageError(
            f"{url} is a controller, and this takes an agent", remedy="name a host's agent: -H ssh://root@host"
        )
    if parts.scheme == "unix" and not parts.netloc and parts.path:
        return Unix(parts.path)
    if parts.scheme == "ssh" and parts.hostname and parts.path in {"", "/"}:
        return _ssh(url, socket_path)
    raise UsageError(
        f"{url!r} names no agent", remedy="write ssh://root@host, ssh://root@host:2222 or unix:///run/limosa/agent.sock"
    )


def _ssh(url: str, socket_path: str | None) -> Ssh:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} names no port", remedy="write ssh://root@host:2222") from error
    host = parts.hostname or ""
    target = f"{parts.username}@{host}" if parts.username else host
    if target.startswith("-"):  # ssh would take it for an option
        raise UsageError(f"{url!r} names no host", remedy="write ssh://root@host")
    there = ("limosa", "agent-stdio", *(("--socket", socket_path) if socket_path else ()))
    return Ssh(target=target, port=port, command=there)
