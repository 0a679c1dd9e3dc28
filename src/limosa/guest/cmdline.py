"""QEMU's command line, taken apart as QEMU itself does it; pure."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limosa.guest.qemu_options import CONFIG_GROUPS, FILE_WORDS, FILES, IMPLIED, SAME, SYNTAX, Syntax

Pairs = tuple[tuple[str, str], ...]

_GLOBAL = re.compile(r"([^.=]+)\.([^=]+)=(.*)", re.DOTALL)
_SECTION = re.compile(r'\[\s*(?P<group>[\w-]+)(?:\s+"(?P<id>[^"]*)")?\s*\]')
_SETTING = re.compile(r'(?P<key>[\w.-]+)\s*=\s*"(?P<value>[^"]*)"')


@dataclass(frozen=True, slots=True)
class CliOption:
    """One option as it stands.

    Args:
        name: without dashes, one name for the same thing (`-M` is `machine`, a bare image is `hda`).
        raw: the value as written; None for a flag.
        pairs: key and value in their order, repeated keys included (`hostfwd`, `-smbios type=11,value=...`);
            nested keys are dotted. Empty for flags, words and JSON.
        fields: the same as a mapping, the last of equal keys winning as in QEMU; nested where QEMU nests, and JSON
            values as they are. `{}` for flags and words.
        known: whether QEMU 7.2, 10.0 or a neighbour has this option.
    """

    name: str
    raw: str | None
    pairs: Pairs
    fields: dict[str, Any]
    known: bool = True

    @property
    def json(self) -> bool:
        """Whether the value was written as JSON."""
        return self.raw is not None and SYNTAX.get(self.name) in (Syntax.KEYVAL, Syntax.OPTS) and _is_json(self.raw)

    def every(self, key: str) -> tuple[str, ...]:
        """All values of a key that may be repeated."""
        return tuple(value for name, value in self.pairs if name == key)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A whole command line; `options` in the order in which QEMU reads them."""

    binary: str
    options: tuple[CliOption, ...]

    def all(self, *names: str) -> tuple[CliOption, ...]:
        """Options of these names, in order."""
        return tuple(option for option in self.options if option.name in names)

    def last(self, name: str) -> CliOption | None:
        """The one that counts where QEMU lets the last win."""
        found = self.all(name)
        return found[-1] if found else None

    def has(self, name: str) -> bool:
        """Whether the option was given at all."""
        return any(option.name == name for option in self.options)

    def merged(self, name: str) -> dict[str, Any]:
        """Fields of all options of this name, later ones on top, as QEMU merges `-machine`, `-smp`, `-m` or `-boot`."""
        fields: dict[str, Any] = {}
        for option in self.all(name):
            fields.update(option.fields)
        return fields


def parse(argv: Sequence[str], *, read: Callable[[str], str | None] | None = None) -> CommandLine:
    """Take a command line apart.

    Args:
        argv: as in /proc/PID/cmdline, the program first.
        read: gives the text of a `-readconfig` file, None where it cannot; its options stand where the file was named.
    """
    options: list[CliOption] = []
    words = iter(argv[1:])
    for word in words:
        options.extend(_expanded(_next(word, words), read))
    return CommandLine(argv[0] if argv else "", tuple(options))


def read_config(text: str) -> tuple[CliOption, ...]:
    """Options of a `-readconfig` file: `[device "id"]`, then `key = "value"` lines (util/qemu-config.c)."""
    options: list[tuple[str, list[tuple[str, str]]]] = []
    for line in (line.strip() for line in text.splitlines()):
        if section := _SECTION.fullmatch(line):
            name = CONFIG_GROUPS.get(section["group"], section["group"])
            options.append((name, [("id", section["id"])] if section["id"] is not None else []))
        elif (setting := _SETTING.fullmatch(line)) and options:
            options[-1][1].append((setting["key"], setting["value"]))
    return tuple(_from_pairs(name, pairs) for name, pairs in options)


def escape(value: str) -> str:
    """A value as it must stand inside `key=value,...`."""
    return value.replace(",", ",,")


def join(pairs: Iterable[tuple[str, str]]) -> str:
    """`key=value,...` with commas escaped; the inverse of `split` for keys without `=` and `,`."""
    return ",".join(f"{key}={escape(value)}" for key, value in pairs)


def split(text: str, implied: str | None = None) -> Pairs:
    """`a=b,c,nod` -> (a, b), (c, on), (d, off); the first part without `=` is the value of `implied`."""
    pairs: list[tuple[str, str]] = []
    rest, first = text, implied
    while rest:
        name_end = _find_any(rest, "=,")
        if rest[name_end : name_end + 1] == "=":
            name = rest[:name_end]
            value, rest = _value(rest[name_end + 1 :])
        elif first is not None:
            name = first
            value, rest = _value(rest)
        else:
            name, rest = rest[:name_end], rest[name_end + 1 :]
            name, value = (name[2:], "off") if name.startswith("no") else (name, "on")
        pairs.append((name, value))
        first = None
    return tuple(pairs)


def nested(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Dotted keys as mappings: `file.driver=raw` -> {"file": {"driver": "raw"}}."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *parents, leaf = key.split(".")
        here = tree
        for parent in parents:
            below = here.get(parent)
            if not isinstance(below, dict):
                below = here[parent] = {}
            here = below
        here[leaf] = value
    return tree


def short_chardev(text: str) -> tuple[str, dict[str, str]]:
    """Backend and options of a character device in its short form, as `-serial` and `-qmp` take it.

    `chardev:ID` gives the backend `chardev` with that id. Source: chardev/char.c, qemu_chr_parse_compat.
    """
    kind, _, rest = text.partition(":")
    match kind:
        case "mon":
            backend, options = short_chardev(rest)
            return backend, {**options, "mux": "on"}
        case "chardev":
            return "chardev", {"id": rest}
        case "unix":
            return "socket", dict(split(rest, "path"))
        case "tcp" | "telnet" | "tn3270" | "websocket":
            return "socket", _tcp(rest) | ({} if kind == "tcp" else {kind: "on"})
        case "udp":
            return "udp", _udp(rest)
        case "file" | "pipe" | "pty" if rest:
            return kind, {"path": rest}
        case "vc":
            return "vc", _screen(rest)
        case "con":
            return "console", {}
        case _:
            pass
    if text.startswith(("/dev/parport", "/dev/ppi")):
        return "parallel", {"path": text}
    return ("serial", {"path": text}) if text.startswith("/dev/") else (kind, {})


def chardevs(command_line: CommandLine) -> dict[str, tuple[str, dict[str, Any]]]:
    """`-chardev` options by id: backend and the rest."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for option in command_line.all("chardev"):
        rest = {key: value for key, value in option.fields.items() if key not in ("backend", "id")}
        found[str(option.fields.get("id", ""))] = (str(option.fields.get("backend", "")), rest)
    return found


def is_on(fields: Mapping[str, Any], key: str, *, default: bool = False) -> bool:
    """A switch in any of the ways QEMU reads one: on, yes, true, y, or JSON's true; `nowait` reads as `wait=off`."""
    value = fields.get(key)
    if value is None:
        return default
    return value is True or str(value) in ("on", "yes", "true", "y")


def host_files(command_line: CommandLine) -> tuple[str, ...]:
    """Names of host files that the command line mentions, as written there."""
    return tuple(dict.fromkeys(_host_files(command_line)))


def _host_files(command_line: CommandLine) -> Iterator[str]:
    for option in command_line.options:
        if option.name in FILE_WORDS and option.raw:
            yield option.raw
        elif SYNTAX.get(option.name) is Syntax.CHARDEV:
            yield from (value for key, value in option.fields.items() if key == "path")
        for key, value in _flat(option.fields):
            if key in FILES.get(option.name, ()) and isinstance(value, str):
                yield value


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _next(word: str, rest: Iterator[str]) -> CliOption:
    """The option that starts at `word`; takes its value from `rest`."""
    if not word.startswith("-") or word == "-":
        return CliOption("hda", word, (), {})
    written = word[2:] if word.startswith("--") else word[1:]
    name = SAME.get(written, written)
    syntax = SYNTAX.get(name)
    if syntax is Syntax.FLAG:
        return CliOption(name, None, (), {})
    if syntax is None:
        return CliOption(name, next(rest, None), (), {}, known=False)
    return _with_value(name, syntax, next(rest, ""))


def _with_value(name: str, syntax: Syntax, raw: str) -> CliOption:
    pairs: Pairs = ()
    fields: dict[str, Any] = {}
    match syntax:
        case Syntax.KEYVAL | Syntax.OPTS if _is_json(raw):
            fields = _json(raw)
        case Syntax.KEYVAL:
            pairs = split(raw, IMPLIED[name])
            fields = nested(pairs)
        case Syntax.OPTS:
            pairs = split(raw, IMPLIED[name])
            fields = dict(pairs)
        case Syntax.CPU:
            pairs = tuple(_cpu(raw))
            fields = dict(pairs)
        case Syntax.GLOBAL:
            pairs = _global(raw)
            fields = dict(pairs)
        case Syntax.CHARDEV:
            backend, options = short_chardev(raw)
            fields = {"backend": backend, **options}
        case Syntax.WORD | Syntax.FLAG:
            pass
    return CliOption(name, raw, pairs, fields)


def _from_pairs(name: str, pairs: Sequence[tuple[str, str]]) -> CliOption:
    syntax = SYNTAX.get(name)
    fields = nested(pairs) if syntax is Syntax.KEYVAL else dict(pairs)
    return CliOption(name, join(pairs), tuple(pairs), fields, known=syntax is not None)


def _expanded(option: CliOption, read: Callable[[str], str | None] | None) -> Iterator[CliOption]:
    yield option
    if option.name == "readconfig" and read is not None and option.raw:
        yield from read_config(read(option.raw) or "")


def _cpu(raw: str) -> Iterator[tuple[str, str]]:
    model, *features = raw.split(",")
    yield "model", model
    for feature in features:
        name, equals, value = feature.partition("=")
        if name[:1] in ("+", "-"):
            yield name[1:], "on" if name[0] == "+" else "off"
        elif name:
            yield name, value if equals else "on"


def _global(raw: str) -> Pairs:
    if match := _GLOBAL.fullmatch(raw):
        return (("driver", match[1]), ("property", match[2]), ("value", match[3]))
    return split(raw)


def _tcp(text: str) -> dict[str, str]:
    place, _, options = text.partition(",")
    host, _, port = place.rpartition(":")
    return {"host": host, "port": port, **dict(split(options))}


def _udp(text: str) -> dict[str, str]:
    there, _, here = text.partition("@")
    host, _, port = there.rpartition(":")
    local, _, local_port = here.rpartition(":")
    named = {"host": host, "port": port, "localaddr": local, "localport": local_port}
    return {key: value for key, value in named.items() if value}


def _screen(text: str) -> dict[str, str]:
    width, _, height = text.partition("x")
    if not height:
        return {}
    if width.endswith("C"):
        return {"cols": width[:-1], "rows": height.rstrip("C")}
    return {"width": width, "height": height}


def _is_json(raw: str) -> bool:
    return raw.startswith("{")


def _json(raw: str) -> dict[str, Any]:
    """The object; `{}` for what is not JSON, which a QEMU that runs has not been given."""
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _find_any(text: str, characters: str) -> int:
    return min((found for found in map(text.find, characters) if found >= 0), default=len(text))


def _value(text: str) -> tuple[str, str]:
    """Value up to the first single comma, and what follows it; `,,` is a comma."""
    end = 0
    while (end := text.find(",", end)) >= 0:
        if text[end + 1 : end + 2] != ",":
            return text[:end].replace(",,", ","), text[end + 1 :]
        end += 2
    return text.replace(",,", ","), ""
