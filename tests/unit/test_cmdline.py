import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limosa.guest.cmdline import chardevs, host_files, join, nested, parse, read_config, short_chardev, split
from limosa.guest.monitors import monitors
from limosa.guest.qemu_options import IMPLIED, SYNTAX, Syntax

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "cmdlines"
SAMPLES = sorted(SHARED.glob("*.cmd"))


def of(*words: str) -> dict[str, Any]:
    (option,) = parse(["qemu-system-x86_64", *words]).options
    assert option.known
    return option.fields


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("-device", "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:01"), {
            "driver": "virtio-net-pci", "netdev": "n0", "mac": "52:54:00:00:00:01"
        }),
        (("--device", '{"driver":"nvme","serial":"a,b","bootindex":1}'), {
            "driver": "nvme", "serial": "a,b", "bootindex": 1
        }),
        (("-drive", "if=virtio,file=/a,,b.qcow2,snapshot"), {
            "if": "virtio", "file": "/a,b.qcow2", "snapshot": "on"
        }),
        (("-drive", "file.driver=raw,throttling.iops-total=5"), {
            "file.driver": "raw", "throttling.iops-total": "5"
        }),
        (("-blockdev", "qcow2,node-name=d,file.driver=file,file.filename=/x"), {
            "driver": "qcow2", "node-name": "d", "file": {"driver": "file", "filename": "/x"}
        }),
        (("-chardev", "socket,id=m,path=/run/m,server,nowait"), {
            "backend": "socket", "id": "m", "path": "/run/m", "server": "on", "wait": "off"
        }),
        (("-netdev", "user,id=u,hostfwd=tcp::1-:2,hostfwd=tcp::3-:4"), {
            "type": "user", "id": "u", "hostfwd": "tcp::3-:4"
        }),
        (("-M", "q35,accel=tcg,usb=on"), {"type": "q35", "accel": "tcg", "usb": "on"}),
        (("-m", "512"), {"size": "512"}),
        (("-smp", "2,maxcpus=4"), {"cpus": "2", "maxcpus": "4"}),
        (("-name", "guest=web,,1,debug-threads=on"), {"guest": "web,1", "debug-threads": "on"}),
        (("-name", "web1"), {"guest": "web1"}),
        (("-object", "iothread,id=io1"), {"qom-type": "iothread", "id": "io1"}),
        (("-cpu", "host,+aes,-svm,enforce,hv_spinlocks=0x1fff"), {
            "model": "host", "aes": "on", "svm": "off", "enforce": "on", "hv_spinlocks": "0x1fff"
        }),
        (("-global", "PIIX4_PM.disable_s3=1"), {"driver": "PIIX4_PM", "property": "disable_s3", "value": "1"}),
        (("-global", "driver=a.b,property=c,value=d=e"), {"driver": "a.b", "property": "c", "value": "d=e"}),
        (("-fw_cfg", "opt/x,string=a=b"), {"name": "opt/x", "string": "a=b"}),
        (("-smbios", "type=11,value=a,value=b"), {"type": "11", "value": "b"}),
        (("-vnc", "unix:/run/v,password=on"), {"vnc": "unix:/run/v", "password": "on"}),
        (("-display", "vnc=:1"), {"vnc": ":1"}),
        (("-boot", "dc,menu=on"), {"order": "dc", "menu": "on"}),
        (("-serial", "mon:stdio"), {"backend": "stdio", "mux": "on"}),
        (("-nographic",), {}),
        (("-kernel", "/boot/a,b=c"), {}),
    ],
)  # fmt: skip
def test_a_value_is_read_as_qemu_reads_it(words: tuple[str, ...], fields: dict[str, Any]) -> None:
    assert of(*words) == fields


def test_a_bare_word_is_the_first_disk() -> None:
    line = parse(["qemu", "-m", "1G", "disk.img", "-S"])
    assert [(option.name, option.raw) for option in line.options] == [("m", "1G"), ("hda", "disk.img"), ("S", None)]


def test_repeated_keys_are_all_there() -> None:
    option = parse(["qemu", "-smbios", "type=11,value=a,value=b"]).options[0]
    assert option.every("value") == ("a", "b")


def test_later_options_win_where_qemu_merges() -> None:
    line = parse(["qemu", "-machine", "q35,usb=on", "-M", "usb=off", "-m", "1G", "-m", "slots=4,maxmem=2G"])
    assert line.merged("machine") == {"type": "q35", "usb": "off"}
    assert line.merged("m") == {"size": "1G", "slots": "4", "maxmem": "2G"}
    assert line.last("m") == line.all("m")[1]
    assert line.last("smp") is None


def test_an_unknown_option_is_kept_and_marked() -> None:
    option = parse(["qemu", "-brand-new", "a=b"]).options[0]
    assert (option.name, option.raw, option.known) == ("brand-new", "a=b", False)


def test_a_config_file_stands_where_it_is_named() -> None:
    text = '[device "usb"]\n  driver = "qemu-xhci"\n# a comment\n[smp-opts]\n cpus = "3"\n[global]\n driver = "a"\n'
    line = parse(["qemu", "-S", "-readconfig", "/etc/x.cfg", "-no-reboot"], read={"/etc/x.cfg": text}.get)
    assert [option.name for option in line.options] == ["S", "readconfig", "device", "smp", "global", "no-reboot"]
    assert line.options[2].fields == {"id": "usb", "driver": "qemu-xhci"}
    assert read_config("") == ()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("unix:/run/a,server=on,wait=off", ("socket", {"path": "/run/a", "server": "on", "wait": "off"})),
        ("tcp:127.0.0.1:4444,server,nowait", ("socket", {
            "host": "127.0.0.1", "port": "4444", "server": "on", "wait": "off"
        })),
        ("telnet::23", ("socket", {"host": "", "port": "23", "telnet": "on"})),
        ("udp:a:1@b:2", ("udp", {"host": "a", "port": "1", "localaddr": "b", "localport": "2"})),
        ("file:/tmp/x,y", ("file", {"path": "/tmp/x,y"})),
        ("stdio", ("stdio", {})),
        ("pty", ("pty", {})),
        ("null", ("null", {})),
        ("vc:80Cx24C", ("vc", {"cols": "80", "rows": "24"})),
        ("vc:640x480", ("vc", {"width": "640", "height": "480"})),
        ("/dev/ttyS0", ("serial", {"path": "/dev/ttyS0"})),
        ("/dev/parport0", ("parallel", {"path": "/dev/parport0"})),
        ("chardev:c0", ("chardev", {"id": "c0"})),
        ("mon:unix:a", ("socket", {"path": "a", "mux": "on"})),
    ],
)  # fmt: skip
def test_a_short_character_device(text: str, meant: tuple[str, dict[str, str]]) -> None:
    assert short_chardev(text) == meant


KEYS = st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True)


@given(st.lists(st.tuples(KEYS, st.text())))
def test_what_is_joined_is_split_again(pairs: list[tuple[str, str]]) -> None:
    assert split(join(pairs)) == tuple(pairs)


@given(st.text(min_size=1).filter(lambda text: "=" not in text and not text.startswith(",")), st.text())
def test_the_unnamed_first_part_survives_its_commas(first: str, second: str) -> None:
    text = first.replace(",", ",,") + "," + join([("b", second)])
    assert split(text, "a") == (("a", first), ("b", second))


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    for name, syntax in SYNTAX.items():
        if syntax is not Syntax.FLAG:
            assert parse(["qemu", f"-{name}", text]).options[0].raw == text


@given(st.dictionaries(KEYS, st.one_of(st.text(), st.dictionaries(KEYS, st.text(), min_size=1))))
def test_nested_keys_are_mappings(tree: dict[str, Any]) -> None:
    flat = [
        (f"{key}.{below}" if below else key, leaf)
        for key, value in tree.items()
        for below, leaf in (value.items() if isinstance(value, dict) else [("", value)])
    ]
    assert nested(flat) == tree


def test_every_option_that_names_its_first_part_takes_fields() -> None:
    assert all(SYNTAX[name] in (Syntax.OPTS, Syntax.KEYVAL) for name in IMPLIED)


def test_monitors_of_every_form_and_how_they_are_reached() -> None:
    line = parse(
        [
            "qemu", "-qmp", "unix:a.sock,server=on,wait=off", "-qmp-pretty", "tcp::4444,server,nowait",
            "-monitor", "stdio", "-qmp", "chardev:fromfd", "-chardev", "socket,id=fromfd,fd=7,server=on",
            "-chardev", "socket,id=out,path=/run/out,reconnect-ms=5000", "-mon", "chardev=out,mode=control",
            "-chardev", "socket,id=abs,path=name,abstract=on,server=on", "-mon", "abs,mode=control",
            "-chardev", "pty,id=p", "-mon", "chardev=p,mode=readline", "-serial", "mon:stdio",
            "-chardev", "socket,id=t,host=::1,port=5,to=9,server=on", "-mon", "chardev=t,mode=control",
        ]
    )  # fmt: skip
    found = monitors(line, outside=lambda path: f"/cwd/{path}", socket_of_fd={7: "/fd7"}.get)
    assert [(m.mode, m.chardev, m.path, m.address) for m in found] == [
        ("control", "compat_monitor0", "/cwd/a.sock", None),
        ("control", "compat_monitor1", None, "127.0.0.1:4444"),
        ("readline", "compat_monitor2", None, None),
        ("control", "fromfd", "/fd7", None),
        ("control", "out", None, None),
        ("control", "abs", "@name", None),
        ("readline", "p", None, None),
        ("control", "t", None, None),
        ("readline", "serial0", None, None),
    ]
    elsewhere = monitors(line, same_network=False)
    assert [m.address or m.path for m in elsewhere if m.chardev in ("compat_monitor1", "abs")] == [None, None]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [("compat_monitor0", None)]),
        (["-nographic"], [("serial0", None)]),
        (["-nodefaults"], []),
        (["-monitor", "none"], []),
        (["-monitor", "unix:m,server=on"], [("compat_monitor0", "m")]),
    ],
)
def test_the_human_monitor_that_nobody_asked_for(words: list[str], expected: list[tuple[str, str | None]]) -> None:
    assert [(m.chardev, m.path) for m in monitors(parse(["qemu", *words]))] == expected


def test_files_of_the_host_are_named() -> None:
    line = parse(
        [
            "qemu", "-hda", "a.img", "-drive", "file=b.img,if=none",
            "-blockdev", '{"driver":"file","filename":"c.img"}',
            "-qmp", "unix:q,server=on", "-chardev", "file,id=x,path=log", "-pidfile", "p", "-m", "1", "a.img",
        ]
    )  # fmt: skip
    assert host_files(line) == ("a.img", "b.img", "c.img", "q", "log", "p")


@pytest.mark.skipif(not SAMPLES, reason="the collection of real command lines is not beside this checkout")
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_command_lines_of_a_widely_used_stack_are_understood(sample: Path) -> None:
    argv = shlex.split(sample.read_text().replace("\\\n", " "))
    line = parse(argv)
    assert line.binary == argv[0]
    assert all(option.known for option in line.options), [o.name for o in line.options if not o.known]
    assert sum(1 if option.raw is None else 2 for option in line.options) == len(argv) - 1
    assert [m.path for m in monitors(line) if m.chardev == "qmp"] == ["/var/run/qemu-server/8006.qmp"]
    assert all(option.fields for option in line.all("device", "object", "blockdev", "machine", "netdev", "chardev"))
    assert {"qmp", "qmp-event"} <= set(chardevs(line))
