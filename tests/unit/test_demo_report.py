import math
import re
import xml.etree.ElementTree as ET
from typing import Any

import msgspec

from limosa.lab.demo import failed, gap_checks, ram_check
from limosa.lab.demo_guest import missing_parts
from limosa.lab.demo_report import Check, Moved, Watched, html_page, move_page, plot, stage_spans, svg, thinned, watched
from limosa.lab.guestctl import Dirtier, Disk, Nic, Pages, Status
from limosa.lab.inside import Completed
from limosa.lab.traces import PingRecord, Probe
from limosa.testing.moves import status
from limosa.units import MIB, Side
from limosa.wire.moves import Measured, MoveState, Stage, StepShown


def probes(*replied: float | None, every: float = 5.0) -> list[Probe]:
    """Pings every 5 ms; times of their replies in ms."""
    return [
        Probe(int(number * every * 1e6), 0, None if reply is None else int(reply * 1e6))
        for number, reply in enumerate(replied)
    ]


def test_a_silence_is_the_time_between_two_replies_or_up_to_the_end() -> None:
    seen = watched("10.0.0.1", probes(1, 6, None, None, 21, None))
    assert (seen.sent, seen.lost, seen.seconds) == (6, 3, 0.025)
    assert [(round(s.end * 1000), s.ms) for s in seen.silences] == [(1, 1.0), (6, 5.0), (21, 15.0), (25, 4.0)]
    assert seen.worst.ms == 15.0


def test_an_address_that_never_answered_was_silent_all_the_time() -> None:
    assert watched("10.0.0.1", probes(None, None, None)).worst.ms == 10.0
    assert math.isinf(watched("10.0.0.1", []).worst.ms)


def step(stage: Stage, started: float | None, ended: float | None) -> StepShown:
    return StepShown(stage=stage, name="s", summary="s", side=Side.SOURCE, started=started, ended=ended)


STATUS = status(
    MoveState.COMPLETED,
    Stage.RETIRE,
    guest="demo",
    elapsed=4.0,
    steps=(
        step(Stage.PREPARE, 0.0, 1.0),
        step(Stage.COPY, 1.0, 2.0),
        step(Stage.COPY, 2.0, 3.5),
        step(Stage.RESUME, None, None),
    ),
    measured=Measured(
        total_seconds=4.0,
        stage_seconds={"copy": 2.5},
        blackout_ms=12.0,
        qemu_downtime_ms=5,
        ram_bytes=100 * MIB,
        disk_bytes=50 * MIB,
        throughput=60.0 * MIB,
        passes=3,
        compared=400,
    ),
)


def moved(**more: Any) -> Moved:
    ping = probes(*[n * 5 + 1 if not 500 < n < 520 else None for n in range(1000)])
    values: dict[str, Any] = {
        "status": STATUS,
        "began": 0.5,
        "watched": (watched("10.0.0.1", ping),),
        "late_ms": 0.4,
        "checks": (Check("RAM pattern intact", "128 MiB", True),),
    }
    return Moved(**(values | more))


def test_stages_span_their_steps_and_leave_out_what_was_not_reached() -> None:
    assert stage_spans(STATUS) == {Stage.PREPARE: (0.0, 1.0), Stage.COPY: (1.0, 3.5)}


def test_the_checks_are_what_comes_before_the_first_step() -> None:
    assert STATUS.measured is not None
    measured = msgspec.structs.replace(STATUS.measured, stage_seconds={"check": 1.25, "prepare": 1.0})
    steps = (step(Stage.PREPARE, 1.25, 2.25), step(Stage.COPY, 2.25, 3.25), step(Stage.COPY, 3.25, 4.75))
    status = msgspec.structs.replace(STATUS, measured=measured, steps=steps)
    assert stage_spans(status) == {Stage.CHECK: (0.0, 1.25), Stage.PREPARE: (1.25, 2.25), Stage.COPY: (2.25, 4.75)}
    assert "4.00: check 1.250, prepare 1.000" in move_page(moved(status=status))


def test_the_page_names_every_number_and_what_is_wrong() -> None:
    page = move_page(moved(checks=(Check("RAM pattern intact", "3 pages wrong", False),)))
    for word in ("demo a → b", "copy 2.500", "60.0 MiB/s", "100.0 ms without a reply, 19 of 1000 pings lost"):
        assert word in page
    assert "  WRONG  RAM pattern intact  3 pages wrong" in page
    assert not moved(checks=(Check("x", "y", False),)).holds


def test_the_plot_has_its_peak_where_the_gap_ends_and_the_stages_below() -> None:
    label, row, ruler, axis = plot(moved(), columns=50).splitlines()
    peak = row.index("▅")
    assert peak - 2 == int(2.6 / 4.995 * 50)
    assert label.strip() == "100 ms"
    assert ruler.strip() == "p" * 11 + "c" * 25
    assert axis.endswith("5.0 s")
    assert plot(moved(watched=(Watched("x", 0.0, 0, 0, ()),))) == "  no ping was sent"


def test_the_pictures_are_well_formed_and_need_nothing_from_elsewhere() -> None:
    page = html_page([moved()], "a < b")
    assert "a &lt; b" in page
    assert not re.search(r"(src|href)=|https?:", page)
    picture = re.sub(r"=([\w.#%-]+)(?=[ />])", r'="\1"', svg(moved()))
    assert len(ET.fromstring(picture).findall("rect")) == 2


def test_a_long_watch_keeps_its_largest_silences() -> None:
    seen = moved().watched[0]
    few = thinned(seen.silences, seen.seconds, columns=10)
    assert len(few) <= 11
    assert max(silence.ms for silence in few) == seen.worst.ms


def guest(**more: Any) -> Status:
    values: dict[str, Any] = {
        "uptime_ns": 10**10,
        "realtime_ns": 0,
        "cpus": 3,
        "memory_kib": 532_428,
        "deaths": 0,
        "beats": 0,
        "late_us": 0,
        "boot_id": "x",
        "kernel": "6.1",
        "tainted": "0",
        "clocksource": "hpet",
        "records_hz": 20,
        "dirtiers": (Dirtier(128, 16, 2, 0, 0),),
        "disks": tuple(Disk(name, "", label, 1, False, True, 5, 0, 1) for name, label in DISKS),
        "nics": (Nic("eth0", "m", "up", ("10.66.0.101",)), Nic("eth1", "m", "up", ("10.66.0.102",))),
    }
    return Status(**(values | more))


DISKS = (("vda", "system"), ("vdb", "data"), ("vdc", "volume"))


def test_a_part_that_did_not_come_along_is_named() -> None:
    assert missing_parts(guest()) == []
    wrong = missing_parts(guest(cpus=2, memory_kib=401_356, nics=(), disks=()))
    assert len(wrong) == 7
    assert wrong[0] == "2 vCPUs, not 3"


def test_a_wrong_page_breaks_the_promise() -> None:
    assert ram_check(Pages((Dirtier(128, 16, 4, 0, 0),)), guest()).holds
    assert not ram_check(Pages((Dirtier(128, 16, 4, 1, 77),)), guest()).holds


def test_a_gap_that_people_would_notice_breaks_the_promise() -> None:
    pings = PingRecord(["10.0.0.1"])
    pings.traces["10.0.0.1"].probes.update(enumerate(probes(1, None, 3500)))
    (check,) = gap_checks(pings)
    assert not check.holds
    assert "3499.0 ms, 1 of 3 pings lost" in check.seen


def test_a_failed_move_speaks_in_its_own_words() -> None:
    told = '{"error": {"code": "move-failed", "what": "it broke", "guest_runs": "source", "remedy": "r"}}'
    error = failed(Completed(("limosa",), 20, "", told), "a")
    assert error.what == "limosa migrate on host a ended with status 20: it broke"
    assert error.guest_runs is Side.SOURCE
    assert failed(Completed(("limosa",), 1, "", "Traceback"), "a").detail == "Traceback"
