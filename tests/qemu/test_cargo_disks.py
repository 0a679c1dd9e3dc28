"""Local disks between two real QEMUs: contents, sizes, thinness, and what a failure leaves behind."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from limosa.cargo.disks import Disks
from limosa.cargo.kind import HostFacts, Survey, When
from limosa.cargo.placement import LOSE_BITMAPS, LOSE_SNAPSHOTS
from limosa.errors import LimosaError, MoveFailed
from limosa.guest.profile import Profile
from limosa.lab import assets
from limosa.qmp.monitor import Monitor
from limosa.testing.pair import End, Pair, block_arguments, pair
from limosa.testing.profiles import bare_profile, disk_profile, file_node, format_node
from limosa.units import KIB, MIB
from limosa.wire.findings import Severity
from limosa.wire.moves import MoveRequest

pytestmark = pytest.mark.qemu


@pytest.fixture(params=["10.0", "7.2"])
def qemu(request: pytest.FixtureRequest) -> Path:
    found = assets.qemu_10() if request.param == "10.0" else assets.qemu_7()
    if found is None:
        pytest.skip("this machine has no QEMU 7")
    return found


@pytest.fixture
def qemu_10() -> Path:
    return assets.qemu_10()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    return here, there


def qemu_img(*words: object) -> str:
    return run("qemu-img", *words)


def sparse(path: Path, size: int, *patches: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for place, content in patches:
            file.seek(place)
            file.write(content)
    return path


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def request_to(there: Path, here: Path, **more: Any) -> MoveRequest:
    return MoveRequest(guest="guest", to="destination", maps={str(here): str(there)}, **more)


def profile_of(*paths: Path) -> Profile:
    nodes = []
    for number, path in enumerate(paths):
        form = "qcow2" if path.suffix == ".qcow2" else "raw"
        nodes += [file_node(f"d{number}-file", path), format_node(f"d{number}", form)]
    return disk_profile(*nodes, disks=[f"d{number}" for number in range(len(paths))])


@asynccontextmanager
async def started(
    tmp_path: Path, qemu: Path, profile: Profile, request: MoveRequest, *argv: str, storage: Sequence[Path] = ()
) -> AsyncIterator[Pair]:
    async with pair(tmp_path, profile, [Disks()], request, storage=storage) as both:
        await both.source.start(qemu, ["-machine", "pc-q35-7.2", *block_arguments(profile), *argv])
        yield both


async def io(end: End, device: str, command: str) -> None:
    """Read or write as the device itself would."""
    await end.io(f"/machine/peripheral/{device}/virtio-backend", command)


def run(*words: object) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout.strip()


def leads_to(link: str, file: Path) -> bool:
    return os.path.lexists(link) and Path(link).readlink() == file


def run_in(folder: Path, *words: object) -> None:
    subprocess.run([str(word) for word in words], cwd=folder, check=True)


@contextmanager
def small_file_system(place: Path, megabytes: int) -> Iterator[None]:
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place)
    try:
        yield
    finally:
        run("umount", place)


@contextmanager
def loop_device(file: Path) -> Iterator[str]:
    device = run("losetup", "--find", "--show", file)
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


MACHINE = ("-machine", "pc-q35-7.2")


async def test_raw_and_qcow2_disks_arrive_complete_while_they_are_written(
    tmp_path: Path, folders: tuple[Path, Path], qemu: Path
) -> None:
    here, there = folders
    data = sparse(here / "data.raw", 64 * MIB, (0, b"start"), (40 * MIB, os.urandom(3 * MIB)))
    system = here / "system.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=128k,lazy_refcounts=on", system, "96M")
    profile = profile_of(data, system)
    async with started(tmp_path, qemu, profile, request_to(there, here)) as both:
        await io(both.source, "vd4", "write -P 0x5a 10M 4M")
        assert not await both.agree()
        await both.make(When.BEFORE_TWIN)
        await both.start_twin(qemu, *MACHINE)
        await both.make(When.COPY)
        await io(both.source, "vd3", "write -P 0x11 20M 64k")
        await both.make(When.BEFORE_RAM)
        await io(both.source, "vd4", "write -P 0x22 90M 64k")
        await both.hand_over()
        assert {p.item for p in both.source.told} == {"vd3", "vd4"}
        assert both.source.told[-1].state == "in sync"
        assert "conflict" not in both.destination.stderr
        await both.destination.monitor.execute("quit")
        await both.destination.wait()
        old = {path.name.partition(".limosa")[0]: path for path in here.iterdir()}
        assert sorted(old) == ["data.raw", "system.qcow2"]
        assert not data.exists()
        assert (there / "data.raw").read_bytes() == old["data.raw"].read_bytes()
        assert qemu_img("compare", "-f", "qcow2", "-F", "qcow2", old["system.qcow2"], there / "system.qcow2")
        pattern = (there / "data.raw").read_bytes()[20 * MIB : 20 * MIB + 64 * KIB]
        assert pattern == b"\x11" * 64 * KIB
        assert sorted(path.name for path in there.iterdir()) == ["data.raw", "system.qcow2"]


async def test_a_thin_disk_stays_thin_and_keeps_its_form(
    tmp_path: Path, folders: tuple[Path, Path], qemu: Path
) -> None:
    here, there = folders
    raw = sparse(here / "thin.raw", 256 * MIB, (100 * MIB, b"x" * MIB))
    written_zeros = sparse(here / "zeros.raw", 32 * MIB, (0, bytes(16 * MIB)))
    form = here / "form.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=256k,extended_l2=on,compat=1.1", form, "512M")
    profile = profile_of(raw, written_zeros, form)
    async with started(tmp_path, qemu, profile, request_to(there, here)) as both:
        await both.move_all(qemu, *MACHINE)
        assert (there / "thin.raw").stat().st_blocks * 512 < 3 * MIB
        assert (there / "thin.raw").stat().st_size == 256 * MIB
        assert (there / "zeros.raw").stat().st_blocks * 512 < MIB
        assert (there / "form.qcow2").stat().st_blocks * 512 < 2 * MIB
        told = qemu_img("info", "--force-share", there / "form.qcow2")
        assert "cluster_size: 262144" in told
        assert "extended l2: true" in told


@pytest.mark.parametrize("size", [0, 512, 1000, MIB + 512, 3 * MIB + 77])
async def test_odd_sizes_are_kept_to_the_byte(
    tmp_path: Path, folders: tuple[Path, Path], qemu: Path, size: int
) -> None:
    here, there = folders
    content = os.urandom(size)
    sparse(here / "odd.raw", size, (0, content))
    async with started(tmp_path, qemu, profile_of(here / "odd.raw"), request_to(there, here)) as both:
        await both.move_all(qemu, *MACHINE)
        arrived = (there / "odd.raw").read_bytes()
        assert arrived[:size] == content
        assert not arrived[size:].strip(b"\0")
        assert len(arrived) in {size, -(-size // 512) * 512}


class WithBackingElsewhere(Disks):
    """As if the backing files were on another host's storage, where the destination does not see them."""

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        survey = await super().check_source(profile, host, request, monitor)
        for told in survey.learned["disks"]:
            for layer in told["backing"]:
                layer["path"] = f"/elsewhere{layer['path']}"
        return survey


async def test_a_chain_is_flattened_unless_the_same_backing_file_is_there(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    base = sparse(here / "base.raw", 32 * MIB, (0, os.urandom(4 * MIB)))
    top = here / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    nodes = (
        file_node("base-file", base),
        format_node("base", "raw", read_only=True),
        file_node("d0-file", top),
        format_node("d0", "qcow2", backing="base"),
    )
    profile = disk_profile(*nodes, disks=["d0"])
    async with started(tmp_path, qemu_10, profile, request_to(there, here)) as both:
        both.kinds = (WithBackingElsewhere(),)
        await io(both.source, "vd3", "write -P 0x33 20M 1M")
        await both.move_all(qemu_10, *MACHINE)
        assert any("becomes one image" in finding.what for finding in both.findings)
        assert both.twin is not None
        assert {node.node_name for node in both.twin.block_nodes} == {"d0", "d0-file"}
        assert "backing file" not in qemu_img("info", "--force-share", there / "top.qcow2")
        left = next(here.glob("top.qcow2.limosa-*"))
        assert qemu_img("compare", "-U", left, there / "top.qcow2")


async def test_a_chain_is_kept_on_the_same_backing_file(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    content = os.urandom(4 * MIB)
    base = sparse(here / "base.raw", 32 * MIB, (0, content))
    sparse(there / "base.raw", 32 * MIB, (0, content))
    top = here / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    nodes = (
        file_node("base-file", base),
        format_node("base", "raw", read_only=True),
        file_node("d0-file", top),
        format_node("d0", "qcow2", backing="base"),
    )
    profile = disk_profile(*nodes, disks=["d0"])
    async with started(tmp_path, qemu_10, profile, request_to(there, here)) as both:
        await io(both.source, "vd3", "write -P 0x33 20M 1M")
        await both.move_all(qemu_10, *MACHINE)
        assert (there / "top.qcow2").stat().st_blocks * 512 < 3 * MIB
        assert f"backing file: {there / 'base.raw'}" in qemu_img("info", "--force-share", there / "top.qcow2")
        left = next(here.glob("top.qcow2.limosa-*"))
        assert qemu_img("compare", "-U", left, there / "top.qcow2")


async def test_a_file_that_both_ends_see_is_shared_and_not_copied(tmp_path: Path, qemu: Path) -> None:
    shared = sparse(tmp_path / "shared.raw", 16 * MIB, (0, b"shared"))
    form = tmp_path / "shared.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", form, "64M")
    profile = profile_of(shared, form)
    async with started(tmp_path, qemu, profile, MoveRequest(guest="guest", to="destination")) as both:
        await io(both.source, "vd4", "write -P 0x44 1M 1M")
        await both.move_all(qemu, *MACHINE)
        assert both.made == []
        assert both.twin == profile
        await io(both.destination, "vd4", "read -P 0x44 1M 1M")
        assert shared.read_bytes()[:6] == b"shared"


async def test_a_path_that_is_taken_at_the_destination_is_never_overwritten(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    data = sparse(here / "data.raw", MIB)
    (there / "data.raw").write_bytes(b"somebody else's")
    async with started(tmp_path, qemu_10, profile_of(data), request_to(there, here)) as both:
        blocked = await both.agree()
        assert [finding.severity for finding in blocked] == [Severity.BLOCKS]
        assert "exists here" in blocked[0].what
        (there / "data.raw").unlink()
        assert not await both.agree()
        # Somebody is faster than we are: the file appears between the check and the deed.
        (there / "data.raw").write_bytes(b"somebody else's")
        with pytest.raises(LimosaError, match="exists at the destination"):
            await both.make(When.BEFORE_TWIN)
        await both.unmake_all()
        assert (there / "data.raw").read_bytes() == b"somebody else's"
        assert [path.name for path in there.iterdir()] == ["data.raw"]


async def test_what_a_copy_would_lose_blocks_unless_told(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    system = here / "system.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", system, "16M")
    qemu_img("snapshot", "-c", "before", system)
    async with started(tmp_path, qemu_10, profile_of(system), request_to(there, here)) as both:
        await both.source.monitor.execute(
            "block-dirty-bitmap-add", {"node": "d0", "name": "backup", "persistent": True}
        )
        assert {finding.consent for finding in await both.agree()} == {LOSE_BITMAPS, LOSE_SNAPSHOTS}
        both.request = request_to(there, here, allow=(LOSE_BITMAPS, LOSE_SNAPSHOTS))
        assert not await both.agree()


async def test_a_destination_that_dies_while_it_is_copied_to_leaves_nothing(
    tmp_path: Path, folders: tuple[Path, Path], qemu: Path
) -> None:
    here, there = folders
    data = sparse(here / "data.raw", 64 * MIB, (0, os.urandom(8 * MIB)))
    async with started(tmp_path, qemu, profile_of(data), request_to(there, here)) as both:
        assert not await both.agree()
        await both.make(When.BEFORE_TWIN)
        await both.start_twin(qemu, *MACHINE)
        await both.make(When.COPY)
        await both.destination.kill()
        await io(both.source, "vd3", "write -P 0x11 20M 64k")
        with pytest.raises(LimosaError):
            await synchronise_and_finish(both)
        await both.unmake_all()
        await both.unmake_all()  # twice: as after a restart
        await assert_untouched(both, there)


async def test_a_mirror_that_runs_out_of_room_fails_with_qemus_words(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    data = sparse(here / "data.raw", 64 * MIB, (0, os.urandom(8 * MIB)))
    with small_file_system(there, 24):
        async with started(tmp_path, qemu_10, profile_of(data), request_to(there, here)) as both:
            assert not await both.agree()
            assert any("may grow to" in finding.what for finding in both.findings)
            await both.make(When.BEFORE_TWIN)
            await both.start_twin(qemu_10, *MACHINE)
            (there / "hog").write_bytes(bytes(22 * MIB))
            with pytest.raises(MoveFailed, match="No space left on device"):
                await both.make(When.COPY)
            (there / "hog").unlink()
            await both.unmake_all()
            await assert_untouched(both, there)


async def test_lack_of_room_blocks(tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path) -> None:
    here, there = folders
    data = sparse(here / "data.raw", 16 * MIB, (0, os.urandom(8 * MIB)))
    with small_file_system(there, 4):
        async with started(tmp_path, qemu_10, profile_of(data), request_to(there, here)) as both:
            (blocked,) = await both.agree()
            assert "the disks hold" in blocked.what


async def test_old_images_are_deleted_if_that_was_asked_links_included(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    (tmp_path / "pool").mkdir()
    real = sparse(tmp_path / "pool" / "data.raw", MIB, (0, b"data"))
    (here / "data.raw").symlink_to(real)
    request = request_to(there, here, keep_source_disks=False)
    async with started(tmp_path, qemu_10, profile_of(here / "data.raw"), request) as both:
        await both.move_all(qemu_10, *MACHINE)
        assert both.facts["disks: leave"] == {"old images": {str(here / "data.raw"): "deleted"}}
        assert both.facts["disks: keep"]["disks"]["vd3"]["path"] == str(there / "data.raw")
        assert not real.exists()
        assert names_in(here) == []


async def test_a_throttled_disk_is_copied_around_its_throttle(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    data = here / "data.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", data, "16M")
    throttle = msgspec.structs.replace(
        format_node("t", "throttle"), options={"throttle-group": "tg"}, children={"file": "d0"}
    )
    nodes = (file_node("d0-file", data), format_node("d0", "qcow2"), throttle)
    profile = disk_profile(*nodes, disks=["t"])
    group = ("-object", "throttle-group,id=tg,x-bps-total=104857600")

    def arguments(profile: Profile) -> list[str]:
        return [*group, *block_arguments(profile)]

    async with pair(tmp_path, profile, [Disks()], request_to(there, here)) as both:
        both.twin_arguments = arguments
        await both.source.start(qemu_10, [*MACHINE, *arguments(profile)])
        await io(both.source, "vd3", "write -P 0x12 1M 1M")
        await both.move_all(qemu_10, *MACHINE)
        await io(both.destination, "vd3", "read -P 0x12 1M 1M")


@pytest.mark.parametrize("then", ["moved", "undone"])
async def test_a_daemon_that_knows_its_disk_by_a_relative_name_is_helped_to_give_it_up(
    tmp_path: Path, folders: tuple[Path, Path], qemu: Path, then: str
) -> None:
    here, there = folders
    name = f"limosa-test-{os.getpid()}.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", here / name, "16M")
    socket, pidfile = tmp_path / "daemon.qmp", tmp_path / "pid"
    run_in(
        here,
        *(qemu, *MACHINE, "-accel", "tcg", "-m", 32, "-nodefaults", "-display", "none", "-daemonize"),
        *("-pidfile", pidfile, "-qmp", f"unix:{socket},server=on,wait=off"),
        *("-drive", f"if=none,id=d0,format=qcow2,file={name}", "-device", "virtio-blk-pci,drive=d0,id=vd3"),
    )
    async with pair(tmp_path, bare_profile(), [Disks()], request_to(there, here)) as both:
        pid = int(pidfile.read_text())
        try:
            both.source.connection = await Monitor.connect(str(socket), pid=pid)
            told = await both.source.monitor.execute("query-named-block-nodes", {"flat": True})
            live = {node["drv"]: node["node-name"] for node in told}
            nodes = (
                msgspec.structs.replace(file_node("d0-file", here / name), live_name=live["file"]),
                msgspec.structs.replace(format_node("d0", "qcow2"), live_name=live["qcow2"]),
            )
            both.profile = disk_profile(*nodes, disks=["d0"])
            assert not await both.agree()
            assert [step.deed for _, step in both.steps(When.BEFORE_TWIN)] == ["anchor", "create"]
            await both.make(When.BEFORE_TWIN)
            assert leads_to(f"/{name}", here / name)
            if then == "moved":
                await both.start_twin(qemu, *MACHINE)
                await both.copy()
                await both.hand_over()
                assert names_in(there) == [name]
            else:
                await both.unmake_all()
                await both.unmake_all()
            assert not leads_to(f"/{name}", here / name)
        finally:
            if both.source.connection is not None and not both.source.connection.lost:
                os.kill(pid, signal.SIGKILL)
                await both.source.connection.gone()


@pytest.mark.parametrize("until", [When.BEFORE_TWIN, When.COPY, When.BEFORE_RAM, When.PAUSED])
async def test_every_step_can_be_undone_and_undone_again(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path, until: When
) -> None:
    here, there = folders
    data = sparse(here / "data.raw", 16 * MIB, (0, os.urandom(8 * MIB)))
    async with started(tmp_path, qemu_10, profile_of(data), request_to(there, here)) as both:
        assert not await both.agree()
        for when in (When.BEFORE_TWIN, When.COPY, When.BEFORE_RAM, When.PAUSED):
            if when is When.COPY:
                await both.start_twin(qemu_10, *MACHINE)
            await both.make(when)
            await both.make(when)  # repeating a deed is harmless
            if when is until:
                break
        await both.unmake_all()
        await both.unmake_all()
        await assert_untouched(both, there)


async def test_steps_that_never_happened_can_be_undone(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    data = sparse(here / "data.raw", MIB)
    async with started(tmp_path, qemu_10, profile_of(data), request_to(there, here)) as both:
        assert not await both.agree()
        both.made = [step for when in When for _, step in both.steps(when)]
        await both.unmake_all()
        await assert_untouched(both, there)


async def test_a_disk_goes_onto_a_larger_device_as_a_slice(
    tmp_path: Path, folders: tuple[Path, Path], qemu_10: Path
) -> None:
    here, there = folders
    content = os.urandom(3 * MIB)
    data = sparse(here / "data.raw", 8 * MIB, (0, content))
    volume = sparse(there / "volume", 12 * MIB, (0, os.urandom(12 * MIB)))
    with loop_device(volume) as loop:
        request = MoveRequest(guest="guest", to="destination", maps={str(data): loop})
        async with started(tmp_path, qemu_10, profile_of(data), request) as both:
            await both.move_all(qemu_10, *MACHINE)
            assert any("will be overwritten" in finding.what for finding in both.findings)
            told = await both.destination.monitor.execute("query-named-block-nodes", {"flat": True})
            assert next(n for n in told if n["node-name"] == "d0")["image"]["virtual-size"] == 8 * MIB
            await both.destination.monitor.execute("quit")
            await both.destination.wait()
        assert read(loop)[: 8 * MIB] == content + bytes(5 * MIB)


async def synchronise_and_finish(both: Pair) -> None:
    await both.make(When.BEFORE_RAM)
    await both.make(When.PAUSED)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def assert_untouched(both: Pair, there: Path) -> None:
    """The source runs with its disk and nothing else; the destination holds nothing."""
    monitor = both.source.monitor
    assert (await monitor.execute("query-status"))["status"] == "running"
    assert await monitor.execute("query-jobs") == []
    nodes = {node["node-name"] for node in await monitor.execute("query-named-block-nodes", {"flat": True})}
    assert not {name for name in nodes if name.startswith("limosa")}
    await io(both.source, "vd3", "write 0 64k")
    assert names_in(there) == []
