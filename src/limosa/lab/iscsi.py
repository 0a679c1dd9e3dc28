"""Serves a file over iSCSI inside a lab: shared storage as storage arrays offer it, with no kernel module in play.

The target is `tgtd`, a user-space daemon; QEMU comes with an initiator of its own.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from limosa.lab.hosts import Role
from limosa.lab.inside import Process
from limosa.lab.state import LabError

TARGET = "iqn.2024-01.org.limosa.lab:{name}"
LUN = 1  # LUN 0 is tgtd's controller
_IPC = {"TGT_IPC_SOCKET": "/run/limosa/tgtd"}


@dataclass(frozen=True, slots=True)
class IscsiVolume:
    """A served volume, as an initiator names it."""

    portal: str
    target: str

    @property
    def url(self) -> str:
        """For `-drive file=` and `qemu-img`."""
        return f"iscsi://{self.portal}/{self.target}/{LUN}"

    def blockdev(self, node: str) -> dict[str, Any]:
        """For `-blockdev` and `blockdev-add`."""
        protocol = {"driver": "iscsi", "transport": "tcp", "portal": self.portal, "target": self.target, "lun": LUN}
        return {"driver": "raw", "node-name": node, "file": protocol}


async def serve(role: Role, name: str, file: str, address: str) -> tuple[IscsiVolume, Process]:
    """Serve `file` from inside `role` on port 3260 of `address`; one such server for each role.

    Returns:
        The volume, and the server: it ignores SIGTERM while it serves, so kill it, or let the role die.

    Raises:
        LabError: the server did not start, or refused the file.
    """
    server = await role.spawn(["tgtd", "-f", "--iscsi", f"portal={address}:3260"], name="tgtd", env=_IPC, bound=True)
    target = TARGET.format(name=name)
    try:
        await _answering(role, server)
        await _tgtadm(role, "--op", "new", "--mode", "target", "--tid", "1", "-T", target)
        unit = ("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", str(LUN))
        await _tgtadm(role, *unit, "-b", file)
        await _tgtadm(role, "--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
    except BaseException:
        server.close()
        raise
    return IscsiVolume(f"{address}:3260", target), server


async def _tgtadm(role: Role, *words: str, check: bool = True) -> bool:
    done = await role.run(["tgtadm", "--lld", "iscsi", *words], env=_IPC, check=check)
    return done.status == 0


async def _answering(role: Role, server: Process) -> None:
    """Until tgtd takes orders; it has no way to say so, hence polled."""
    for _ in range(100):
        if await _tgtadm(role, "--op", "show", "--mode", "system", check=False):
            return
        if not server.running:
            break
        await asyncio.sleep(0.1)
    said = server.stderr_path.read_text() if server.stderr_path else ""
    raise LabError("tgtd did not start", remedy="run scripts/setup", detail=said)
