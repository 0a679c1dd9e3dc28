import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from limosa.guest.discover import find_guests, is_qemu
from limosa.guest.proc import Process, read_process, start_time


@dataclass
class FakeProc:
    """A /proc of symbolic links and files, as the kernel shows one."""

    root: Path

    def add(
        self,
        pid: int,
        *argv: str,
        exe: str = "/usr/bin/qemu-system-x86_64",
        cwd: str = "/work",
        root: str = "/",
        namespaces: str = "",
        started: int = 100,
        environ: str = "",
        held: tuple[str, ...] = (),
    ) -> Path:
        here = self.root / str(pid)
        (here / "ns").mkdir(parents=True)
        (here / "fd").mkdir()
        (here / "stat").write_text(f"{pid} (a) b (c) S {' '.join('0' for _ in range(18))} {started} 0\n")
        (here / "exe").symlink_to(exe)
        (here / "cmdline").write_bytes("".join(f"{word}\0" for word in (exe, *argv)).encode())
        (here / "cwd").symlink_to(cwd)
        (here / "root").symlink_to(root)
        (here / "environ").write_text(environ)
        for kind in ("mnt", "net", "pid"):
            (here / "ns" / kind).symlink_to(f"{kind}:[{2 if kind in namespaces else 1}]")
        for number, path in enumerate(held):
            (here / "fd" / str(number)).symlink_to(path)
        return here


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    fake = FakeProc(tmp_path / "proc")
    fake.add(1, exe="/sbin/init")
    (fake.root / "self").symlink_to("1")
    return fake


def read(proc: FakeProc, pid: int = 7) -> Process:
    return read_process(pid, proc.root)


def test_a_process_is_read_whole(proc: FakeProc) -> None:
    proc.add(7, "-name", "web1", exe="/opt/qemu-system-x86_64 (deleted)", started=4711)
    process = read(proc)
    assert (process.pid, process.start_time, process.binary) == (7, 4711, "/opt/qemu-system-x86_64")
    assert process.deleted
    assert process.argv[1:] == ("-name", "web1")
    assert process.command_line.has("name")
    assert (process.shares_files, process.shares_network, process.shares_pids) == (True, True, True)


def test_a_relative_path_is_relative_to_its_directory(proc: FakeProc) -> None:
    proc.add(7, "-S", cwd="/srv/guests")
    process = read(proc)
    assert process.resolve("a/b.img") == "/srv/guests/a/b.img"
    assert process.resolve("/a.img") == "/a.img"
    assert process.outside("./a.img") == Path("/srv/guests/a.img")


def test_a_daemon_is_placed_by_a_file_it_holds_open(proc: FakeProc) -> None:
    proc.add(7, "-daemonize", "-hda", "images/a.img", cwd="/", held=("/dev/images/a.img", "/srv/x/images/a.img"))
    assert read(proc).resolve("qmp") == "/srv/x/qmp"


def test_a_daemon_is_placed_by_pwd_only_if_its_files_are_there(proc: FakeProc, tmp_path: Path) -> None:
    proc.add(7, "-daemonize", "-qmp", "unix:qmp,server=on", cwd="/", environ=f"A=b\0PWD={tmp_path}\0")
    process = read(proc)
    assert process.directory is None
    assert process.reach("qmp") is None
    with pytest.raises(LookupError, match="has left"):
        process.resolve("qmp")
    assert process.resolve("/run/qmp") == "/run/qmp"
    (tmp_path / "qmp").touch()
    assert read(proc).reach("qmp") == str(tmp_path / "qmp")


def test_a_path_in_another_mount_namespace_goes_through_its_root(proc: FakeProc, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    (inner / "run").mkdir(parents=True)
    (inner / "data").mkdir()
    (inner / "run" / "up").symlink_to("../data")
    (inner / "abs").symlink_to("/run")
    (inner / "loop").symlink_to("loop")
    proc.add(7, "-S", cwd="/run", root=str(inner), namespaces="mnt")
    process = read(proc)
    root = proc.root / "7" / "root"
    assert not process.shares_files
    assert process.outside("qmp") == root / "run" / "qmp"
    assert process.outside("/abs/up/a.img") == root / "data" / "a.img"
    assert process.outside("/../../etc") == root / "etc"
    assert process.outside("/loop/x") == root / "loop" / "x"


def test_a_chrooted_process_sees_its_directory_from_its_root(proc: FakeProc) -> None:
    proc.add(7, "-S", cwd="/jail/work", root="/jail")
    process = read(proc)
    assert process.resolve("a") == "/work/a"
    assert process.outside("a") == proc.root / "7" / "root" / "work" / "a"


@pytest.mark.parametrize("words", [("-chroot", "/jail"), ("-run-with", "chroot=/jail")])
def test_a_qemu_that_chrooted_itself_had_opened_its_files_before(proc: FakeProc, words: tuple[str, str]) -> None:
    proc.add(7, *words, cwd="/jail", root="/jail")
    assert read(proc).outside("/srv/a.img") == Path("/srv/a.img")


def test_a_process_that_is_gone_says_so(proc: FakeProc) -> None:
    with pytest.raises(ProcessLookupError):
        read(proc, 99)


def test_our_own_start_time_is_between_boot_and_now() -> None:
    now = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert 0 < start_time(os.getpid()) <= now + 1


def test_guests_are_found_in_the_order_of_their_start(proc: FakeProc) -> None:
    proc.add(30, "-name", "late", "-uuid", "AAAAAAAA-0000-0000-0000-000000000000", started=900)
    proc.add(40, "-m", "1.5G,slots=2", "-smp", "sockets=2,cores=3", "-incoming", "defer", started=200)
    first, second = find_guests(proc.root)
    assert (first.pid, first.name, first.incoming, first.memory, first.vcpus) == (40, "qemu-40", True, 3 << 29, 6)
    assert (second.name, second.uuid) == ("late", "aaaaaaaa-0000-0000-0000-000000000000")
    assert (second.memory, second.vcpus, second.incoming) == (128 << 20, 1, False)


def test_guests_of_other_pid_namespaces_are_not_ours(proc: FakeProc) -> None:
    proc.add(30, "-name", "inner", namespaces="pid")
    assert find_guests(proc.root) == ()


def test_what_vanishes_while_it_is_read_is_no_guest(proc: FakeProc) -> None:
    here = proc.add(30, "-name", "brief")
    (here / "cmdline").unlink()
    proc.add(31, "-name", "stays")
    assert [guest.name for guest in find_guests(proc.root)] == ["stays"]


def test_a_qemu_that_only_answers_questions_is_no_guest(proc: FakeProc) -> None:
    proc.add(30, "-machine", "none,accel=tcg", "-qmp", "unix:/x,server=on")
    for pid, words in enumerate([("-machine", "help"), ("-device", "help"), ("-cpu", "?")], start=40):
        proc.add(pid, *words)
    proc.add(31, "-version")
    proc.add(32, "-chardev", "socket,id=limosa,fd=3,server=on", "-mon", "chardev=limosa,mode=control")
    assert find_guests(proc.root) == ()


def test_uuid_by_smbios_is_the_guests_uuid(proc: FakeProc) -> None:
    proc.add(30, "-smbios", "type=1,uuid=7B10D7AF-b932-4c66-b2c3-3996152ec465")
    assert find_guests(proc.root)[0].uuid == "7b10d7af-b932-4c66-b2c3-3996152ec465"


def test_the_null_uuid_is_none(proc: FakeProc) -> None:
    proc.add(30, "-uuid", "00000000-0000-0000-0000-000000000000")
    assert find_guests(proc.root)[0].uuid is None


@pytest.mark.parametrize(
    ("exe", "argv", "expected"),
    [
        ("/usr/bin/qemu-system-aarch64", (), True),
        ("/usr/libexec/qemu-kvm", ("-S",), True),
        ("/usr/bin/kvm (deleted)", (), True),
        ("/opt/vmm", ("-machine", "q35", "-qmp", "unix:/x", "-m", "1G"), True),
        ("/lib/ld-linux-x86-64.so.2", ("--library-path", "/x", "/opt/qemu-system-x86_64", "-m", "1"), True),
        ("/usr/bin/qemu-img", ("create", "x"), False),
        ("/usr/bin/qemu-x86_64", ("/bin/true",), False),
        ("/usr/bin/sudo", ("qemu-system-x86_64", "-machine", "q35", "-smp", "2"), False),
        ("/bin/bash", ("-c", "qemu-system-x86_64 -machine q35 -smp 2"), False),
        ("/usr/bin/strace", ("-f", "qemu-system-x86_64", "-machine", "q35", "-smp", "2"), False),
        ("/usr/bin/ssh", ("-m", "x", "-D", "1"), False),
        ("/usr/bin/cat", (), False),
    ],
)
def test_programs_and_wrappers_are_told_apart(proc: FakeProc, exe: str, argv: tuple[str, ...], expected: bool) -> None:
    proc.add(30, *argv, exe=exe)
    assert is_qemu(read(proc, 30)) is expected
