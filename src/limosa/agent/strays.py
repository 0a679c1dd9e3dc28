"""What moves have left on this host: by the ledger, and by the tags that everything carries that limosa makes."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limosa.agent.holders import Holders, is_empty, networked
from limosa.cargo.images import is_ours
from limosa.cargo.nics import ALIAS
from limosa.cargo.taps import Link
from limosa.errors import MonitorError
from limosa.guest.parts import OURS
from limosa.migration.store import Noted
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.doctor import OldImage, Standing, Thing

_TAGGED = re.compile(r"(?P<name>.+)\.limosa-(?P<move>m[0-9a-f]+)")
DEPTH = 3
"""Levels of directories that are searched below each storage directory."""
ASK_LIMIT = 1.0
"""Seconds for one QEMU's answers."""


@dataclass(frozen=True, slots=True)
class Journals:
    """What this host's journal knows of moves."""

    open: frozenset[str]
    ended: dict[tuple[str, Side], str]
    """(move, side) -> how it ended, for those that are closed."""

    def standing(self, move: str) -> Standing:
        """Open on either side, closed, or unknown."""
        if move in self.open:
            return Standing.OPEN
        return Standing.CLOSED if any(known == move for known, _ in self.ended) else Standing.UNKNOWN

    def only_left(self, move: str) -> bool:
        """Whether the guest of this move went away from here, and did not come."""
        return (move, Side.SOURCE) in self.ended and (move, Side.DESTINATION) not in self.ended

    def rolled_back(self, move: str) -> bool:
        """Whether it is recorded that the guest of this move did not come here."""
        return self.ended.get((move, Side.DESTINATION)) == "rolled back"


def tagged_files(
    places: Iterable[Path], journals: Journals, held: Holders
) -> tuple[tuple[Thing, ...], tuple[OldImage, ...]]:
    """Files that carry a move's name: second names of new images are strays, images set aside are not."""
    things: list[Thing] = []
    old: list[OldImage] = []
    for path in sorted(set(_files(places))):
        match = _TAGGED.fullmatch(path.name)
        if match is None:
            continue
        move = match["move"]
        if not path.name.startswith(".") or journals.only_left(move):
            old.append(OldImage(path=str(path), move=move, size=path.lstat().st_blocks * 512))
            continue
        image = path.with_name(match["name"][1:])
        if is_ours(str(image), move):
            why = "" if journals.rolled_back(move) else "it may be a guest's image: only its second name is removed"
            things.append(_thing("image", image, move, journals, held.of_file(image), doubt=why))
        things.append(_thing("file", path, move, journals, held.of_file(path)))
    return tuple(things), tuple(old)


def directories(run_dir: Path, journals: Journals, held: Holders) -> Iterator[Thing]:
    """Runtime directories of moves, and of guests that limosa started."""
    for path in sorted((run_dir / "moves").glob("*-*")):
        move, _, side = path.name.rpartition("-")
        if side in {"in", "out"}:
            yield _thing("directory", path, move, journals, held.of_directory(path))
    for path in sorted((run_dir / "guests").glob("*")):
        yield _thing("directory", path, path.name, journals, held.of_directory(path))


def tagged_taps(links: Iterable[Link], journals: Journals, held: Holders) -> Iterator[Thing]:
    """Taps that limosa made."""
    for link in links:
        if link.alias and link.alias.startswith(ALIAS):
            move = link.alias.removeprefix(ALIAS).partition(":")[0]
            yield Thing(
                kind="tap", name=link.name, move=move, standing=journals.standing(move), held_by=held.of_tap(link.name)
            )


def noted(ledger: Sequence[Noted], known: Iterable[Thing], journals: Journals, held: Holders) -> Iterator[Thing]:
    """What the ledger lists of closed and unknown moves and is still there; but for what its tag has told already."""
    seen = {thing.name for thing in known}
    for entry in ledger:
        path = Path(entry.name)
        if entry.kind not in {"file", "directory", "socket"} or entry.name in seen or not os.path.lexists(path):
            continue
        seen.add(entry.name)
        user = held.of_directory(path) if entry.kind == "directory" else held.of_file(path)
        yield _thing(entry.kind, path, entry.move, journals, user, doubt=_no_proof(entry.kind, path))


async def inside(monitor: Monitor, pid: int) -> tuple[Thing, ...]:
    """What a QEMU that is in no move still has of one."""
    commands = ("query-jobs", "query-block-exports", "query-named-block-nodes", "x-debug-query-block-graph")
    asked: list[tuple[str, dict[str, Any] | None]] = [(command, None) for command in commands]
    answers = await monitor.execute_many([*asked, ("qom-list", {"path": "/objects"})], timeout=ASK_LIMIT)
    jobs, exports, nodes, graph, objects = ([] if isinstance(a, MonitorError) else a for a in answers)
    found = [("job", job["id"]) for job in jobs]
    found += [("export", export["id"]) for export in exports]
    found += [("node", node["node-name"]) for node in nodes if not _used(node["node-name"], graph)]
    found += [("object", thing["name"]) for thing in objects]
    found += [
        ("bitmap", f"{node['node-name']}/{bitmap['name']}")
        for node in nodes
        for bitmap in node.get("dirty-bitmaps", ())
        if bitmap.get("name")
    ]
    return tuple(
        Thing(kind=kind, name=name, move="", standing=Standing.UNKNOWN, pid=pid)
        for kind, name in found
        if name.rpartition("/")[2].startswith(OURS)
    )


def _used(node: str, graph: Any) -> bool:
    """Whether something in QEMU sits on a node; its own job does, which is told of first."""
    if not isinstance(graph, dict):
        return True
    number = next((n["id"] for n in graph["nodes"] if n["type"] == "block-driver" and n["name"] == node), None)
    parents = {edge["parent"] for edge in graph["edges"] if edge["child"] == number}
    return any(n["id"] in parents and n["type"] != "block-job" for n in graph["nodes"])


def _files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        level = len(place.parts)
        for directory, below, names in os.walk(place):
            if len(Path(directory).parts) - level >= DEPTH:
                below.clear()
            yield from (Path(directory) / name for name in names if ".limosa-" in name)


def _no_proof(kind: str, path: Path) -> str:
    if kind == "directory" and path.is_dir() and not is_empty(path):
        return "it is not empty"
    if kind == "file" and not path.is_symlink():
        return "it may be a guest's image: it carries no move's name"
    if kind == "socket" and not path.is_socket():
        return "it is no socket"
    return ""


def _thing(kind: str, path: Path, move: MoveId | str, journals: Journals, user: str, *, doubt: str = "") -> Thing:
    return Thing(
        kind=kind,
        name=str(path),
        move=move,
        standing=journals.standing(move),
        held_by=user,
        doubt=doubt,
        whole_host=not networked(path),
    )
