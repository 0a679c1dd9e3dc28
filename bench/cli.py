"""How long the command line takes to answer: medians over whole processes, start to exit.

    uv run python bench/cli.py [--runs N] [--json]

`limosa ls` asks a small agent that this program serves on a unix socket: what is measured is the command, not
QEMU. Baselines: the bare interpreter, and `virsh --help` where libvirt is installed. Exits with 1 where
`limosa --help` takes 200 ms or more, or `limosa ls` 400 ms or more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

GUEST = {
    "name": "web1",
    "uuid": "5b1f6f0c-0000-4000-8000-000000000001",
    "pid": 4711,
    "host": "a",
    "state": "running",
    "memory": 512 * 1024**2,
    "vcpus": 2,
    "owner": "by hand",
    "monitor": "/run/web1.qmp",
    "movable": "yes",
    "move": None,
}
LIMITS = {"limosa --help": 0.200, "limosa ls": 0.400}
"""Seconds that a median must stay under."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    body = json.dumps([GUEST] * 40).encode()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def agent() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "agent.sock")
        with _Server(path, _Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield path
            server.shutdown()


def commands() -> dict[str, list[str]]:
    limosa = str(Path(sys.executable).with_name("limosa"))
    known = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "limosa --help": [limosa, "--help"],
        "limosa migrate --help": [limosa, "migrate", "--help"],
        "limosa ls": [limosa, "ls"],
        "limosa ls --json": [limosa, "ls", "--json"],
        "python -c 'import aiohttp'": [sys.executable, "-c", "import aiohttp"],
        "python -c 'import http.client'": [sys.executable, "-c", "import http.client"],
    }
    if virsh := shutil.which("virsh"):
        known["virsh --help"] = [virsh, "--help"]
    return known


def seconds(argv: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def measure(runs: int) -> dict[str, list[float]]:
    """Every command in turn, `runs` times over, so that noise falls on all of them."""
    taken: dict[str, list[float]] = {name: [] for name in commands()}
    with agent() as path:
        environment = {**os.environ, "LIMOSA_SOCKET": path}
        environment.pop("LIMOSA_HOST", None)
        for name, argv in commands().items():
            seconds(argv, environment)  # bytecode and page cache
            assert taken[name] == []
        for _ in range(runs):
            for name, argv in commands().items():
                taken[name].append(seconds(argv, environment))
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    taken = measure(asked.runs)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    late = [name for name, limit in LIMITS.items() if medians[name] >= limit]
    if asked.json:
        print(json.dumps({"runs": asked.runs, "median_seconds": medians, "too_slow": late}))
    else:
        width = max(map(len, medians))
        print(f"{''.ljust(width)}  median     min     max  limit   ({asked.runs} runs, milliseconds)")
        for name, times in taken.items():
            limit = f"{LIMITS[name] * 1000:5.0f}" if name in LIMITS else "     "
            numbers = "  ".join(f"{value * 1000:6.1f}" for value in (medians[name], min(times), max(times)))
            print(f"{name.ljust(width)}  {numbers}  {limit}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
