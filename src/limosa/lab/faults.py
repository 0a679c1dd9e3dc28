"""What breaks in a data centre, on demand: links cut, links that swallow packets."""

from limosa.errors import UsageError
from limosa.lab import network
from limosa.lab.hosts import Host, Role
from limosa.lab.network import Link, LinkState


async def set_link(fabric: Role, host: Host, link: Link, state: LinkState) -> None:
    """Bring one of a host's links into a state; returns when it is in it.

    Raises:
        UsageError: the host is unplugged, so it has no links.
    """
    if not host.plugged:
        raise UsageError(f"{host.name} is unplugged", remedy=f"limosa lab plug {host.name}")
    end = network.port(host.name, link)
    if state is LinkState.DROPPING or end in await network.swallowed(fabric.pid):
        await network.swallow(fabric.pid, end, on=state is LinkState.DROPPING)
    await network.apply(fabric.pid, [f"link set {end} {'down' if state is LinkState.DOWN else 'up'}"])
    if state is not LinkState.DOWN:
        await network.until_usable(host.ends(link))


async def links(fabric: Role, host: Host) -> dict[Link, LinkState]:
    """How a host's links stand; all down while it is unplugged."""
    interfaces = await network.interfaces(fabric.pid)
    swallowed = await network.swallowed(fabric.pid)
    found: dict[Link, LinkState] = {}
    for link in Link:
        end = network.port(host.name, link)
        if "UP" not in interfaces.get(end, {"flags": ()})["flags"]:
            found[link] = LinkState.DOWN
        else:
            found[link] = LinkState.DROPPING if end in swallowed else LinkState.UP
    return found
