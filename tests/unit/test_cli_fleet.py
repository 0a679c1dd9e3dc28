"""`limosa fleet simulate`: files in, pages and JSON out."""

import json
from pathlib import Path

import msgspec
import pytest

from limosa.cli import limosa
from limosa.cli.lazy import run
from limosa.fleet.dumps import processors
from limosa.fleet.generate import Shape, generate
from limosa.fleet.inventory import Inventory
from limosa.testing.fleets import guest, host

DUMPS = Path(__file__).parents[3] / "shared" / "data" / "cpuid"
needs_dumps = pytest.mark.skipif(not DUMPS.is_dir(), reason="no CPUID dumps beside this checkout (shared/data/cpuid)")

FLEET = Inventory(hosts=(host(0, 8), host(1, 8), host(2, 8)), guests=(guest(0, 0, 6), guest(1, 1, 4), guest(2, 2, 4)))


def files(directory: Path, fleet: Inventory, operation: str, more: str = "") -> str:
    (directory / "fleet.json").write_bytes(msgspec.json.encode(fleet))
    scenario = directory / "scenario.toml"
    scenario.write_text(f'inventory = "fleet.json"\n[operation]\n{operation}\n{more}')
    return str(scenario)


def test_a_drain_is_planned_and_played_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(limosa, ["fleet", "simulate", files(tmp_path, FLEET, 'kind = "drain"\nhosts = ["h0"]')]) == 0
    assert capsys.readouterr().out == (
        "3 hosts, 3 guests\n\n"
        "drain\n"
        "  moves      2, 1 of them to make room\n"
        "  predicted  30 s, 20.0 GiB\n"
        "  in order   1 move waits for others\n"
        "  emptied    1 of 1 host (100 W, 0.50 an hour)\n"
        "  assumed    nobody measured the dirty rate of 2 guests: taken for idle\n\n"
        "played through\n"
        "  moved    2 guests in 30 s, 20.0 GiB sent\n"
        "  failed   0 tries\n"
        "  emptied  1 host\n"
    )


def test_moves_that_fail_leave_guests_and_exit_status_40(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = files(tmp_path, FLEET, 'kind = "drain"\nhosts = ["h0"]', "[trouble]\nchance = 1.0\ntries = 2")
    assert run(limosa, ["fleet", "simulate", file, "--json"]) == 40
    told = json.loads(capsys.readouterr().out)
    assert [unmoved["why"] for unmoved in told["outcome"]["unmoved"]] == ["its move failed 2 times", "it waits for g1"]
    assert told["outcome"]["broken"] == []
    assert told["plans"][0]["moves"][1]["after"] == [0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[operation", "Expected ']'"),
        ('[operation]\nkind = "drain"', "give either [generated] or inventory = FILE"),
        ('inventory = "none.json"\n[operation]\nkind = "drain"', "No such file"),
        ('inventory = "fleet.json"\n[operation]\nkind = "drown"', "Invalid enum value 'drown'"),
        ('inventory = "fleet.json"\n[operation]\nkind = "drain"\nhosts = ["h9"]', "the fleet has no host h9"),
        ('inventory = "fleet.json"\n[operation]\nkind = "drain"\ncount = 9', "the fleet has 3 hosts, and 9"),
        ('inventory = "fleet.json"\n[operation]\nkind = "move set"', "a scenario cannot ask for a move set"),
        ('[generated]\nhosts = 1\ncpuid = "."\n[operation]\nkind = "drain"', "holds no dump of a processor"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    files(tmp_path, FLEET, "")
    (tmp_path / "scenario.toml").write_text(text)
    assert run(limosa, ["fleet", "simulate", str(tmp_path / "scenario.toml")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "docs/fleet-planning.md" in told


@needs_dumps
def test_a_rolling_drain_of_a_generated_fleet_comes_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "roll.json"
    generated = {"hosts": 30, "spare": 1, "fill": 0.7, "blocked": 0.0, "cpuid": str(DUMPS), "kinds": 3}
    operation = {"kind": "drain", "count": 10, "rolling": True, "largest": 4}
    file.write_text(json.dumps({"generated": generated, "operation": operation, "trouble": {"chance": 0.05}}))
    status = run(limosa, ["fleet", "simulate", str(file)])
    page = capsys.readouterr().out
    assert status in (0, 40)
    assert "drain, group 3" in page
    assert "BROKEN" not in page
    assert (status == 40) == ("LEFT" in page)


@needs_dumps
def test_a_generated_fleet_is_the_same_for_the_same_seed_and_holds_what_it_can() -> None:
    cpus = processors(DUMPS)
    shape = Shape(hosts=60, fill=0.91, unevenness=0.05, spare=2)
    fleet = generate(cpus, shape)
    assert generate(cpus, shape) == fleet
    assert generate(cpus, msgspec.structs.replace(shape, seed=2)) != fleet
    assert len(fleet.hosts) == 62
    used, size = sum(g.vcpus for g in fleet.guests), sum(h.cores for h in fleet.hosts[:60])
    assert 0.88 < used / size < 0.93
    assert all(min(fleet.free(there.name)) >= 0 for there in fleet.hosts)
    assert all(len(set(hosts)) == len(hosts) for hosts in of_groups(fleet).values())


def of_groups(fleet: Inventory) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for there in fleet.guests:
        for group in there.groups:
            found.setdefault(group, []).append(there.host)
    return found
