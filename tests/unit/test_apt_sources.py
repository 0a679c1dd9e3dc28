import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "apt_sources.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("apt_sources", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


apt_sources = load()

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/security
Suites: bookworm-security
Components: main
"""


def test_a_deb822_entry_serves_other_suites_with_the_same_mirror_and_key() -> None:
    assert apt_sources.derive(apt_sources.parse_deb822(DEB822), "bookworm", ["bookworm", "bookworm-backports"]) == (
        "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-backports\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_a_one_line_entry_becomes_the_same_with_its_options() -> None:
    text = (
        "deb-src http://mirror.test/debian bookworm main\n"
        "deb [arch=amd64,i386 signed-by=/k.gpg] http://mirror.test/debian bookworm main # ours\n"
    )
    assert apt_sources.derive(apt_sources.parse_list(text), "bookworm", ["bookworm"]) == (
        "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\nComponents: main\n"
        "Architectures: amd64 i386\nSigned-By: /k.gpg\n"
    )


def test_a_key_that_stands_in_the_entry_is_kept_whole() -> None:
    text = "Types: deb\nURIs: http://m/\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n"
    derived = apt_sources.derive(apt_sources.parse_deb822(text), "trixie", ["trixie"])
    assert "Signed-By: \n -----BEGIN\n .\n abc\n" in derived


def test_a_disabled_entry_does_not_serve() -> None:
    disabled = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb")
    with pytest.raises(LookupError, match="no package source of this machine serves Debian bookworm main"):
        apt_sources.derive(apt_sources.parse_deb822(disabled), "bookworm", ["bookworm"])


def test_the_machines_files_are_read_in_apts_order_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://first/ bookworm main\n")
    directory = tmp_path / "sources.list.d"
    directory.mkdir()
    (directory / "b.sources").write_text(DEB822)
    (directory / "a.list.disabled").write_text("deb http://never/ bookworm main\n")
    uris = [stanza["URIs"] for stanza in apt_sources.read_machine(tmp_path)]
    assert uris == ["http://first/", "http://mirror.test/debian", "http://mirror.test/security"]
