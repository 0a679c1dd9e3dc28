"""Consoles: character backends of serial ports, channels and monitors, and the screens (VNC, SPICE).

Nothing of them travels: each is made anew at the destination, under its old name if that can be, and whoever
was connected connects again. A name that is in use there is replaced, and a finding tells by what.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from limosa.cargo.kind import CargoStep, Here, HostFacts, NoDeeds, Offer, Streams, Survey, When, plain
from limosa.cargo.storage import mapped
from limosa.guest.parts import OURS
from limosa.guest.profile import Chardev, Display, MonitorAddress, Profile
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

LOSE_CONSOLE = "lose-console"

LONGEST_SOCKET_PATH = 107
"""Bytes that fit into sockaddr_un (unix(7))."""

_SELF_CONTAINED = """
    null vc msmouse ringbuf memory testdev mux hub spicevmc spiceport wctablet braille dbus qemu-vdagent
"""
SELF_CONTAINED = frozenset(_SELF_CONTAINED.split())

_DEVICES = """
    isa-serial pci-serial pci-serial-2x pci-serial-4x isa-parallel isa-debugcon usb-serial usb-braille
    virtserialport virtconsole ccid-card-passthru ipmi-bmc-extern
"""
DEVICES = frozenset(_DEVICES.split())
"""Devices on chardevs whose own state is in vmstate. Those of vhost-user are in another process: not among them."""
ON_FILES = frozenset({"file", "pipe"})
HOST_PORTS = frozenset({"serial", "tty", "parallel", "parport"})
WINDOWS = frozenset({"gtk", "sdl", "curses", "cocoa", "dbus", "egl-headless", "spice-app", "default"})
"""Displays that need a session of the user at the host."""
FIRST_VNC_PORT = 5900
VOLATILE = (Path("/run"), Path("/var/run"), Path("/tmp"))  # noqa: S108  # named, not used
"""Below these, a directory that was there at the source and is not here is made: they start empty at each boot."""

_TRIES = 200


@dataclass
class _Round:
    """One offer in the making."""

    guest: str
    host: HostFacts
    request: MoveRequest
    taken: set[Any] = field(default_factory=set)
    directories: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def find(self, severity: Severity, what: str, remedy: str = "", consent: str | None = None) -> None:
        """Note one finding."""
        self.findings.append(
            Finding(
                severity=severity,
                kind=Consoles.name,
                what=what,
                remedy=remedy,
                side=Side.DESTINATION,
                consent=consent,
            )
        )

    @property
    def directory(self) -> Path:
        """Where sockets and logs go whose directory does not exist here."""
        return Path(self.host.run_dir) / "guests" / self.guest.replace("/", "_")


class Consoles(NoDeeds):
    """Character backends, monitors, and displays."""

    name = "consoles"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Every chardev, every known device that is plugged into one, and the display."""
        chardevs = {f"chardev:{chardev.id}" for chardev in profile.chardevs}
        return frozenset({"display"} | chardevs | {f"device:{d.path}" for d in profile.devices if d.driver in DEVICES})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Choose sockets, files and ports."""
        now = _Round(profile.name or profile.uuid, host, request)
        # limosa's own monitor of a twin that moves again is made anew with the next twin.
        theirs = (chardev for chardev in profile.chardevs if not chardev.id.startswith(OURS))
        chardevs = {chardev.id: _chardev(chardev, now) for chardev in theirs}
        display = [_screen(name, value, now) for name, value in profile.display.options]
        return Offer(
            kind=self.name,
            findings=tuple(now.findings),
            chosen={
                "chardevs": {id_: plain(new) for id_, new in chardevs.items()},
                "display": display,
                "directories": now.directories,
                "sockets": now.sockets,
            },
        )

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """New paths and ports, in chardevs, monitors and displays alike."""
        chosen = offer.chosen
        if not chosen:
            return profile
        new = {id_: msgspec.convert(told, Chardev) for id_, told in chosen["chardevs"].items()}
        chardevs = tuple(new.get(chardev.id, chardev) for chardev in profile.chardevs)
        monitors = tuple(_monitor(monitor, new) for monitor in profile.monitors)
        display = Display(options=tuple((name, value) for name, value in chosen["display"]))
        return msgspec.structs.replace(profile, chardevs=chardevs, monitors=monitors, display=display)

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """Directories for sockets and logs; on the way back, sockets that a killed twin left."""
        directories, sockets = offer.chosen.get("directories", []), offer.chosen.get("sockets", [])
        if not directories and not sockets:
            return ()
        return (
            CargoStep(
                kind=self.name,
                deed="directories",
                side=Side.DESTINATION,
                when=When.BEFORE_TWIN,
                summary="make room for the guest's sockets and logs",
                arguments={"directories": directories, "sockets": sockets},
            ),
        )

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Directories, and the sockets that the twin will make in them."""
        directories = (("directory", path) for path in step.arguments["directories"])
        return (*directories, *(("socket", path) for path in step.arguments["sockets"]))

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Make the directories; only root and the agent need them."""
        for directory in map(Path, step.arguments["directories"]):
            _make_directory(directory)
        return {}

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Remove sockets that nobody serves, and directories that are empty."""
        _clean(step.arguments["sockets"], step.arguments["directories"])


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)


def _clean(sockets: Iterable[str], directories: Iterable[str]) -> None:
    for path in sockets:
        if _is_stale(path):
            Path(path).unlink(missing_ok=True)
    for directory in reversed(list(directories)):
        try:
            Path(directory).rmdir()
        except OSError as kept:
            if kept.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
                raise


def _chardev(chardev: Chardev, now: _Round) -> Chardev:
    backend, options = chardev.backend, chardev.options
    if backend == "socket":
        return _socket(chardev, now)
    if backend == "udp":
        return _with(chardev, _udp(chardev, now))
    if backend in ON_FILES:
        return _file(chardev, now)
    if backend == "stdio":
        now.find(Severity.NOTE, f"{chardev.id} was on a terminal; at the destination it goes nowhere")
        kept = {name: options[name] for name in ("mux", "logfile", "logappend") if name in options}
        return msgspec.structs.replace(chardev, backend="null", options=kept)
    if backend == "pty":
        now.find(Severity.NOTE, f"{chardev.id} gets another pseudo-terminal (`limosa show` tells which)")
    elif backend in HOST_PORTS:
        _host_port(chardev, now)
    elif backend not in SELF_CONTAINED:
        now.find(Severity.BLOCKS, f"{chardev.id}: character backend {backend} is not known to limosa")
    return _with_log(chardev, now)


def _socket(chardev: Chardev, now: _Round) -> Chardev:
    options = chardev.options
    server = options.get("server") in (True, "on", "yes")
    if "fd" in options and "path" not in options and "port" not in options:
        remedy = f"it becomes a socket in {now.directory}"
        now.find(Severity.WARNING, f"{chardev.id} was a socket passed by the starter of the QEMU", remedy)
        kept = {name: value for name, value in options.items() if name != "fd"}
        chardev = msgspec.structs.replace(chardev, options=kept)
        return _with(chardev, {"path": _own_socket(now, f"{chardev.id}.sock"), "server": True, "wait": False})
    if not server:
        return _client(chardev, now)
    # A twin that waits for a client would never answer.
    changed: dict[str, Any] = {"wait": False}
    if "path" in options and not options.get("abstract"):
        changed["path"] = _listening_path(str(options["path"]), chardev.id, now)
    elif "port" in options:
        changed |= _listening_port(chardev, now)
    return _with_log(_with(chardev, changed), now)


def _client(chardev: Chardev, now: _Round) -> Chardev:
    options = chardev.options
    if "path" in options:
        path = mapped(str(options["path"]), now.request.maps) or str(options["path"])
        if not Path(path).is_socket():
            now.find(
                Severity.BLOCKS,
                f"{chardev.id} is a client of {path}; nobody listens there at the destination",
                f"start that service there, or --map {options['path']}=NEW",
            )
        return _with_log(_with(chardev, {"path": path}), now)
    host = str(options.get("host", ""))
    there = now.request.maps.get(host, host)
    if there in {"localhost", "127.0.0.1", "::1", ""}:
        text = (
            f"{chardev.id} is a client of {there or 'localhost'}:{options.get('port')}, which is another host's there"
        )
        now.find(Severity.WARNING, text, f"--map {host}=ADDRESS")
    return _with_log(_with(chardev, {"host": there} if host else {}), now)


def _listening_path(path: str, id_: str, now: _Round) -> str:
    wanted = mapped(path, now.request.maps) or path
    if _is_free_socket(wanted, now) and _can_hold(Path(wanted).parent, now):
        now.taken.add(wanted)
        now.sockets.append(wanted)
        return wanted
    chosen = _own_socket(now, Path(path).name)
    now.find(Severity.NOTE, f"{id_}: {path} becomes {chosen}")
    return chosen


def _own_socket(now: _Round, name: str) -> str:
    _will_make(now.directory, now)
    for number in range(_TRIES):
        path = str(now.directory / (name if number == 0 else f"{number}-{name}"))
        if _is_free_socket(path, now):
            break
    now.taken.add(path)
    now.sockets.append(path)
    if len(path.encode()) > LONGEST_SOCKET_PATH:
        now.find(Severity.BLOCKS, f"{path} is too long for a socket", "use a shorter run directory")
    return path


def _is_free_socket(path: str, now: _Round) -> bool:
    """QEMU unlinks what it finds in place of its socket; so a path counts as free only if nobody would miss it."""
    return path not in now.taken and (not os.path.lexists(path) or _is_stale(path))


def _is_stale(path: str) -> bool:
    """A socket file that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # its queue is full, or it is a datagram socket: somebody is there
    return False


def _listening_port(chardev: Chardev, now: _Round) -> dict[str, Any]:
    host, port = str(chardev.options.get("host", "")), int(chardev.options["port"])
    there = now.request.maps.get(host, host)
    chosen = _free_port(there, port, now, socket.SOCK_STREAM)
    if chosen is None:
        now.find(Severity.BLOCKS, f"{chardev.id} listens on {host}, which is no address here", f"--map {host}=ADDRESS")
        return {}
    if chosen != port:
        now.find(Severity.NOTE, f"{chardev.id}: port {port} is in use here; it becomes {chosen}")
    return {"port": str(chosen)} | ({"host": there} if there else {})


def _udp(chardev: Chardev, now: _Round) -> dict[str, Any]:
    options = chardev.options
    if "localport" not in options or int(options["localport"]) == 0:
        return {}
    host, port = str(options.get("localaddr", "")), int(options["localport"])
    chosen = _free_port(now.request.maps.get(host, host), port, now, socket.SOCK_DGRAM)
    if chosen is None:
        now.find(Severity.BLOCKS, f"{chardev.id} is bound to {host}, which is no address here", f"--map {host}=ADDRESS")
        return {}
    if chosen != port:
        now.find(Severity.NOTE, f"{chardev.id}: UDP port {port} is in use here; it becomes {chosen}")
    return {"localport": str(chosen)}


def _free_port(host: str, port: int, now: _Round, kind: socket.SocketKind) -> int | None:
    """This port or the next free one; None where the address itself is not here."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _TRIES, 65536)):
        if (kind, candidate) in now.taken:
            continue
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host.strip("[]"), candidate))
            except OSError as refused:
                if refused.errno == errno.EADDRINUSE:
                    continue
                return None
        now.taken.add((kind, candidate))
        return candidate
    return None


def _file(chardev: Chardev, now: _Round) -> Chardev:
    path = str(chardev.options.get("path", ""))
    there = mapped(path, now.request.maps) or path
    if chardev.backend == "pipe":
        if not (Path(there).exists() or Path(f"{there}.in").exists()):
            now.find(Severity.BLOCKS, f"{chardev.id}: there is no pipe {there} here", f"mkfifo {there}.in {there}.out")
        return _with_log(_with(chardev, {"path": there}), now)
    chosen = _log_file(there, chardev.id, now)
    # The twin must not empty what is there: it may be the same file, on storage that both hosts see.
    return _with_log(_with(chardev, {"path": chosen, "append": True}), now)


def _log_file(path: str, id_: str, now: _Round) -> str:
    if _can_hold(Path(path).parent, now):
        return path
    _will_make(now.directory, now)
    chosen = str(now.directory / Path(path).name)
    now.find(Severity.NOTE, f"{id_}: {path} becomes {chosen}")
    return chosen


def _with_log(chardev: Chardev, now: _Round) -> Chardev:
    logfile = chardev.options.get("logfile")
    if not logfile:
        return chardev
    there = mapped(str(logfile), now.request.maps) or str(logfile)
    return _with(chardev, {"logfile": _log_file(there, chardev.id, now), "logappend": True})


def _host_port(chardev: Chardev, now: _Round) -> None:
    path = str(chardev.options.get("path", ""))
    if Path(path).exists():
        now.find(Severity.WARNING, f"{chardev.id} is the host's port {path}; here that is another port")
    else:
        now.find(Severity.BLOCKS, f"{chardev.id} is the host's port {path}, which does not exist here")


def _with(chardev: Chardev, changed: Mapping[str, Any]) -> Chardev:
    return msgspec.structs.replace(chardev, options=chardev.options | dict(changed))


def _can_hold(directory: Path, now: _Round) -> bool:
    """Whether sockets and logs can be made in this directory, which may have to be made itself."""
    if directory.is_dir():
        return os.access(directory, os.W_OK | os.X_OK)
    if not any(directory.is_relative_to(place) for place in VOLATILE):
        return False
    _will_make(directory, now)
    return True


def _will_make(directory: Path, now: _Round) -> None:
    """Note a directory and those above it that do not exist, outermost first."""
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    for place in reversed(missing):
        if str(place) not in now.directories:
            now.directories.append(str(place))


def _monitor(monitor: MonitorAddress, chardevs: Mapping[str, Chardev]) -> MonitorAddress:
    new = chardevs.get(monitor.chardev or "")
    if new is None or new.backend != "socket":
        return monitor
    options = new.options
    if "path" in options:
        return msgspec.structs.replace(monitor, path=str(options["path"]))
    if "port" in options:
        return msgspec.structs.replace(monitor, address=f"{options.get('host', '')}:{options['port']}")
    return monitor


def _screen(name: str, value: str, now: _Round) -> tuple[str, str]:
    if name == "display":
        kind = value.partition(",")[0]
        if kind in WINDOWS:
            now.find(Severity.NOTE, f"the window on the host's screen ({kind}) is not opened at the destination")
            return name, "none"
        return (name, _vnc(value.removeprefix("vnc="), now, "vnc=")) if kind.startswith("vnc=") else (name, value)
    if name == "vnc":
        return name, _vnc(value, now)
    return (name, _spice(value, now)) if name == "spice" else (name, value)


def _vnc(value: str, now: _Round, prefix: str = "") -> str:
    """`HOST:DISPLAY,options` or `unix:PATH,options`; the display is a port less 5900."""
    where, comma, options = value.partition(",")
    if "password" in options:
        now.find(Severity.WARNING, "the VNC password cannot be read and is not carried", "set it again: set_password")
    if where.startswith("unix:"):
        return f"{prefix}unix:{_listening_path(where.removeprefix('unix:'), 'vnc', now)}{comma}{options}"
    host, colon, display = where.rpartition(":")
    if not colon or not display.isdigit() or "reverse" in options.split(","):
        return prefix + value
    there = now.request.maps.get(host, host)
    port = _free_port(there, FIRST_VNC_PORT + int(display), now, socket.SOCK_STREAM)
    if port is None:
        now.find(Severity.BLOCKS, f"VNC listens on {host}, which is no address here", f"--map {host}=ADDRESS")
        return prefix + value
    if port != FIRST_VNC_PORT + int(display):
        now.find(Severity.NOTE, f"VNC display {where} becomes {there}:{port - FIRST_VNC_PORT}")
    return f"{prefix}{there}:{port - FIRST_VNC_PORT}{comma}{options}"


def _spice(value: str, now: _Round) -> str:
    return ",".join(_spice_words(value.split(","), now))


def _spice_words(words: Iterable[str], now: _Round) -> Iterable[str]:
    listed = [word.partition("=") for word in words]
    address = next((v for k, _, v in listed if k == "addr"), "")
    for key, equals, value in listed:
        if key in {"port", "tls-port"} and value.isdigit():
            port = _free_port(address, int(value), now, socket.SOCK_STREAM)
            if port is None:
                now.find(Severity.BLOCKS, f"SPICE listens on {address}, which is no address here")
            elif port != int(value):
                now.find(Severity.NOTE, f"SPICE {key} {value} becomes {port}")
            yield f"{key}={port or value}"
        else:
            yield f"{key}{equals}{value}"
