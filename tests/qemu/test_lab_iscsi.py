"""Shared storage over iSCSI in the lab, as both QEMUs' own initiators see it."""

from pathlib import Path

import pytest

from limosa.lab import Lab, LabError, assets, iscsi
from limosa.lab.network import OBSERVER_ADDRESS

pytestmark = pytest.mark.qemu


async def test_what_one_host_writes_to_a_served_volume_the_other_reads(
    tmp_path: Path, qemu_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMOSA_LAB_DIR", str(tmp_path / "labs"))
    volume = tmp_path / "volume.raw"
    volume.write_bytes(bytes(1 << 20))
    async with Lab.up(hosts=2, name="iscsi", agents=False) as lab:
        served, server = await iscsi.serve(lab.role("observer"), "shared", str(volume), OBSERVER_ADDRESS)
        qemu_io = [str(assets.qemu_img(qemu_binary).with_name("qemu-io")), "-f", "raw"]
        await lab.host("a").run([*qemu_io, "-c", "write -P 0x5a 4096 4096", served.url])
        # qemu-io fails, and with it run(), if the pattern is another.
        await lab.host("b").run([*qemu_io, "-c", "read -P 0x5a 4096 4096", served.url])
        server.kill()
        await server.wait(10)
        with pytest.raises(LabError, match="tgtadm"):
            await iscsi.serve(lab.role("observer"), "more", str(tmp_path / "none"), OBSERVER_ADDRESS)
    assert volume.read_bytes()[4096:8192] == b"\x5a" * 4096
