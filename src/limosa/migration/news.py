"""What the end of a move says to the rest of the infrastructure. Pure, but for the ids of events."""

import secrets
from dataclasses import dataclass

import msgspec

from limosa.errors import LimosaError, MoveAborted
from limosa.guest.profile import Profile
from limosa.units import HostName, MoveId
from limosa.wire.hooks import EventKind, GuestNews, HookEvent, stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A move that came to its end at `teller`, which owns the guest. Times in seconds since 1970."""

    guest: str
    uuid: str
    macs: tuple[str, ...]
    move: MoveId
    source: HostName
    destination: HostName
    teller: HostName
    epoch: int
    began: float
    ended: float
    blackout_ms: float | None = None

    def moved(self) -> HookEvent:
        """The guest lives at the destination."""
        return self._event(EventKind.MOVED, None)

    def failed(self, why: BaseException) -> HookEvent:
        """The move was rolled back because of this; a cancellation is an abort."""
        return self._event(EventKind.MOVE_FAILED, _error(why))

    def lost(self) -> HookEvent:
        """The guest's QEMU died, and the guest is nowhere but on the teller's disks."""
        return self._event(EventKind.LOST, None)

    def _event(self, kind: EventKind, error: dict[str, str] | None) -> HookEvent:
        told = GuestNews(
            guest=self.guest,
            uuid=self.uuid,
            macs=self.macs,
            host=self.teller,
            epoch=self.epoch,
            move=self.move,
            source=self.source,
            destination=self.destination,
            began=stamp(self.began),
            ended=stamp(self.ended),
            blackout_ms=self.blackout_ms,
            error=error,
        )
        return HookEvent(
            id=new_id(), type=kind, timestamp=stamp(self.ended), teller=self.teller, data=msgspec.to_builtins(told)
        )


def new_id() -> str:
    """An id that no other event of any fleet has."""
    return f"evt_{secrets.token_hex(16)}"


def macs(profile: Profile) -> tuple[str, ...]:
    """MAC addresses of a guest's NICs, in the order of its devices."""
    found = (device.properties.get("mac") for device in profile.devices if device.netdev)
    return tuple(str(mac) for mac in found if mac)


def _error(why: BaseException) -> dict[str, str]:
    if isinstance(why, LimosaError):
        return {"code": why.code, "what": why.what}
    if isinstance(why, Exception):
        return {"code": LimosaError.code, "what": f"{type(why).__name__}: {why}"}
    return {"code": MoveAborted.code, "what": "the move was aborted"}
