"""The libraries that pages load are those that were fetched, and nothing on a page is from elsewhere."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import limosa.web
from limosa.web.render import assets

WEB = Path(limosa.web.__file__).parent
VENDOR = WEB / "static" / "vendor"
FOR_TESTS = Path(__file__).parents[1] / "browser" / "vendor"

LIGHT = """
import importlib, pkgutil, sys
import limosa.web
for module in pkgutil.walk_packages(limosa.web.__path__, "limosa.web."):
    if not module.name.startswith("limosa.web.controller"):
        importlib.import_module(module.name)
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""


@pytest.mark.parametrize("directory", [VENDOR, FOR_TESTS], ids=["pages", "tests"])
def test_vendored_files_are_as_they_were_fetched(directory: Path) -> None:
    lines = [line.split() for line in (directory / "sums.txt").read_text().splitlines() if not line.startswith("#")]
    assert {name for _, name in lines} == {file.name for file in directory.iterdir()} - {"sums.txt"}
    for digest, name in lines:
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == digest, name


def test_only_files_of_known_kinds_are_served() -> None:
    assert "vendor/htmx.min.js" in assets()
    assert not [name for name in assets() if not name.endswith((".css", ".js", ".svg"))]


def test_templates_escape_everything_and_name_no_other_site() -> None:
    for template in (WEB / "templates").iterdir():
        text = template.read_text()
        assert not re.search(r"\|\s*safe|autoescape|style=|\bon[a-z]+=|hx-on|js:", text), template.name
        assert not re.search(r"https?://|//[a-z]", text), template.name


def test_what_an_agent_shows_needs_neither_the_server_nor_the_database_of_a_controller() -> None:
    heavy = ("litestar", "sqlalchemy", "dbos", "ortools")
    done = subprocess.run([sys.executable, "-c", LIGHT, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
