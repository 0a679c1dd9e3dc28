"""What is said about the guests and hosts an agent knows."""

import msgspec


class GuestShown(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `limosa ls`. Memory in bytes."""

    name: str
    uuid: str | None
    pid: int
    """0 for a guest in doubt whose QEMU is gone."""
    host: str
    state: str
    """QEMU's run state, or `unknown` where no monitor answers. For a guest in a move, what the move does with it:
    `planning`, `moving`, `arriving`, `settling`, `in doubt`."""
    memory: int | None
    vcpus: int | None
    owner: str
    """Who holds the other monitors, or started it: `limosa`, `libvirt`, `proxmox`, `by hand`."""
    monitor: str | None
    movable: str
    """`yes`, or the first reason why not."""
    move: str | None = None
    """Id of the move it is in."""
    run_state: str = ""
    """For a guest in a move: QEMU's run state, asked through the monitor that the move holds; empty if it is silent."""
    remedy: str = ""
    """For a guest in doubt: what to do."""


class HostShown(msgspec.Struct, frozen=True, kw_only=True):
    """One host an agent knows. Bytes; seconds."""

    name: str
    address: str
    migration_address: str
    reachable: bool
    why_not: str = ""
    round_trip: float | None = None
    version: str = ""
    memory_free: int | None = None
    cpus: int | None = None
    qemu_versions: tuple[str, ...] = ()


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself."""

    host: str
    version: str
    pid: int
    protocol: int


class WebLink(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST /v1/web-link: where a browser is let in, once."""

    url: str
    seconds: float
    """For which it waits."""
