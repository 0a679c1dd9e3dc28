"""UEFI firmware: its read-only code. Its variables are a writable image and are mirrored by the kind `disks`."""

from limosa.cargo.readonly import ReadOnly
from limosa.cargo.storage import FLASH, Carrier, parts_of
from limosa.guest.profile import Profile


class Nvram(ReadOnly):
    """Flash of the board. Code with the same content under the usual directories counts as the same."""

    name = "nvram"
    carrier = Carrier.NVRAM
    directories = (
        "/usr/share/OVMF",
        "/usr/share/ovmf",
        "/usr/share/qemu",
        "/usr/share/edk2/x64",
        "/usr/share/edk2/ovmf",
        "/usr/share/edk2-ovmf",
    )

    def claims(self, profile: Profile) -> frozenset[str]:
        """Read-only flash images, and flash devices whatever is in them."""
        used = {drive.device for drive in profile.drives if drive.node is not None}
        flash = {
            f"device:{d.path}" for d in profile.devices if d.driver == FLASH and d.path not in used and not d.drive
        }
        return parts_of(profile, self.carrier) | flash
