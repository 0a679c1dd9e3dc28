"""Network backends: `info network` read as data, completed by the options that created them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limosa.guest.profile import Netdev, Unknown, Value

_LINE = re.compile(
    r"(?: \\ |\s*)(?P<name>[^\s:]+(?: \([^)]*\))?): index=(?P<index>\d+),type=(?P<type>[^,]+),?(?P<info>.*)"
)
_HUB = re.compile(r"hub (?P<id>\d+)")
_HUB_PORT = re.compile(r" \\ (?P<port>[^:]+): (?P<rest>.*)")
_AUTOMATIC = re.compile(r"#net(?P<number>\d+)\d\d")
"""QEMU util/id.c: a counter and two random digits."""


@dataclass(frozen=True, slots=True)
class NetClient:
    """One queue of a network backend or of a NIC, as `info network` prints it."""

    name: str
    index: int
    type: str
    info: dict[str, str]
    hub_port: str | None = None
    hub: int | None = None


def parse_network(text: str) -> tuple[NetClient, ...]:
    """Every client; those below `hub N` with the port that they are plugged into."""
    found: list[NetClient] = []
    hub: int | None = None
    for line in text.replace("\r", "").splitlines():
        if match := _HUB.fullmatch(line.strip()):
            hub = int(match["id"])
            continue
        hub = hub if line.startswith(" ") else None
        port = _HUB_PORT.fullmatch(line) if hub is not None else None
        match = _LINE.fullmatch(port["rest"] if port else line)
        if match is not None:
            info = dict(part.partition("=")[::2] for part in match["info"].split(",") if part)
            name, index = match["name"], int(match["index"])
            found.append(NetClient(name, index, match["type"], info, port["port"] if port else None, hub))
    return tuple(found)


def netdevs(
    clients: Sequence[NetClient],
    created: Mapping[str, tuple[str, dict[str, Value]]],
    unnamed: Sequence[tuple[str, dict[str, Value]]],
    bridges: Mapping[str, str],
    vhost_files: int,
) -> tuple[tuple[Netdev, ...], tuple[Unknown, ...]]:
    """All network backends, in the order of the command line, later ones after them.

    Args:
        clients: from `parse_network`.
        created: id -> (type, options) of those that the command line made.
        unnamed: (type, options) of those that `-net` and `-nic` made, in their order.
        bridges: tap name -> the bridge it is a port of.
        vhost_files: how many `/dev/vhost-net` the process holds open.
    """
    backends = {c.name: c for c in clients if c.type not in ("nic", "hubport") and c.index == 0}
    automatic = sorted((name for name in backends if _AUTOMATIC.fullmatch(name)), key=_counter)
    given = dict(created) | dict(zip(automatic, unnamed, strict=False))
    # The counter of automatic names goes on after the start: more names than options means later ones.
    ids = {name: f"hostnet-{number}" if name.startswith("#") else name for number, name in enumerate(backends)}
    order = [name for name in given if name in backends] + [name for name in backends if name not in given]
    found, unknown = [], []
    for name in order:
        client = backends[name]
        type_, options = given.get(name) or (client.type, _options(client, clients))
        if name not in given:
            unknown.extend(_untold(ids[name], client, options, vhost_files))
        ifname = client.info.get("ifname") or options.get("ifname")
        if ifname:
            options = options | {"ifname": ifname}
        bridge = bridges.get(ifname) if ifname else None
        live = name if name != ids[name] else ""
        found.append(
            Netdev(id=ids[name], type=type_, options=options, live_name=live, ifname=ifname or None, bridge=bridge)
        )
    return (*found, *_hub_ports(clients, ids)), tuple(unknown)


def _counter(name: str) -> int:
    match = _AUTOMATIC.fullmatch(name)
    return int(match["number"]) if match else 0


def _options(client: NetClient, clients: Sequence[NetClient]) -> dict[str, Value]:
    """Options of a backend that was added later, as far as `info network` tells."""
    queues = sum(1 for c in clients if c.name == client.name)
    options: dict[str, Value] = {k: v for k, v in client.info.items() if k in ("ifname", "script", "downscript")}
    return options | ({"queues": queues} if queues > 1 else {})


def _untold(id_: str, client: NetClient, options: dict[str, Value], vhost_files: int) -> list[Unknown]:
    """What `info network` does not tell of a later backend. Without an open vhost file, vhost is off."""
    if client.type == "tap" and vhost_files:
        options["vhost"] = "off"
        return [Unknown(what=f"netdev:{id_}:vhost", why="added later; QMP does not tell; taken as off")]
    if client.type in ("tap", "hubport"):
        return []
    return [Unknown(what=f"netdev:{id_}", why=f"added later; QMP tells little of a backend of type {client.type}")]


def _hub_ports(clients: Sequence[NetClient], ids: Mapping[str, str]) -> list[Netdev]:
    """`-net` puts NIC and backend on a hub; each port becomes a netdev of its own, as `-net` makes it."""
    return [
        Netdev(
            id=client.hub_port,
            type="hubport",
            options={"hubid": client.hub} | ({"netdev": ids[client.name]} if client.name in ids else {}),
        )
        for client in sorted(clients, key=lambda c: c.hub_port or "")
        if client.hub is not None and client.hub_port is not None
    ]
