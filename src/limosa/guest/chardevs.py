"""Character backends: from the live list, completed by the options that created them.

`query-chardev` tells only a file-name-like string; `/chardevs` tells the type. Everything else (log files,
reconnection, `wait`) is on the command line, or unknown for a chardev that was added later.
"""

import re
from collections.abc import Mapping, Sequence

from limosa.guest.profile import Chardev, Unknown, Value
from limosa.guest.wordlist import names

_TARGET = re.compile(
    r"(?P<kind>unix|tcp|telnet|tn3270|tls|websocket|vsock|fd):(?P<address>.*?)(?P<server>,server=on|,server)?"
    r"(?: <-> .*)?"
)
_HOST_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\],]*):(?P<port>[^,:]+)")

FLAGS = names("server wait delay nodelay telnet tn3270 websocket mux append logappend abstract tight ipv4 ipv6 signal")


def typed(name: str, value: Value) -> Value:
    """A chardev option's text as a value: flags become booleans, numbers stay text except times."""
    if name in FLAGS and value in ("on", "off", "yes", "no", "true", "false", "y", "n"):
        return value in ("on", "yes", "true", "y")
    return value


def read_filename(text: str) -> tuple[str, dict[str, Value]] | None:
    """What `query-chardev` says of a live chardev, as backend and options; None where it does not tell."""
    rest = text.removeprefix("disconnected:")
    if rest in ("null", "vc", "mux", "ringbuf", "spicevmc", "msmouse", "testdev", "stdio"):
        return rest, {}
    if rest.startswith("pty:"):
        return "pty", {}
    found = _TARGET.fullmatch(rest)
    if found is None or found["kind"] == "fd":
        return None
    options: dict[str, Value] = {"server": True, "wait": False} if found["server"] else {"server": False}
    if found["kind"] == "unix":
        return "socket", {"path": found["address"].partition(",")[0]} | options
    if found["kind"] in ("telnet", "tn3270", "websocket"):
        options[found["kind"]] = True
    return "socket", _host_port(found["address"]) | options


def chardevs(
    live: Sequence[Mapping[str, Value]],
    types: Mapping[str, str],
    created: Mapping[str, tuple[str, dict[str, Value]]],
    users: Mapping[str, str],
) -> tuple[tuple[Chardev, ...], tuple[Unknown, ...]]:
    """All character backends of a process, in the order of the command line, later ones after them.

    Args:
        live: answer of `query-chardev`.
        types: id -> QOM type below `/chardevs`.
        created: id -> (backend, options) of those that the command line made.
        users: id -> what uses it.
    """
    names = {told["label"]: str(told["filename"]) for told in live}
    # A multiplexed chardev shows as two: itself, and `-base` below it.
    bases = {name for name in names if name.endswith("-base") and name.removesuffix("-base") in names}
    names = {name: told for name, told in names.items() if name not in bases}
    order = [name for name in created if name in names] + sorted(name for name in names if name not in created)
    found, unknown = [], []
    for name in order:
        backend, options = created.get(name) or (None, {})
        if backend is None:
            told = read_filename(names[name])
            backend = types.get(name, "").removeprefix("chardev-") or "null"
            if told is None:
                unknown.append(Unknown(what=f"chardev:{name}", why=f"added later; QMP tells only {names[name]!r}"))
            else:
                backend, options = told
                unknown.extend(_untold(name, backend))
        found.append(Chardev(id=name, backend=backend, options=options, used_by=users.get(name)))
    return tuple(found), tuple(unknown)


def _untold(name: str, backend: str) -> list[Unknown]:
    if backend != "socket":
        return []
    return [Unknown(what=f"chardev:{name}:reconnect", why="added later; QMP does not tell it; taken as not set")]


def _host_port(text: str) -> dict[str, Value]:
    found = _HOST_PORT.match(text)
    if found is None:
        return {"host": "", "port": text}
    return {"host": found["host"].strip("[]"), "port": found["port"]}
