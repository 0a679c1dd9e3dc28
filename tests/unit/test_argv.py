"""A profile as a command line, without any QEMU."""

import json
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from limosa.destination.argv import TwinShape, blockdev, narrowed, words
from limosa.destination.finish import finishing, twin_paths
from limosa.guest.probe import Known
from limosa.guest.profile import (
    BlockNode,
    Chardev,
    Cpu,
    Device,
    Drive,
    HostObject,
    Machine,
    Memory,
    MonitorAddress,
    Netdev,
    Option,
    PluggedCpu,
    Profile,
    Smp,
    Throttle,
)
from limosa.testing.profiles import bare_profile

TWIN = TwinShape(monitor="/run/limosa/twin")


def node(name: str, driver: str = "raw", **given: Any) -> BlockNode:
    told: dict[str, Any] = {
        "options": {},
        "children": {},
        "read_only": False,
        "virtual_size": 1 << 20,
        "filename": None,
    } | given
    return BlockNode(node_name=name, live_name=name, driver=driver, **told)


def device(driver: str, path: str = "/machine/peripheral-anon/device[0]", **given: Any) -> Device:
    told: dict[str, Any] = {
        "id": None,
        "bus": "pci.0",
        "properties": {},
        "hotplugged": False,
        "position": f"pci.0/{path}",
    } | given
    return Device(path=path, driver=driver, **told)


def drive(path: str, **given: Any) -> Drive:
    told: dict[str, Any] = {
        "backend": "",
        "node": "disk",
        "removable": False,
        "tray_open": None,
        "throttle": None,
    } | given
    return Drive(device=path, **told)


PROFILE = bare_profile(
    name="web,1",
    machine=Machine(type="pc-i440fx-10.0", accel="tcg", properties={}),
    smp=Smp(cpus=2, maxcpus=4, topology={"sockets": 1, "dies": 1, "cores": 4, "threads": 1}),
    memory=Memory(size=128 << 20, slots=0, max_size=128 << 20, backend=None),
)


def said(option: str, profile: Profile, twin: TwinShape = TWIN) -> list[str]:
    """Every value of an option."""
    line = words(profile, twin)
    return [value for name, value in pairwise(line) if name == f"-{option}"]


def said_json(option: str, profile: Profile, twin: TwinShape = TWIN) -> list[Any]:
    return [json.loads(value) for value in said(option, profile, twin)]


def test_a_twin_waits_and_brings_nothing_along_by_itself() -> None:
    line = words(PROFILE, TWIN)
    assert {"-S", "-nodefaults", "-no-user-config"} <= set(line)
    assert said("incoming", PROFILE) == ["defer"]
    assert said("display", PROFILE) == ["none"]


def test_commas_in_names_and_values_are_escaped() -> None:
    machine = Machine(type="pc-i440fx-10.0", accel="tcg", properties={"append": "console=ttyS0,9600", "usb": True})
    assert said("name", PROFILE) == ["guest=web,,1"]
    assert said("machine", replace(PROFILE, machine=machine)) == ["pc-i440fx-10.0,append=console=ttyS0,,9600,usb=on"]


def test_the_cpu_is_enforced_with_what_differs_from_its_model() -> None:
    cpu = Cpu(type="qemu64-x86_64-cpu", model="qemu64", properties={"ssse3": True, "svm": False, "level": 13}, flags=())
    assert said("cpu", replace(PROFILE, cpu=cpu)) == ["qemu64,ssse3=on,svm=off,level=13,enforce"]


def test_a_broad_model_is_narrowed_to_what_the_guest_sees() -> None:
    seen = {"avx": True, "x2apic": False, "family": 15, "ht": True, "pmu": True, "x-vendor-cpuid-only": False}
    profile = replace(PROFILE, guest_visible={"cpu": seen})
    # `fsrc` is one that the guest's own QEMU does not know yet; `wrmsrns` neither, and it is off here too.
    bare = {"avx": True, "x2apic": True, "family": 6, "fsrc": True, "wrmsrns": False, "ht": False, "pmu": False}
    told = narrowed(profile, bare)
    assert told == {"x2apic": False, "family": 15, "fsrc": False}
    cpu = Cpu(type="max-x86_64-cpu", model="max", properties={"avx2": False}, flags=())
    (value,) = said("cpu", replace(PROFILE, cpu=cpu), replace(TWIN, cpu=told))
    assert value == "max,x2apic=off,family=15,fsrc=off,avx2=off,enforce"


def test_topology_levels_that_are_one_are_left_out_where_boards_may_lack_them() -> None:
    assert said("smp", PROFILE) == ["cpus=2,maxcpus=4,sockets=1,cores=4,threads=1"]
    dies = replace(PROFILE.smp, topology={"sockets": 1, "dies": 2, "cores": 2, "threads": 1})
    assert said("smp", replace(PROFILE, smp=dies)) == ["cpus=2,maxcpus=4,sockets=1,dies=2,cores=2,threads=1"]


def test_memory_has_slots_only_where_there_are_some() -> None:
    assert said("m", PROFILE) == ["size=134217728B"]
    memory = Memory(size=128 << 20, slots=2, max_size=1 << 30, backend="ram")
    profile = replace(PROFILE, memory=memory)
    assert said("m", profile) == ["size=134217728B,slots=2,maxmem=1073741824B"]
    assert said("machine", profile) == ["pc-i440fx-10.0,memory-backend=ram"]


def test_devices_come_in_order_with_their_backends() -> None:
    profile = replace(
        PROFILE,
        devices=(
            device("virtio-blk-pci", id="d0", properties={"addr": "04.0", "serial": "a,b"}, drive="disk"),
            device("virtio-net-pci", netdev="n0", properties={"multifunction": True}),
            device("pc-dimm", bus=None, memdev="m0"),
        ),
    )
    assert said_json("device", profile) == [
        {"driver": "virtio-blk-pci", "id": "d0", "bus": "pci.0", "drive": "disk", "addr": "04.0", "serial": "a,b"},
        {"driver": "virtio-net-pci", "bus": "pci.0", "netdev": "n0", "multifunction": True},
        {"driver": "pc-dimm", "memdev": "m0"},
    ]


def test_vcpus_plugged_later_stand_before_devices_and_without_a_node() -> None:
    plugged = PluggedCpu(
        id="cpu-2",
        driver="qemu64-x86_64-cpu",
        properties={"socket-id": 0, "core-id": 2, "thread-id": 0, "node-id": 0},
        hotplugged=True,
    )
    profile = replace(PROFILE, plugged_cpus=(plugged,), devices=(device("e1000"),))
    first, second = said_json("device", profile)
    assert first == {"driver": "qemu64-x86_64-cpu", "id": "cpu-2", "socket-id": 0, "core-id": 2, "thread-id": 0}
    assert second["driver"] == "e1000"


def test_a_qcow2_without_a_backing_child_says_so_lest_qemu_opens_what_its_header_names() -> None:
    assert blockdev(node("d", "qcow2", children={"file": "f"}))["backing"] is None
    chained = blockdev(node("d", "qcow2", children={"file": "f", "backing": "b"}))
    assert (chained["file"], chained["backing"]) == ("f", "b")


def test_children_of_a_quorum_are_a_list() -> None:
    quorum = node("q", "quorum", children={"children.0": "a", "children.1": "b"})
    assert blockdev(quorum)["children"] == ["a", "b"]


def test_error_policies_and_the_write_cache_of_a_drive_go_to_its_device() -> None:
    disk = device("virtio-blk-pci", drive="disk")
    profile = replace(
        PROFILE, devices=(disk,), drives=(drive(disk.path, rerror="stop", werror="report", writeback=False),)
    )
    (told,) = said_json("device", profile)
    assert (told["rerror"], told["werror"], told["write-cache"]) == ("stop", "report", "off")


def test_a_usb_stick_keeps_the_backend_that_its_identity_comes_from() -> None:
    stick = device("usb-storage", "/machine/peripheral/stick", id="stick", drive="root")
    profile = replace(
        PROFILE,
        devices=(stick,),
        block_nodes=(
            node("root-file", "file", options={"filename": "/a,b", "cache": {"direct": True}}),
            node("root", "raw", children={"file": "root-file"}),
        ),
        drives=(drive("/machine/peripheral/stick/stick.0/legacy[0]", backend="us", node="root"),),
    )
    assert said("blockdev", profile) == []
    (told,) = said("drive", profile)
    assert told == (
        "if=none,id=us,node-name=root,driver=raw,read-only=off,file.driver=file,file.node-name=root-file,"
        "file.read-only=off,file.filename=/a,,b,file.cache.direct=on"
    )
    assert said_json("device", profile)[0]["drive"] == "us"


def test_properties_that_the_twins_qemu_lacks_are_left_out() -> None:
    profile = replace(PROFILE, devices=(device("e1000", properties={"mac": "52:54:00:00:00:01", "new": True}),))
    twin = replace(TWIN, known={"e1000": {"mac": Known("str")}})
    assert said_json("device", profile, twin) == [{"driver": "e1000", "bus": "pci.0", "mac": "52:54:00:00:00:01"}]


def test_a_default_that_is_another_one_in_the_twins_qemu_is_said() -> None:
    panic = device("pvpanic", position="isa.0/pvpanic")
    profile = replace(PROFILE, devices=(panic,), guest_visible={"isa.0/pvpanic": {"events": 3, "ioport": 1285}})
    known = {"events": Known("uint8", 7, True), "ioport": Known("uint16", 1285, True)}
    assert said_json("device", profile, replace(TWIN, known={"pvpanic": known}))[0]["events"] == 3
    assert "ioport" not in said_json("device", profile, replace(TWIN, known={"pvpanic": known}))[0]


def test_a_default_that_the_machine_type_may_change_is_said() -> None:
    port = device("pcie-root-port", position="pcie.0/1c.0")
    profile = replace(PROFILE, devices=(port,), guest_visible={"pcie.0/1c.0": {"x-speed": "16"}})
    known = {"x-speed": Known("PCIELinkSpeed", "16", True, by_machine=True)}
    assert said_json("device", profile, replace(TWIN, known={"pcie-root-port": known}))[0]["x-speed"] == "16"


def test_objects_come_before_what_uses_them_and_extra_ones_too() -> None:
    ram = HostObject(id="ram", type="memory-backend-ram", properties={"size": 1 << 20, "share": True})
    creds = {"qom-type": "tls-creds-psk", "id": "limosa-tls", "endpoint": "server"}
    profile = replace(PROFILE, objects=(ram,), devices=(device("pc-dimm", memdev="ram"),))
    line = words(profile, replace(TWIN, extra_objects=(creds,)))
    assert said_json("object", profile, replace(TWIN, extra_objects=(creds,))) == [
        {"qom-type": "memory-backend-ram", "id": "ram", "size": 1 << 20, "share": True},
        creds,
    ]
    assert line.index("-object") < line.index("-device")


def test_what_limosa_added_to_the_last_twin_is_not_carried_on() -> None:
    profile = replace(
        PROFILE,
        objects=(HostObject(id="limosa-tls", type="tls-creds-psk", properties={}),),
        chardevs=(
            Chardev(id="limosa-mon", backend="socket", options={"path": "/old"}),
            Chardev(id="mon", backend="socket", options={"path": "/run/owner", "server": True, "wait": False}),
        ),
        monitors=(
            MonitorAddress(mode="control", chardev="limosa-mon", path="/old"),
            MonitorAddress(mode="control", chardev="mon", path="/run/owner"),
        ),
    )
    assert said("object", profile) == []
    assert said("chardev", profile) == [
        "socket,id=limosa-mon,path=/run/limosa/twin,server=on,wait=off",
        "socket,id=mon,path=/run/owner,server=on,wait=off",
    ]
    assert said("mon", profile) == ["chardev=limosa-mon,mode=control", "chardev=mon,mode=control"]


def test_netdevs_are_json_only_where_they_are_nested() -> None:
    flat = Netdev(id="n0", type="tap", options={"ifname": "tap0", "vhost": True, "script": "no"})
    deep = Netdev(id="n1", type="stream", options={"addr": {"type": "unix", "path": "/run/x"}, "server": False})
    first, second = said("netdev", replace(PROFILE, netdevs=(flat, deep)))
    assert first == "tap,id=n0,ifname=tap0,vhost=on,script=no"
    assert json.loads(second)["addr"] == {"type": "unix", "path": "/run/x"}


@pytest.mark.parametrize("name", ["daemonize", "pidfile", "incoming", "loadvm"])
def test_options_about_the_old_process_are_not_carried(name: str) -> None:
    assert f"-{name}" not in words(replace(PROFILE, options=(Option(name=name, value="x"),)), TWIN)[14:]


def test_globals_stand_before_the_devices_and_other_options_keep_their_order() -> None:
    options = (
        Option(name="smbios", value="type=1"),
        Option(name="global", value="a.b=c"),
        Option(name="no-shutdown", value=None),
        Option(name="smbios", value="type=2"),
    )
    profile = replace(PROFILE, options=options, devices=(device("e1000"),))
    line = words(profile, TWIN)
    assert line.index("-global") < line.index("-device")
    assert said("smbios", profile) == ["type=1", "type=2"]
    assert "-no-shutdown" in line


def test_anonymous_devices_are_found_in_the_twin_by_their_order() -> None:
    disk = device("virtio-blk-pci", "/machine/unattached/device[23]")
    named = device("scsi-hd", "/machine/peripheral/x", id="x")
    plugged = PluggedCpu(id=None, driver="qemu64-x86_64-cpu", properties={}, hotplugged=True)
    profile = replace(PROFILE, devices=(named, disk), plugged_cpus=(plugged,))
    assert twin_paths(profile) == {
        "/machine/peripheral/x": "/machine/peripheral/x",
        "/machine/unattached/device[23]": "/machine/peripheral-anon/device[1]",
    }


def test_limits_and_an_open_tray_are_set_after_the_start() -> None:
    disk = device("virtio-blk-pci", "/machine/unattached/device[23]")
    reader = device("ide-cd", "/machine/peripheral/cd", id="cd")
    profile = replace(
        PROFILE,
        devices=(disk, reader),
        drives=(
            drive(disk.path, throttle=Throttle(group="g", limits={"iops": 50})),
            drive(reader.path, node=None, tray_open=True),
        ),
    )
    (limits, told), tray = finishing(profile)
    assert (limits, told["id"]) == ("block_set_io_throttle", "/machine/peripheral-anon/device[0]/virtio-backend")
    assert (told["group"], told["iops"], told["bps"]) == ("g", 50, 0)
    assert tray == ("blockdev-open-tray", {"id": "/machine/peripheral/cd", "force": True})
