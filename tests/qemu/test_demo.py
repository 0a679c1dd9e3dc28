"""The demo itself, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(400)]


def test_the_demo_keeps_every_promise_and_draws_its_page(tmp_path: Path) -> None:
    page = tmp_path / "demo.html"
    done = subprocess.run(
        [sys.executable, "-m", "limosa", "demo", "--json", "--name", "demo-test", "--html", str(page)],
        capture_output=True,
        text=True,
        timeout=360,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [(move["status"]["source"], move["status"]["destination"]) for move in told["moves"]] == [
        ("a", "b"),
        ("b", "a"),
    ]
    assert all(check["holds"] for move in told["moves"] for check in move["checks"])
    assert page.read_text().count("<svg") == 2
