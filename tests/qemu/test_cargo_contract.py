"""Our own kinds pass the contract that everybody's must pass."""

import os
from pathlib import Path

import pytest

from limosa.cargo.consoles import Consoles
from limosa.cargo.disks import Disks
from limosa.cargo.media import Media
from limosa.guest.profile import Chardev, Profile
from limosa.lab import assets
from limosa.testing.contract import KindContract, Specimen
from limosa.testing.pair import Pair
from limosa.testing.profiles import bare_profile, disk_profile, file_node, format_node
from limosa.units import MIB
from limosa.wire.moves import MoveRequest

pytestmark = pytest.mark.qemu


class TestDisks(KindContract):
    @pytest.fixture
    def specimen(self, tmp_path: Path) -> Specimen:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        content = os.urandom(4 * MIB) + bytes(4 * MIB)
        (here / "a.raw").write_bytes(content)
        (here / "b.raw").write_bytes(content)
        nodes = (
            file_node("a-file", here / "a.raw"),
            format_node("a", "raw"),
            file_node("b", here / "b.raw"),
        )

        async def untouched(both: Pair) -> None:
            assert [*there.iterdir()] == []
            assert sorted(path.name for path in here.iterdir()) == ["a.raw", "b.raw"]
            await both.source.io("/machine/peripheral/vd3/virtio-backend", "write 6M 64k")

        async def arrived(both: Pair) -> None:
            assert sorted(path.name for path in there.iterdir()) == ["a.raw", "b.raw"]
            assert (there / "a.raw").read_bytes() == (there / "b.raw").read_bytes() == content

        return Specimen(
            kind=Disks(),
            profile=disk_profile(*nodes, disks=["a", "b"]),
            qemu=assets.qemu_10(),
            directory=tmp_path,
            request=MoveRequest(guest="guest", to="destination", maps={str(here): str(there)}),
            untouched=untouched,
            arrived=arrived,
        )


class AbsentMedia(Media):
    """Finds nothing at the destination, so that everything is copied."""

    async def _find(self, image: object, request: MoveRequest) -> str | None:
        return None


class TestMedia(KindContract):
    @pytest.fixture
    def specimen(self, tmp_path: Path) -> Specimen:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        content = os.urandom(2 * MIB)
        (here / "cd.iso").write_bytes(content)
        nodes = (
            file_node("a-file", here / "cd.iso", **{"read-only": True}),
            format_node("a", "raw", read_only=True),
        )

        async def untouched(both: Pair) -> None:
            assert [*there.iterdir()] == []
            assert (here / "cd.iso").read_bytes() == content

        async def arrived(both: Pair) -> None:
            assert [path.name for path in there.iterdir()] == ["cd.iso"]
            assert (there / "cd.iso").read_bytes() == content

        return Specimen(
            kind=AbsentMedia(),
            profile=disk_profile(*nodes, disks=["a"]),
            qemu=assets.qemu_10(),
            directory=tmp_path,
            request=MoveRequest(guest="guest", to="destination", maps={str(here): str(there)}),
            untouched=untouched,
            arrived=arrived,
        )


class TestConsoles(KindContract):
    @pytest.fixture
    def specimen(self, tmp_path: Path) -> Specimen:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        options = {"path": str(here / "serial"), "server": True, "wait": False}

        def arguments(profile: Profile) -> list[str]:
            told = profile.chardevs[0].options
            return [
                "-chardev",
                f"socket,id=serial0,path={told['path']},server=on,wait=off",
                "-serial",
                "chardev:serial0",
            ]

        async def untouched(both: Pair) -> None:
            assert (here / "serial").is_socket()
            assert [*there.iterdir()] == []

        async def arrived(both: Pair) -> None:
            assert (there / "serial").is_socket()

        return Specimen(
            kind=Consoles(),
            profile=bare_profile(chardevs=(Chardev(id="serial0", backend="socket", options=options),)),
            qemu=assets.qemu_10(),
            directory=tmp_path,
            request=MoveRequest(guest="guest", to="destination", maps={str(here): str(there)}),
            twin_arguments=arguments,
            untouched=untouched,
            arrived=arrived,
        )
