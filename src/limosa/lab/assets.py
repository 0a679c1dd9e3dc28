"""Where the lab finds QEMU, a guest kernel and a guest image; `scripts/setup` puts them there.

Each place can be named by an environment variable instead: LIMOSA_CACHE, LIMOSA_QEMU_10, LIMOSA_QEMU_7, LIMOSA_KERNEL,
LIMOSA_KERNEL_EFI, LIMOSA_INITRD.
"""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from limosa.errors import LimosaError

OVMF = Path("/usr/share/OVMF")
QEMU = "qemu-system-x86_64"


class AssetMissing(LimosaError):
    """Something that `scripts/setup` makes is not there."""

    code = "asset-missing"

    def __init__(self, what: str) -> None:
        super().__init__(what, remedy="run scripts/setup")


def cache_dir() -> Path:
    """$LIMOSA_CACHE, else `.cache` in the checkout this runs from, else `~/.cache/limosa`."""
    if named := os.environ.get("LIMOSA_CACHE"):
        return Path(named).absolute()
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").exists():
        return checkout / ".cache"
    return Path.home() / ".cache" / "limosa"


def qemu_10() -> Path:
    """A QEMU of version 10 or newer: unpacked by set-up, or the machine's own.

    Raises:
        AssetMissing: there is none.
    """
    if named := os.environ.get("LIMOSA_QEMU_10"):
        return _existing(Path(named), "QEMU 10")
    unpacked = cache_dir() / "qemu-10.0" / "usr" / "bin" / QEMU
    if unpacked.exists():
        return unpacked
    system = _system_qemu()
    if system and qemu_version(system) >= (10, 0):
        return system
    raise AssetMissing("there is no QEMU 10.0 on this machine")


def qemu_7() -> Path | None:
    """The machine's own QEMU where that is version 7; None on a Debian that has a newer one."""
    if named := os.environ.get("LIMOSA_QEMU_7"):
        return _existing(Path(named), "QEMU 7")
    system = _system_qemu()
    return system if system and qemu_version(system)[0] == 7 else None


def qemu_img(qemu: Path | None = None) -> Path:
    """The `qemu-img` that belongs to a QEMU, by default to `qemu_10()`."""
    return _existing((qemu or qemu_10()).with_name("qemu-img"), "qemu-img")


def kernel() -> Path:
    """The guests' kernel as an uncompressed ELF image: QEMU starts it directly (PVH), which saves seconds under TCG.

    Not for UEFI guests, see `kernel_efi()`.
    """
    named = os.environ.get("LIMOSA_KERNEL")
    return _existing(Path(named) if named else cache_dir() / "guest" / "vmlinux", "the guests' kernel")


def kernel_efi() -> Path:
    """The same kernel as a bzImage with an EFI stub, as UEFI firmware (and any boot loader) needs it."""
    if named := os.environ.get("LIMOSA_KERNEL_EFI"):
        return _existing(Path(named), "the guests' kernel")
    found = sorted((cache_dir() / "kernel" / "boot").glob("vmlinuz-*"))
    if not found:
        raise AssetMissing("the guests' kernel is not there")
    return found[-1]


def initrd() -> Path:
    """The guests' initramfs: busybox, drivers and the lab's programs."""
    named = os.environ.get("LIMOSA_INITRD")
    return _existing(Path(named) if named else cache_dir() / "guest" / "initrd.img", "the guest image")


def ovmf() -> tuple[Path, Path]:
    """UEFI code and the template of its variables, to be copied for each guest."""
    return _existing(OVMF / "OVMF_CODE_4M.fd", "UEFI firmware"), _existing(OVMF / "OVMF_VARS_4M.fd", "UEFI variables")


@cache
def qemu_version(qemu: Path) -> tuple[int, int]:
    """Major and minor version, as the program itself says."""
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    if not found:
        raise AssetMissing(f"{qemu} does not tell its version")
    return int(found[1]), int(found[2])


def _system_qemu() -> Path | None:
    found = shutil.which(QEMU)
    return Path(found) if found else None


def _existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise AssetMissing(f"{what} is not there: {path}")
    return path
