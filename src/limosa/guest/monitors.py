"""Which monitors a command line gives its QEMU, and how they are reached; pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from limosa.guest.cmdline import CommandLine, chardevs, is_on, short_chardev
from limosa.guest.profile import MonitorAddress

ANYWHERE = {"", "0.0.0.0", "::", "[::]"}  # noqa: S104  # listeners on every address are reached on the loopback


def monitors(
    command_line: CommandLine,
    *,
    outside: Callable[[str], str | None] = str,
    socket_of_fd: Callable[[int], str | None] = lambda _: None,
    same_network: bool = True,
) -> tuple[MonitorAddress, ...]:
    """All monitors, in the order in which QEMU makes them.

    Args:
        command_line: of the process.
        outside: a path as the process writes it -> the path on the host; None where there is none.
        socket_of_fd: path of the listening socket that the process was given as this descriptor.
        same_network: whether its loopback and abstract sockets are ours too.

    A monitor that no program of the host can call (stdio, pty, a socket that QEMU itself dials) has neither path nor
    address.
    """
    how = _Reach(outside, socket_of_fd, same_network)
    return tuple(how.address(mode, name, *where) for mode, name, where in _monitors(command_line))


Where = tuple[str, Mapping[str, Any]]


def _monitors(command_line: CommandLine) -> Iterator[tuple[str, str | None, Where]]:
    """Mode, chardev id and backend. The ids of short forms are those of QEMU's monitor_parse (monitor/hmp.c)."""
    named = chardevs(command_line)
    count = 0
    for option in command_line.all("monitor", "qmp", "qmp-pretty"):
        raw = option.raw or ""
        if option.name == "monitor" and raw.startswith("none"):
            continue
        backend, options = short_chardev(raw)
        name = options["id"] if backend == "chardev" else f"compat_monitor{count}"
        where = named.get(name, (backend, options)) if backend == "chardev" else (backend, options)
        yield "readline" if option.name == "monitor" else "control", name, where
        count += 1
    for option in command_line.all("mon"):
        name = str(option.fields.get("chardev", ""))
        yield str(option.fields.get("mode", "readline")), name, named.get(name, ("", {}))
    yield from _muxed(command_line)
    yield from _default(command_line, count)


def _muxed(command_line: CommandLine) -> Iterator[tuple[str, str | None, Where]]:
    """`-serial mon:stdio` shares its device with a human monitor."""
    for number, option in enumerate(command_line.all("serial")):
        if (option.raw or "").startswith("mon:"):
            yield "readline", f"serial{number}", short_chardev(option.raw or "")


def _default(command_line: CommandLine, count: int) -> Iterator[tuple[str, str | None, Where]]:
    """The human monitor that QEMU adds by itself (softmmu/vl.c, qemu_create_default_devices)."""
    asked = any(command_line.has(name) for name in ("monitor", "qmp", "qmp-pretty", "mon", "nodefaults"))
    muxed = any((option.raw or "").startswith("mon:") for option in command_line.all("serial"))
    if asked or muxed:
        return
    if command_line.has("nographic"):
        yield "readline", f"compat_monitor{count}" if command_line.has("serial") else "serial0", ("stdio", {})
    else:
        yield "readline", f"compat_monitor{count}", ("vc", {})


class _Reach:
    """How sockets of the process are reached from here."""

    def __init__(
        self, outside: Callable[[str], str | None], socket_of_fd: Callable[[int], str | None], same_network: bool
    ) -> None:
        self._outside = outside
        self._socket_of_fd = socket_of_fd
        self._same_network = same_network

    def address(self, mode: str, chardev: str | None, backend: str, options: Mapping[str, Any]) -> MonitorAddress:
        path = self._path(options) if backend == "socket" and _listens(options) else None
        port = _tcp(options) if backend == "socket" and _listens(options) and self._same_network else None
        return MonitorAddress(mode=mode, chardev=chardev, path=path, address=port)

    def _path(self, options: Mapping[str, Any]) -> str | None:
        if "path" in options:
            path = str(options["path"])
            if not is_on(options, "abstract"):
                return self._outside(path)
            # tight=off fills the name up with zeros, which a path cannot say.
            return f"@{path}" if self._same_network and is_on(options, "tight", default=True) else None
        fd = str(options.get("fd", ""))
        return self._socket_of_fd(int(fd)) if fd.isdigit() else None


def _listens(options: Mapping[str, Any]) -> bool:
    """Whether QEMU is the server, and speaks plainly."""
    wrapped = any(is_on(options, kind) for kind in ("telnet", "tn3270", "websocket")) or "tls-creds" in options
    return is_on(options, "server") and not wrapped


def _tcp(options: Mapping[str, Any]) -> str | None:
    # With `to=` QEMU takes any free port of a range: which one, only QMP tells.
    if "port" not in options or "to" in options:
        return None
    host = str(options.get("host", ""))
    return f"{'127.0.0.1' if host in ANYWHERE else host}:{options['port']}"
