"""Taps and bridge ports of this host's kernel.

What happens while the guest is paused (port off, port on) is a single system call per interface; everything
slower is done before or after.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

import msgspec
from pyroute2 import AsyncIPRoute, NetlinkError

IFF_UP, IFF_RUNNING = 0x1, 0x40
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x2, 0x1000, 0x4000, 0x100
TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
_RTM_SETLINK, _NLM_F_REQUEST, _NLM_F_ACK = 19, 1, 4
_IFLA_PROTINFO, _IFLA_BRPORT_STATE, _NLA_F_NESTED = 12, 1, 0x8000
_STATE_DISABLED, _STATE_FORWARDING = 0, 3

OPERATIONAL_SECONDS = 2.0
"""How long a port may take to become operational; the kernel needs at most one second."""

PORT_OPTIONS = (
    "mode",
    "guard",
    "protect",
    "fast_leave",
    "learning",
    "unicast_flood",
    "mcast_flood",
    "bcast_flood",
    "proxyarp",
    "isolated",
    "neigh_suppress",
)
"""Attributes of a bridge port that are an administrator's choice (linux/if_link.h, IFLA_BRPORT_*)."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One interface as the kernel describes it."""

    name: str
    index: int
    kind: str | None
    up: bool
    mtu: int
    master: str | None = None
    master_kind: str | None = None
    alias: str | None = None
    multi_queue: bool = False
    vnet_hdr: bool = False
    persistent: bool = False
    port: dict[str, int] = {}
    """Bridge port options that are set, by the names of PORT_OPTIONS."""
    vlans: tuple[tuple[int, int], ...] = ()
    """(vid, flags) on this port, as in `bridge vlan`; flags 2 = PVID, 4 = egress untagged."""
    stp: bool = False
    """Bridges: the kernel's spanning tree is on."""
    vlan_filtering: bool = False


class NewTap(msgspec.Struct, frozen=True, kw_only=True):
    """A tap to be made: persistent, down, a port of `bridge` with these options."""

    name: str
    alias: str
    bridge: str | None
    mtu: int
    multi_queue: bool
    port: dict[str, int] = {}
    vlans: tuple[tuple[int, int], ...] = ()
    """Empty: as the bridge gives every new port."""


async def links() -> dict[str, Link]:
    """All interfaces of this network namespace by name."""
    async with AsyncIPRoute() as netlink:
        found = [message async for message in await netlink.get_links()]
        vlans = await _vlans(netlink)
    names = {message["index"]: message.get("ifname") for message in found}
    kinds = {message["index"]: message.get(("linkinfo", "kind")) for message in found}
    return {link.name: link for link in (_link(m, names, kinds, vlans.get(m["index"], ())) for m in found)}


async def create(tap: NewTap) -> None:
    """Make a tap. One that this call made before (same alias) is made again the same; another one is an error.

    Raises:
        FileExistsError: somebody else has an interface of this name.
        OSError: the kernel refused.
    """
    present = (await links()).get(tap.name)
    if present is not None and present.alias != tap.alias:
        raise FileExistsError(errno.EEXIST, "there is another interface of this name", tap.name)
    _open_persistent(tap)
    async with AsyncIPRoute() as netlink:
        try:
            await _dress(netlink, tap)
        except NetlinkError as refused:
            raise OSError(refused.code, f"cannot set up {tap.name}: {refused}") from refused


async def remove(name: str, alias: str) -> None:
    """Remove an interface if it has this alias; safe if it is gone."""
    present = (await links()).get(name)
    if present is None or present.alias != alias:
        return
    async with AsyncIPRoute() as netlink:
        with contextlib.suppress(NetlinkError):  # it went with its QEMU between the two calls
            await netlink.link("del", index=present.index)


async def set_aside(name: str) -> None:
    """Down and off its bridge; safe if it is gone."""
    present = (await links()).get(name)
    if present is None:
        return
    async with AsyncIPRoute() as netlink:
        with contextlib.suppress(NetlinkError):  # it went with its QEMU between the two calls
            await netlink.link("set", index=present.index, state="down", master=0)


async def wire(names: Iterable[str]) -> None:
    """Up, but no frame passes yet: `reopen` ends that within microseconds.

    A tap without a carrier (nobody has it open) is disabled on its bridge anyway, and would be enabled by the
    carrier; so this belongs after the QEMU that opens it has started. The kernel tells the bridge of the carrier
    up to a second late (net/core/link_watch.c), and until then refuses to open the port: so it is waited for
    here, where the guest still runs.
    """
    wanted = tuple(names)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in wanted:
            _set_flags(sock, name, up=True)
        deadline = monotonic() + OPERATIONAL_SECONDS
        while monotonic() < deadline:
            if all(_flags(sock, name) & IFF_RUNNING for name in wanted):
                break
            await asyncio.sleep(0.01)  # a netlink group would tell, at the price of a socket for this one wait
    shut(wanted)


def shut(names: Iterable[str]) -> tuple[str, ...]:
    """No frame passes any more, to or from these interfaces; returns those that are gone.

    A bridge port is disabled, which takes microseconds. Taking an interface down waits for every CPU to have
    left the network code (synchronize_net), milliseconds and more; that is for interfaces without a bridge.
    """
    return _switch(names, _STATE_DISABLED, up=False)


def reopen(names: Iterable[str]) -> tuple[str, ...]:
    """Frames pass again; returns the interfaces that are gone."""
    return _switch(names, _STATE_FORWARDING, up=True)


def _switch(names: Iterable[str], state: int, *, up: bool) -> tuple[str, ...]:
    missing: list[str] = []
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet,
    ):
        for name in names:
            try:
                if _port_state(netlink, socket.if_nametoindex(name), state):
                    _set_flags(inet, name, up=up)
            except OSError:  # no such interface: it went with its QEMU
                missing.append(name)
    return tuple(missing)


def _port_state(netlink: socket.socket, index: int, state: int) -> int:
    """Set a bridge port's state; 0, or the errno with which the kernel refused (not a port, spanning tree on)."""
    state_attribute = struct.pack("=HHB3x", 5, _IFLA_BRPORT_STATE, state)
    nest = struct.pack("=HH", 4 + len(state_attribute), _IFLA_PROTINFO | _NLA_F_NESTED) + state_attribute
    body = struct.pack("=BxHiII", socket.AF_BRIDGE, 0, index, 0, 0) + nest
    netlink.send(struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body)
    answer = netlink.recv(4096)
    return -int(struct.unpack_from("=i", answer, 16)[0])


def _flags(sock: socket.socket, name: str) -> int:
    request = struct.pack("=16sH14x", name.encode(), 0)
    return int(struct.unpack_from("=H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0])


def _set_flags(sock: socket.socket, name: str, *, up: bool) -> None:
    flags = _flags(sock, name)
    wanted = flags | IFF_UP if up else flags & ~IFF_UP
    if wanted != flags:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("=16sH14x", name.encode(), wanted))


def _open_persistent(tap: NewTap) -> None:
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if tap.multi_queue else 0)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", tap.name.encode(), flags))
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)


async def _dress(netlink: AsyncIPRoute, tap: NewTap) -> None:
    index = socket.if_nametoindex(tap.name)
    await netlink.link("set", index=index, ifalias=tap.alias, mtu=tap.mtu)
    if tap.bridge is None:
        return
    await netlink.link("set", index=index, master=socket.if_nametoindex(tap.bridge))
    if tap.port:
        await netlink.brport("set", index=index, **tap.port)
    if tap.vlans:
        for vid, flags in await _port_vlans(netlink, index):
            if (vid, flags) not in tap.vlans:
                await netlink.vlan_filter("del", index=index, vlan_info={"vid": vid, "flags": 0})
        for vid, flags in tap.vlans:
            await netlink.vlan_filter("add", index=index, vlan_info={"vid": vid, "flags": flags})


async def _port_vlans(netlink: AsyncIPRoute, index: int) -> tuple[tuple[int, int], ...]:
    return (await _vlans(netlink)).get(index, ())


async def _vlans(netlink: AsyncIPRoute) -> dict[int, tuple[tuple[int, int], ...]]:
    """VLANs of every bridge port by interface index."""
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    async for message in await netlink.get_vlans():
        spec = message.get("IFLA_AF_SPEC")
        entries = spec.get_attrs("IFLA_BRIDGE_VLAN_INFO") if spec else ()
        found[message["index"]] = tuple((entry["vid"], entry["flags"] & 6) for entry in entries)
    return found


def _link(
    message: Any, names: Mapping[int, str], kinds: Mapping[int, str | None], vlans: tuple[tuple[int, int], ...]
) -> Link:
    data = message.get(("linkinfo", "data"))
    kind = message.get(("linkinfo", "kind"))
    master = message.get("master")
    slave = message.get(("linkinfo", "slave_data"))
    told = {option: slave.get_attr(f"IFLA_BRPORT_{option.upper()}") for option in PORT_OPTIONS} if slave else {}
    return Link(
        name=message.get("ifname"),
        index=message["index"],
        kind=kind,
        up=bool(message["flags"] & IFF_UP),
        mtu=message.get("mtu") or 0,
        master=names.get(master) if master else None,
        master_kind=kinds.get(master) if master else None,
        alias=message.get("ifalias"),
        multi_queue=bool(kind == "tun" and data and data.get_attr("IFLA_TUN_MULTI_QUEUE")),
        vnet_hdr=bool(kind == "tun" and data and data.get_attr("IFLA_TUN_VNET_HDR")),
        persistent=bool(kind == "tun" and data and data.get_attr("IFLA_TUN_PERSIST")),
        port={option: int(value) for option, value in told.items() if isinstance(value, int)},
        vlans=vlans,
        stp=bool(kind == "bridge" and data and data.get_attr("IFLA_BR_STP_STATE")),
        vlan_filtering=bool(kind == "bridge" and data and data.get_attr("IFLA_BR_VLAN_FILTERING")),
    )
