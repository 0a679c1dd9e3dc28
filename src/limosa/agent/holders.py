"""Who uses what on this host: read from /proc, once, so that nothing in use is taken for a stray."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from limosa.guest.proc import PROC

_NETWORKED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "gfs2", "ocfs2", "9p", "lustre", "beegfs", "gpfs", "afs"}
)


@dataclass(slots=True)
class Holders:
    """Processes by what they hold."""

    files: dict[tuple[int, int], str] = field(default_factory=dict)
    """(device, inode) of open files."""
    paths: dict[str, str] = field(default_factory=dict)
    """Names of open files, working directories and bound sockets."""
    taps: dict[str, str] = field(default_factory=dict)
    blind: str = ""
    """A process that could not be looked into: then nothing is proved."""

    def of_file(self, path: Path) -> str:
        """Who has this file open; empty for nobody."""
        try:
            found = path.stat()
        except OSError:
            return ""
        return self.files.get((found.st_dev, found.st_ino)) or self.paths.get(str(path), "")

    def of_directory(self, path: Path) -> str:
        """Who uses something in this directory."""
        inside = f"{path}/"
        users = (who for name, who in self.paths.items() if name == str(path) or name.startswith(inside))
        return next(users, "")

    def of_tap(self, name: str) -> str:
        """Who has a queue of this tap."""
        return self.taps.get(name, "")


def holders(proc: Path = PROC) -> Holders:
    """Look into every process that is visible here, this one included."""
    found = Holders()
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        _hold_file(found, loop.read_text().strip(), loop.parts[3])
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                _look_into(entry, found)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            except PermissionError:
                found.blind = f"process {entry.name} could not be looked into"
    return found


def networked(path: Path) -> bool:
    """Whether other hosts may see this file too (the file system's type, from proc_pid_mountinfo(5))."""
    real = path.parent.resolve()
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        where = fields.split()[4].replace("\\040", " ")
        if real.is_relative_to(where) and len(where) >= len(best):
            best, kind = where, rest.split()[0]
    return kind in _NETWORKED or kind.startswith("fuse.")


def _look_into(entry: Path, found: Holders) -> None:
    who = f"{(entry / 'comm').read_text().strip()} (pid {entry.name})"
    sockets: set[str] = set()
    found.paths.setdefault(str((entry / "cwd").readlink()), who)
    for link in (entry / "fd").iterdir():
        try:
            target = str(link.readlink())
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
            elif target.startswith("/"):
                _hold(found, link, target, who)
                if target == "/dev/net/tun":
                    _hold_tap(found, entry / "fdinfo" / link.name, who)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it was closed meanwhile
    for line in (entry / "net" / "unix").read_text(errors="surrogateescape").splitlines()[1:] if sockets else ():
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[6] in sockets:
            found.paths.setdefault(fields[7], who)


def _hold(found: Holders, link: Path, target: str, who: str) -> None:
    there = link.stat()
    found.files.setdefault((there.st_dev, there.st_ino), who)
    found.paths.setdefault(target, who)


def _hold_file(found: Holders, path: str, who: str) -> None:
    found.paths.setdefault(path, who)
    if Path(path).exists():
        there = Path(path).stat()
        found.files.setdefault((there.st_dev, there.st_ino), who)


def _hold_tap(found: Holders, info: Path, who: str) -> None:
    for line in info.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "iff":  # drivers/net/tun.c, tun_chr_show_fdinfo
            found.taps.setdefault(value.strip(), who)


def is_empty(directory: Path) -> bool:
    """Whether nothing is in it."""
    with os.scandir(directory) as entries:
        return next(entries, None) is None
