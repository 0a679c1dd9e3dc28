"""The fleet's CPU commands over real dumps and over written ones: tables, JSON, pictures, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from limosa.cli import limosa
from limosa.cli.cpu_group_page import cost_page, cost_value, costs
from limosa.cli.lazy import run
from limosa.cpu.facts import GuestCpu, HostCpu, Source
from limosa.cpu.store import CpuStore

OLD = ("fpu", "sse2", "syscall", "lm")
NEW = (*OLD, "avx", "avx2", "xsave", "xcr0-x87", "xcr0-sse", "xcr0-avx")


def host(name: str, flags: tuple[str, ...], **more: Any) -> HostCpu:
    values: dict[str, Any] = {
        "host": name,
        "source": Source.QEMU,
        "flags": flags,
        "vendor": "GenuineIntel",
        "phys_bits": 46,
    }
    return HostCpu(**(values | more))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Imported hosts: two new ones, an old one, one of another vendor; no agent."""
    monkeypatch.setenv("LIMOSA_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LIMOSA_SOCKET", str(tmp_path / "no-agent.sock"))
    monkeypatch.delenv("LIMOSA_HOST", raising=False)
    store = CpuStore(tmp_path / "cpu")
    for one in (host("new-1", NEW), host("new-2", NEW), host("old", OLD), host("amd", NEW, vendor="AuthenticAMD")):
        store.save(one)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert run(limosa, ["cpu", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_matrix_names_hosts_once_for_each_kind(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "matrix"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:4] == [
        "GUESTS OF       1    2    3",
        "1 amd         yes    -    -",
        "2 old           -  yes  yes",
        "3 new-1 (+1)    -    6  yes",
    ]
    assert "imported hosts only" in printed.err


def test_the_matrix_for_programs_is_square_and_says_what_is_missing(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = told(capsys, "matrix", "old", "new-1")
    assert [kind["hosts"] for kind in answer["kinds"]] == [["old"], ["new-1"]]
    assert answer["takes"] == [[True, True], [False, True]]
    assert answer["missing"] == [[0, 0], [6, 0]]


def test_pools_hold_equals_and_lead_upwards(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(capsys, "pools")
    assert [pool["hosts"] for pool in answer["pools"]] == [["amd"], ["old"], ["new-1", "new-2"]]
    assert [(up["from"], up["to"]) for up in answer["up"]] == [(2, 3)]
    assert "avx2" in answer["up"][0]["more"]
    assert run(limosa, ["cpu", "pools"]) == 0
    assert "4 hosts in 3 pools" in capsys.readouterr().out


def test_pictures_stand_alone_and_speak(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("matrix", "4 hosts of 3 kinds"), ("pools", "4 hosts in 3 pools")):
        file = state / f"{command}.svg"
        assert run(limosa, ["cpu", command, "--svg", str(file)]) == 0
        root = ET.fromstring(file.read_text())
        names = {child.tag.rpartition("}")[2]: child.text or "" for child in root}
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == "title description"
        assert names["title"]
        assert words in names["desc"]
        assert "href" not in file.read_text()
        assert "prefers-color-scheme: dark" in names["style"]
        capsys.readouterr()
        assert run(limosa, ["cpu", command, "--svg", "-"]) == 0
        assert capsys.readouterr().out == file.read_text()


def test_a_picture_that_cannot_be_written_says_so(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "pools", "--svg", str(state / "no" / "p.svg")]) == 20
    assert "cannot be written: No such file" in capsys.readouterr().err


def test_a_baselines_first_line_is_the_value(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["cpu", "baseline", "new-1", "new-2", "old"]) == 0
    first, empty, *rest = capsys.readouterr().out.splitlines()
    assert empty == ""
    answer = told(capsys, "baseline", "new-1", "new-2", "old")
    assert answer["value"] == first
    assert answer["flags"] == list(OLD)
    assert answer["model"] in first
    assert any("new-1, new-2, old" in line for line in rest)


def test_a_baseline_can_leave_flags_out_and_take_another_model(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(capsys, "baseline", "new-1", "--without", "avx2", "--model", "Haswell-noTSX")
    assert "avx2" not in answer["flags"]
    assert answer["model"] == "Haswell-v2"
    assert run(limosa, ["cpu", "baseline", "new-1", "--model", "Zilog"]) == 2
    assert "QEMU has no model Zilog" in capsys.readouterr().err


def test_a_narrow_host_asks_for_its_address_bits(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CpuStore(state / "cpu").save(host("desk", NEW, phys_bits=39))
    assert told(capsys, "baseline", "desk", "new-1")["phys_bits"] == 39
    assert run(limosa, ["cpu", "baseline", "desk", "new-1"]) == 0
    assert "add phys-bits=39" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("baseline",), ("cost",), ("cost", "amd", "--group", "old")])
def test_vendors_have_nothing_in_common(
    state: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(limosa, ["cpu", *words]) == 10
    what, where, to_do = capsys.readouterr().err.splitlines()[-3:]
    assert "different vendors, and these are of 2: AuthenticAMD: amd; GenuineIntel:" in what
    assert where == "  where: no guest was touched"
    assert "one vendor" in to_do


def test_admitting_an_old_host_costs_what_it_lacks(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(capsys, "cost", "old", "--group", "new-1,new-2")
    assert answer["admission"]["lost"] == ["xsave", "avx", "avx2", "xcr0-x87", "xcr0-sse", "xcr0-avx"]
    assert answer["admission"]["after"] == list(OLD)
    assert told(capsys, "cost", "old")["group"] == ["new-1", "new-2"]
    assert run(limosa, ["cpu", "cost", "old", "--group", "new-1"]) == 0
    assert "takes 6 of the 10 flags of 1 host" in capsys.readouterr().out


def guest(name: str, flags: tuple[str, ...]) -> GuestCpu:
    return GuestCpu(
        guest=name, model="host", flags=flags, accel="kvm", machine="q35", qemu=(10, 0, 2), vendor="GenuineIntel"
    )


def test_guests_that_pin_a_group_and_hosts_that_none_can_leave_are_named() -> None:
    group = (host("new", NEW), host("old", OLD))
    seen = (
        ("new", guest("web1", NEW)),
        ("new", guest("web2", NEW)),
        ("old", guest("db1", OLD)),
        ("x", guest("y", NEW)),
    )
    answer = cost_value(costs(group, host("older", OLD[:2]), seen))
    assert [(pin["guest"], pin["others"]) for pin in answer["pins"]] == [("web1", ()), ("web2", ())]
    assert answer["stranded"] == [{"host": "new", "guests": ("web1", "web2")}]
    assert answer["admission"]["excluded"] == ("web1", "web2", "db1")
    tcg = tuple(msgspec.structs.replace(one, accel="tcg") for one in group)
    assert cost_value(costs(tcg, None, seen))["not_counted"] == ("web1", "web2", "db1")
    page = cost_page(costs(group, None, seen))
    assert "2 of 3 guests pin the group" in page
    assert "no guest can leave new: web1, web2" in page
    assert "no guest pins the group; 1 guest can go to every host" in cost_page(costs(group, None, seen[2:3]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("baseline", "old", "--without", "warp"), "no CPU flag is called 'warp'"),
        (("cost", "old", "--group", "old"), "old is in the group already"),
        (("cost", "olt"), "no host olt is known"),
        (("pools", "--from", "/nowhere"), "does not exist"),
    ],
)
def test_what_makes_no_sense_is_said_in_three_lines(
    state: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert run(limosa, ["cpu", *words]) == 2
    what, where, to_do = capsys.readouterr().err.splitlines()[-3:]
    assert said in what
    assert where == "  where: no guest was touched"
    assert to_do.startswith("  to do: ")


def test_a_directory_is_its_dumps_and_a_name_is_one_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flags.json").write_text("{}")
    assert run(limosa, ["cpu", "pools", "--from", str(tmp_path)]) == 2
    assert "holds no file that ends in .cpuid" in capsys.readouterr().err
    (tmp_path / "a.cpuid").write_text("CPUID 0\n")
    assert run(limosa, ["cpu", "pools", "--from", str(tmp_path)]) == 2
    assert "a.cpuid, line 1:" in capsys.readouterr().err


def test_no_agent_and_nothing_imported_is_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIMOSA_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LIMOSA_SOCKET", str(tmp_path / "none.sock"))
    assert run(limosa, ["cpu", "matrix"]) == 75
    assert "no agent answers" in capsys.readouterr().err


def test_a_host_that_only_the_agent_could_know_is_try_again(state: Path) -> None:
    assert run(limosa, ["cpu", "matrix", "old", "host-b"]) == 75


DUMPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cpuid"


@pytest.mark.skipif(not DUMPS.is_dir(), reason="the dumps of real processors are not beside this checkout")
def test_a_fleet_of_every_processor_there_is_fits_into_every_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(list(DUMPS.glob("*.cpuid")))
    answer = told(capsys, "pools", "--from", str(DUMPS), "--svg", str(tmp_path / "pools.svg"))
    assert sum(len(pool["hosts"]) for pool in answer["pools"]) == count
    assert run(limosa, ["cpu", "matrix", "--from", str(DUMPS), "--svg", str(tmp_path / "matrix.svg")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(answer["pools"]) + 4
    for name in ("pools", "matrix"):
        ET.parse(tmp_path / f"{name}.svg")
