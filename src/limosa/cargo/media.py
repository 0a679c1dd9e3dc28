"""Read-only media: CD-ROM images, read-only disks, and empty drives."""

from limosa.cargo.readonly import ReadOnly
from limosa.cargo.storage import Carrier, is_cdrom, parts_of
from limosa.guest.profile import Profile


class Media(ReadOnly):
    """Images that the guest cannot write to. The same file is found by identity or content, else it is copied."""

    name = "media"
    carrier = Carrier.MEDIA

    def claims(self, profile: Profile) -> frozenset[str]:
        """Read-only local images, and optical and floppy drives without a medium."""
        loaded = {drive.device for drive in profile.drives if drive.node is not None}
        empty = {
            f"device:{device.path}"
            for device in profile.devices
            if device.path not in loaded and device.drive is None and (is_cdrom(device) or device.driver == "floppy")
        }
        return parts_of(profile, self.carrier) | empty
