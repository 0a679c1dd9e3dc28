import gzip
import lzma
import struct
import subprocess
from pathlib import Path

import pytest

from limosa.lab import image

ELF = b"\x7fELF" + bytes(range(256)) * 9


def bzimage(payload: bytes) -> bytes:
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload) + 4)
    return bytes(head) + bytes(16) + payload + struct.pack("<I", len(ELF)) + b"what follows"


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bytes], ids=["xz", "gzip", "none"])
def test_the_kernel_is_taken_out_of_its_envelope_whichever_the_compression(compress: type[bytes]) -> None:
    assert image.kernel_payload(bzimage(compress(ELF))) == ELF


def test_what_is_no_kernel_is_refused() -> None:
    with pytest.raises(image.ImageError, match="not a bzImage"):
        image.kernel_payload(bytes(4096))
    with pytest.raises(image.ImageError, match="unknown form"):
        image.decompress(b"????????")


def test_drivers_are_loaded_after_what_they_need() -> None:
    dependencies = (
        "kernel/virtio/virtio_pci.ko.xz: kernel/virtio/virtio_ring.ko.xz kernel/virtio/virtio.ko.xz\n"
        "kernel/char/virtio-rng.ko: kernel/virtio/virtio.ko\n"
    )
    order = image.load_order(dependencies, ["virtio_pci", "virtio_rng", "not_in_this_kernel"])
    assert [image.module_name(file) for file in order["virtio_pci"]] == ["virtio", "virtio_ring", "virtio_pci"]
    assert list(order) == ["virtio_pci", "virtio_rng"]


def test_only_the_chosen_drivers_answer_to_devices() -> None:
    text = (
        "# comment\nalias pci:v00001AF4d* virtio_pci\nalias pci:v00008086d* i915\nalias virtio:d00000004v* virtio-rng\n"
    )
    chosen = {"virtio_pci": ("a",), "virtio_rng": ("b",)}
    assert list(image.aliases_of(text, chosen)) == [
        ("pci:v00001AF4d*", "virtio_pci"),
        ("virtio:d00000004v*", "virtio_rng"),
    ]


def test_the_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    files = {"bin": (0o040755, b""), "bin/tool": (0o100755, b"x" * 5), "bin/link": (0o120777, b"tool")}
    done = subprocess.run(["cpio", "-id", "--quiet"], input=image.cpio(files), cwd=tmp_path, check=True)
    assert done.returncode == 0
    assert (tmp_path / "bin" / "link").read_bytes() == b"x" * 5
    assert (tmp_path / "bin" / "tool").stat().st_mode & 0o777 == 0o755


def test_the_image_changes_with_any_of_its_sources(tmp_path: Path) -> None:
    source = tmp_path / "pages.c"
    source.write_text("int main(void) { return 0; }")
    before = image.fingerprint([source])
    assert image.fingerprint([source]) == before
    source.write_text("int main(void) { return 1; }")
    assert image.fingerprint([source]) != before
