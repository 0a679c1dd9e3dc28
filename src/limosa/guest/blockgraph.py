"""The block graph as `-blockdev` would create it: live nodes and edges, completed by the options that made them."""

import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from limosa.guest.profile import BlockNode, Unknown, Value

PROTOCOLS_ON_FILES = frozenset({"file", "host_device", "host_cdrom"})
NODE_NAME_LIMIT = 31
"""QEMU block/block_int-common.h: `char node_name[32]`."""

# Options that QMP never shows (docs/qemu-notes.md); of a node that was added later they are unknown.
_UNSHOWN = {"file": ("aio", "locking"), "host_device": ("aio", "locking")}
_UNSHOWN_EVERYWHERE = ("discard",)
_NUMBERS = frozenset({"lun", "timeout", "reconnect-delay", "open-timeout"})
_WELL_FORMED = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Edges:
    """`x-debug-query-block-graph` by names."""

    children: dict[str, dict[str, str]]
    """Live node name -> role -> live name of the child."""
    roots: dict[str, str]
    """Live node name -> name of a block backend that it is the root of; may be empty."""
    transient: frozenset[str]
    """What block jobs use beside the disk itself, a filter above it and the target; they go when it ends."""


def read_graph(graph: Mapping[str, Sequence[Mapping[str, Value]]]) -> Edges:
    """The answer of `x-debug-query-block-graph`, which speaks in numbers, by names."""
    things = {node["id"]: node for node in graph["nodes"]}
    children: dict[str, dict[str, str]] = {}
    roots: dict[str, str] = {}
    transient = set()
    for edge in graph["edges"]:
        parent, child = things[edge["parent"]], things[edge["child"]]
        if parent["type"] == "block-driver":
            children.setdefault(parent["name"], {})[edge["name"]] = child["name"]
        elif parent["type"] == "block-backend":
            roots.setdefault(child["name"], parent["name"])
        elif parent["type"] == "block-job" and edge["name"] in ("main node", "target"):
            transient.add(child["name"])
    for name in transient & roots.keys():
        # A disk keeps its name while a job's filter stands between it and its drive.
        for below in children.get(name, {}).values():
            roots.setdefault(below, roots[name])
    return Edges(children, roots, frozenset(transient))


def stable_names(live: Sequence[str], edges: Edges, backends: frozenset[str] = frozenset()) -> dict[str, str]:
    """Live name -> a name that the twin can use: `#block123` becomes its drive's name, or its parent's and its role.

    `backends` are BlockBackends that the twin will have too: nodes and backends share one name space in QEMU.
    """
    taken = {name for name in live if not name.startswith("#")} | backends
    found = {name: name for name in taken - backends}
    parents = {child: (parent, role) for parent, roles in edges.children.items() for role, child in roles.items()}

    def name_of(live_name: str) -> str:
        if live_name not in found:
            parent = parents.get(live_name)
            wish = edges.roots.get(live_name) or (f"{name_of(parent[0])}-{parent[1]}" if parent else "node")
            found[live_name] = _free(wish, taken)
            taken.add(found[live_name])
        return found[live_name]

    for name in live:
        name_of(name)
    return found


def _free(wish: str, taken: set[str]) -> str:
    if not _WELL_FORMED.fullmatch(wish):
        wish = "d-" + re.sub(r"[^A-Za-z0-9_.-]", "-", wish)
    if len(wish) > NODE_NAME_LIMIT - 3:
        wish = wish[: NODE_NAME_LIMIT - 12] + "-" + hashlib.sha256(wish.encode()).hexdigest()[:8]
    number = 2
    name = wish
    while name in taken:
        name, number = f"{wish}-{number}", number + 1
    return name


def block_nodes(
    named: Sequence[Mapping[str, Value]],
    edges: Edges,
    created: Mapping[str, Mapping[str, Value]],
    names: Mapping[str, str],
    resolve: Callable[[str], str],
) -> tuple[tuple[BlockNode, ...], tuple[Unknown, ...]]:
    """All nodes, children before parents.

    Args:
        named: answer of `query-named-block-nodes` with `flat`.
        edges: from `read_graph`.
        created: live node name -> flat `-blockdev` options of those that the command line made.
        names: from `stable_names`.
        resolve: a path as the process names it -> as the host sees it.
    """
    shown = {str(node["node-name"]): node for node in named}
    found: list[BlockNode] = []
    unknown: list[Unknown] = []
    for live in _children_first(shown, edges):
        node = _node(shown[live], edges.children.get(live, {}), names, created.get(live), resolve)
        found.append(node)
        unknown.extend(
            Unknown(what=f"block:{node.node_name}:{option}", why="added later; QMP does not show it; taken as default")
            for option in node.unknown
        )
    return tuple(found), tuple(unknown)


def _children_first(shown: Mapping[str, object], edges: Edges) -> list[str]:
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order or name not in shown:
            return
        for child in edges.children.get(name, {}).values():
            visit(child)
        order.append(name)

    for name in reversed(list(shown)):
        visit(name)
    return order


def _node(
    told: Mapping[str, Value],
    children: Mapping[str, str],
    names: Mapping[str, str],
    created: Mapping[str, Value] | None,
    resolve: Callable[[str], str],
) -> BlockNode:
    live, driver = str(told["node-name"]), str(told["drv"])
    cache = {key: told["cache"][key] for key in ("direct", "no-flush")}
    options = dict(created or {})
    for role in children:
        options.pop(role, None)
    filename = None
    if driver in PROTOCOLS_ON_FILES:
        filename = resolve(str(options.get("filename") or _plain(str(told["file"]))))
        options["filename"] = filename
    elif not children:
        options = _from_filename(driver, str(told["file"]), options)
    options |= {"cache": cache}
    if options.get("backing", "") is None:
        del options["backing"]
    if told["detect_zeroes"] != "off":
        options["detect-zeroes"] = told["detect_zeroes"]
    for forgotten in ("driver", "node-name", "read-only", "force-share"):
        options.pop(forgotten, None)
    return BlockNode(
        node_name=names[live],
        live_name=live,
        driver=driver,
        options=options,
        children={role: names[child] for role, child in sorted(children.items())},
        read_only=bool(told["ro"]),
        virtual_size=int(told["image"]["virtual-size"]),
        filename=filename,
        unknown=() if created is not None else (*_UNSHOWN_EVERYWHERE, *_UNSHOWN.get(driver, ())),
    )


def _plain(filename: str) -> str:
    """A file's name, also where QEMU tells it as JSON with other options beside it."""
    if not filename.startswith("json:"):
        return filename.removeprefix("file:")
    return str(json.loads(filename[len("json:") :]).get("filename", filename))


def _from_filename(driver: str, filename: str, options: dict[str, Value]) -> dict[str, Value]:
    """Options of a protocol node without children, from QEMU's file name where the command line does not have them."""
    if filename.startswith("json:"):
        # What was given as a URL, QEMU tells in strings, which -blockdev does not take for numbers.
        told = json.loads(filename[len("json:") :])
        return _nested({k: int(v) if k in _NUMBERS and str(v).isdigit() else v for k, v in told.items()}) | options
    match driver:
        case "nbd":
            return _nbd(filename) | options
        case "iscsi":
            return _iscsi(filename) | options
        case "null-co" | "null-aio" | "throttle":
            return options
        case _:
            return {"filename": filename} | options if filename else options


def _nested(flat: Mapping[str, Value]) -> dict[str, Value]:
    """`{"server.host": h}` -> `{"server": {"host": h}}`."""
    found: dict[str, Value] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        here = found
        for step in path:
            here = here.setdefault(step, {})
        here[last] = value
    return found


def _nbd(filename: str) -> dict[str, Value]:
    """`nbd://host:port/export`, `nbd+unix:///export?socket=/path` (QEMU block/nbd.c, `nbd_parse_uri`)."""
    url = urllib.parse.urlsplit(filename)
    export = urllib.parse.unquote(url.path.removeprefix("/"))
    if url.scheme == "nbd+unix":
        path = urllib.parse.parse_qs(url.query)["socket"][0]
        found: dict[str, Value] = {"server": {"type": "unix", "path": path}}
    else:
        host = (url.hostname or "").strip("[]")
        found = {"server": {"type": "inet", "host": host, "port": str(url.port or 10809)}}
    return found | ({"export": export} if export else {})


def _iscsi(filename: str) -> dict[str, Value]:
    """`iscsi://portal/target/lun` (QEMU block/iscsi.c)."""
    url = urllib.parse.urlsplit(filename)
    target, _, lun = url.path.removeprefix("/").partition("/")
    return {"transport": "tcp", "portal": url.netloc.rpartition("@")[2], "target": target, "lun": int(lun)}
