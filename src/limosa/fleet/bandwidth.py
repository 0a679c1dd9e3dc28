"""What moves share, and what each of those that run side by side may send. Pure.

Each end of a move, each rack and the whole fleet share their bandwidth equally among the moves that cross them; a
move gets the least of its shares. What one move cannot use is not given to another: so no gate is ever overfull,
also where several operations reckon with limits of their own, and predictions err on the late side.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from limosa.fleet.inventory import Host, Limits
from limosa.units import BytesPerSecond

Gate = tuple[str, str]
"""What moves share: ("out", host), ("in", host), ("rack out", rack), ("rack in", rack), ("all", "")."""


class Way(NamedTuple):
    """A move that runs: from where, and to where."""

    source: str
    destination: str


def gates(limits: Limits, source: Host, destination: Host) -> tuple[Gate, ...]:
    """What a move crosses: its two hosts, and what has a limit of racks, where it leaves one, and of the fleet."""
    found: list[Gate] = [("out", source.name), ("in", destination.name)]
    if source.rack != destination.rack:
        ends: tuple[Gate, Gate] = ("rack out", source.rack), ("rack in", destination.rack)
        found += [gate for gate in ends if limits.of_rack(gate[1]) is not None]
    if limits.bandwidth is not None:
        found.append(("all", ""))
    return tuple(found)


def capacity(limits: Limits, hosts: Mapping[str, Host], gate: Gate) -> float | None:
    """Bytes per second that moves may send through a gate; None where nobody knows."""
    way, name = gate
    match way:
        case "all":
            return limits.bandwidth
        case "rack out" | "rack in":
            return limits.of_rack(name)
        case _:
            link = hosts[name].link
            return link and limits.link_share * link


def shares(limits: Limits, hosts: Mapping[str, Host], moves: Iterable[Way]) -> tuple[BytesPerSecond | None, ...]:
    """What each of these moves may send while all of them run.

    Args:
        limits: of links, racks and the fleet.
        hosts: by name; an end that is none of them limits nothing.
        moves: all that run, whoever ordered them.

    Returns:
        Bytes per second, in the moves' order; None for what their links give, where no limit is known.
    """
    crossed = [_crossed(limits, hosts, move) for move in moves]
    crossing = Counter(gate for each in crossed for gate in each)
    room = {gate: known / count for gate, count in crossing.items() if (known := capacity(limits, hosts, gate))}
    return tuple(_least([room[gate] for gate in each if gate in room]) for each in crossed)


def _crossed(limits: Limits, hosts: Mapping[str, Host], move: Way) -> tuple[Gate, ...]:
    source, destination = hosts.get(move.source), hosts.get(move.destination)
    if source is None or destination is None:
        return (("all", ""),) if limits.bandwidth is not None else ()
    return gates(limits, source, destination)


def _least(rates: Sequence[float]) -> BytesPerSecond | None:
    return BytesPerSecond(min(rates)) if rates else None
