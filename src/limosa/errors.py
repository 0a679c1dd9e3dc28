"""The whole error tree; each error says what happened, where the guest runs, and what to do.

    LimosaError
    ├── UsageError            the request itself makes no sense                       exit 2
    ├── NotFound              no such guest, host or move                             exit 2
    ├── Blocked               a check forbids it; nothing was changed                 exit 10
    ├── MonitorError
    │   ├── MonitorBusy       somebody else holds this QMP socket                     exit 10
    │   ├── MonitorMissing    this QEMU offers no QMP socket we can reach             exit 10
    │   ├── MonitorLost       end of stream: the QEMU went away, or its socket
    │   ├── MonitorSilent     no answer within the time limit
    │   └── QmpError          QEMU refused a command (class, text, command)
    ├── LaunchError           a twin did not start; carries its stderr
    ├── TwinDiffers           the twin is not the same machine
    ├── PeerError             the other agent: unreachable, untrusted, or it broke off   exit 75
    ├── StateDiskError        an agent's journal cannot be written                    exit 75
    ├── MoveFailed            a move failed and was rolled back                       exit 20
    │   ├── GuestPoweredOff   the guest switched itself off during a move             exit 20
    │   ├── GuestLost         the guest's own QEMU died during a move                 exit 20
    │   └── MoveInDoubt       the source could not be confirmed running               exit 21
    ├── MoveAborted           somebody asked for an abort                             exit 30
    ├── AgentUnreachable      no agent answers on the socket                          exit 75
    ├── ControllerUnreachable no controller answers at its address                    exit 75
    ├── Untrusted             a controller's certificate does not prove who it is     exit 10
    ├── Fenced                another controller carries the operation on             exit 75
    ├── Forbidden             the token does not allow it                             exit 10
    │   └── NoToken           nobody knows the token, or there is none                exit 10
    │       └── TooManyTokens so many wrong ones that the address should wait         exit 75
    └── PartlyDone            an operation is over, and guests are left               exit 40

Exit statuses are those of design section 9.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from limosa.units import Side


class LimosaError(Exception):
    """What happened, where the guest runs now, what to do next.

    Args:
        what: one sentence of fact, with the names of things.
        guest_runs: where the guest executes now; None where no guest is concerned.
        remedy: the next command or change to make.
        detail: QEMU's own words, or other text for the log; shown below the three lines.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 20

    def __init__(self, what: str, *, guest_runs: Side | None = None, remedy: str = "", detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.guest_runs = guest_runs
        self.remedy = remedy
        self.detail = detail

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        BY_CODE[cls.code] = cls

    def to_wire(self) -> dict[str, Any]:
        """The error as plain values, as it crosses a process boundary."""
        return {
            "code": self.code,
            "what": self.what,
            "guest_runs": self.guest_runs,
            "remedy": self.remedy,
            "detail": self.detail,
        }


BY_CODE: dict[str, type[LimosaError]] = {}

_PLACES = {
    None: "no guest was touched",
    Side.SOURCE: "the guest runs at the source, as before",
    Side.DESTINATION: "the guest runs at the destination",
    Side.UNKNOWN: "where the guest runs could not be confirmed: start it nowhere by hand",
}


def where_it_runs(error: LimosaError) -> str:
    """The second line of an error for people."""
    return _PLACES[error.guest_runs]


def from_wire(told: Mapping[str, Any]) -> LimosaError:
    """Rebuild an error that another process sent; an unknown code becomes a plain LimosaError."""
    kind = BY_CODE.get(str(told.get("code")), LimosaError)
    error = kind.__new__(kind)
    runs = told.get("guest_runs")
    LimosaError.__init__(
        error,
        str(told.get("what", "unknown error")),
        guest_runs=Side(runs) if runs else None,
        remedy=str(told.get("remedy", "")),
        detail=str(told.get("detail", "")),
    )
    return error


class UsageError(LimosaError):
    """The request makes no sense as it stands."""

    code = "usage"
    exit_status = 2


class NotFound(LimosaError):
    """There is no such guest, host or move."""

    code = "not-found"
    exit_status = 2


class Blocked(LimosaError):
    """A check forbids it; nothing was changed."""

    code = "blocked"
    exit_status = 10


class MonitorError(LimosaError):
    """Something about one QEMU's monitor."""

    code = "monitor"


class MonitorBusy(MonitorError):
    """Somebody else holds this QMP socket: QEMU serves one client and greets no second one."""

    code = "monitor-busy"
    exit_status = 10


class MonitorMissing(MonitorError):
    """This QEMU offers no QMP socket that an agent could use."""

    code = "monitor-missing"
    exit_status = 10


class MonitorLost(MonitorError):
    """The stream ended: the QEMU died, or closed its monitor."""

    code = "monitor-lost"


class MonitorSilent(MonitorError):
    """The monitor did not answer within the time limit."""

    code = "monitor-silent"


class QmpError(MonitorError):
    """QEMU refused a command.

    Args:
        command: the QMP command.
        error_class: QEMU's class, such as `GenericError` or `CommandNotFound`.
        text: QEMU's description.
    """

    code = "qmp"

    def __init__(self, command: str, error_class: str, text: str) -> None:
        super().__init__(f"QEMU refused {command}: {text}", detail=f"{error_class}: {text}")
        self.command = command
        self.error_class = error_class
        self.text = text


class LaunchError(LimosaError):
    """A QEMU that should wait for a guest did not start, or died; `detail` is its stderr."""

    code = "launch"


class TwinDiffers(LimosaError):
    """The machine built at the destination is not the one that runs."""

    code = "twin-differs"
    exit_status = 10


class PeerError(LimosaError):
    """The other agent is unreachable, not trusted, or broke off."""

    code = "peer"
    exit_status = 75


class StateDiskError(LimosaError):
    """The journal cannot be written: the state disk is full, read-only or broken."""

    code = "state-disk"
    exit_status = 75


class MoveFailed(LimosaError):
    """A move failed and was rolled back."""

    code = "move-failed"
    exit_status = 20


class GuestPoweredOff(MoveFailed):
    """The guest switched itself off during a move; it runs nowhere, and its disks are where they were."""

    code = "guest-powered-off"


class GuestLost(MoveFailed):
    """The guest's own QEMU died: it runs nowhere, and its disks are where they were."""

    code = "guest-lost"


class MoveInDoubt(MoveFailed):
    """A move failed and it could not be confirmed that the guest runs at the source."""

    code = "move-in-doubt"
    exit_status = 21


class MoveAborted(LimosaError):
    """A move was aborted on request and rolled back."""

    code = "aborted"
    exit_status = 30


class AgentUnreachable(LimosaError):
    """No agent answers on this socket."""

    code = "agent-unreachable"
    exit_status = 75


class ControllerUnreachable(LimosaError):
    """No controller answers at its address, or it broke off."""

    code = "controller-unreachable"
    exit_status = 75


class Untrusted(LimosaError):
    """A controller's certificate does not prove that it is the one that was named: nothing was sent to it."""

    code = "untrusted"
    exit_status = 10


class Fenced(LimosaError):
    """Another controller carries the operation on since: whoever gets this lets go of it at once."""

    code = "fenced"
    exit_status = 75


class Forbidden(LimosaError):
    """The token's role does not allow this."""

    code = "forbidden"
    exit_status = 10


class NoToken(Forbidden):
    """Nobody knows this token, or there is none."""

    code = "no-token"


class TooManyTokens(NoToken):
    """So many wrong tokens came from one address that it should wait.

    Args:
        wait: seconds.
    """

    code = "too-many-tokens"
    exit_status = 75

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(what, remedy="find what sends them; a right token is let in at any time")
        self.wait = math.ceil(wait)


class PartlyDone(LimosaError):
    """An operation is over, and guests are left where they should not be."""

    code = "partly-done"
    exit_status = 40
