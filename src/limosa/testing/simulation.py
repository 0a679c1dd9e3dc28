"""A simulated fleet as a process of its own, and a client of its API."""

import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import msgspec

from limosa.web.controller.simulated import Serving

ANSWER_SECONDS = 60.0
MOST = 500
"""Items of one answer."""


class Api:
    """The REST API, as a program uses it.

    Args:
        url: of its controller, with a slash at the end.
        token: who asks.
        trust: for TLS; None without.
    """

    def __init__(self, url: str, token: str, trust: ssl.SSLContext | None = None) -> None:
        self._url, self._token, self._trust = url, token, trust

    def get(self, path: str) -> Any:
        """What stands at a path below /v1. Raises urllib.error.HTTPError."""
        return self._ask(path, None)

    def post(self, path: str, body: Any) -> Any:
        """What is answered to a body. Raises urllib.error.HTTPError."""
        return self._ask(path, json.dumps(body).encode())

    def all(self, path: str, asked: str = "") -> list[Any]:
        """The items of every page of a list; `asked` is a query."""
        told = self.get(f"{path}?limit={MOST}&{asked}")
        found: list[Any] = told["items"]
        while told["next"] is not None:
            told = self.get(f"{path}?limit={MOST}&{asked}&after={quote(told['next'])}")
            found += told["items"]
        return found

    def known(self) -> None:
        """Wait until every host has told what it has (polled: nothing else says so). Raises RuntimeError."""
        end = time.monotonic() + ANSWER_SECONDS
        while any(host["cores"] is None for host in self.all("hosts")):
            if time.monotonic() > end:
                raise RuntimeError("some hosts tell nothing")
            time.sleep(0.2)

    def _ask(self, path: str, body: bytes | None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self._url}v1/{path}", body, headers)  # noqa: S310 - a test's own address
        with urllib.request.urlopen(asked, timeout=ANSWER_SECONDS, context=self._trust) as answer:  # noqa: S310
            return json.load(answer)


@contextmanager
def simulated_fleet(*words: str) -> Iterator[Serving]:
    """Run `limosa fleet serve WORDS` until the block is left.

    Raises:
        RuntimeError: it ended before it said where it is.
    """
    argv = [sys.executable, "-m", "limosa", "fleet", "serve", *words, "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            told = process.stdout.readline()
            if not told:
                raise RuntimeError(f"limosa fleet serve ended with {process.wait()}")
            yield msgspec.json.decode(told, type=Serving)
        finally:
            process.terminate()
