"""Kinds of cargo for model QEMUs: disks that are copied, NICs on taps, and a rest that needs nothing.

Their steps have the order and the undoing of the real ones (cargo/disks.py, cargo/nics.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from limosa.cargo.kind import CargoStep, Here, HostFacts, Kind, NoDeeds, Offer, Streams, Survey, When
from limosa.errors import MonitorLost, MoveFailed
from limosa.guest.parts import parts
from limosa.guest.profile import Profile
from limosa.testing.model.qemu import Image
from limosa.units import MoveId, Side
from limosa.wire.moves import MoveRequest


class Hardware(Protocol):
    """What a host has beside its QEMUs."""

    files: dict[str, Image]
    """Path -> image; these outlive a power cut."""
    taps: set[str]
    """Network interfaces; these do not."""


class Ground(Protocol):
    """Where the model's cargo finds its hosts."""

    def hardware(self, host: str) -> Hardware:
        """One host's files and interfaces."""

    def at(self, point: str) -> None:
        """A point at which something may fail."""


def second_name(path: str) -> str:
    """The name that marks an image as new."""
    return f"{path}.new"


class ModelDisks(NoDeeds):
    """Images that are created, mirrored, finished, sealed, kept and left, as real ones are."""

    name = "disks"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def claims(self, profile: Profile) -> frozenset[str]:
        """Every block node."""
        return frozenset(f"block:{node.node_name}" for node in profile.block_nodes)

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """New paths and names."""
        numbers = range(len(profile.block_nodes))
        return Offer(
            kind=self.name,
            chosen={
                "paths": [f"/srv/{move}-{n}" for n in numbers],
                "old": [node.filename for node in profile.block_nodes],
                "names": [f"limosa-{move}-{n}" for n in numbers],
            },
        )

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """New paths."""
        nodes = zip(profile.block_nodes, offer.chosen["paths"], strict=True)
        return msgspec.structs.replace(
            profile, block_nodes=tuple(msgspec.structs.replace(node, filename=path) for node, path in nodes)
        )

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """As the real kind's."""

        def step(deed: str, side: Side, when: When) -> CargoStep:
            return CargoStep(
                kind=self.name, deed=deed, side=side, when=when, summary=deed, arguments=dict(offer.chosen)
            )

        return (
            step("create", Side.DESTINATION, When.BEFORE_TWIN),
            step("export", Side.DESTINATION, When.COPY),
            step("mirror", Side.SOURCE, When.COPY),
            step("synchronise", Side.SOURCE, When.BEFORE_RAM),
            step("finish", Side.SOURCE, When.PAUSED),
            step("seal", Side.DESTINATION, When.PAUSED),
            step("keep", Side.DESTINATION, When.RETIRE),
            step("leave", Side.SOURCE, When.RETIRE),
        )

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Files and exports."""
        match step.deed:
            case "create":
                return [("file", path) for path in step.arguments["paths"]]
            case "export":
                return [("export", name) for name in step.arguments["names"]]
            case _:
                return ()

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Do one step."""
        names = {"names": step.arguments["names"]}
        files = self._ground.hardware(here.host.name).files
        match step.deed:
            case "create":
                for path in step.arguments["paths"]:
                    self._ground.at(f"create {here.host.name}")
                    if path in files and second_name(path) not in files:
                        raise MoveFailed(f"{path} exists")
                    if path not in files:
                        files[path] = files[second_name(path)] = Image()
            case "export":
                await here.monitor.execute("x-export", names)
            case "mirror":
                await here.monitor.execute("x-mirror", names)
            case "synchronise":
                self._no_error(await here.monitor.execute("x-jobs"))
            case "finish":
                await here.monitor.execute("x-finish", names)
            case "seal":
                await here.monitor.execute("x-withdraw", names)
            case "keep":
                for path in step.arguments["paths"]:
                    self._ground.at(f"keep {here.host.name}")
                    files.pop(second_name(path), None)
            case "leave":
                for path in step.arguments["old"]:
                    self._ground.at(f"leave {here.host.name}")
                    files.pop(path, None)
            case _:
                raise LookupError(step.deed)
        return {}

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Undo one step."""
        files = self._ground.hardware(here.host.name).files
        try:
            match step.deed:
                case "create":
                    for path in step.arguments["paths"]:
                        self._ground.at(f"remove {here.host.name}")
                        if files.pop(second_name(path), None) is not None:
                            files.pop(path, None)
                case "export":
                    await here.monitor.execute("x-withdraw", {"names": step.arguments["names"]})
                case "mirror":
                    await here.monitor.execute("x-unmirror", {"names": step.arguments["names"]})
                case _:
                    pass
        except MonitorLost:
            return

    @staticmethod
    def _no_error(jobs: list[dict[str, Any]]) -> None:
        for job in jobs:
            if job["error"] is not None:
                raise MoveFailed(f"the copy of {job['id']} failed: {job['error']}", guest_runs=Side.SOURCE)


class ModelNics(NoDeeds):
    """Taps that are made, links that go down at the source and up at the destination."""

    name = "nics"

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def claims(self, profile: Profile) -> frozenset[str]:
        """Every network backend."""
        return frozenset(f"netdev:{netdev.id}" for netdev in profile.netdevs)

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """One step of each sort for all NICs."""
        nics = {"nics": list(range(len(profile.netdevs)))}

        def step(deed: str, side: Side, when: When) -> CargoStep:
            return CargoStep(kind=self.name, deed=deed, side=side, when=when, summary=deed, arguments=nics)

        return (
            step("tap", Side.DESTINATION, When.BEFORE_TWIN),
            step("down", Side.SOURCE, When.PAUSED),
            step("up", Side.DESTINATION, When.BEFORE_CONT),
            step("announce", Side.DESTINATION, When.ANNOUNCE),
            step("untap", Side.SOURCE, When.RETIRE),
        )

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Taps."""
        return [("tap", f"tap{n}") for n in step.arguments["nics"]] if step.deed == "tap" else ()

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Do one step."""
        taps = self._ground.hardware(here.host.name).taps
        for nic in step.arguments["nics"]:
            self._ground.at(f"nics {step.deed} {here.host.name}")
            match step.deed:
                case "tap":
                    taps.add(f"tap{nic}")
                case "untap":
                    taps.discard(f"tap{nic}")
                case "down":
                    await here.monitor.execute("x-set-link", {"nic": nic, "up": False})
                case _:
                    await here.monitor.execute("x-set-link", {"nic": nic, "up": True})
        return {}

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Undo one step."""
        taps = self._ground.hardware(here.host.name).taps
        for nic in step.arguments["nics"]:
            self._ground.at(f"nics un{step.deed} {here.host.name}")
            if step.deed == "tap":
                taps.discard(f"tap{nic}")
            elif step.deed == "down":
                try:
                    await here.monitor.execute("x-set-link", {"nic": nic, "up": True})
                except MonitorLost:
                    return


class Rest(NoDeeds):
    """What the other kinds leave over."""

    name = "rest"

    def claims(self, profile: Profile) -> frozenset[str]:
        """All but disks and networks."""
        return frozenset(part for part in parts(profile) if not part.startswith(("block:", "netdev:")))


def model_kinds(ground: Ground) -> dict[str, Kind]:
    """The model's kinds by name."""
    kinds: tuple[Kind, ...] = (ModelDisks(ground), ModelNics(ground), Rest())
    return {kind.name: kind for kind in kinds}
