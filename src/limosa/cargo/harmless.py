"""The harmless rest: devices whose whole state travels in the stream, and objects that are only configuration.

A list of what is allowed, each with its reason. What is on no list is claimed by nobody, and blocks by name.
"""

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from limosa.cargo.kind import HostFacts, NoDeeds, Offer, Survey
from limosa.guest.profile import Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

DEVICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "entropy, ballooning and panic notes keep all state in vmstate": (
            "virtio-rng-pci",
            "virtio-rng-device",
            "virtio-balloon-pci",
            "virtio-balloon-device",
            "pvpanic",
            "pvpanic-pci",
            "vmcoreinfo",
            "vmgenid",
            "isa-debug-exit",
            "virtio-iommu-pci",
            "intel-iommu",
            "hyperv-testdev",
            "vmclock",
        ),
        "controllers: their buses and queues are in vmstate, what is plugged in is carried by its own kind": (
            "virtio-scsi-pci",
            "virtio-scsi-device",
            "lsi",
            "lsi53c810",
            "lsi53c895a",
            "megasas",
            "megasas-gen2",
            "mptsas1068",
            "pvscsi",
            "am53c974",
            "dc390",
            "ahci",
            "ich9-ahci",
            "piix3-ide",
            "piix4-ide",
            "isa-ide",
            "nvme-ns",
            "nvme-subsys",
            "virtio-serial-pci",
            "virtio-serial-device",
            "isa-fdc",
            "floppy",
            "sdhci-pci",
        ),
        "bridges and ports of the PCI tree": (
            "pcie-root-port",
            "ioh3420",
            "x3130-upstream",
            "xio3130-downstream",
            "pcie-pci-bridge",
            "pci-bridge",
            "i82801b11-bridge",
            "dmi-to-pci-bridge",
            "pxb",
            "pxb-pcie",
            "generic-pcie-host",
        ),
        "USB controllers, hubs and input devices keep all state in vmstate": (
            "piix3-usb-uhci",
            "piix4-usb-uhci",
            "ich9-usb-uhci1",
            "ich9-usb-uhci2",
            "ich9-usb-uhci3",
            "ich9-usb-uhci4",
            "ich9-usb-uhci5",
            "ich9-usb-uhci6",
            "ich9-usb-ehci1",
            "ich9-usb-ehci2",
            "usb-ehci",
            "pci-ohci",
            "nec-usb-xhci",
            "qemu-xhci",
            "usb-hub",
            "usb-tablet",
            "usb-mouse",
            "usb-kbd",
            "usb-bot",
            "usb-storage",
            "virtio-keyboard-pci",
            "virtio-mouse-pci",
            "virtio-tablet-pci",
            "virtio-multitouch-pci",
            "vmmouse",
            "i8042",
        ),
        "displays without a host's graphics card: frame buffers are RAM": (
            "VGA",
            "secondary-vga",
            "cirrus-vga",
            "isa-vga",
            "isa-cirrus-vga",
            "qxl",
            "qxl-vga",
            "virtio-vga",
            "virtio-gpu-pci",
            "virtio-gpu-device",
            "vmware-svga",
            "bochs-display",
            "ramfb",
            "ati-vga",
        ),
        "sound cards: what is playing is lost, their state is not": (
            "intel-hda",
            "ich9-intel-hda",
            "hda-duplex",
            "hda-micro",
            "hda-output",
            "AC97",
            "ES1370",
            "sb16",
            "adlib",
            "gus",
            "cs4231a",
        ),
        "watchdogs: their timers are in vmstate": ("i6300esb", "ib700", "itco"),
        "crypto without a host's accelerator": ("virtio-crypto-pci",),
    }
)

_UNMIGRATABLE = """
    amd-iommu nvme ufs usb-audio usb-braille usb-mtp usb-net usb-serial usb-uas usb-wacom-tablet virtio-sound-pci
"""
UNMIGRATABLE = frozenset(_UNMIGRATABLE.split())
"""Devices that QEMU itself refuses to migrate, 7.2 and 10.0 alike (docs/qemu-notes.md, `-only-migratable`)."""

OBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "rng-random": "reads the host's own entropy",
        "rng-builtin": "reads the host's own entropy",
        "rng-egd": "its chardev is carried by the kind consoles",
        "iothread": "a thread of the process",
        "main-loop": "a setting of the process",
        "thread-context": "a setting of the process",
        "throttle-group": "limits, read from the running process",
        "cryptodev-backend-builtin": "sessions are in the device's vmstate",
        "can-bus": "a bus inside the process",
        "colo-compare": "not used outside COLO",
        "authz-list": "rules only",
        "authz-simple": "rules only",
        "input-barrier": "a connection that is made anew",
        "acpi-generic-initiator": "topology only",
        "qtest": "a test's own",
    }
)

FILES_IN_OBJECTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "secret": ("file",),
        "secret_keyring": (),
        "tls-creds-anon": ("dir",),
        "tls-creds-psk": ("dir",),
        "tls-creds-x509": ("dir",),
        "authz-list-file": ("filename",),
        "authz-pam": (),
        "rng-random": ("filename",),
        "input-linux": ("evdev",),
    }
)
"""Objects that read files of the host: the same must be there."""

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "global": "a default for devices; its effect is also read from the devices",
        "rtc": "the clock's settings; its state is in vmstate",
        "name": "names only",
        "msg": "how messages look",
        "overcommit": "how memory is taken from the host",
        "sandbox": "confines the process",
        "action": "what happens at reset, shutdown, panic and watchdog",
        "watchdog-action": "what happens when the watchdog bites",
        "no-reboot": "what happens at reset",
        "no-shutdown": "what happens at shutdown",
        "no-fd-bootchk": "used at the next reset",
        "k": "keyboard layout of the display",
        "D": "log of the process",
        "d": "log of the process",
        "dfilter": "log of the process",
        "trace": "log of the process",
        "L": "where firmware is looked for",
        "icount": "instruction counting of TCG",
        "tb-size": "a setting of TCG",
        "compat": "how deprecated things are reported",
        "enable-sync-profile": "a measurement of the process",
        "only-migratable": "refuses what cannot migrate",
        "audiodev": "sound of the host",
        "audio": "sound of the host",
        "seed": "random numbers of the start",
        "iscsi": "initiator name and login of iSCSI volumes",
        "set": "its effect is read from what it set",
        "readconfig": "its effect is read from the process",
        "writeconfig": "used once, at the start",
        "add-fd": "descriptors given to the process; what used them is rewritten",
        "no-acpi": "a machine option",
        "no-hpet": "a machine option",
        "full-screen": "a setting of the window",
        "semihosting": "not used on x86",
        "echr": "escape key of a terminal",
        "vga": "the card is a device",
        "nographic": "no window",
        "runas": "user of the process",
        "run-with": "how the process runs",
        "chroot": "root directory of the process",
    }
)


class Harmless(NoDeeds):
    """What needs nothing but to be built again."""

    name = "harmless"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Listed drivers, unless they carry a disk, a network, a chardev or memory: those have kinds of their own."""
        listed = {driver for drivers in DEVICES.values() for driver in drivers}
        devices = {
            f"device:{device.path}"
            for device in profile.devices
            if device.driver in listed
            and not (device.drive or device.netdev or device.chardev or device.memdev)
            and not any(drive.device == device.path for drive in profile.drives)
        }
        known = OBJECTS.keys() | FILES_IN_OBJECTS.keys()
        objects = {f"object:{found.id}" for found in profile.objects if found.type in known}
        options = {f"option:{option.name}" for option in profile.options if option.name in OPTIONS}
        return frozenset(devices | objects | options)

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Secrets given on the command line cannot be read back."""
        return Survey(kind=self.name, findings=tuple(_secrets(profile)))

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Files that objects read must be here."""
        return Offer(kind=self.name, findings=tuple(_missing_files(profile)))


def _secrets(profile: Profile) -> Iterable[Finding]:
    for found in profile.objects:
        if found.type == "secret" and not {"file", "data"} & found.properties.keys():
            yield Finding(
                severity=Severity.BLOCKS,
                kind=Harmless.name,
                what=f"the data of secret {found.id} cannot be read from the running process",
                remedy="keep it in a file (file=) on both hosts",
                side=Side.SOURCE,
            )


def _missing_files(profile: Profile) -> Iterable[Finding]:
    for found in profile.objects:
        for name in FILES_IN_OBJECTS.get(found.type, ()):
            path = found.properties.get(name)
            if path and not os.access(str(path), os.R_OK):
                yield Finding(
                    severity=Severity.BLOCKS,
                    kind=Harmless.name,
                    what=f"{found.type} {found.id} reads {path}, which is not readable here",
                    remedy="put the same file there",
                    side=Side.DESTINATION,
                )
