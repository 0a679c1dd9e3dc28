"""Local disks: images on this host's own storage, copied live; and images on storage that both hosts share.

Which of the two an image is, only the destination can tell (identity.py), so one kind carries both:

- the same file or device is seen at the destination: *shared*. Nothing is copied. QEMU hands its image lock
  over when the guest is handed over.
- otherwise: *copied*. A new image of the same format and exact virtual size is made at the destination and
  mirrored into. A backing chain is kept where the same backing file is at the destination, by identity or by
  content; else it is flattened into the new image, and a finding says so. Thin stays thin: zeros arrive as holes.

What is left at the source after a copy is renamed (or deleted, if asked): a second start of the old guest
from a stale image is the accident to prevent, and the way back needs the name.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from limosa.cargo import anchors, images, mirror, placement
from limosa.cargo.anchors import anchor_for
from limosa.cargo.graph import copied_node, short, with_nodes
from limosa.cargo.identity import Identity, forget, identify
from limosa.cargo.kind import CargoStep, Here, HostFacts, NoDeeds, Offer, Streams, Survey, When, plain
from limosa.cargo.placement import How, PlacedDisk, SourceDisk
from limosa.cargo.storage import Carrier, Image, carried_by, parts_of
from limosa.errors import Blocked, MonitorLost
from limosa.guest.profile import BlockNode, Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

PASSED_THROUGH = frozenset({"scsi-block", "scsi-generic"})


class Disks(NoDeeds):
    """Writable images on files and block devices of the host, NVRAM files included."""

    name = "disks"

    def claims(self, profile: Profile) -> frozenset[str]:
        """All nodes below a writable local root, and the devices on it."""
        return parts_of(profile, Carrier.DISKS)

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Sizes, identities, and what a copy would lose."""
        found = carried_by(profile, Carrier.DISKS)
        if not found:
            return Survey(kind=self.name)
        nodes = await monitor.execute("query-named-block-nodes")
        jobs = await monitor.execute("query-block-jobs")
        exports = await monitor.execute("query-block-exports")
        live = {node["node-name"]: node for node in nodes}
        disks = [await survey_disk(image, live) for image in found]
        findings = (*_running_jobs(jobs), *_exports(exports))
        return Survey(kind=self.name, findings=findings, learned={"disks": plain(disks)})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Recognise what is shared, and choose a place for what is not."""
        disks = msgspec.convert(survey.learned.get("disks", []), tuple[SourceDisk, ...])
        placed, findings = await placement.place(disks, profile.name, host, request, move)
        return Offer(
            kind=self.name,
            findings=findings,
            chosen={
                "move": move,
                "disks": plain(placed),
                "keep": request.keep_source_disks,
                "speed": int(request.bandwidth or 0),
                "bytes_to_copy": sum(disk.allocated for disk in placed if disk.how is not How.SHARED),
            },
        )

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """New paths, and chains flattened where they were."""
        changed: dict[str, BlockNode] = {}
        for disk in _placed(offer):
            if disk.how is How.SHARED and disk.path == disk.source.identity.path:
                continue
            image = Image(profile, profile.node(disk.source.root))
            changed |= copied_node(image, disk)
        return with_nodes(profile, changed)

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """Make images, export, mirror, turn synchronous, finish, seal; and tidy up on both sides afterwards."""
        links = tuple(_anchors(self.name, _placed(offer)))
        copied = tuple(disk for disk in _placed(offer) if disk.how is not How.SHARED)
        if not copied:
            return links
        move = MoveId(offer.chosen["move"])
        made = tuple(disk for disk in copied if disk.new is not None)
        speed = int(offer.chosen["speed"]) // len(copied)
        copies = tuple(_copy(disk, move, number, speed) for number, disk in enumerate(copied))
        gate = mirror.gate_of(streams)
        items = ", ".join(copy.item for copy in copies)
        step = _Steps(self.name, {"gate": plain(gate), "copies": plain(copies)})
        return (
            *links,
            *(_create(self.name, disk, move) for disk in made),
            step("export", Side.DESTINATION, When.COPY, f"open {items} for the copy"),
            step("mirror", Side.SOURCE, When.COPY, f"copy {items} until in sync"),
            step("synchronise", Side.SOURCE, When.BEFORE_RAM, f"make writes to {items} synchronous"),
            step("finish", Side.SOURCE, When.PAUSED, f"end the copy of {items}, and verify it"),
            step("seal", Side.DESTINATION, When.PAUSED, "close the exports, and verify that none is left"),
            *_tidy_up(self.name, copied, keep=bool(offer.chosen["keep"])),
        )

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Images, links, exports; and what a mirror is made of in the source's QEMU."""
        match step.deed:
            case "create" if not step.arguments["device"]:
                path = step.arguments["image"]["path"]
                return (("file", str(images.second_name(path, step.arguments["move"]))), ("file", path))
            case "anchor":
                return tuple(("file", place) for place in step.arguments["links"])
            case "export":
                return tuple(("export", copy.name) for copy in _copies(step))
            case "mirror":
                return tuple((what, copy.name) for copy in _copies(step) for what in ("node", "job"))
            case _:
                return ()

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Do one step."""
        match step.deed:
            case "create":
                return await _make_image(step, here)
            case "anchor":
                for place, target in step.arguments["links"].items():
                    anchors.put(place, target)
            case "forget anchor":
                _take_anchors(step)
            case "export":
                await mirror.open_exports(here.monitor, _gate(step), _copies(step))
            case "mirror":
                since = here.monitor.events.position
                await mirror.start(here.monitor, _gate(step), _copies(step))
                await mirror.in_sync(here, _copies(step), since=since)
            case "synchronise":
                await mirror.turn_synchronous(here.monitor, _copies(step))
            case "finish":
                await mirror.finish(here.monitor, _copies(step))
            case "seal":
                await mirror.close_exports(here.monitor)
            case "keep":
                return _keep(step, here)
            case "leave":
                return _leave(step, here)
            case _:
                raise LookupError(f"{self.name} has no step {step.deed}")
        return {}

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Undo one step; a QEMU that is gone took its jobs, nodes and exports with it."""
        try:
            match step.deed:
                case "create":
                    if (path := step.arguments["image"]["path"]) and not step.arguments["device"]:
                        images.remove(path, here.move)
                case "anchor":
                    _take_anchors(step)
                case "export":
                    await mirror.withdraw_exports(here.monitor, _copies(step))
                case "mirror":
                    await mirror.stop(here.monitor, _copies(step))
                case _:
                    pass  # undone with the mirror, or done only when nothing is undone any more
        except MonitorLost:
            return


async def survey_disk(image: Image, live: Mapping[str, Any]) -> SourceDisk:
    """What a destination must know of one image.

    Args:
        image: the image.
        live: answer of `query-named-block-nodes`, by node name.
    """
    assert image.path is not None
    node = live[image.format.live_name]
    info = node["image"]
    identity = await _identify(image.path, beacon=True)
    layers = [await _identify(layer.path, beacon=True, content=True) if layer.path else None for layer in image.backing]
    used = sum(live[layer.format.live_name]["image"].get("actual-size", 0) for layer in image.backing)
    size = live[image.root.live_name]["image"]["virtual-size"]
    own = info.get("actual-size", identity.allocated)
    return SourceDisk(
        item=image.name,
        root=image.root.node_name,
        live=image.root.live_name,
        top=image.format.node_name,
        protocol=image.protocol.node_name,
        format=image.format_name,
        size=_exact_size(image, identity, size),
        allocated=min(size, own + used),
        own=own,
        identity=identity,
        options=creation_options(info),
        backing=tuple(layers),
        backing_nodes=tuple(layer.root.node_name for layer in image.backing),
        backing_formats=tuple(layer.format_name for layer in image.backing),
        snapshots=tuple(snapshot["name"] for snapshot in info.get("snapshots", ())),
        bitmaps=tuple(bitmap["name"] for bitmap in node.get("dirty-bitmaps", ()) if bitmap.get("name")),
        encrypted=bool(info.get("encrypted")) or image.format_name == "luks",
        data_file="data-file" in image.format.children,
        anchor=await asyncio.to_thread(anchor_for, str(live[image.protocol.live_name]["file"]), identity),
        passed_through=any(device.driver in PASSED_THROUGH for device in image.devices),
    )


def creation_options(info: Mapping[str, Any]) -> dict[str, str]:
    """Options with which `qemu-img create` makes an image of the same form; `info` is QEMU's ImageInfo."""
    if info["format"] != "qcow2":
        return {}
    data = info.get("format-specific", {}).get("data", {})
    options = {"cluster_size": str(info.get("cluster-size", 65536)), "compat": str(data.get("compat", "1.1"))}
    if data.get("compat", "1.1") == "0.10":
        return options
    options["lazy_refcounts"] = _on(data.get("lazy-refcounts", False))
    options["refcount_bits"] = str(data.get("refcount-bits", 16))
    if data.get("extended-l2"):
        options["extended_l2"] = "on"
    if data.get("compression-type", "zlib") != "zlib":
        options["compression_type"] = data["compression-type"]
    return options


def _on(value: object) -> str:
    return "on" if value else "off"


def _exact_size(image: Image, identity: Identity, told: int) -> int:
    """QEMU counts in sectors; a plain raw file has its exact length."""
    plain = image.format_name == "raw" and not ({"offset", "size"} & image.format.options.keys())
    return identity.size if plain and identity.rdev is None and told - identity.size in range(512) else told


async def _identify(path: str, *, beacon: bool = False, content: bool = False) -> Identity:
    try:
        return await identify(path, beacon=beacon, content=content)
    except OSError as refused:
        raise Blocked(
            f"{path} is in use by the guest, but cannot be read under that name: {refused.strerror}",
            guest_runs=Side.SOURCE,
            remedy="was it deleted or moved while the guest runs? Put it back, or copy it inside QEMU first",
        ) from refused


def _running_jobs(jobs: Iterable[Mapping[str, Any]]) -> Iterable[Finding]:
    for job in jobs:
        yield Finding(
            severity=Severity.BLOCKS,
            kind=Disks.name,
            what=f"block job {job['device']} ({job['type']}) is running",
            remedy="let it end, or cancel it",
            side=Side.SOURCE,
        )


def _exports(exports: Iterable[Mapping[str, Any]]) -> Iterable[Finding]:
    for export in exports:
        yield Finding(
            severity=Severity.WARNING,
            kind=Disks.name,
            what=f"this QEMU exports {export['node-name']} as {export['id']}; its readers will be cut off",
            side=Side.SOURCE,
        )


def _placed(offer: Offer) -> tuple[PlacedDisk, ...]:
    return msgspec.convert(offer.chosen.get("disks", []), tuple[PlacedDisk, ...])


def _copy(disk: PlacedDisk, move: MoveId, number: int, speed: int) -> mirror.Copy:
    return mirror.Copy(
        item=disk.source.item,
        node=disk.source.live,
        into=disk.into,
        name=f"limosa-{short(move)}-d{number}",
        size=disk.source.size,
        sync="top" if disk.keeps_backing else "full",
        speed=speed,
    )


class _Steps:
    """Writes down steps that share their arguments."""

    def __init__(self, kind: str, arguments: dict[str, Any]) -> None:
        self._kind = kind
        self._arguments = arguments

    def __call__(self, deed: str, side: Side, when: When, summary: str) -> CargoStep:
        return CargoStep(
            kind=self._kind, deed=deed, side=side, when=when, summary=summary, arguments=dict(self._arguments)
        )


def _anchors(kind: str, disks: Iterable[PlacedDisk]) -> Iterable[CargoStep]:
    """Links at the source for images that QEMU knows by a relative name, from before the copy until it has quit."""
    links = {disk.source.anchor: disk.source.identity.path for disk in disks if disk.source.anchor}
    if not links:
        return
    for deed, when, summary in (
        ("anchor", When.BEFORE_TWIN, "put links where QEMU will look for its images"),
        ("forget anchor", When.RETIRE, "remove these links"),
    ):
        yield CargoStep(kind=kind, deed=deed, side=Side.SOURCE, when=when, summary=summary, arguments={"links": links})


def _take_anchors(step: CargoStep) -> None:
    for place, target in step.arguments["links"].items():
        anchors.take(place, target)


def _create(kind: str, disk: PlacedDisk, move: MoveId) -> CargoStep:
    assert disk.new is not None
    return CargoStep(
        kind=kind,
        deed="create",
        side=Side.DESTINATION,
        when=When.BEFORE_TWIN,
        summary=f"make {disk.path} ({disk.new.format}) for {disk.source.item}",
        arguments={"image": plain(disk.new), "device": disk.how is How.ONTO_DEVICE, "move": move},
    )


def _tidy_up(kind: str, copied: Sequence[PlacedDisk], *, keep: bool) -> Iterable[CargoStep]:
    files = {disk.source.item: disk.path for disk in copied if disk.how is How.COPIED}
    left = [
        {"path": disk.source.identity.path, "dev": disk.source.identity.dev, "ino": disk.source.identity.ino}
        for disk in copied
        if disk.source.identity.rdev is None
    ]
    if files:
        yield CargoStep(
            kind=kind,
            deed="keep",
            side=Side.DESTINATION,
            when=When.RETIRE,
            summary="make the new images permanent",
            arguments={"files": files},
        )
    if left:
        yield CargoStep(
            kind=kind,
            deed="leave",
            side=Side.SOURCE,
            when=When.RETIRE,
            summary="set the old images aside" if keep else "delete the old images",
            arguments={"files": left, "keep": keep},
        )


def _gate(step: CargoStep) -> mirror.Gate:
    return msgspec.convert(step.arguments["gate"], mirror.Gate)


def _copies(step: CargoStep) -> tuple[mirror.Copy, ...]:
    return msgspec.convert(step.arguments["copies"], tuple[mirror.Copy, ...])


async def _make_image(step: CargoStep, here: Here) -> Mapping[str, Any]:
    image = msgspec.convert(step.arguments["image"], images.NewImage)
    if step.arguments["device"]:
        await images.qemu_img_create(image, image.path)
    else:
        await images.create(image, here.move)
    return {"path": image.path, "size": image.size}


def _keep(step: CargoStep, here: Here) -> Mapping[str, Any]:
    """Give up the second names; from here on the images are nobody's but the guest's."""
    told: dict[str, dict[str, Any]] = {}
    for item, path in step.arguments["files"].items():
        images.make_permanent(path, here.move)
        found = Path(path).stat()
        told[item] = {"path": path, "data_bytes": found.st_blocks * 512, "file_size": found.st_size}
    return {"disks": told, "disk_bytes": sum(facts["data_bytes"] for facts in told.values())}


def _leave(step: CargoStep, here: Here) -> Mapping[str, Any]:
    """Rename or delete the source's images, if they are still the files that were copied.

    The guest runs elsewhere: what goes wrong here is told, and fails nothing.
    """
    told: dict[str, str] = {}
    for file in step.arguments["files"]:
        path = Path(file["path"])
        forget(file["dev"], file["ino"])
        try:
            found = path.stat()
            if (found.st_dev, found.st_ino) != (file["dev"], file["ino"]):
                told[str(path)] = "left alone: another file has this name now"
            else:
                told[str(path)] = _put_aside(path, here.move) if step.arguments["keep"] else _delete(path)
        except FileNotFoundError:
            aside = _aside(path, here.move)
            told[str(path)] = f"kept as {aside}" if aside.exists() else "gone"
        except OSError as refused:
            told[str(path)] = f"left where it was: {refused.strerror}"
    return {"old images": told}


def _aside(path: Path, move: MoveId) -> Path:
    return path.with_name(f"{path.name}.limosa-{move}")


def _put_aside(path: Path, move: MoveId) -> str:
    return f"kept as {path.rename(_aside(path, move))}"


def _delete(path: Path) -> str:
    """The file itself, and the link by which it was named."""
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    return "deleted"
