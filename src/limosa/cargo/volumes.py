"""Shared volumes reached over the network by QEMU itself: NBD, iSCSI, RBD and the like.

Nothing is copied. The destination must reach the volume at the address that the source uses (or at a mapped
one) and find the same size there; a name that means another machine at each host, such as `localhost` or a
path of a Unix socket, is no shared volume.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from limosa.cargo import images
from limosa.cargo.graph import with_nodes
from limosa.cargo.identity import boot_id
from limosa.cargo.kind import HostFacts, NoDeeds, Offer, Survey, plain
from limosa.cargo.storage import EMPTY, Carrier, Image, carried_by, mapped, parts_of
from limosa.errors import LimosaError
from limosa.guest.profile import BlockNode, Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

CARRIED = frozenset({"nbd", "iscsi", "rbd", "http", "https", "ftp", "ftps", "ssh", "nfs", "gluster"})
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]", ""})
_NOT_FOR_PROBES = frozenset({"cache", "discard", "detect-zeroes", "reconnect-delay", "open-timeout", "locking", "aio"})
_INFO_ERRORS_UNKNOWN = ("Unknown driver", "Unknown protocol")
_CHECK_SECONDS = 10.0


class Volumes(NoDeeds):
    """Images on network protocols, and images without data."""

    name = "volumes"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Roots whose data is reached by a protocol of the network, and the devices on them."""
        return parts_of(profile, Carrier.VOLUMES)

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """Refuse protocols that limosa does not know; tell which kernel a Unix socket's inode belongs to."""
        findings, sockets = [], {}
        for image in carried_by(profile, Carrier.VOLUMES):
            driver = image.protocol.driver
            if driver not in CARRIED | EMPTY:
                text = f"{image.name} is reached by {driver}, which limosa does not know"
                findings.append(_finding(Severity.BLOCKS, text, "use NBD, iSCSI, RBD or a file", side=Side.SOURCE))
            if path := _unix_path(image.protocol):
                sockets[image.root.node_name] = _inode(path)
        return Survey(kind=self.name, findings=tuple(findings), learned={"sockets": sockets})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Try to reach every volume from here, all at once."""
        wanted = [i for i in carried_by(profile, Carrier.VOLUMES) if i.protocol.driver in CARRIED]
        nodes = [_mapped(image.protocol, request.maps) for image in wanted]
        sockets = survey.learned.get("sockets", {})
        checks = (
            _check(image, node, sockets.get(image.root.node_name)) for image, node in zip(wanted, nodes, strict=True)
        )
        findings = [finding for finding in await asyncio.gather(*checks) if finding is not None]
        changed = [node for node, image in zip(nodes, wanted, strict=True) if node != image.protocol]
        return Offer(kind=self.name, findings=tuple(findings), chosen={"nodes": plain(changed)})

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """Servers, where they were mapped."""
        changed = msgspec.convert(offer.chosen.get("nodes", []), tuple[BlockNode, ...])
        return with_nodes(profile, {node.node_name: node for node in changed})


def _mapped(node: BlockNode, maps: dict[str, str]) -> BlockNode:
    """A protocol node with its server's host, portal or socket as the operator wants them at the destination."""
    options = dict(node.options)
    server = options.get("server")
    if isinstance(server, dict):
        if "host" in server:
            options["server"] = server | {"host": maps.get(str(server["host"]), server["host"])}
        elif "path" in server:
            options["server"] = server | {"path": mapped(str(server["path"]), maps) or server["path"]}
    if "portal" in options:
        options["portal"] = maps.get(str(options["portal"]), options["portal"])
    return msgspec.structs.replace(node, options=options) if options != node.options else node


async def _check(image: Image, node: BlockNode, inode: Any) -> Finding | None:
    if (local := _host_of(node)) is not None and local in LOCAL_NAMES:
        text = f"{image.name} is reached at {local or 'localhost'}, which is another machine at each host"
        return _finding(Severity.BLOCKS, text, f"--map {local or 'localhost'}=ADDRESS")
    if (path := _unix_path(node)) and inode != _inode(path):
        text = f"{image.name} is reached through the socket {path}, which is not the same one here"
        return _finding(Severity.BLOCKS, text, "export it over TCP")
    description = "json:" + json.dumps(_description(node))
    try:
        told = await images.info(description, timeout=_CHECK_SECONDS)
    except LimosaError as trouble:
        if any(words in trouble.what for words in _INFO_ERRORS_UNKNOWN) or node.options.keys() & {"tls-creds", "user"}:
            text = f"{image.name}: this host's qemu-img cannot try {node.driver} with these options; the twin will"
            return _finding(Severity.NOTE, text)
        text = f"{image.name} ({node.driver}) cannot be reached from here: {trouble.what}"
        remedy = "open the way to it; an NBD server must allow several clients (qemu-nbd --shared=0)"
        return _finding(Severity.BLOCKS, text, remedy)
    return _size_differs(image, node, told)


def _size_differs(image: Image, node: BlockNode, told: Mapping[str, Any]) -> Finding | None:
    here, there = int(told["virtual-size"]), node.virtual_size
    if here == there:
        return None
    text = f"{image.name} has {there} bytes at the source; what is reached from here has {here}"
    return _finding(Severity.BLOCKS, text, "that is another volume: see its address")


def _description(node: BlockNode) -> dict[str, Any]:
    kept = {name: value for name, value in node.options.items() if name not in _NOT_FOR_PROBES}
    return {"driver": node.driver, "read-only": True, **kept}


def _host_of(node: BlockNode) -> str | None:
    server = node.options.get("server")
    if isinstance(server, dict):
        return str(server["host"]) if "host" in server else None
    portal = node.options.get("portal")
    return str(portal).rpartition(":")[0] or str(portal) if portal is not None else None


def _unix_path(node: BlockNode) -> str | None:
    server = node.options.get("server")
    return str(server["path"]) if isinstance(server, dict) and server.get("type") == "unix" else None


def _inode(path: str) -> list[str | int] | None:
    """What tells a socket from another one of the same name; None where there is none."""
    if not Path(path).is_socket():
        return None
    found = Path(path).stat()
    return [boot_id(), found.st_dev, found.st_ino]


def _finding(severity: Severity, what: str, remedy: str = "", *, side: Side = Side.DESTINATION) -> Finding:
    return Finding(severity=severity, kind=Volumes.name, what=what, remedy=remedy, side=side)
