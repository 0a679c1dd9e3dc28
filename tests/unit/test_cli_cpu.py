"""`limosa cpu` where no agent is needed: files in, pages out, one clear error for what is wrong."""

import json
from pathlib import Path

import pytest

from limosa.cli import limosa
from limosa.cli.cpu_page import explain_page, explained, guest_page
from limosa.cli.lazy import run
from limosa.cpu.compat import compatible
from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.cpu.flags import CpuFlags
from limosa.cpu.registry import WIDTH

DUMP = """\
CPUID 00000000: 00000007-756E6547-6C65746E-49656E69
CPUID 00000001: 000506E3-00100800-7FFAFBBF-BFEBFBFF
CPUID 00000007: 00000000-029C6FBF-00000000-00000000 [SL 00]
CPUID 80000000: 80000008-00000000-00000000-00000000
CPUID 80000001: 00000000-00000000-00000121-2C100800
CPUID 80000008: 00003027-00000000-00000000-00000000
"""
GUEST = GuestCpu(
    guest="web1",
    model="max",
    flags=("avx", "avx2"),
    accel="tcg",
    machine="pc-q35-10.0",
    qemu=(10, 0, 2),
    unknown=("x9",),
)
HOST = HostCpu(host="b", source=Source.QEMU, flags=("avx",), accel="tcg", qemu=(10, 0, 2))


@pytest.fixture
def dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMOSA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LIMOSA_SOCKET", str(tmp_path / "nobody.sock"))
    (tmp_path / "rack4-07.cpuid").write_text(DUMP)
    return tmp_path / "rack4-07.cpuid"


def test_an_imported_host_is_shown_without_any_agent(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "import", str(dump)]) == 0
    assert "rack4-07" in capsys.readouterr().out
    assert run(limosa, ["cpu", "show", "rack4-07", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["source"], told["vendor"], len(told["mask"]["bits"])) == ("cpuid", "GenuineIntel", WIDTH)
    assert CpuFlags.from_hex(told["mask"]["hex"]).names() == tuple(told["flags"])
    assert run(limosa, ["cpu", "show", "rack4-07"]) == 0
    page = capsys.readouterr().out
    assert "from a CPUID dump" in page
    assert "osxsave (1.0.ecx.27)" in page


def test_a_host_that_nobody_knows_needs_an_agent(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "show", "nowhere"]) == 75
    assert "agent" in capsys.readouterr().err


def test_of_several_files_none_is_kept_when_one_is_bad(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = dump.with_name("cut.cpuid")
    bad.write_text(DUMP[:80])
    assert run(limosa, ["cpu", "import", str(dump), str(bad)]) == 2
    what, where, remedy = capsys.readouterr().err.splitlines()
    assert "cut.cpuid, line 2: " in what
    assert where == "  where: no guest was touched"
    assert "docs/cpu.md" in remedy
    assert not list((dump.parent / "state").rglob("*.json"))


@pytest.mark.parametrize("words", [["--name", "x", "DUMP", "DUMP"], ["--name", "../x", "DUMP"]])
def test_a_name_that_cannot_be_is_refused(dump: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "import", *(word.replace("DUMP", str(dump)) for word in words)]) == 2
    assert "name" in capsys.readouterr().err


def test_a_flag_is_found_by_any_name_and_a_wrong_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "flags", "pclmul", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["name"], told["place"]["leaf"], told["place"]["bit"]) == ("pclmulqdq", 1, 1)
    assert run(limosa, ["cpu", "flags", "avx3"]) == 2
    assert "no CPU flag is called 'avx3'" in capsys.readouterr().err


def test_an_unknown_subcommand_is_told_with_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "explian"]) == 2
    assert "did you mean `limosa cpu explain`" in capsys.readouterr().err


def test_a_page_of_explanation_names_flags_causes_and_remedies() -> None:
    found = compatible(GUEST, HOST)
    page = explain_page(GUEST, HOST, found)
    assert page.startswith("web1 on b: cannot go on there without a reboot\n\nblocks: b lacks avx2 of the flags")
    assert "256-bit vectors of integers" in page
    told = explained(GUEST, HOST, found)
    assert not told["compatible"]
    assert [missing["name"] for missing in told["missing"]] == ["avx2"]


def test_a_page_of_a_guest_names_what_is_unknown() -> None:
    page = guest_page(GUEST)
    assert "2 of" in page
    assert "unknown to this limosa\n  x9" in page
