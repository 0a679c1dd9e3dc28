"""NICs with a tap on a Linux bridge.

The destination makes a persistent tap of its own beside the same bridge, and wires it like the source's port
(MTU, VLANs, hairpin, isolation, learning, flooding). It passes no frame until the source's port has been shut
and the guest is about to run there. User-mode and socket backends hold their peers' connections inside the
source's QEMU; they are moved only if told so.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from limosa.cargo import taps
from limosa.cargo.graph import short
from limosa.cargo.kind import CargoStep, Here, HostFacts, NoDeeds, Offer, Streams, Survey, When, plain
from limosa.cargo.taps import Link, NewTap
from limosa.errors import Blocked, MonitorLost
from limosa.guest.profile import Netdev, Profile
from limosa.qmp.monitor import Monitor
from limosa.units import MoveId, Side
from limosa.wire.findings import Finding, Severity
from limosa.wire.moves import MoveRequest

BREAK_USER_NET = "break-user-net"
BREAK_SOCKET_NET = "break-socket-net"
UNBRIDGED = "unbridged-tap"
VHOST_NET = "/dev/vhost-net"

ALIAS = "limosa:"
"""Interfaces that limosa made have an alias that begins like this."""

TAPS = frozenset({"tap", "bridge"})
SOCKETS = frozenset({"socket", "stream", "dgram", "l2tpv3", "vde"})
BLOCKED_TYPES = frozenset({"vhost-user", "vhost-vdpa", "af-xdp", "netmap", "vmnet-host", "passt"})

_TAP_OPTIONS = frozenset({"vhost", "vhostforce", "queues", "poll-us", "sndbuf"})
"""Options that a tap keeps; the others name things of the source host (fds, scripts, helpers, interfaces)."""

# Half as fast again as QEMU's own announcement, which also happens; switches drop the odd broadcast.
_ANNOUNCE = {"initial": 50, "max": 550, "rounds": 5, "step": 100}


class SourceTap(msgspec.Struct, frozen=True, kw_only=True):
    """A netdev's tap as it is at the source."""

    netdev: str
    ifname: str
    bridge: str | None
    mtu: int
    multi_queue: bool
    port: dict[str, int] = {}
    vlans: tuple[tuple[int, int], ...] = ()


class PlacedTap(msgspec.Struct, frozen=True, kw_only=True):
    """A netdev's tap and what it becomes at the destination."""

    source: SourceTap
    tap: NewTap
    vhost: bool


class Nics(NoDeeds):
    """Network backends and the NICs on them."""

    name = "nics"

    def claims(self, profile: Profile) -> frozenset[str]:
        """Every netdev whose type is known, and every device that has a netdev."""
        known = TAPS | SOCKETS | BLOCKED_TYPES | {"user", "hubport"}
        netdevs = {f"netdev:{netdev.id}" for netdev in profile.netdevs if netdev.type in known}
        return frozenset(netdevs | {f"device:{device.path}" for device in profile.devices if device.netdev})

    async def check_source(self, profile: Profile, host: HostFacts, request: MoveRequest, monitor: Monitor) -> Survey:
        """How each tap is wired, and which backends would break."""
        findings = list(_unmovable(profile))
        wanted = [netdev for netdev in profile.netdevs if netdev.type in TAPS]
        if not wanted:
            return Survey(kind=self.name, findings=tuple(findings))
        links = await taps.links()
        found = []
        for netdev in wanted:
            link = links.get(netdev.ifname or "")
            trouble = _trouble(netdev, link)
            findings += trouble
            if link is not None and not any(finding.consent is None for finding in trouble):
                found.append(_source_tap(netdev, link))
        return Survey(kind=self.name, findings=tuple(findings), learned={"taps": plain(found)})

    async def offer(
        self, profile: Profile, survey: Survey, host: HostFacts, request: MoveRequest, move: MoveId
    ) -> Offer:
        """Find each bridge here, and a free name for each tap."""
        wanted = msgspec.convert(survey.learned.get("taps", []), tuple[SourceTap, ...])
        if not wanted:
            return Offer(kind=self.name)
        links = await taps.links()
        placed, findings = place(wanted, links, host, request, move)
        vhost = os.access(VHOST_NET, os.R_OK | os.W_OK)
        asked = {netdev.id for netdev in profile.netdevs if _wants_vhost(netdev)}
        if asked and not vhost:
            text = f"{VHOST_NET} is missing here; {', '.join(sorted(asked))} will work without vhost, more slowly"
            findings += (_finding(Severity.WARNING, text, "modprobe vhost_net"),)
        chosen = [PlacedTap(source=tap, tap=new, vhost=vhost and tap.netdev in asked) for tap, new in placed]
        return Offer(kind=self.name, findings=findings, chosen={"taps": plain(chosen)})

    def rewrite(self, profile: Profile, offer: Offer) -> Profile:
        """The twin opens the destination's taps by name; it runs no script and no helper."""
        placed = {tap.source.netdev: tap for tap in _placed(offer)}
        netdevs = tuple(_rewritten(netdev, placed.get(netdev.id)) for netdev in profile.netdevs)
        return msgspec.structs.replace(profile, netdevs=netdevs)

    def steps(self, profile: Profile, offer: Offer, streams: Streams) -> Sequence[CargoStep]:
        """Make taps, wire them, shut the source's, open the destination's, announce, tidy up."""
        placed = _placed(offer)
        if not placed:
            return ()
        here = [tap.tap.name for tap in placed]
        there = [tap.source.ifname for tap in placed]

        def step(deed: str, side: Side, when: When, summary: str, **arguments: Any) -> CargoStep:
            return CargoStep(kind=self.name, deed=deed, side=side, when=when, summary=summary, arguments=arguments)

        return (
            *(step("tap", Side.DESTINATION, When.BEFORE_TWIN, _summary(tap.tap), tap=plain(tap.tap)) for tap in placed),
            step("wire", Side.DESTINATION, When.COPY, f"wire {', '.join(here)}, shut", names=here),
            step("shut", Side.SOURCE, When.PAUSED, f"shut {', '.join(there)}", names=there),
            step("open", Side.DESTINATION, When.BEFORE_CONT, f"open {', '.join(here)}", names=here),
            step("announce", Side.DESTINATION, When.ANNOUNCE, "announce the guest's addresses (RARP)"),
            step("leave", Side.SOURCE, When.RETIRE, f"take {', '.join(there)} off the network", names=there),
        )

    def creates(self, step: CargoStep) -> Sequence[tuple[str, str]]:
        """Taps."""
        return (("tap", step.arguments["tap"]["name"]),) if step.deed == "tap" else ()

    async def make(self, step: CargoStep, here: Here) -> Mapping[str, Any]:
        """Do one step."""
        names = step.arguments.get("names", ())
        match step.deed:
            case "tap":
                await _make_tap(msgspec.convert(step.arguments["tap"], NewTap))
            case "wire":
                await taps.wire(names)
            case "shut":
                return {"gone": list(taps.shut(names))}
            case "open":
                return {"gone": list(taps.reopen(names))}
            case "announce":
                await here.monitor.execute("announce-self", _ANNOUNCE)
            case "leave":
                return await _leave(names)
            case _:
                raise LookupError(f"{self.name} has no step {step.deed}")
        return {}

    async def unmake(self, step: CargoStep, here: Here) -> None:
        """Undo one step: the source's ports open again, the destination's taps gone."""
        try:
            match step.deed:
                case "tap":
                    tap = msgspec.convert(step.arguments["tap"], NewTap)
                    await taps.remove(tap.name, tap.alias)
                case "shut":
                    taps.reopen(step.arguments["names"])
                case _:
                    pass  # undone with the tap, or done only when nothing is undone any more
        except MonitorLost:
            return


def place(
    wanted: Iterable[SourceTap], links: Mapping[str, Link], host: HostFacts, request: MoveRequest, move: MoveId
) -> tuple[tuple[tuple[SourceTap, NewTap], ...], tuple[Finding, ...]]:
    """Choose bridge and name for every tap. Pure.

    Args:
        wanted: the source's taps.
        links: the destination's interfaces by name.
        host: the destination.
        request: its maps may name other bridges and taps.
        move: goes into names and aliases.
    """
    taken = set(links)
    placed: list[tuple[SourceTap, NewTap]] = []
    findings: list[Finding] = []
    for number, tap in enumerate(wanted):
        bridge = _bridge(tap, host, request)
        problems = tuple(_bridge_findings(tap, bridge, links))
        findings += problems
        if any(finding.severity is Severity.BLOCKS for finding in problems):
            continue
        name = request.maps.get(tap.ifname, tap.ifname)
        if name in taken:
            name = f"lm{short(move)}n{number}"
        taken.add(name)
        new = NewTap(
            name=name,
            alias=f"{ALIAS}{move}:{tap.netdev}",
            bridge=bridge,
            mtu=tap.mtu,
            multi_queue=tap.multi_queue,
            port=tap.port if bridge else {},
            vlans=tap.vlans if bridge and links[bridge].vlan_filtering else (),
        )
        placed.append((tap, new))
    return tuple(placed), tuple(findings)


def _bridge(tap: SourceTap, host: HostFacts, request: MoveRequest) -> str | None:
    if tap.bridge is None:
        return None
    return request.maps.get(tap.bridge) or host.bridges.get(tap.bridge, tap.bridge)


def _bridge_findings(tap: SourceTap, bridge: str | None, links: Mapping[str, Link]) -> Iterable[Finding]:
    if bridge is None:
        return
    found = links.get(bridge)
    if found is None or found.kind != "bridge":
        why = "there is no bridge" if found is None else "it is no bridge"
        yield _finding(
            Severity.BLOCKS,
            f"{tap.netdev} is on {tap.bridge}; here, {bridge}: {why}",
            f"create it, or name the right one: --map {tap.bridge}=BRIDGE",
        )
        return
    if not found.up:
        yield _finding(Severity.WARNING, f"bridge {bridge} is down here", f"ip link set {bridge} up")
    if found.stp:
        yield _finding(
            Severity.WARNING,
            f"bridge {bridge} runs spanning tree: the new port will pass nothing for twice its forward delay",
            f"ip link set {bridge} type bridge stp_state 0, or forward_delay 0",
        )
    if 0 < found.mtu < tap.mtu:
        yield _finding(
            Severity.WARNING, f"bridge {bridge} carries {found.mtu} bytes here; the guest's NIC sends up to {tap.mtu}"
        )
    if tap.vlans and not found.vlan_filtering:
        yield _finding(Severity.WARNING, f"{tap.netdev} has VLANs at the source; bridge {bridge} does not filter here")


def _unmovable(profile: Profile) -> Iterable[Finding]:
    for netdev in profile.netdevs:
        if netdev.type == "user":
            yield _finding(
                Severity.BLOCKS,
                f"{netdev.id} is user-mode networking: the guest's connections through it would break",
                "use a tap on a bridge",
                side=Side.SOURCE,
                consent=BREAK_USER_NET,
            )
        elif netdev.type in SOCKETS and not ({"mcast", "udp"} & netdev.options.keys()):
            yield _finding(
                Severity.BLOCKS,
                f"{netdev.id} ({netdev.type}) is a connection of this QEMU to another one: it would break",
                "use a tap on a bridge",
                side=Side.SOURCE,
                consent=BREAK_SOCKET_NET,
            )
        elif netdev.type in BLOCKED_TYPES:
            yield _finding(
                Severity.BLOCKS,
                f"{netdev.id} is {netdev.type}: its state is in another process or device, which cannot be moved",
                "use a tap on a bridge",
                side=Side.SOURCE,
            )


def _trouble(netdev: Netdev, link: Link | None) -> tuple[Finding, ...]:
    name = netdev.ifname or netdev.id
    if link is None:
        text = f"{netdev.id}: the tap {name} is not in this network namespace"
        return (_finding(Severity.BLOCKS, text, "run the agent where the guest's taps are", side=Side.SOURCE),)
    if link.kind not in {"tun", None}:
        text = f"{netdev.id}: {name} is {link.kind}, not a tap on a bridge"
        return (_finding(Severity.BLOCKS, text, "use a tap on a Linux bridge", side=Side.SOURCE),)
    if link.master is not None and link.master_kind != "bridge":
        text = f"{netdev.id}: {name} is on {link.master} ({link.master_kind}), not on a Linux bridge"
        return (_finding(Severity.BLOCKS, text, "use a Linux bridge", side=Side.SOURCE),)
    if link.master is None:
        text = f"{netdev.id}: {name} is on no bridge; addresses and routes of the host are not carried"
        remedy = "put it on a bridge; if you accept it, set up the destination's end yourself"
        return (_finding(Severity.BLOCKS, text, remedy, side=Side.SOURCE, consent=UNBRIDGED),)
    return ()


def _source_tap(netdev: Netdev, link: Link) -> SourceTap:
    return SourceTap(
        netdev=netdev.id,
        ifname=link.name,
        bridge=link.master,
        mtu=link.mtu,
        multi_queue=link.multi_queue or _queues(netdev) > 1,
        port=link.port,
        vlans=link.vlans,
    )


def _queues(netdev: Netdev) -> int:
    if "queues" in netdev.options:
        return int(netdev.options["queues"])
    return str(netdev.options.get("fds", "")).count(":") + 1


def _wants_vhost(netdev: Netdev) -> bool:
    options = netdev.options
    return options.get("vhost") in (True, "on", "yes") or bool({"vhostfd", "vhostfds", "vhostforce"} & options.keys())


def _rewritten(netdev: Netdev, placed: PlacedTap | None) -> Netdev:
    if placed is None:
        return netdev
    options = {name: value for name, value in netdev.options.items() if name in _TAP_OPTIONS}
    options.pop("vhost", None)
    if not placed.vhost:
        options.pop("vhostforce", None)
    options |= {"ifname": placed.tap.name, "script": "no", "downscript": "no"}
    if placed.vhost:
        options["vhost"] = True
    if (queues := _queues(netdev)) > 1:
        options["queues"] = queues
    return msgspec.structs.replace(
        netdev, type="tap", options=options, ifname=placed.tap.name, bridge=placed.tap.bridge
    )


def _placed(offer: Offer) -> tuple[PlacedTap, ...]:
    return msgspec.convert(offer.chosen.get("taps", []), tuple[PlacedTap, ...])


def _summary(tap: NewTap) -> str:
    return f"make {tap.name}" + (f" on {tap.bridge}" if tap.bridge else "")


async def _make_tap(tap: NewTap) -> None:
    try:
        await taps.create(tap)
    except FileExistsError as taken:
        raise Blocked(f"there is another interface {tap.name} at the destination", remedy="try again") from taken
    except OSError as refused:
        remedy = "is the tun module loaded, and has the agent CAP_NET_ADMIN?"
        raise Blocked(f"cannot make the tap {tap.name}: {refused.strerror}", remedy=remedy) from refused


async def _leave(names: Iterable[str]) -> Mapping[str, Any]:
    """Taps that limosa made go; those of others stay, down and off the bridge."""
    links = await taps.links()
    told: dict[str, str] = {}
    for name in names:
        link = links.get(name)
        if link is None:
            told[name] = "gone with its QEMU"
        elif link.alias and link.alias.startswith(ALIAS):
            await taps.remove(name, link.alias)
            told[name] = "removed"
        else:
            await taps.set_aside(name)
            told[name] = "left, down and off its bridge"
    return {"old taps": told}


def _finding(
    severity: Severity, what: str, remedy: str = "", *, side: Side = Side.DESTINATION, consent: str | None = None
) -> Finding:
    return Finding(severity=severity, kind=Nics.name, what=what, remedy=remedy, side=side, consent=consent)
