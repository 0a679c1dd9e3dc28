"""Builds what the lab's guests boot: an uncompressed kernel and an initramfs with drivers and the programs of `guest/`.

    python -m limosa.lab.image            builds what is missing or out of date below the cache directory

The image is made from the kernel package that `scripts/setup` unpacked, the machine's static busybox, and C sources,
compiled here. It is rebuilt when any of them changes.
"""

import gzip
import hashlib
import lzma
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from struct import unpack_from

from limosa.errors import LimosaError
from limosa.lab import assets

SOURCES = Path(__file__).with_name("guest")
BUSYBOX = Path("/usr/bin/busybox")

# What QEMU emulates and Debian drives: buses, disks, controllers, network cards, input, and the rest.
DRIVERS = """
    virtio_pci virtio_mmio uhci_hcd ehci_pci ohci_pci xhci_pci shpchp
    virtio_blk virtio_scsi nvme ahci ata_piix ata_generic sd_mod sr_mod usb_storage uas
    sym53c8xx mptspi mptsas megaraid_sas vmw_pvscsi
    virtio_net e1000 e1000e igb vmxnet3 8139cp 8139too ne2k_pci pcnet32 tulip
    virtio_input usbhid hid_generic psmouse evdev
    virtio_console virtio_rng virtio_balloon virtio_mem virtio_pmem i6300esb i2c_piix4 i2c_i801
"""


class ImageError(LimosaError):
    """The guest image could not be built."""

    code = "image"


def kernel_payload(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage.

    Raises:
        ImageError: not a bzImage, or compressed in a way that Debian does not use.

    Source:
        Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, payload_offset and payload_length at 0x248.
    """
    if image[0x202:0x206] != b"HdrS":
        raise ImageError("the kernel is not a bzImage", remedy="run scripts/setup")
    offset, length = unpack_from("<II", image, 0x248)
    payload = image[((image[0x1F1] or 4) + 1) * 512 + offset :][:length]
    return decompress(payload[:-4])  # its size follows the compressed kernel


def decompress(payload: bytes) -> bytes:
    """Undo whichever compression the first bytes show; plain ELF is returned as it is."""
    match payload[:4]:
        case b"\x7fELF":
            return payload
        case b"\xfd7zX":
            return lzma.decompress(payload)
        case b"\x28\xb5\x2f\xfd":
            return subprocess.run(["zstd", "-dcq"], input=payload, capture_output=True, check=True).stdout
        case magic if magic[:2] == b"\x1f\x8b":
            return gzip.decompress(payload)
        case magic:
            raise ImageError(f"the kernel or a driver has an unknown form ({magic.hex()})", remedy="report this")


def load_order(modules_dep: str, wanted: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """For each wanted driver that exists, the files to load, in order; paths as in `modules.dep`.

    Names are compared as the kernel does, with `-` and `_` alike.
    """
    files: dict[str, tuple[str, ...]] = {}
    for line in modules_dep.splitlines():
        file, _, needs = line.partition(":")
        # modules.dep names what a module needs nearest first, so the reverse is an order that loads.
        files[module_name(file)] = (*reversed(needs.split()), file)
    return {name: files[name] for name in wanted if name in files}


def module_name(file: str) -> str:
    """`kernel/drivers/net/ethernet/realtek/8139too.ko.xz` is `8139too`."""
    return Path(file).name.partition(".")[0].replace("-", "_")


def aliases_of(modules_alias: str, drivers: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """The patterns under which devices ask for the chosen drivers."""
    for line in modules_alias.splitlines():
        match line.split():
            case ["alias", pattern, name] if name.replace("-", "_") in drivers:
                yield pattern, name.replace("-", "_")
            case _:
                pass


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An initramfs (`newc`): path to (mode, contents). Directories come before what they hold.

    Source:
        Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    parts = []
    for inode, (name, (mode, body)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        parts += [head, bytes(-len(head) % 4), body, bytes(-len(body) % 4)]
    return b"".join(parts)


def driver_files(modules: Path) -> dict[str, tuple[int, bytes]]:
    """The chosen drivers, uncompressed, and the two tables that `guest/drivers.c` reads."""
    order = load_order((modules / "modules.dep").read_text(), DRIVERS.split())
    aliases = aliases_of((modules / "modules.alias").read_text(), order)
    table = "".join(f"{name}: {' '.join(map(module_name, files))}\n" for name, files in order.items())
    files = {
        "lib/drivers/aliases": (0o100644, "".join(f"{pattern} {name}\n" for pattern, name in aliases).encode()),
        "lib/drivers/order": (0o100644, table.encode()),
    }
    for file in sorted({file for needed in order.values() for file in needed}):
        files[f"lib/drivers/{module_name(file)}.ko"] = (0o100644, decompress((modules / file).read_bytes()))
    return files


def compile_programs() -> bytes:
    """The guest's one static program."""
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "limosa-guest"
        done = subprocess.run(
            ["gcc", "-static", "-O2", "-s", "-Wall", "-Wextra", "-Werror", "-o", program, *sorted(SOURCES.glob("*.c"))],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ImageError("the guest's programs do not compile", remedy="run scripts/setup", detail=done.stderr)
        return program.read_bytes()


def initramfs(modules: Path) -> bytes:
    """The whole image."""
    directories = ("bin", "dev", "lib", "lib/drivers", "proc", "root", "run", "sys", "tmp")
    return cpio(
        {
            **dict.fromkeys(directories, (0o040755, b"")),
            "bin/busybox": (0o100755, BUSYBOX.read_bytes()),
            "bin/sh": (0o120777, b"busybox"),
            "bin/limosa-guest": (0o100755, compile_programs()),
            "init": (0o100755, (SOURCES / "init").read_bytes()),
            **driver_files(modules),
        }
    )


def fingerprint(parts: Iterable[Path]) -> str:
    """Changes when any input of the image does."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for part in parts:
        digest.update(part.name.encode() + part.read_bytes())
    return digest.hexdigest()


def build(cache: Path) -> bool:
    """Build kernel and initramfs into `cache/guest` unless they are up to date.

    Returns:
        Whether anything was built.

    Raises:
        AssetMissing: no kernel package was unpacked into the cache.
        ImageError: the compiler or a decompressor failed.
    """
    bzimage = assets.kernel_efi()
    target, stamp = cache / "guest", cache / "guest" / ".stamp"
    wanted = fingerprint([bzimage, BUSYBOX, *sorted(SOURCES.iterdir())])
    if stamp.exists() and stamp.read_text() == wanted:
        return False
    version = bzimage.name.removeprefix("vmlinuz-")
    # -b takes the root of a tree; the kernel package comes without the tables that an installation would make.
    subprocess.run(["/sbin/depmod", "-b", cache / "kernel", version], check=True, capture_output=True)
    new = cache / "guest.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    (new / "vmlinux").write_bytes(kernel_payload(bzimage.read_bytes()))
    (new / "initrd.img").write_bytes(initramfs(cache / "kernel" / "lib" / "modules" / version))
    (new / ".stamp").write_text(wanted)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    return True


def main() -> int:
    """Build what is missing; say so on standard error."""
    try:
        if build(assets.cache_dir()):
            sys.stderr.write(f"setup: built the guest image in {assets.cache_dir() / 'guest'}\n")
    except LimosaError as error:
        sys.stderr.write(f"{error.what}\n{error.detail}\nto do: {error.remedy}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
