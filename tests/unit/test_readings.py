"""QEMU's own words, read: trees, graphs, networks, and what a command line made."""

import pytest

from limosa.guest.blockgraph import Edges, block_nodes, read_graph, stable_names
from limosa.guest.chardevs import chardevs, read_filename
from limosa.guest.cmdline import parse
from limosa.guest.created import created, named_drives, node_options
from limosa.guest.devices import must_be_said, same
from limosa.guest.netdevs import netdevs, parse_network
from limosa.guest.probe import Board, Known, bare_argv
from limosa.guest.qtree import parse_qom_tree, parse_qtree, parse_ram_blocks, read_value
from limosa.guest.tree import ambiguous, place

QTREE = """\
bus: main-system-bus
  type System
  dev: q35-pcihost, id ""
    MCFG = -1 (0xffffffffffffffff)
    bus: pcie.0
      type PCIE
      dev: virtio-blk-pci, id "d1"
        addr = 03.0
        romfile = ""
        bus: virtio-bus
          type virtio-pci-bus
          dev: virtio-blk-device, id ""
            drive = "disk \\"one\\""
            config-wce = true
      dev: e1000, id ""
        mac = "52:54:00:00:00:02"
        addr = 02.0
        class Ethernet controller, addr 00:02.0, pci id 8086:100e (sub 1af4:1100)
      dev: qemu-xhci, id "x"
        addr = 01.0
        bus: x.0
          type usb-bus
          dev: usb-storage, id ""
            port = ""
            addr 0.3, port 2.1, speed 480, name USB, attached
          dev: usb-hub, id ""
            port = ""
            addr 0.2, port 2, speed 12, name Hub, attached
"""

QOM = """\
/machine (pc-q35-10.0-machine)
  /peripheral (container)
    /d1 (virtio-blk-pci)
      /virtio-backend (virtio-blk-device)
      /virtio-bus (virtio-pci-bus)
    /x (qemu-xhci)
      /x.0 (usb-bus)
  /peripheral-anon (container)
    /device[0] (usb-storage)
    /device[10] (e1000)
  /unattached (container)
    /device[9] (q35-pcihost)
      /pcie.0 (PCIE)
    /device[11] (usb-hub)
"""


def test_a_tree_is_read_in_the_order_of_creation() -> None:
    (root,) = parse_qtree(QTREE)
    (host,) = root.devices
    assert host.properties == {"MCFG": -1}
    (bus,) = host.buses
    assert [(d.driver, d.id) for d in bus.devices] == [("qemu-xhci", "x"), ("e1000", ""), ("virtio-blk-pci", "d1")]
    assert bus.devices[1].notes == ("class Ethernet controller, addr 00:02.0, pci id 8086:100e (sub 1af4:1100)",)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ('"auto"', "auto"),
        ('""', ""),
        ("03.0", "03.0"),
        ("<null>", None),
        ("18446744073709551615 (16 EiB)", 2**64 - 1),
        ("512 (512 B)", 512),
        ("-1 (0xffffffffffffffff)", -1),
    ],
)
def test_values_are_read_by_their_form(text: str, value: object) -> None:
    assert read_value(text) == value


def test_devices_are_placed_with_path_bus_and_position() -> None:
    roots, objects = parse_qtree(QTREE), parse_qom_tree(QOM)
    assert ambiguous(roots, objects) == ()
    placed = {device.position: device for device in place(roots, objects, {})}
    assert list(placed) == [
        "main-system-bus/q35-pcihost",
        "pcie.0/01.0",
        "x.0/2",
        "x.0/2.1",
        "pcie.0/02.0",
        "pcie.0/03.0",
    ]
    assert placed["pcie.0/02.0"].path == "/machine/peripheral-anon/device[10]"
    disk = placed["pcie.0/03.0"]
    assert (disk.inner, disk.properties["drive"], disk.by_user) == ("virtio-blk-device", 'disk "one"', True)
    assert (placed["x.0/2.1"].port, placed["x.0/2.1"].by_user, placed["x.0/2"].by_user) == ("2.1", True, False)


def test_devices_of_one_type_on_two_buses_are_told_apart_by_their_parent() -> None:
    tree = QTREE.replace("dev: usb-hub", "dev: e1000")
    objects = parse_qom_tree(QOM.replace("usb-hub", "e1000"))
    torn = ambiguous(parse_qtree(tree), objects)
    assert set(torn) == {"/machine/peripheral-anon/device[10]", "/machine/unattached/device[11]"}
    parents = {torn[0]: "/machine/unattached/device[9]/pcie.0", torn[1]: "/machine/peripheral/x/x.0"}
    by_bus = {"pcie.0": "/machine/peripheral-anon/device[10]", "x.0": "/machine/unattached/device[11]"}
    assert {d.bus: d.path for d in place(parse_qtree(tree), objects, parents) if d.driver == "e1000"} == by_bus


def test_trees_of_two_moments_do_not_fit() -> None:
    with pytest.raises(LookupError, match="e1000"):
        place(parse_qtree(QTREE), parse_qom_tree(QOM.replace("e1000", "VGA")), {})


def test_ram_blocks_are_read_with_their_full_size() -> None:
    text = (
        "              Block Name    PSize              Offset               Used              Total\n"
        "                  pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007f1 rw\n"
        "    /rom@etc/acpi/tables    4 KiB  0x0000000008000000 0x0000000000020000 0x0000000000200000 0x00007f2 ro\n"
    )
    assert parse_ram_blocks(text) == {"pc.ram": 0x8000000, "/rom@etc/acpi/tables": 0x200000}


GRAPH = {
    "nodes": [
        {"id": 1, "type": "block-backend", "name": "virtio0"},
        {"id": 2, "type": "block-driver", "name": "#block1"},
        {"id": 3, "type": "block-driver", "name": "#block2"},
    ],
    "edges": [
        {"parent": 1, "child": 2, "name": "root"},
        {"parent": 2, "child": 3, "name": "file"},
    ],
}


def test_automatic_node_names_become_their_drives() -> None:
    edges = read_graph(GRAPH)
    assert edges == Edges({"#block1": {"file": "#block2"}}, {"#block1": "virtio0"}, frozenset())
    assert stable_names(["#block1", "#block2"], edges) == {"#block1": "virtio0", "#block2": "virtio0-file"}


def test_a_name_that_is_taken_or_too_long_or_misspelt_gets_another() -> None:
    edges = Edges({}, {"#block1": "disk", "#block2": "a" * 40, "#block3": "0 bad"}, frozenset())
    names = stable_names(["disk", "#block1", "#block2", "#block3"], edges)
    assert names["#block1"] == "disk-2"
    assert len(names["#block2"]) <= 31
    assert names["#block3"] == "d-0-bad"


def test_nodes_have_live_cache_modes_and_given_options() -> None:
    told = {"ro": False, "detect_zeroes": "unmap", "cache": {"direct": True, "no-flush": False, "writeback": True}}
    named = [
        told | {"node-name": "#block2", "drv": "file", "file": "d.raw", "image": {"virtual-size": 5}},
        told | {"node-name": "#block1", "drv": "raw", "file": "d.raw", "image": {"virtual-size": 5}},
    ]
    edges = read_graph(GRAPH)
    made = created(parse(["qemu", "-drive", "file=d.raw,format=raw,if=virtio,discard=on,aio=native"]))
    given = node_options(made, edges, ["#block1", "#block2"])
    nodes, unknown = block_nodes(
        named, edges, given, stable_names(["#block1", "#block2"], edges), lambda path: f"/srv/{path}"
    )
    protocol, root = nodes
    assert unknown == ()
    assert protocol.options == {
        "discard": "unmap",
        "aio": "native",
        "filename": "/srv/d.raw",
        "cache": {"direct": True, "no-flush": False},
        "detect-zeroes": "unmap",
    }
    assert (root.options["discard"], root.children, protocol.filename) == (
        "unmap",
        {"file": "virtio0-file"},
        "/srv/d.raw",
    )


@pytest.mark.parametrize(
    ("driver", "filename", "options"),
    [
        ("nbd", "nbd://h:10809/x", {"server": {"type": "inet", "host": "h", "port": "10809"}, "export": "x"}),
        ("nbd", "nbd+unix:///x?socket=/run/n", {"server": {"type": "unix", "path": "/run/n"}, "export": "x"}),
        (
            "nbd",
            'json:{"driver": "nbd", "server.type": "inet", "server.host": "h", "server.port": "1"}',
            {"server": {"type": "inet", "host": "h", "port": "1"}},
        ),
        (
            "iscsi",
            "iscsi://10.0.0.1:3260/iqn.2020-01.org:disk/3",
            {"transport": "tcp", "portal": "10.0.0.1:3260", "target": "iqn.2020-01.org:disk", "lun": 3},
        ),
    ],
)
def test_network_nodes_added_later_are_read_from_their_names(
    driver: str, filename: str, options: dict[str, object]
) -> None:
    told = {"node-name": "n", "drv": driver, "file": filename, "ro": False, "detect_zeroes": "off"}
    told |= {"cache": {"direct": False, "no-flush": False}, "image": {"virtual-size": 5}}
    (node,), _ = block_nodes([told], Edges({}, {}, frozenset()), {}, {"n": "n"}, str)
    assert node.options == options | {"cache": {"direct": False, "no-flush": False}}
    assert node.filename is None


HUB = """\
hub 0
 \\ hub0port1: #net187: index=0,type=tap,ifname=tap0,script=no,downscript=no
 \\ hub0port0: e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56
net1: index=0,type=tap,ifname=tap1,script=no,downscript=no
virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01
 \\ net0: index=0,type=tap,ifname=tap2,script=no,downscript=no
 \\ net0: index=1,type=tap,ifname=tap2,script=no,downscript=no
"""


def test_networks_are_read_with_hubs_queues_and_names_that_can_be_said() -> None:
    made = created(parse(["q", "-net", "nic", "-net", "tap,ifname=tap0,script=no", "-netdev", "tap,id=net0,vhost=on"]))
    found, unknown = netdevs(parse_network(HUB), made.netdevs, made.unnamed_netdevs, {"tap1": "br0"}, vhost_files=2)
    by_id = {netdev.id: netdev for netdev in found}
    assert by_id["hostnet-0"].live_name == "#net187"
    assert by_id["hostnet-0"].options == {"ifname": "tap0", "script": "no"}
    assert by_id["net0"].options == {"vhost": "on", "ifname": "tap2"}
    assert (by_id["net1"].bridge, by_id["net1"].ifname) == ("br0", "tap1")
    assert by_id["hub0port0"].options == {"hubid": 0}
    assert by_id["hub0port1"].options == {"hubid": 0, "netdev": "hostnet-0"}
    assert [told.what for told in unknown] == ["netdev:net1:vhost"]


def test_queues_of_a_later_backend_are_counted() -> None:
    found, unknown = netdevs(parse_network(HUB), {}, [], {}, vhost_files=0)
    assert next(n for n in found if n.id == "net0").options["queues"] == 2
    assert unknown == ()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("null", ("null", {})),
        ("pty:/dev/pts/3", ("pty", {})),
        ("disconnected:unix:/run/x,server=on", ("socket", {"path": "/run/x", "server": True, "wait": False})),
        (
            "disconnected:telnet:127.0.0.1:77,server=on",
            ("socket", {"server": True, "wait": False, "telnet": True, "host": "127.0.0.1", "port": "77"}),
        ),
        ("tcp:10.0.0.1:99 <-> 10.0.0.2:5", ("socket", {"server": False, "host": "10.0.0.1", "port": "99"})),
        ("file", None),
        ("udp", None),
    ],
)
def test_live_chardevs_are_read_as_far_as_their_names_tell(text: str, read: object) -> None:
    assert read_filename(text) == read


def test_the_base_of_a_multiplexed_chardev_is_not_one_of_its_own() -> None:
    live = [{"label": "serial0", "filename": "mux"}, {"label": "serial0-base", "filename": "stdio"}]
    made = created(parse(["q", "-nodefaults", "-serial", "mon:stdio"]))
    (found,), unknown = chardevs(live, {}, made.chardevs, made.chardev_users)
    assert (found.id, found.backend, found.options, found.used_by) == ("serial0", "stdio", {"mux": True}, "serial0")
    assert unknown == ()


def test_drives_have_the_names_that_qemu_gives_them() -> None:
    line = "q -hda a -cdrom b -drive if=virtio,file=c -drive if=virtio,file=d -drive file=e -drive id=x,if=none,file=f"
    assert [name for name, _ in named_drives(parse(line.split()))] == [
        *("ide0-hd0", "ide1-cd0", "virtio0", "virtio1", "ide0-hd1", "x")
    ]
    q35 = "q -M q35 -hda a -drive file=b -drive if=pflash,file=c -drive if=pflash,file=d -drive if=scsi,index=8,file=e"
    assert [name for name, _ in named_drives(parse(q35.split()))] == [
        *("ide0-hd0", "ide1-hd0", "pflash0", "pflash1", "scsi1-hd1")
    ]


def test_qemus_own_serial_parallel_and_monitor_are_known_where_they_were_not_asked_for() -> None:
    plain = created(parse(["q"]))
    assert {id_: backend for id_, (backend, _) in plain.chardevs.items()} == {
        "serial0": "vc",
        "parallel0": "vc",
        "compat_monitor0": "vc",
    }
    silent = created(parse(["q", "-nographic"]))
    assert silent.chardevs["serial0"] == ("stdio", {"mux": True})
    assert created(parse(["q", "-nodefaults"])).chardevs == {}


def test_accelerator_properties_are_kept_by_accelerator() -> None:
    made = created(parse(["q", "-accel", "kvm", "-accel", "tcg,thread=single", "-M", "q35,kernel_irqchip=split"]))
    assert made.accel_options == {"kvm": {}, "tcg": {"thread": "single"}}
    legacy = created(parse(["q", "-M", "q35,accel=kvm,kernel_irqchip=split"]))
    assert legacy.accel_options == {"kvm": {"kernel-irqchip": "split"}}


@pytest.mark.parametrize(
    ("name", "value", "known", "said"),
    [
        ("vectors", 3, Known("uint32", 2, True), True),
        ("vectors", 2, Known("uint32", 2, True), False),
        ("bus-reserve", 2**32 - 1, Known("uint32", -1, True), False),
        ("serial", "", Known("str"), False),
        ("romfile", "", Known("str"), True),
        ("bootindex", -1, Known("int32"), False),
        ("bootindex", 1, Known("int32"), True),
        ("busnr", 0, Known("uint8"), False),
        ("iothread", "/objects/io1", Known("link<iothread>"), True),
        ("i8042", "/machine/unattached/device[3]", Known("link<i8042>"), False),
        ("hotplugged", True, Known("bool"), False),
        ("x-speed", "16", Known("enum", "16", True, by_machine=True), True),
        ("new", 1, None, False),
    ],
)
def test_only_what_differs_and_can_be_set_must_be_said(name: str, value: object, known: Known, said: bool) -> None:
    assert must_be_said(name, value, known) is said


def test_minus_one_is_the_same_as_its_unsigned_form() -> None:
    assert same(2**64 - 1, -1)
    assert not same(2**16 - 1, -1)
    assert not same(True, 2)


def test_a_bare_board_takes_its_monitor_as_an_open_socket() -> None:
    board = Board(machine="q35", cpu="max", accel="tcg", options=(("usb", "on"),), firmware_paths=("/fw",))
    line = bare_argv("/usr/bin/qemu", board, 9)
    assert line[0] == "/usr/bin/qemu"
    assert line[line.index("-machine") + 1] == "q35,accel=tcg,usb=on"
    assert "socket,id=limosa,fd=9,server=on,wait=on" in line
    assert line[line.index("-L") + 1] == "/fw"


def test_the_sound_card_of_audio_is_a_device_and_its_backend_is_carried() -> None:
    made = created(parse(["q", "-audio", "pa,model=hda,server=/run/x", "-set", "device.x.y=z"]))
    assert [(o.name, o.value) for o in made.carried] == [("audiodev", "driver=pa,server=/run/x,id=audiodev0")]
