"""QEMU's command-line options as data: which take a value, and how that value is written.

Source: `-help` of QEMU 7.2.22 and 10.0.2 and, for options that it does not list, how each binary reacts to
`-OPTION -x -y` (docs/qemu-notes.md). Options of other versions that change how the rest is read are here too.
"""

from enum import StrEnum


class Syntax(StrEnum):
    """How an option's value is written."""

    FLAG = "flag"
    """No value follows."""
    WORD = "word"
    """The whole value is one thing: a file, a number, a URI."""
    OPTS = "opts"
    """`a=b,c`, flat, `,,` for a comma; a bare `c` means `c=on`, a bare `noc` means `c=off` (util/qemu-option.c)."""
    KEYVAL = "keyval"
    """The same, nested by dots: `file.driver=raw` (util/keyval.c); or JSON where the value starts with `{`."""
    CPU = "cpu"
    """`model,+feature,-feature,property=value,feature`, without an escape for the comma."""
    GLOBAL = "global"
    """`driver.property=value`, or OPTS."""
    CHARDEV = "chardev"
    """A character device in its short form: `unix:PATH,server=on`, `stdio`, `mon:stdio`, `chardev:ID`."""


_FLAGS = """
    S async-teardown audio-help daemonize enable-kvm enable-sync-profile full-screen h help jitdump mem-prealloc
    no-acpi no-fd-bootchk no-hpet no-reboot no-shutdown no-user-config nodefaults nographic old-param only-migratable
    perfmap portrait preconfig s semihosting singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict
"""

_OTHER_VERSIONS_FLAGS = """
    alt-grab ctrl-grab curses enable-fips enable-hax no-frame no-kvm no-quit nodefconfig one-insn-per-tb sdl
"""

_WORDS = """
    D L append bios cdrom chroot d dfilter dtb dump-vmstate echr fda fdb g gdb hda hdb hdc hdd incoming initrd k kernel
    loadvm mem-path mtdblock pflash pidfile prom-env qtest qtest-log readconfig rotate runas sd seed shim uuid vga
    usbdevice watchdog-action xen-domid
"""

_OTHER_VERSIONS_WORDS = "balloon bt id soundhw tb-size watchdog writeconfig"

_CHARDEVS = "debugcon monitor parallel qmp qmp-pretty serial"

_OPTS = {
    "acpitable": "data",
    "action": None,
    "add-fd": None,
    "boot": "order",
    "chardev": "backend",
    "device": "driver",
    "drive": None,
    "fsdev": "fsdriver",
    "fw_cfg": "name",
    "icount": "shift",
    "iscsi": None,
    "m": "size",
    "mon": "chardev",
    "msg": None,
    "name": "guest",
    "net": "type",
    "nic": "type",
    "numa": "type",
    "option-rom": "romfile",
    "overcommit": None,
    "plugin": "file",
    "realtime": None,
    "rtc": None,
    "run-with": None,
    "sandbox": "enable",
    "semihosting-config": "enable",
    "set": None,
    "smbios": None,
    "spice": None,
    "tpmdev": "type",
    "trace": "enable",
    "virtfs": "fsdriver",
    "vnc": "vnc",
}
"""Option -> name of its first, unnamed part."""

_KEYVAL = {
    "accel": "accel",
    "audio": "driver",
    "audiodev": "driver",
    "blockdev": "driver",
    "compat": None,
    "display": "type",
    "M": "type",
    "machine": "type",
    "netdev": "type",
    "object": "qom-type",
    "smp": "cpus",
}

SYNTAX: dict[str, Syntax] = {
    **dict.fromkeys((_FLAGS + _OTHER_VERSIONS_FLAGS).split(), Syntax.FLAG),
    **dict.fromkeys((_WORDS + _OTHER_VERSIONS_WORDS).split(), Syntax.WORD),
    **dict.fromkeys(_CHARDEVS.split(), Syntax.CHARDEV),
    **dict.fromkeys(_OPTS, Syntax.OPTS),
    **dict.fromkeys(_KEYVAL, Syntax.KEYVAL),
    "cpu": Syntax.CPU,
    "global": Syntax.GLOBAL,
}

IMPLIED: dict[str, str | None] = {**_OPTS, **_KEYVAL}

SAME = {"M": "machine"}
"""Options that are other options."""

CONFIG_GROUPS = {"smp-opts": "smp", "memory": "m", "boot-opts": "boot", "acpi": "acpitable"}
"""Groups of a `-readconfig` file whose name is not their option's."""

FILES: dict[str, frozenset[str]] = {
    "drive": frozenset({"file", "file.filename", "backing.file.filename"}),
    "blockdev": frozenset({"filename", "file.filename", "backing.filename", "backing.file.filename"}),
    "chardev": frozenset({"path", "logfile"}),
    "object": frozenset({"mem-path", "filename", "file"}),
    "device": frozenset({"romfile"}),
    "fsdev": frozenset({"path"}),
    "virtfs": frozenset({"path"}),
}
"""Fields that name files of the host."""

_FILE_WORDS = "D bios cdrom dtb fda fdb hda hdb hdc hdd initrd kernel mem-path mtdblock pflash pidfile sd shim"

FILE_WORDS = frozenset(_FILE_WORDS.split())
"""Options whose whole value names a file of the host."""
