from typing import Any

import msgspec

from limosa.cli.profile_page import profile_page
from limosa.cli.report import disk_words, failure_of, plan_page, report
from limosa.cli.table import pairs, table
from limosa.errors import MoveAborted
from limosa.guest import profile as p
from limosa.testing.moves import status
from limosa.units import MIB, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import Measured, MoveState, MoveStatus, PlanShown, Prediction, Stage, StepShown

MEASURED = Measured(
    total_seconds=4.25,
    stage_seconds={"copy": 3.0, "check": 0.25},
    blackout_ms=14.2,
    qemu_downtime_ms=5,
    ram_bytes=200 * MIB,
    disk_bytes=100 * MIB,
    throughput=80.0 * MIB,
    passes=3,
    compared=412,
    disks={"vda": {"virtual_size": 1024 * MIB, "sha256": "ab"}},
)
PREDICTION = Prediction(seconds=4.0, bytes=300 * MIB, blackout_ms=30, converges=True, why="link 110.0 MiB/s (assumed)")


def ended(state: MoveState, **more: Any) -> MoveStatus:
    return status(state, Stage.RETIRE, **({"id": "m-1", "elapsed": 6.0} | more))


def test_a_report_puts_the_measured_beside_the_predicted() -> None:
    page = report(
        ended(
            MoveState.COMPLETED,
            guest_runs=Side.DESTINATION,
            measured=MEASURED,
            prediction=PREDICTION,
            warnings=("plaintext",),
        )
    )
    assert page.splitlines() == [
        "web1 moved from a to b; web1 runs on b, the destination",
        "",
        "  STAGE  SECONDS",
        "  check    0.250",
        "  copy     3.000",
        "",
        "  took        4.25 s (predicted 4.0 s)",
        "  copied      300.0 MiB: RAM 200.0 MiB in 3 passes, disks 100.0 MiB (predicted 300.0 MiB)",
        "  throughput  80.0 MiB/s",
        "  blackout    14.2 ms (predicted 30 ms)",
        "  downtime    5 ms, as QEMU counts it",
        "  compared    412 guest-visible properties, equal",
        "",
        "disks",
        "  vda  virtual size 1.0 GiB, sha256 ab",
        "",
        "warning: plaintext",
    ]


def test_what_the_checks_warned_of_is_said_again_at_the_end() -> None:
    risky = Finding(severity=Severity.WARNING, kind="memory", what="TCG may miss writes")
    noted = Finding(severity=Severity.NOTE, kind="disks", what="copied")
    page = report(ended(MoveState.COMPLETED, findings=(risky, noted), warnings=("plaintext", "TCG may miss writes")))
    assert page.endswith("\n\nwarning: plaintext\nwarning: TCG may miss writes")


def test_an_aborted_move_says_where_the_guest_runs_and_what_was_undone() -> None:
    status = ended(MoveState.ABORTED, undone=("mirror of vda cancelled", "twin ended"))
    assert isinstance(failure_of(status), MoveAborted)
    page = report(status)
    assert "  where: web1 runs on a, the source, as before" in page
    assert "undone\n  mirror of vda cancelled\n  twin ended" in page


def test_a_move_in_doubt_sends_nobody_to_start_a_second_one() -> None:
    error = {"code": "move-in-doubt", "what": "the link is gone", "guest_runs": "unknown"}
    page = report(ended(MoveState.FAILED, guest_runs=Side.UNKNOWN, error=error))
    assert "start it nowhere by hand" in page
    failure = failure_of(ended(MoveState.FAILED, error=error))
    assert failure is not None
    assert failure.exit_status == 21


def test_a_plan_shows_findings_worst_first_with_what_would_help() -> None:
    plan = PlanShown(
        guest="web1",
        uuid="u",
        source="a",
        destination="b",
        possible=False,
        findings=(
            Finding(severity=Severity.NOTE, kind="memory", what="room for 3 GiB more"),
            Finding(
                severity=Severity.BLOCKS, kind="nics", what="net0 is user-mode", side=Side.SOURCE, consent="user-net"
            ),
            Finding(
                severity=Severity.BLOCKS,
                kind="disks",
                what="sda has bitmaps",
                remedy="drop them",
                consent="lost-bitmaps",
            ),
        ),
        steps=(StepShown(stage=Stage.COPY, name="precopy", summary="RAM is copied", side=Side.SOURCE),),
        prediction=PREDICTION,
        compared=412,
        differences=("netdev net0: ifname is 'tap0' at the source and 'lm0' in the twin",),
        rewrites=(("br0", "br-lan"),),
    )
    page = plan_page(plan, ("lost-bitmaps",))
    assert page.index("blocks the move") < page.index("notes")
    assert "net0 is user-mode  [nics, source]\n    or: --allow user-net" in page
    assert "    to do: drop them\n    allowed with --allow lost-bitmaps" in page
    assert "412 guest-visible properties compared, equal" in page
    assert "only the host sees\n  netdev net0: ifname" in page
    assert "  br0   br-lan" in page
    assert "prediction: 4.0 s, 300.0 MiB, a pause of 30 ms" in page


def test_facts_called_bytes_are_written_as_sizes() -> None:
    assert disk_words({"copied_bytes": 2048, "passes": 2, "thin": True}) == "copied bytes 2.0 KiB, passes 2, thin True"


def test_columns_are_as_wide_as_they_must_be() -> None:
    assert (
        table(("A", "NUMBER"), [("long", "1"), ("b", "22")], right=("NUMBER",))
        == "A     NUMBER\nlong       1\nb         22"
    )
    assert pairs([("a", "1\n2"), ("bb", "")]) == "  a   1\n      2\n  bb"


def test_a_profile_page_names_disks_with_their_chain_nics_devices_and_what_is_unknown() -> None:
    page = profile_page(PROFILE)
    assert "web1  u-1  running" in page
    assert "  machine  pc-q35-10.0 tcg smm=off" in page
    assert "  vcpus    2 of at most 4, 1 added" in page
    assert "+ dimm0: 128.0 MiB (hot-plugged)" in page
    assert (
        "  vda  virtio-blk-pci at pcie.0/02.0\n    qcow2 1.0 GiB\n      backing: raw 1.0 GiB read-only  /srv/base.img"
        in page
    )
    assert "net0  virtio-net-pci  52:54:00:00:00:01  tap tap0 on br0  pcie.0/03.0" in page
    assert "  discard of vda  not on the command line" in page


def block(name: str, driver: str, **more: Any) -> p.BlockNode:
    values: dict[str, Any] = {
        "node_name": name,
        "live_name": name,
        "driver": driver,
        "options": {},
        "children": {},
        "read_only": False,
        "virtual_size": 1024 * MIB,
        "filename": None,
    }
    return p.BlockNode(**(values | more))


def plugged(path: str, id_: str, driver: str, position: str, **more: Any) -> p.Device:
    values: dict[str, Any] = {"bus": "pcie.0", "properties": {}, "hotplugged": False}
    return p.Device(path=path, id=id_, driver=driver, position=position, **(values | more))


PROFILE = p.Profile(
    name="web1",
    uuid="u-1",
    status="running",
    qemu=p.QemuBuild(version=(10, 0, 2), package="", binary="/usr/bin/qemu-system-x86_64"),
    machine=p.Machine(type="pc-q35-10.0", accel="tcg", properties={"smm": False}),
    cpu=p.Cpu(type="max-x86_64-cpu", model="max", properties={}, flags=("avx", "sse")),
    smp=p.Smp(cpus=2, maxcpus=4, topology={"sockets": 4}),
    plugged_cpus=(p.PluggedCpu(id="cpu2", driver="max-x86_64-cpu", properties={"socket-id": 2}, hotplugged=True),),
    memory=p.Memory(size=512 * MIB, slots=2, max_size=1024 * MIB, backend=None),
    objects=(p.HostObject(id="mem1", type="memory-backend-ram", properties={"size": 128 * MIB}),),
    chardevs=(p.Chardev(id="serial0", backend="socket", options={"path": "/run/s"}, used_by="serial0"),),
    block_nodes=(
        block("vda", "qcow2", children={"backing": "base"}),
        block("base", "raw", read_only=True, filename="/srv/base.img"),
    ),
    drives=(p.Drive(device="/d/vda", backend="", node="vda", removable=False, tray_open=None, throttle=None),),
    netdevs=(p.Netdev(id="n0", type="tap", options={}, ifname="tap0", bridge="br0"),),
    devices=(
        plugged("/d/vda", "vda", "virtio-blk-pci", "pcie.0/02.0"),
        plugged(
            "/d/net0", "net0", "virtio-net-pci", "pcie.0/03.0", netdev="n0", properties={"mac": "52:54:00:00:00:01"}
        ),
        plugged("/d/dimm0", "dimm0", "pc-dimm", "dimm/0", hotplugged=True, memdev="mem1"),
    ),
    display=p.Display(options=(("vnc", ":1"),)),
    options=(p.Option(name="rtc", value="base=utc"),),
    monitors=(),
    guest_visible={},
    unknown=(p.Unknown(what="discard of vda", why="not on the command line"),),
)


def test_a_prediction_without_an_end_crosses_the_wire() -> None:
    endless = msgspec.structs.replace(PREDICTION, seconds=None, converges=False, why="the guest dirties more")
    assert msgspec.json.decode(msgspec.json.encode(endless), type=Prediction) == endless
    measured = ended(MoveState.COMPLETED, guest_runs=Side.DESTINATION, prediction=endless, measured=MEASURED)
    assert "took        4.25 s (predicted no end)" in report(measured)
