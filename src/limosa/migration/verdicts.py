"""How a move's ending is put in words: what happened, where the guest runs, what to do next. Pure."""

from collections.abc import Iterable

from limosa.errors import Blocked, GuestLost, LimosaError, MoveAborted, MoveFailed, MoveInDoubt
from limosa.units import Side


def aborted(guest: str, to: str, *, timeout: float | None) -> MoveAborted:
    """Somebody asked for it, or the move's time was up (`timeout`, seconds)."""
    why = "was aborted on request" if timeout is None else f"did not commit within {timeout:g} s"
    return MoveAborted(
        f"the move of {guest} to {to} {why}, and was rolled back",
        guest_runs=Side.SOURCE,
        remedy="nothing needs to be done" if timeout is None else "give it a longer --timeout, or more bandwidth",
    )


def not_back(guest: str, to: str, trouble: BaseException, notes: Iterable[str]) -> MoveInDoubt:
    """The move was rolled back, but the guest does not answer from the source."""
    return MoveInDoubt(
        f"the move of {guest} to {to} was rolled back, but {guest} is not confirmed to run here",
        guest_runs=Side.UNKNOWN,
        remedy="look at its QEMU: `limosa ls`; it was never given up, so no other host runs it",
        detail="\n".join([str(trouble), *notes]),
    )


def in_doubt(guest: str, source: str, to: str, why: str) -> MoveInDoubt:
    """The grant was sent, and it is not known whether it arrived."""
    return MoveInDoubt(
        f"{guest} was given up by {source}, and {to} has not said whether it took it over: {why}",
        guest_runs=Side.UNKNOWN,
        remedy=f"bring {to} back: its agent is asked until it answers. Only if {to} is switched off for good: "
        f"limosa resolve {guest} --fence-evidence '...'",
    )


def not_taken(guest: str, to: str, notes: Iterable[str]) -> MoveFailed:
    """The destination has promised never to take the guest."""
    return MoveFailed(
        f"{guest} has not run on {to}, and never will by this move: it was rolled back",
        guest_runs=Side.SOURCE,
        remedy="look at the log there, then start the move again",
        detail="\n".join(notes),
    )


def resolved(guest: str, to: str, notes: Iterable[str]) -> MoveFailed:
    """Somebody vouched that the destination is fenced."""
    return MoveFailed(
        f"{guest} was taken back from its move to {to} on an operator's word that {to} is fenced",
        guest_runs=Side.SOURCE,
        remedy=f"before {to} returns to service, see that no {guest} runs there: limosa doctor",
        detail="\n".join(notes),
    )


def too_late(guest: str, source: str, to: str, runs: Side) -> Blocked:
    """An abort that came after the commit."""
    return Blocked(
        f"{guest} is already being taken over by {to}: too late to abort",
        guest_runs=Side.DESTINATION if runs is Side.DESTINATION else Side.UNKNOWN,
        remedy=f"when it runs there, move it back: limosa migrate {guest} --to {source}",
    )


def doubt_stays(doubt: LimosaError) -> MoveInDoubt:
    """An abort of a move in doubt: only the other end, or an operator's word, can end it."""
    return MoveInDoubt(f"an abort does not end a doubt: {doubt.what}", guest_runs=Side.UNKNOWN, remedy=doubt.remedy)


def rolling_back(guest: str, move: str) -> Blocked:
    """An abort of a move that an agent's restart interrupted: it is rolled back as it is."""
    return Blocked(
        f"the move of {guest} is being rolled back already",
        guest_runs=Side.SOURCE,
        remedy=f"limosa watch {move} tells when it is over",
    )


def interrupted(guest: str, to: str) -> MoveFailed:
    """This agent was restarted in the middle, and rolled the move back."""
    return MoveFailed(
        f"the move of {guest} to {to} was interrupted by a restart of this agent, and was rolled back",
        guest_runs=Side.SOURCE,
        remedy="start the move again",
    )


def lost(guest: str, host: str, words: str = "") -> GuestLost:
    """The guest's own QEMU is gone, and it was never given up; `words` are its last ones, where limosa started it."""
    return GuestLost(
        f"the QEMU of {guest} on {host} is gone; the move was rolled back",
        remedy=f"start it again on {host}: its disks there are whole",
        detail=words,
    )


def held_there(guest: str, to: str, trouble: LimosaError) -> MoveInDoubt:
    """The twin has everything, was never granted the guest, and its host cannot be told to destroy it."""
    return MoveInDoubt(
        f"{guest} was not given up, but cannot go on here yet: {to}, whose twin may hold its disks, is silent",
        guest_runs=Side.UNKNOWN,
        remedy=f"bring {to} back, or switch it off: its agent is asked until it answers, and {guest} goes on here then",
        detail=trouble.what,
    )


def complete(trouble: LimosaError, where: str, heard: str) -> None:
    """Fill in what whoever raised it could not know: that the guest is back, where the move stood, QEMU's words there.

    Args:
        trouble: why a move was rolled back.
        where: stage, step and side.
        heard: what the twin wrote to its standard error.
    """
    trouble.guest_runs = trouble.guest_runs or Side.SOURCE
    trouble.remedy = trouble.remedy or "mend what is named here, then start the move again"
    words = "" if heard in trouble.detail else f"the twin's last words: {heard}"
    trouble.detail = "\n".join(filter(None, (f"it stood at: {where}", trouble.detail, words)))


def lost_there(guest: str, to: str) -> GuestLost:
    """The destination owns the guest, and its QEMU died there."""
    return GuestLost(
        f"{guest} was taken over by {to}, and its QEMU there died",
        remedy=f"start it again on {to}: its disks there are whole; those it left here are set aside",
    )


def does_not_answer(guest: str, why: str) -> MoveInDoubt:
    """The move is to be rolled back, but the guest's QEMU hangs."""
    return MoveInDoubt(
        f"the QEMU of {guest} does not answer: {why}",
        guest_runs=Side.UNKNOWN,
        remedy="it was never given up, so no other host runs it; as soon as it answers, its move is settled",
    )


def defect(guest: str, surprise: Exception, runs: Side) -> MoveFailed:
    """Something that should not happen did."""
    return MoveFailed(
        f"the move of {guest} broke off on a defect in limosa: {surprise!r}",
        guest_runs=runs,
        remedy="please report it, with the traceback in the agent's log",
    )
