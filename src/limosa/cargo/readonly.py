"""Read-only images, whose content cannot change while they are copied: shared, found by content, or copied.

A copy goes through a node of its own in the twin, because the twin's own node is read-only. It is over before RAM
is copied, and the twin reads an image's tables only when it takes the guest over, so it never sees half of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from limosa.cargo import images, mirror
from limosa.cargo.disks import creation_options
from limosa.cargo.graph import moved_to, short, with_nodes
from limosa.cargo.identity import Identity, has_same_content, identify, is_same
from limosa.cargo.kind import CargoStep, Here, HostFacts, NoDeeds, Offer, Streams, Survey, When, plain
from limosa.cargo.placement import COPYABLE, free_bytes, is_usable_directory
from limosa.cargo.storage import Carrier, Image, carried_by, mapped, parts_of
from limosa.errors import Blocked, MonitorLost, QmpError
from limosa.guest.profile import Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side, format_size
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest


class ReadOnlyImage(msgspec.Struct, frozen=True, kw_only=True):
    """A read-only image at the source. `size` is its virtual size in bytes."""

    item: str
    root: str
    live: str
    format: str
    size: int
    options: dict[str, str]
    identity: Identity
    layered: bool
    """It has a backing file."""


class PlacedImage(msgspec.Struct, frozen=True, kw_only=True):
    """Where it is at the destination; `new` is set when it has to be copied there."""

    source: ReadOnlyImage
    path: str
    new: images.NewImage | None = None


class ReadOnly(NoDeeds):
    """Base of the kinds that carry read-only images."""

    carrier: Carrier
    directories: tuple[str, ...] = ()
    """Where the same file may lie under the same name."""

    def claims(self, profile: Profile) -> frozenset[str]:
        """Nodes of these images, and the devices on them."""
        return parts_of(profile, self.carrier)

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Identities, by which the destination may recognise them."""
        found = carried_by(profile, self.carrier)
        if not found:
            return Survey(kind=self.name)
        live = {node["node-name"]: node for node in await monitor.execute("query-named-block-nodes")}
        told = [await _read(image, live) for image in found]
        return Survey(kind=self.name, learned={"images": plain(told)})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Recognise each, or choose a place for a copy."""
        findings: list[Finding] = []
        placed: list[PlacedImage] = []
        for image in msgspec.convert(survey.learned.get("images", []), tuple[ReadOnlyImage, ...]):
            here = await self._find(image, request)
            if here is not None:
                placed.append(PlacedImage(source=image, path=here))
                continue
            new, finding = self._place(image, host, request)
            findings.append(finding)
            if new is not None:
                placed.append(PlacedImage(source=image, path=new.path, new=new))
        chosen = {
            "move": move,
            "images": plain(placed),
            "bytes_to_copy": sum(image.source.identity.allocated for image in placed if image.new),
        }
        return Offer(kind=self.name, findings=tuple(findings), chosen=chosen)

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """Paths as they are at the destination."""
        changed = {}
        for placed in _placed(offer):
            if placed.path != placed.source.identity.path:
                node = Image(profile, profile.node(placed.source.root)).protocol
                changed[node.node_name] = moved_to(node, placed.path, device=placed.source.identity.rdev is not None)
        return with_nodes(profile, changed)

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """Make files, copy into them, close them; nothing is left to do in the pause."""
        copied = tuple(image for image in _placed(offer) if image.new is not None)
        if not copied:
            return ()
        copies = tuple(_copy(image, self.name, offer.chosen["move"], n) for n, image in enumerate(copied))
        gate = mirror.gate_of(streams)
        items = ", ".join(copy.item for copy in copies)
        arguments = {
            "move": offer.chosen["move"],
            "gate": plain(gate),
            "copies": plain(copies),
            "images": [plain(image.new) for image in copied],
        }

        def step(deed: str, side: Side, when: When, summary: str) -> CargoStep:
            return CargoStep(
                kind=self.name, deed=deed, side=side, when=when, summary=summary, arguments=dict(arguments)
            )

        return (
            step("create", Side.DESTINATION, When.BEFORE_TWIN, f"make files for {items}"),
            step("receive", Side.DESTINATION, When.COPY, f"open {items} for the copy"),
            step("copy", Side.SOURCE, When.COPY, f"copy {items}"),
            step("received", Side.DESTINATION, When.COPY, f"close the copies of {items}"),
            step("keep", Side.DESTINATION, When.RETIRE, f"make the copies of {items} permanent"),
        )

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Files, exports and the nodes behind them; and what a copy is made of in the source's QEMU."""
        copies = msgspec.convert(step.arguments["copies"], tuple[mirror.Copy, ...])
        match step.deed:
            case "create":
                paths = [image["path"] for image in step.arguments["images"]]
                hidden = [str(images.second_name(path, step.arguments["move"])) for path in paths]
                return tuple(("file", path) for path in (*hidden, *paths))
            case "receive":
                return tuple(found for copy in copies for found in (("node", copy.into), ("export", copy.name)))
            case "copy":
                return tuple((what, copy.name) for copy in copies for what in ("node", "job"))
            case _:
                return ()

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Do one step."""
        copies = msgspec.convert(step.arguments["copies"], tuple[mirror.Copy, ...])
        gate = msgspec.convert(step.arguments["gate"], mirror.Gate)
        made = msgspec.convert(step.arguments["images"], tuple[images.NewImage, ...])
        match step.deed:
            case "create":
                for image in made:
                    await images.create(image, here.move)
            case "receive":
                await _open(here.monitor, made, copies)
                await mirror.open_exports(here.monitor, gate, copies)
            case "copy":
                since = here.monitor.events.position
                await mirror.start(here.monitor, gate, copies)
                await mirror.in_sync(here, copies, since=since)
                await mirror.finish(here.monitor, copies)
                await mirror.stop(here.monitor, copies)
            case "received":
                await mirror.withdraw_exports(here.monitor, copies)
                await _close(here.monitor, copies)
            case "keep":
                for image in made:
                    images.make_permanent(image.path, here.move)
            case _:
                raise LookupError(f"{self.name} has no step {step.deed}")
        return {}

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Undo one step."""
        copies = msgspec.convert(step.arguments["copies"], tuple[mirror.Copy, ...])
        try:
            match step.deed:
                case "create":
                    for image in msgspec.convert(step.arguments["images"], tuple[images.NewImage, ...]):
                        images.remove(image.path, here.move)
                case "receive":
                    await mirror.withdraw_exports(here.monitor, copies)
                    await _close(here.monitor, copies)
                case "copy":
                    await mirror.stop(here.monitor, copies)
                case _:
                    pass  # undone with `receive`, or done only when nothing is undone any more
        except MonitorLost:
            return

    async def _find(self, image: ReadOnlyImage, request: MoveRequest) -> str | None:
        """Path of the same file here, by identity or content."""
        old = image.identity.path
        wanted = mapped(old, request.maps) or old
        for path in dict.fromkeys((wanted, old, *(str(Path(d) / Path(old).name) for d in self.directories))):
            try:
                if is_same(image.identity, path) or await has_same_content(image.identity, path):
                    return path
            except OSError:
                continue  # it cannot be read here, so it is of no use
        return None

    def _place(
        self, image: ReadOnlyImage, host: HostFacts, request: MoveRequest
    ) -> tuple[images.NewImage | None, Finding]:
        old = image.identity.path
        target = Path(mapped(old, request.maps) or old)
        why = _cannot_copy(image)
        if why:
            return None, self._blocks(f"{image.item} ({old}) is not here and cannot be copied: {why}", "eject it")
        places = (target, *(Path(directory) / target.name for directory in host.storage))
        for place in places:
            if is_usable_directory(place.parent) and not place.exists():
                break
        else:
            return None, self._blocks(
                f"{image.item}: {target} is another file here, or has no directory", f"--map {old}=NEW"
            )
        needed, free = image.identity.allocated, free_bytes(place.parent)
        if needed > free:
            text = f"{place.parent} has {format_size(free)} free; {image.item} needs {format_size(needed)}"
            return None, self._blocks(text, "make room there, or choose another place with --map")
        text = f"{image.item}: {old} is copied to {place} ({format_size(needed)})"
        note = Finding(severity=Severity.NOTE, kind=self.name, what=text, side=Side.DESTINATION)
        return _new(image, str(place)), note

    def _blocks(self, what: str, remedy: str) -> Finding:
        return Finding(severity=Severity.BLOCKS, kind=self.name, what=what, remedy=remedy, side=Side.DESTINATION)


def _cannot_copy(image: ReadOnlyImage) -> str:
    if image.identity.rdev is not None:
        return "it is a device of the source host"
    if image.layered:
        return "it has a backing file"
    return "" if image.format in COPYABLE else f"its format is {image.format}"


def _new(image: ReadOnlyImage, path: str) -> images.NewImage:
    size = image.identity.size if image.format == "raw" else image.size
    identity = image.identity
    return images.NewImage(
        path=path,
        format=image.format,
        size=size,
        options=image.options,
        mode=identity.mode,
        uid=identity.uid,
        gid=identity.gid,
    )


def _copy(image: PlacedImage, kind: str, move: str, number: int) -> mirror.Copy:
    name = f"limosa-{short(move)}-{kind[0]}{number}"
    source = image.source
    return mirror.Copy(item=source.item, node=source.live, into=f"{name}-in", name=name, size=source.size)


async def _read(image: Image, live: Mapping[str, Any]) -> ReadOnlyImage:
    assert image.path is not None
    info = live[image.format.live_name]["image"]
    try:
        identity = await identify(image.path, beacon=True, content=True)
    except OSError as refused:
        raise Blocked(
            f"{image.path} is in use by the guest, but cannot be read under that name: {refused.strerror}",
            guest_runs=Side.SOURCE,
            remedy="put the file back, or eject the medium",
        ) from refused
    return ReadOnlyImage(
        item=image.name,
        root=image.root.node_name,
        live=image.root.live_name,
        format=image.format_name,
        size=info["virtual-size"],
        options=creation_options(info),
        identity=identity,
        layered=bool(image.backing),
    )


def _placed(offer: Offer) -> tuple[PlacedImage, ...]:
    return msgspec.convert(offer.chosen.get("images", []), tuple[PlacedImage, ...])


async def _open(monitor: Monitor, made: Iterable[images.NewImage], copies: Iterable[mirror.Copy]) -> None:
    """Writable nodes on the new files, beside the twin's own."""
    present = {node["node-name"] for node in await monitor.execute("query-named-block-nodes", {"flat": True})}
    for image, copy in zip(made, copies, strict=True):
        if copy.into in present:
            continue
        file = {"driver": "file", "filename": image.path, "discard": "unmap"}
        node = {"driver": image.format, "node-name": copy.into, "discard": "unmap", "file": file}
        await monitor.execute("blockdev-add", node)


async def _close(monitor: Monitor, copies: Iterable[mirror.Copy]) -> None:
    present = {node["node-name"] for node in await monitor.execute("query-named-block-nodes", {"flat": True})}
    for copy in copies:
        if copy.into in present:
            try:
                await monitor.execute("blockdev-del", {"node-name": copy.into})
            except QmpError as refusal:
                raise Blocked(f"the copy of {copy.item} is still in use: {refusal.text}") from refusal
