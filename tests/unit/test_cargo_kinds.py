"""What each kind claims, and the decisions that need no QEMU."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from limosa.cargo import mirror
from limosa.cargo.firmware import Firmware, files
from limosa.cargo.harmless import DEVICES, Harmless
from limosa.cargo.immovable import Immovable
from limosa.cargo.kind import HostFacts, Kind, Offer, Survey, kinds
from limosa.cargo.memory import Memory, total
from limosa.cargo.nics import SourceTap, place
from limosa.cargo.storage import Carrier, Image, carried_by, carrier, images, mapped
from limosa.cargo.taps import Link
from limosa.cargo.vcpus import Vcpus
from limosa.errors import MoveFailed
from limosa.guest.parts import parts
from limosa.guest.profile import Device, HostObject, Machine, Option, PluggedCpu, Profile
from limosa.migration.plan import unclaimed
from limosa.testing.profiles import bare_profile, disk_profile, file_node, format_node
from limosa.units import GIB, MoveId
from limosa.wire.findings import Severity
from limosa.wire.moves import MoveRequest

MOVE = MoveId("m1")
HOST = HostFacts(name="b", migration_address="127.0.0.1", state_dir="/s", run_dir="/r", machine_id="b")
REQUEST = MoveRequest(guest="guest", to="b")


def device(driver: str, number: int = 0, **fields: Any) -> Device:
    return Device(
        path=f"/machine/peripheral/x{number}",
        id=f"x{number}",
        driver=driver,
        bus=None,
        properties={},
        hotplugged=False,
        position=f"pci.0/{number}",
        **fields,
    )


def offered(
    kind: Kind, profile: Profile, learned: dict[str, Any] | None = None, maps: dict[str, str] | None = None
) -> Offer:
    survey = Survey(kind=kind.name, learned=learned or {})
    request = MoveRequest(guest="guest", to="b", maps=maps or {})
    return asyncio.run(kind.offer(profile, survey, HOST, request, MOVE))


def test_every_kind_is_found_by_its_own_name() -> None:
    assert list(kinds()) == [kind.name for kind in kinds().values()]
    assert len(kinds()) >= 10


def test_kinds_claim_a_bare_guest_whole_and_each_part_once() -> None:
    assert unclaimed(bare_profile(), kinds()) == ()


def test_what_nobody_knows_blocks_by_name() -> None:
    (finding,) = unclaimed(bare_profile(devices=(device("some-new-device"),)), kinds())
    assert finding.severity is Severity.BLOCKS
    assert "some-new-device" in finding.what


@pytest.mark.parametrize(
    "driver",
    [
        *("vfio-pci", "usb-host", "ivshmem-plain", "nvdimm", "virtio-pmem-pci", "virtio-9p-pci"),
        *("vhost-user-fs-pci", "virtio-mem-pci", "tpm-crb"),
    ],
)
def test_what_cannot_be_moved_says_why_and_what_helps(driver: str) -> None:
    profile = bare_profile(devices=(device(driver, chardev="c0" if driver.startswith("vhost") else None),))
    assert unclaimed(profile, kinds()) == ()
    survey = asyncio.run(Immovable().check_source(profile, HOST, REQUEST, None))  # type: ignore[arg-type]  # not asked
    (finding,) = survey.findings
    assert finding.severity is Severity.BLOCKS
    assert finding.what.startswith(f"{driver} x0 ")
    assert finding.remedy


def test_no_driver_is_listed_twice_as_harmless() -> None:
    listed = [driver for drivers in DEVICES.values() for driver in drivers]
    assert len(listed) == len(set(listed))


def test_a_harmless_driver_with_a_disk_is_not_the_harmless_kinds() -> None:
    profile = bare_profile(devices=(device("nvme", 0, drive="d0"), device("virtio-rng-pci", 1)))
    assert Harmless().claims(profile) == {"device:/machine/peripheral/x1"}


def test_a_secret_without_a_file_blocks() -> None:
    profile = bare_profile(objects=(HostObject(id="s0", type="secret", properties={}),))
    survey = asyncio.run(Harmless().check_source(profile, HOST, REQUEST, None))  # type: ignore[arg-type]  # not asked
    assert survey.findings[0].severity is Severity.BLOCKS


def test_files_of_objects_must_be_there(tmp_path: Path) -> None:
    key = tmp_path / "key"
    profile = bare_profile(objects=(HostObject(id="s0", type="secret", properties={"file": str(key)}),))
    assert offered(Harmless(), profile).findings[0].severity is Severity.BLOCKS
    key.write_text("secret")
    assert offered(Harmless(), profile).findings == ()


def test_roots_are_split_between_kinds_and_shared_nodes_have_one_owner() -> None:
    nodes = (
        file_node("base-file", "/srv/base"),
        format_node("base", "raw", read_only=True),
        file_node("top-file", "/srv/top"),
        format_node("top", "qcow2", backing="base"),
        file_node("iso-file", "/srv/iso"),
        format_node("iso", "raw", read_only=True),
    )
    profile = disk_profile(*nodes, disks=["top", "iso"])
    assert [image.root.node_name for image in images(profile)] == ["top", "iso"]
    assert [carrier(image) for image in images(profile)] == [Carrier.DISKS, Carrier.MEDIA]
    (top,) = carried_by(profile, Carrier.DISKS)
    assert [layer.root.node_name for layer in top.backing] == ["base"]
    assert top.path == "/srv/top"
    assert unclaimed(profile, kinds()) == ()


def test_an_image_used_without_a_format_is_raw() -> None:
    profile = disk_profile(file_node("d0", "/srv/d0"), disks=["d0"])
    image = Image(profile, profile.node("d0"))
    assert (image.format_name, image.name) == ("raw", "vd3")


@pytest.mark.parametrize(
    ("path", "maps", "expected"),
    [
        ("/srv/a.raw", {}, None),
        ("/srv/a.raw", {"/srv/a.raw": "/data/b.raw"}, "/data/b.raw"),
        ("/srv/x/a.raw", {"/srv": "/data"}, "/data/x/a.raw"),
        ("/srv/x/a.raw", {"/srv": "/data", "/srv/x": "/fast"}, "/fast/a.raw"),
        ("/srvx/a.raw", {"/srv": "/data"}, None),
    ],
)
def test_maps_name_a_path_or_a_directory_above_it(path: str, maps: dict[str, str], expected: str | None) -> None:
    assert mapped(path, maps) == expected


def test_memory_counts_base_and_dimms_and_asks_for_room() -> None:
    backend = HostObject(id="m1", type="memory-backend-ram", properties={"size": 2 * GIB})
    profile = bare_profile(objects=(backend,), devices=(device("pc-dimm", memdev="m1"),))
    assert total(profile) == profile.memory.size + 2 * GIB
    assert Memory().claims(profile) == {"memory", "object:m1", "device:/machine/peripheral/x0"}
    huge = HostObject(id="m1", type="memory-backend-ram", properties={"size": 1 << 50})
    (finding,) = offered(Memory(), bare_profile(objects=(huge,), devices=(device("pc-dimm", memdev="m1"),))).findings
    assert "are available here" in finding.what


def test_memory_files_are_mapped_and_never_taken_over(tmp_path: Path) -> None:
    backend = HostObject(id="m1", type="memory-backend-file", properties={"size": 4096, "mem-path": "/old/ram"})
    profile = bare_profile(objects=(backend,))
    assert offered(Memory(), profile).findings[0].severity is Severity.BLOCKS
    offer = offered(Memory(), profile, maps={"/old": str(tmp_path)})
    assert offer.findings == ()
    assert Memory().rewrite(profile, offer).objects[0].properties["mem-path"] == str(tmp_path / "ram")
    (tmp_path / "ram").touch()
    assert "exists here" in offered(Memory(), profile, maps={"/old": str(tmp_path)}).findings[0].what


def test_memory_on_a_numa_node_that_is_not_there_blocks() -> None:
    backend = HostObject(id="m1", type="memory-backend-ram", properties={"size": 4096, "host-nodes": [4000]})
    (finding,) = offered(Memory(), bare_profile(objects=(backend,))).findings
    assert "NUMA node 4000" in finding.what


def test_vcpus_claim_plugged_ones_by_their_names() -> None:
    cpu = PluggedCpu(id="cpu-2", driver="qemu64-x86_64-cpu", properties={}, hotplugged=True)
    profile = bare_profile(plugged_cpus=(cpu,))
    assert Vcpus().claims(profile) == {"cpu", "cpu:cpu-2"}
    assert unclaimed(profile, kinds()) == ()


def test_files_the_guest_was_started_with_are_found_in_options_and_machine() -> None:
    profile = bare_profile(
        machine=Machine(type="pc", accel="tcg", properties={"kernel": "/boot/vmlinuz", "firmware": "bios-256k.bin"}),
        options=(
            Option(name="fw_cfg", value="name=opt/x,file=/etc/blob"),
            Option(name="smbios", value="type=1,serial=a/b"),
            Option(name="acpitable", value="file=/a/one:/a/two"),
            Option(name="boot", value="menu=on,splash=/usr/share/splash.jpg"),
        ),
    )
    assert sorted(files(profile)) == ["/a/one", "/a/two", "/boot/vmlinuz", "/etc/blob", "/usr/share/splash.jpg"]
    assert unclaimed(profile, kinds()) == ()


def test_a_file_of_the_start_is_found_by_content_under_a_mapped_path(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("kernel")
    profile = bare_profile(machine=Machine(type="pc", accel="tcg", properties={"kernel": str(old)}))
    kind = Firmware()
    assert kind.claims(profile) == {"machine:kernel"}
    survey = asyncio.run(kind.check_source(profile, HOST, REQUEST, None))  # type: ignore[arg-type]  # not asked
    assert offered(kind, profile, survey.learned, {str(old): str(new)}).findings[0].severity is Severity.BLOCKS
    new.write_text("kernel")
    offer = offered(kind, profile, survey.learned, {str(old): str(new)})
    assert offer.findings == ()
    assert kind.rewrite(profile, offer).machine.properties["kernel"] == str(new)


def tap(name: str, bridge: str | None = "br0") -> SourceTap:
    return SourceTap(netdev=f"net-{name}", ifname=name, bridge=bridge, mtu=1500, multi_queue=False)


def link(name: str, kind: str | None = "bridge", **more: Any) -> Link:
    return Link(name=name, index=1, kind=kind, mtu=1500, **({"up": True} | more))


def test_taps_keep_their_names_where_these_are_free() -> None:
    links = {"br0": link("br0"), "tap1": link("tap1", "tun")}
    placed, findings = place([tap("tap0"), tap("tap1")], links, HOST, REQUEST, MOVE)
    assert findings == ()
    names = [new.name for _, new in placed]
    assert names[0] == "tap0"
    assert names[1].startswith("lm")
    assert all(len(name) <= 15 for name in names)


def test_bridges_are_mapped_by_the_request_before_the_host() -> None:
    host = HostFacts(
        name="b", migration_address="", state_dir="", run_dir="", machine_id="", bridges={"br0": "lan", "br1": "dmz"}
    )
    links = {name: link(name) for name in ("lan", "dmz", "own")}
    request = MoveRequest(guest="g", to="b", maps={"br1": "own"})
    placed, _ = place([tap("a"), tap("b", "br1")], links, host, request, MOVE)
    assert [new.bridge for _, new in placed] == ["lan", "own"]


@pytest.mark.parametrize(
    ("found", "severity", "words"),
    [
        ({}, Severity.BLOCKS, "there is no bridge"),
        ({"br0": link("br0", "vlan")}, Severity.BLOCKS, "it is no bridge"),
        ({"br0": link("br0", up=False)}, Severity.WARNING, "is down here"),
        ({"br0": link("br0", stp=True)}, Severity.WARNING, "spanning tree"),
    ],
)
def test_bridges_that_would_not_do(found: dict[str, Link], severity: Severity, words: str) -> None:
    _, (finding,) = place([tap("tap0")], found, HOST, REQUEST, MOVE)
    assert finding.severity is severity
    assert words in finding.what


def test_a_copy_that_does_not_move_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(mirror, "monotonic", lambda: now)
    watch = mirror._Watch()
    copy = mirror.Copy(item="vda", node="d0", into="d0", name="c0", size=100)
    reading = {"offset": 10, "len": 100, "ready": False}
    watch.read(copy, reading)
    now = 10.0
    progress = watch.read(copy, reading | {"offset": 60})
    assert (progress.rate, progress.eta) == (5.0, 8.0)
    watch.complain([copy])
    now = 10.0 + mirror.STALLED_SECONDS + 1
    watch.read(copy, reading | {"offset": 60})
    with pytest.raises(MoveFailed, match="vda failed: nothing was copied for 21 s"):
        watch.complain([copy])


def test_a_copy_in_sync_does_not_hide_that_another_one_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, *(mirror.STALLED_SECONDS * step for step in (0.1, 0.2, 1.1, 1.2, 1.3))))
    monkeypatch.setattr(mirror, "monotonic", lambda: next(times))
    watch = mirror._Watch()
    first, second = (mirror.Copy(item=n, node=n, into=n, name=n, size=100) for n in ("vda", "vdb"))
    for _ in range(2):
        watch.read(first, {"offset": 100, "len": 100, "ready": True})
        watch.read(second, {"offset": 10, "len": 100, "ready": False})
    with pytest.raises(MoveFailed, match="vdb"):
        watch.complain([second])


def test_parts_of_a_profile_that_are_limosas_own_need_no_kind() -> None:
    profile = bare_profile(objects=(HostObject(id="limosa-tls", type="tls-creds-psk", properties={"dir": "/x"}),))
    assert not [part for part in parts(profile) if "limosa" in part]
