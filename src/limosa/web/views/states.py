"""States as pages mark them: a word, a sign and a tone, so that no state is told by its colour alone. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from limosa.web import words
from limosa.wire.fleet import FleetGuest, FleetHost, Item, ItemState, Operation, Phase
from limosa.wire.moves import MoveState


@dataclass(frozen=True, slots=True)
class Sign:
    """A state: `tone` is one of good, busy, warn, bad, off."""

    word: str
    sign: str
    tone: str
    more: str = ""
    """Why, or since when."""


_HOST: Mapping[str, tuple[str, str]] = {
    "active": ("●", "good"),
    "draining": ("◐", "busy"),
    "drained": ("○", "off"),
    "maintenance": ("‖", "off"),
    "lost": ("✕", "bad"),
}
_PHASE: Mapping[Phase, tuple[str, str]] = {
    Phase.PLANNED: ("…", "warn"),
    Phase.RUNNING: ("▶", "busy"),
    Phase.PAUSED: ("‖", "warn"),
    Phase.CANCELLING: ("↩", "warn"),
    Phase.DONE: ("✓", "good"),
    Phase.PARTLY: ("◑", "warn"),
    Phase.CANCELLED: ("–", "off"),  # noqa: RUF001 - the sign, not a minus
}
_ITEM: Mapping[ItemState, tuple[str, str]] = {
    ItemState.WAITING: ("·", "off"),
    ItemState.MOVING: ("▶", "busy"),
    ItemState.DONE: ("✓", "good"),
    ItemState.FAILED: ("✗", "bad"),
    ItemState.REROUTED: ("↷", "off"),
    ItemState.CANCELLED: ("–", "off"),  # noqa: RUF001
}
_MOVE: Mapping[MoveState, tuple[str, str]] = {
    MoveState.PLANNING: ("…", "busy"),
    MoveState.RUNNING: ("▶", "busy"),
    MoveState.ABORTING: ("↩", "warn"),
    MoveState.SETTLING: ("↻", "warn"),
    MoveState.IN_DOUBT: ("?", "bad"),
    MoveState.COMPLETED: ("✓", "good"),
    MoveState.FAILED: ("✗", "bad"),
    MoveState.ABORTED: ("–", "off"),  # noqa: RUF001
    MoveState.BLOCKED: ("✗", "warn"),
}


def of_host(host: FleetHost) -> Sign:
    """A host's state; one whose agent is silent is shown as silent, whatever it is used for."""
    if host.silent_for and host.state == "active":
        return Sign("silent", "?", "bad", host.trouble or f"for {words.roughly(host.silent_for)}")
    sign, tone = _HOST.get(host.state, ("?", "bad"))
    return Sign(host.state, sign, tone, host.reason)


_RUNNING = Sign("running", "●", "good")


def of_guest(guest: FleetGuest) -> Sign:
    """A guest's state, as it was last seen; that it has two owners stands above all else."""
    if guest.owners:
        return Sign(f"{words.count(len(guest.owners), 'owner')}", "✕", "bad", ", ".join(guest.owners))
    if guest.silent_for:
        return Sign(guest.state, "?", "warn", f"last seen {words.roughly(guest.silent_for)} ago")
    if guest.state == "running":
        return _RUNNING
    if guest.state in {"moving", "planning", "arriving", "settling"}:
        return Sign(guest.state, "▶", "busy")
    if guest.state == "in doubt":
        return Sign(guest.state, "?", "bad")
    return Sign(guest.state, "‖", "off")


def of_phase(operation: Operation) -> Sign:
    """Where an operation stands."""
    return Sign(str(operation.phase), *_PHASE[operation.phase])


def of_item(item: Item) -> Sign:
    """Where one move of an operation stands."""
    return Sign(str(item.state), *_ITEM[item.state], item.said)


def of_move(state: MoveState) -> Sign:
    """Where a move stands."""
    return Sign(str(state), *_MOVE[state])
