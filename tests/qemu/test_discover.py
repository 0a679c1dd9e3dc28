import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from limosa.agent.look import show_guest
from limosa.errors import MonitorBusy, MonitorMissing
from limosa.guest.attach import attach, pick
from limosa.guest.discover import find_guests
from limosa.guest.proc import read_process
from limosa.guest.profile import FoundGuest
from limosa.lab import assets
from limosa.units import HostName
from limosa.wire.guests import GuestShown

from .conftest import SMALLEST, Started, StartQemu

pytestmark = pytest.mark.qemu

QMP = ("-qmp", "unix:qmp,server=on,wait=off")
UUID = "11111111-2222-3333-4444-555555555555"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and chroot need root")


def found(pid: int) -> FoundGuest:
    (guest,) = [guest for guest in find_guests() if guest.pid == pid]
    return guest


def link(pid: int, name: str) -> str:
    return str(Path(f"/proc/{pid}/{name}").readlink())


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


async def look(guest: FoundGuest, *, limit: float = 10) -> GuestShown:
    return await show_guest(guest, HostName("a"), limit=limit)


async def seen(start: StartQemu, *words: str, **more: object) -> tuple[Started, GuestShown]:
    started = await asyncio.to_thread(start, *words, **more)
    return started, await look(found(started.pid))


async def test_a_guest_is_found_with_all_that_its_command_line_tells(start_qemu: StartQemu, qemu_binary: Path) -> None:
    words = ("-name", "guest=web1,debug-threads=on", "-uuid", UUID, "-smp", "2,maxcpus=4", "-m", "48", *QMP)
    started, live = await seen(start_qemu, str(qemu_binary), *words)
    guest = found(started.pid)
    assert (guest.name, guest.uuid, guest.memory, guest.vcpus, guest.incoming) == ("web1", UUID, 48 << 20, 2, False)
    assert guest.binary == link(started.pid, "exe")
    assert [m.path for m in guest.monitors] == [str(started.directory / "qmp")]
    assert (live.name, live.uuid, live.state, live.movable) == ("web1", UUID, "prelaunch", "yes")


async def test_a_twin_is_marked_and_found_by_name_last(start_qemu: StartQemu) -> None:
    binary = str(assets.qemu_10())
    waiting, live = await seen(start_qemu, binary, "-name", "limosa-test-twin", "-incoming", "defer", *QMP)
    assert found(waiting.pid).incoming
    assert live.state == "inmigrate"
    assert pick(find_guests(), "limosa-test-twin").pid == waiting.pid
    words = ("-name", "limosa-test-twin", "-qmp", "unix:qmp2,server=on,wait=off")
    running = await asyncio.to_thread(start_qemu, binary, *words, listens=("qmp2",))
    assert pick(find_guests(), "limosa-test-twin").pid == running.pid


async def test_two_guests_of_one_name_stay_apart(start_qemu: StartQemu) -> None:
    binary = str(assets.qemu_10())
    first, one = await seen(start_qemu, binary, "-name", "same", *QMP)
    second, two = await seen(
        start_qemu, binary, "-name", "same", "-qmp", "unix:other,server=on,wait=off", listens=("other",)
    )
    assert {one.pid, two.pid} == {first.pid, second.pid}
    assert one.monitor != two.monitor


async def test_a_busy_monitor_and_a_missing_one_are_told_apart(start_qemu: StartQemu, qemu_binary: Path) -> None:
    started = await asyncio.to_thread(start_qemu, qemu_binary, *QMP)
    monitor = await started.monitor()
    busy = await look(found(started.pid), limit=2)
    assert (busy.state, "another program holds" in busy.movable) == ("unknown", True)
    with pytest.raises(MonitorBusy):
        await attach(found(started.pid))
    await monitor.close()
    none = await asyncio.to_thread(start_qemu, qemu_binary, listens=())
    mute = await look(found(none.pid))
    assert (mute.state, "has no QMP monitor" in mute.movable) == ("unknown", True)


async def test_a_free_monitor_beside_a_busy_one_serves(start_qemu: StartQemu) -> None:
    words = (*QMP, "-chardev", "socket,id=second,path=qmp2,server=on,wait=off", "-mon", "second,mode=control")
    started = await asyncio.to_thread(start_qemu, assets.qemu_10(), *words, listens=("qmp", "qmp2"))
    first = await started.monitor()
    assert (await look(found(started.pid))).state == "prelaunch"
    await first.close()


@pytest.mark.parametrize(
    "words",
    [
        ("-qmp", "stdio"),
        ("-monitor", "stdio", "-serial", "null"),
        ("-serial", "mon:stdio"),
        ("-nographic",),
    ],
    ids=" ".join,
)
async def test_monitors_on_standard_input_cannot_be_reached(start_qemu: StartQemu, words: tuple[str, ...]) -> None:
    board = [word for word in SMALLEST if word not in ("-nodefaults", "-display", "none")]
    binary = assets.qemu_10()
    started = await asyncio.to_thread(
        start_qemu, binary, *words, "-net", "none", board=board, listens=(), stdin=subprocess.PIPE
    )
    guest = found(started.pid)
    assert guest.monitors
    assert all(monitor.path is None and monitor.address is None for monitor in guest.monitors)
    with pytest.raises(MonitorMissing):
        await attach(guest)


async def test_a_daemon_with_relative_names_is_reached(
    short_dir: Path, qemu_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-daemonize` leaves the directory it was started in: an open disk tells it, or PWD."""
    for disk in (True, False):
        home = short_dir / f"d{disk:d}"
        home.mkdir()
        (home / "a.img").write_bytes(bytes(1 << 20))
        words = ["-drive", "file=a.img,format=raw,if=virtio"] if disk else []
        pwd = "/" if disk else str(home)
        command = [str(qemu_binary), *SMALLEST, *QMP, *words, "-daemonize", "-pidfile", "pid"]
        await asyncio.to_thread(
            subprocess.run, command, cwd=home, check=True, timeout=30, env={**os.environ, "PWD": pwd}
        )
        pid = int((home / "pid").read_text())
        try:
            assert link(pid, "cwd") == "/"
            process = read_process(pid)
            assert process.resolve("a.img") == str(home / "a.img")
            live = await look(found(pid))
            assert (live.state, live.movable) == ("prelaunch", "yes")
        finally:
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def jail() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lm-jail-") as path:
        yield Path(path)


@needs_root
async def test_a_qemu_that_went_into_a_chroot_is_reached(start_qemu: StartQemu, qemu_binary: Path, jail: Path) -> None:
    words = ("-run-with", f"chroot={jail}") if "10.0" in str(qemu_binary) else ("-chroot", str(jail))
    started = await asyncio.to_thread(start_qemu, qemu_binary, *QMP, *words)
    absolute = str(started.directory / "qmp")
    monitor = await started.monitor()  # greets once set-up is over, chroot included
    await monitor.close()
    assert link(started.pid, "root") == str(jail)
    assert read_process(started.pid).outside(absolute) == Path(absolute)
    with pytest.raises(LookupError):
        read_process(started.pid).resolve("qmp")


@needs_root
async def test_a_guest_in_its_own_mount_namespace_is_reached_through_its_root(
    start_qemu: StartQemu, short_dir: Path
) -> None:
    """Its `/mnt` is not ours: the socket is only there for it."""
    script = 'mount -t tmpfs none /mnt && cd /mnt && echo $$ > "$0" && exec "$@"'
    note = short_dir / "pid"
    command = ["unshare", "--mount", "sh", "-c", script, str(note), str(assets.qemu_10())]
    wrapper = await asyncio.to_thread(start_qemu, command[0], *command[1:], *SMALLEST, *QMP, board=(), listens=())
    live = await _looked(wrapper.pid)
    assert not os.access("/mnt/qmp", os.F_OK)
    assert live.monitor == f"/proc/{wrapper.pid}/root/mnt/qmp"
    assert live.state == "prelaunch"


@needs_root
async def test_a_guest_of_another_pid_namespace_is_another_agents(start_qemu: StartQemu) -> None:
    command = ("--pid", "--fork", "--kill-child", str(assets.qemu_10()), *SMALLEST, *QMP)
    wrapper = await asyncio.to_thread(start_qemu, "unshare", *command, board=())
    child = only_child(wrapper.pid)
    assert not read_process(child).shares_pids
    assert child not in {guest.pid for guest in find_guests()}


async def test_a_renamed_and_deleted_binary_is_still_a_guest(start_qemu: StartQemu, short_dir: Path) -> None:
    renamed = _copy(assets.qemu_7() or assets.qemu_10(), short_dir)
    started = await asyncio.to_thread(start_qemu, renamed, *QMP)
    renamed.unlink()
    process = read_process(started.pid)
    assert process.deleted
    assert (await look(found(started.pid))).state == "prelaunch"
    assert process.binary == str(renamed)


async def test_a_guest_that_was_killed_is_not_found(qemu_10: Started) -> None:
    assert found(qemu_10.pid).pid == qemu_10.pid
    qemu_10.kill()
    assert qemu_10.pid not in {guest.pid for guest in find_guests()}


def _copy(binary: Path, directory: Path) -> Path:
    """The same program as `vmm`, beside the modules and firmware that QEMU looks for from where it is."""
    for name in ("lib", "share"):
        (directory / name).symlink_to(binary.resolve().parents[1] / name)
    (directory / "bin").mkdir()
    return Path(shutil.copy(binary, directory / "bin" / "vmm"))


async def _looked(pid: int, attempts: int = 500) -> GuestShown:
    """The guest as soon as its monitor answers; polled, since nothing announces a socket in another namespace."""
    for _ in range(attempts):
        for guest in find_guests():
            if guest.pid == pid and (live := await look(guest)).state != "unknown":
                return live
        await asyncio.sleep(0.02)
    pytest.fail(f"process {pid} never answered")
