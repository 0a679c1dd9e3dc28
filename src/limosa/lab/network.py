"""The lab's cables: three links for each host, all ending in bridges of the fabric's namespace.

    link        in the host         in the fabric             addresses
    guest       eth0, port of br0   a-guest, port of guest    10.66.0.11, .12, …  (on br0)
    migration   mig0                a-mig, port of mig        10.67.0.11, .12, …  (rate-limited with --link-mbit)
    peer        peer0               a-peer, port of peer      10.68.0.11, .12, …  (the agents' own link)

The observer's `eth0` hangs on the guest bridge as 10.66.0.2. Every name lies inside a namespace, so any number of labs
use the same ones. The functions here write `ip -batch` input; `apply` carries it out.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from limosa.lab.inside import tool
from limosa.lab.state import LabError

FIRST = 11
"""Last byte of host a's addresses."""


class Link(StrEnum):
    """A host's three links."""

    GUEST = "guest"
    MIGRATION = "migration"
    PEER = "peer"


class LinkState(StrEnum):
    """What became of a link."""

    UP = "up"
    DOWN = "down"
    DROPPING = "dropping"


@dataclass(frozen=True, slots=True)
class Cable:
    """How one kind of link is built: its bridge in the fabric, its interface in a host, its /24."""

    bridge: str
    inside: str
    network: str
    number: int


CABLES = {
    Link.GUEST: Cable("guest", "eth0", "10.66.0", 1),
    Link.MIGRATION: Cable("mig", "mig0", "10.67.0", 2),
    Link.PEER: Cable("peer", "peer0", "10.68.0", 3),
}
OBSERVER_ADDRESS = "10.66.0.2"
BRIDGE = "bridge stp_state 0 forward_delay 0 mcast_snooping 0"


@dataclass(frozen=True, slots=True)
class Addresses:
    """One host's IPv4 addresses on the three networks, each a /24."""

    guest: str
    migration: str
    peer: str


def addresses(index: int) -> Addresses:
    """Those of the host with this index: 0 is host a."""
    return Addresses(*(f"{CABLES[link].network}.{FIRST + index}" for link in Link))


def port(host: str, link: Link) -> str:
    """The fabric's end of a cable: `a-mig`."""
    return f"{host}-{CABLES[link].bridge}"


def mac(number: int, index: int) -> str:
    """A locally administered address; the same in every lab, since labs never meet."""
    return f"02:6c:00:00:{number:02x}:{FIRST + index:02x}"


def fabric_batch() -> list[str]:
    """The three bridges."""
    made = [f"link add {cable.bridge} type {BRIDGE}" for cable in CABLES.values()]
    return ["link set lo up", *made, *(f"link set {cable.bridge} up" for cable in CABLES.values())]


def cable_batch(host: str, index: int, pid: int) -> list[str]:
    """Plug in one host's cables, run in the fabric. `pid` is the host's init."""
    lines = []
    for link, cable in CABLES.items():
        end = port(host, link)
        lines += [
            f"link add {end} type veth peer name {cable.inside} address {mac(cable.number, index)} netns {pid}",
            f"link set {end} master {cable.bridge}",
            f"link set {end} up",
        ]
    return lines


def host_batch(index: int) -> list[str]:
    """Run in the host: its bridge br0 over eth0, its addresses."""
    own = addresses(index)
    return [
        "link set lo up",
        # A fixed address: a bridge without one takes a new one with every tap that comes or goes.
        f"link add br0 address {mac(0, index)} type {BRIDGE}",
        "link set eth0 master br0",
        *(f"link set {name} up" for name in ("eth0", "br0", "mig0", "peer0")),
        f"addr add {own.guest}/24 dev br0",
        f"addr add {own.migration}/24 dev mig0",
        f"addr add {own.peer}/24 dev peer0",
    ]


def observer_cable_batch(pid: int) -> list[str]:
    """Plug the observer in, run in the fabric."""
    return [
        f"link add obs-guest type veth peer name eth0 address {mac(4, 0)} netns {pid}",
        "link set obs-guest master guest",
        "link set obs-guest up",
    ]


def observer_batch() -> list[str]:
    """Run in the observer."""
    return ["link set lo up", "link set eth0 up", f"addr add {OBSERVER_ADDRESS}/24 dev eth0"]


def limit_batch(device: str, mbit: float) -> list[str]:
    """`tc -batch` input: what leaves by `device` is held to `mbit` Mbit/s."""
    # Room for 4 ms, or for one of the 64 KiB packets that segmentation offload makes of a TCP stream.
    burst = max(int(mbit * 1e6 / 8 * 0.004), 128 * 1024)
    return [f"qdisc add dev {device} root tbf rate {mbit:g}mbit burst {burst} latency 50ms"]


SWALLOW = """
add table bridge limosa
add set bridge limosa swallowed { type ifname; }
add chain bridge limosa forward { type filter hook forward priority 0; }
flush chain bridge limosa forward
add rule bridge limosa forward iifname @swallowed drop
add rule bridge limosa forward oifname @swallowed drop
"""
"""nft, in the fabric: what comes from or goes to a port of the set is lost. Writing it again does no harm.

Not the bridge's own port states: the kernel resets a disabled port at its next carrier event, a blocking one at any
other port's.
"""


def swallow_rules(end: str, on: bool) -> str:
    """Input for nft that makes a port lose packets, or pass them again."""
    element = f'element bridge limosa swallowed {{ "{end}" }}\n'
    # Added first, so that taking it out never finds it missing.
    return f"{SWALLOW}add {element}" + ("" if on else f"delete {element}")


def in_network(pid: int, argv: list[str]) -> list[str]:
    """A command line that runs one of the machine's tools in another process's network namespace."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *argv]


async def apply(pid: int, batch: list[str], program: str = "ip") -> None:
    """Carry out `ip` (or `tc`) commands in the network namespace of a process. Raises LabError."""
    await tool(in_network(pid, [program, "-batch", "-"]), stdin="\n".join(batch) + "\n")


async def interfaces(pid: int) -> dict[str, dict[str, Any]]:
    """The interfaces of a process's network namespace by name, as `ip -d -j link` describes them. Raises LabError."""
    told = json.loads(await tool(in_network(pid, ["ip", "-d", "-j", "link", "show"])))
    return {entry["ifname"]: entry for entry in told}


async def swallowed(fabric: int) -> frozenset[str]:
    """The ports that lose packets at present. Raises LabError."""
    told = json.loads(await tool(in_network(fabric, ["nft", "-j", "list", "ruleset"])))
    sets = (entry["set"] for entry in told["nftables"] if "set" in entry)
    return frozenset(name for each in sets if each["name"] == "swallowed" for name in each.get("elem", ()))


async def swallow(fabric: int, end: str, on: bool) -> None:
    """Make a port lose packets, or pass them again. Raises LabError."""
    await tool(in_network(fabric, ["nft", "-f", "-"]), stdin=swallow_rules(end, on))


async def until_usable(ends: Iterable[tuple[int, str]], timeout: float = 10.0) -> None:
    """Wait until interfaces have their carrier, given as process and name: the kernel may take a second to notice.

    Raises:
        LabError: one of them has none after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    for pid, name in ends:
        while not usable(await interfaces(pid), name):
            if time.monotonic() > deadline:
                raise LabError(f"{name} has no carrier after {timeout:g} s", remedy="limosa lab status")
            await asyncio.sleep(0.02)  # what announces carriers, `ip monitor`, may miss the one that came before it


def usable(described: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    """Whether packets pass an interface: it is up, and forwards if it is a bridge's port."""
    of = described.get(name, {})
    state = of.get("linkinfo", {}).get("info_slave_data", {}).get("state", "forwarding")
    return of.get("operstate") == "UP" and state == "forwarding"
